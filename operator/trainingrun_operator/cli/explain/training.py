"""Why a run that trains has not stopped: its loss, its epochs, its people, each with what is still missing."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from trainingrun_operator.cli import words
from trainingrun_operator.cli.explain import checkpoint
from trainingrun_operator.cli.explain.facts import Explanation
from trainingrun_operator.core.rules.completion import STALL_INTERVALS
from trainingrun_operator.core.rules.loss import LOW_OBSERVATIONS, OFF, SHADOW
from trainingrun_operator.core.words import finite, size

if TYPE_CHECKING:
    from trainingrun_operator.api.status import Progress
    from trainingrun_operator.cli.explain.facts import Facts


class Said(NamedTuple):
    """The same twice: short, for the answer, and in whole sentences."""

    short: str
    sentences: tuple[str, ...]
    todo: tuple[str, ...] = ()


def trains(facts: Facts) -> Explanation:
    """It trains, or its training has just left and is looked after."""
    if crashed := _crashed(facts):
        return crashed
    loss = _loss(facts)
    because = (*loss.sentences, *_completion(facts), checkpoint.of_a_training(facts), "Nobody has asked it to stop.")
    return Explanation(
        f"{facts.name} trains on: {loss.short}.", because, (*loss.todo, "To end it by hand:", facts.command("stop"))
    )


def _crashed(facts: Facts) -> Explanation | None:
    """A pod whose training has exited while no stop is decided: it is saved and replaced, or about to be judged."""
    pods = facts.run.status.pods
    pod = pods[-1] if pods else None
    if pod is None or pod.phase != "Exited":
        return None
    if pod.exit_code == 0:
        return Explanation(f"{facts.name} is about to end: its training has just left with exit code 0.")
    limit = facts.run.spec.backoff_limit
    return Explanation(
        f"{facts.name} has not ended: its training crashed with exit code {pod.exit_code}, and is not given up yet.",
        (
            f"What pod {pod.name} left is saved first; then the pod is replaced, and goes on from there.",
            f"More than {limit} crashes (spec.backoffLimit) would end the run as failed.",
            checkpoint.of_a_training(facts),
        ),
        ("What it said at last:", facts.command("logs", "--tail 20")),
    )


# -- loss -----------------------------------------------------------------------------------------------------


def _loss(facts: Facts) -> Said:
    force, progress = facts.run.status.effective, facts.run.status.progress
    if force is None or force.auto_stop_action == OFF or force.auto_stop_loss is None:
        return Said(
            "its loss does not end it", ("autoStopLoss is off (negative): its loss does not end it.", *_reading(facts))
        )
    threshold = force.auto_stop_loss
    if force.auto_stop_action == SHADOW:
        return _watched(facts, threshold)
    state, reason, _ = facts.state("MetricsAvailable")
    if state != "True":
        return Said(
            f"no loss can be read ({reason})" if state == "False" else "no loss has been read yet", _reading(facts)
        )
    loss = finite(progress.loss) if progress is not None else None
    if loss is None or progress is None:
        return Said("no loss has been seen with a step that advanced", ("A loss counts once its step has advanced.",))
    if loss >= threshold:
        return Said(
            f"its loss {progress.loss} is not below {threshold:g}",
            (
                f"{_distance(facts, progress, loss, threshold)} It ends when {LOW_OBSERVATIONS} losses in a row are below {threshold:g}.",
            ),
        )
    return _below(facts, progress, threshold)


def _distance(facts: Facts, progress: Progress, loss: float, threshold: float) -> str:
    """How far it has to go, and how near it has been."""
    best = finite(progress.best_loss)
    step = f" at step {progress.step}" if progress.step is not None else ""
    above = (
        f"{loss - threshold:.3g} above {threshold:g}"
        if loss > threshold
        else f"{threshold:g} itself, which is not below"
    )
    seen = f"Loss {progress.loss}{step}{facts.ago(progress.last_observation_time)} is {above}"
    if best is None or best >= loss:
        return f"{seen}, and the lowest so far."
    once = f", which was below, but not {LOW_OBSERVATIONS} times in a row" if best < threshold else ""
    return f"{seen}; the lowest so far was {progress.best_loss}{once}."


def _below(facts: Facts, progress: Progress, threshold: float) -> Said:
    """Low enough, and yet it trains."""
    seen = f"Loss {progress.loss} at step {progress.step}{facts.ago(progress.last_observation_time)} is below {threshold:g}."
    state, reason, message = facts.state("CheckpointSaved")
    if not checkpoint.disabled(facts) and state != "True" and facts.run.status.checkpoint is None:
        waits = "A stop by loss waits for the first complete checkpoint: stopping must not mean losing everything."
        return Said(
            f"its loss {progress.loss} is below {threshold:g}, but no checkpoint is there yet",
            (seen, waits, *((message,) if reason == "NothingFound" else ())),
        )
    return Said(
        f"its loss {progress.loss} is below {threshold:g}, but not yet {LOW_OBSERVATIONS} times in a row",
        (seen, f"It ends when {LOW_OBSERVATIONS} losses in a row are: one lucky batch ends nothing."),
    )


def _watched(facts: Facts, threshold: float) -> Said:
    """The installation's default, only watched."""
    short = f"the threshold {threshold:g} is only watched, because spec.autoStopLoss is not written"
    enforce = (
        f"To have it end there: $ kubectl patch trun {facts.name} --namespace {facts.run.namespace} --type merge"
        f' --patch \'{{"spec":{{"autoStopLoss":{threshold:g}}}}}\''
    )
    for one in facts.run.status.shadow:
        step = f" at step {one.step}" if one.step is not None else ""
        would = f"It would have ended{step}{facts.ago(one.would_stop_at)}, with loss {one.value} < {threshold:g}."
        return Said(short, (would, *_reading(facts)), (enforce,))
    return Said(
        short,
        (f"Its loss has not been below {threshold:g} in {LOW_OBSERVATIONS} successive observations.", *_reading(facts)),
        (enforce,),
    )


def _reading(facts: Facts) -> tuple[str, ...]:
    """Where its loss stands, or why none is read."""
    state, reason, message = facts.state("MetricsAvailable")
    progress = facts.run.status.progress
    newest = (
        f"The newest loss is {progress.loss} at step {progress.step}{facts.ago(progress.last_observation_time)}."
        if progress is not None and progress.loss is not None
        else ""
    )
    if state == "True":
        return (newest,) if newest else ()
    why = f"No loss is read ({reason}): {message}" if state == "False" else f"No loss has been read yet: {message}"
    return (why, f"{newest} Nothing is decided by it.") if newest else (why,)


# -- complete -------------------------------------------------------------------------------------------------


def _completion(facts: Facts) -> tuple[str, ...]:
    """What would make it complete, and what the final epoch still lacks."""
    spec = facts.run.spec
    files = words.listed(list(spec.completion.marker_files), "or")
    marked = (
        f", or {words.duration(spec.completion.settle_seconds)} after it has written {files} under {spec.checkpoint.path}"
        if spec.completion.marker_files
        else ""
    )
    return (f"It is complete when it exits with 0{marked}.", _final_epoch(facts))


def _final_epoch(facts: Facts) -> str:
    """Why a stall in the final epoch has not ended it."""
    progress, spec = facts.run.status.progress, facts.run.spec
    if checkpoint.disabled(facts):
        return (
            "A stall in the final epoch does not end it: without checkpoints nothing shows that everything was written."
        )
    epoch = finite(progress.epoch) if progress is not None else None
    if progress is None or epoch is None or progress.total_epochs is None:
        names = spec.metrics.names
        lacking = names.epoch if epoch is None else names.total_epochs
        return (
            f"A stall in the final epoch cannot be seen: its metrics show none of {words.listed(list(lacking), 'or')}."
        )
    if progress.epoch_base is None:
        return "A stall in the final epoch cannot be seen: its first epoch was not, so whether epochs count from 0 or 1 is unknown."
    last = progress.total_epochs - 1 + progress.epoch_base
    if epoch < last:
        return f"It is in epoch {progress.epoch} of {progress.total_epochs}, and the final one begins at {last:g}: a stall counts only there."
    return _stall(facts, progress)


def _stall(facts: Facts, progress: Progress) -> str:
    """The guards of a stall, those first that are known not to hold."""
    spec, polls = facts.run.spec, progress.stall_polls or 0
    begin = f"It is in its final epoch ({progress.epoch} of {progress.total_epochs})"
    if not polls:
        return f"{begin}, and its step still advances: {spec.stall_polls} polls without a step (spec.stallPolls) would count as a stall."
    if polls < spec.stall_polls:
        times = "once" if polls == 1 else f"{polls} times"
        return f"{begin}, and its step stood still {times} running: {spec.stall_polls} (spec.stallPolls) would count as a stall."
    lacks = list(_unguarded(facts, progress))
    lacks.append(f"it must last {words.duration(spec.completion.settle_seconds)} (completion.settleSeconds)")
    return f"{begin} and stands still since step {progress.step}{facts.ago(progress.last_observation_time)}, which is not the end yet: {'; '.join(lacks)}."


def _unguarded(facts: Facts, progress: Progress) -> tuple[str, ...]:
    """What the status knows to be missing for a stall."""
    state, reason, _ = facts.state("MetricsAvailable")
    known = facts.run.status.checkpoint
    lacks = []
    if state != "True":
        lacks.append(f"no loss is read ({reason})")
    if progress.step_interval is None:
        lacks.append("how long a step usually takes is not known yet")
    else:
        usual = finite(progress.step_interval) or 0
        lacks.append(f"{STALL_INTERVALS} times the usual {usual:.3g} s between its steps must have passed")
    if known is None:
        lacks.append("no checkpoint is proven yet")
    elif known.step is not None and progress.step is not None and known.step < progress.step:
        lacks.append(f"the newest proven checkpoint is of step {known.step}, the training at {progress.step}")
    if known is not None and known.lag is not None and known.lag.bytes:
        lacks.append(f"{size(known.lag.bytes)} are not saved yet, and may still be written")
    return tuple(lacks)
