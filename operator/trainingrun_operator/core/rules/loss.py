"""The rule of the loss threshold, enforced or only reported."""

from __future__ import annotations

from dataclasses import replace
from itertools import takewhile
from typing import TYPE_CHECKING, Final

from trainingrun_operator.api import endings
from trainingrun_operator.api.run import CheckpointMode
from trainingrun_operator.api.status import Effective, Evidence
from trainingrun_operator.core import limits, metric_source
from trainingrun_operator.core.bounds import TEXT_MAX, clipped
from trainingrun_operator.core.facts.pod import Training
from trainingrun_operator.core.facts.reading import AUTO, Failure
from trainingrun_operator.core.rules.finding import Finding
from trainingrun_operator.core.track import STEP_FELL
from trainingrun_operator.core.words import shown

if TYPE_CHECKING:
    from trainingrun_operator.api.run import TrainingRunSpec
    from trainingrun_operator.core.defaults import Defaults
    from trainingrun_operator.core.losses import Logged
    from trainingrun_operator.core.observed import Observed
    from trainingrun_operator.core.track import Track

LOW_OBSERVATIONS: Final = 2
"""Successive new losses that must be below the threshold, so that one lucky batch does not end the run."""

STOP, SHADOW, OFF = "Stop", "Shadow", "Off"
OFF_VALUE: Final = -1
"""The negative threshold by which people switch the rule off, and mean it."""
RULE: Final = "autoStopLoss"
NOT_READ_YET: Final = "NotReadYet"
"""Reason of `unread` before the first reading, which is not an error."""


def effective(
    spec: TrainingRunSpec,
    pinned: Effective | None,
    defaults: Defaults,
    track: Track | None = None,
    *,
    is_known: bool = False,
) -> Effective:
    """Return the values in force at the track's step: the spec's, else the installation's defaults when the run began.

    Args:
        spec: of the run.
        pinned: the values as last recorded.
        defaults: of the installation.
        track: it has the source that `AUTO` has taken.
        is_known: whether an operator has observed the run before.
    """
    source = metric_source.named(spec.metrics, pinned, is_known=is_known)
    kept = {"node_pool": pinned.node_pool if pinned else "", **_source(source, pinned, track)}
    if spec.auto_stop_loss_schedule:
        step = track.step if track is not None else None
        return Effective(auto_stop_loss=scheduled(spec, step), auto_stop_action=STOP, **kept)
    if spec.auto_stop_loss is not None:
        off = spec.auto_stop_loss < 0
        return Effective(
            auto_stop_loss=None if off else spec.auto_stop_loss, auto_stop_action=OFF if off else STOP, **kept
        )
    if pinned is not None and pinned.auto_stop_action == defaults.auto_stop_action:
        return pinned.model_copy(update=kept)
    return Effective(auto_stop_loss=defaults.auto_stop_loss, auto_stop_action=defaults.auto_stop_action, **kept)


def scheduled(spec: TrainingRunSpec, step: int | None) -> float | None:
    """Return the threshold of the schedule at a step; None: there is none yet. A schedule that is not valid has none."""
    if limits.complaint(spec) is not None:
        return None
    reached = [one.loss for one in spec.auto_stop_loss_schedule if step is not None and one.step <= step]
    return reached[-1] if reached else spec.auto_stop_loss


def _source(source: str, pinned: Effective | None, track: Track | None) -> dict[str, str]:
    """Return the metric source in force; what `AUTO` has taken stays."""
    note = ""
    if source == AUTO and pinned is not None and metric_source.has_choice(pinned):
        source, note = pinned.metrics_source, pinned.metrics_source_note
    elif source == AUTO and track is not None and track.source_note:
        source, note = track.source, track.source_note
    return {"metrics_source": source, "metrics_source_note": clipped(note, TEXT_MAX)}


def in_force(seen: Observed) -> Effective:
    """Return the values in force for a run; once it ends, those from then."""
    if seen.run.status.termination is not None and seen.run.status.effective is not None:
        return seen.run.status.effective
    track = seen.track if seen.ranks else None
    status = seen.run.status
    return effective(seen.run.spec, status.effective, seen.defaults, track, is_known=metric_source.is_known(status))


def low_loss(seen: Observed) -> Finding:
    """The loss is below the threshold in enough observations; an enforced stop also waits for the first complete checkpoint."""
    force = in_force(seen)
    if force.auto_stop_action == STOP and _is_default(seen) and metric_source.is_unasked(seen.run, seen.track.source):
        force = force.model_copy(update={"auto_stop_action": SHADOW})
        shadow = " This rule only reports: the spec names neither autoStopLoss nor metrics.source."
    else:
        shadow = " This rule only reports: spec.autoStopLoss is not set." if force.auto_stop_action == SHADOW else ""
    found = _judged(seen, force)
    return replace(found, message=f"{found.message}{shadow}")


def _judged(seen: Observed, force: Effective) -> Finding:
    low = _low(seen, force.auto_stop_loss)
    if not low:
        return _not_low(seen, force)
    below = f"Loss {shown(low[-1].loss)} < {shown(force.auto_stop_loss)} at step {low[-1].step}."
    enforced = force.auto_stop_action == STOP
    if enforced and not has_checkpoint(seen):
        message = f"{below} The stop waits for the first complete checkpoint."
        return Finding(RULE, "NoCheckpoint", message)
    return Finding(
        RULE,
        "LowLoss",
        below,
        endings.AUTO_LOW_LOSS,
        actor="autoStopLoss",
        evidence=tuple(Evidence(what="loss", value=shown(o.loss), step=o.step) for o in low),
        enforced=enforced,
    )


def _not_low(seen: Observed, force: Effective) -> Finding:
    """Return why the loss does not count as low."""
    threshold = force.auto_stop_loss
    if threshold is None:
        if (schedule := seen.run.spec.auto_stop_loss_schedule) and (problem := limits.complaint(seen.run.spec)) is None:
            message = (
                f"The loss does not end the run before step {schedule[0].step}, the first of autoStopLossSchedule."
            )
            return Finding(RULE, "NotScheduledYet", message)
        said = problem.message if schedule and problem is not None else switched_off(seen.run.spec)
        return Finding(RULE, "Off", said or "The rule is off.")
    if all(pod.training is not Training.RUNNING for pod in seen.live_pods):
        return Finding(RULE, "NotRunning", "No loss is read: no training is running.")
    if (trouble := unread(seen)) is not None:
        return Finding(RULE, trouble.reason, f"No loss is read ({trouble.reason}): {trouble.message}")
    if seen.track.below:
        message = f"The step is below {seen.track.step}, the newest one. No loss counts while that may be another rank, or a new stage of the training."
        return Finding(RULE, STEP_FELL, message)
    newest = next(iter(seen.track.losses.logged[-1:]), None)
    if newest is None or newest.loss is None:
        since = (
            stage_note(seen) or "The step has not advanced with a finite, new loss since the operator started reading."
        )
        return Finding(RULE, "NoObservation", f"No loss counts yet. {since}")
    return _not_below(seen, threshold, newest.loss, newest.step) or _too_few(seen, threshold, newest.loss, newest.step)


def _not_below(seen: Observed, threshold: float, loss: float, step: int) -> Finding | None:
    """The newest loss is not below the threshold, or the threshold does not apply to it."""
    at = f"Loss {shown(loss)} at step {step}"
    best, highest = seen.track.best_loss, seen.track.losses.highest
    if loss >= threshold:
        lowest = f"; the lowest so far was {shown(best)}" if best is not None and best < loss else ""
        message = f"{at} is not below {shown(threshold)} ({_field(seen)}){lowest}. {LOW_OBSERVATIONS} observations in a row below it end the run."
        return Finding(RULE, "NotBelow", message)
    if _is_default(seen) and loss < 0:
        message = f"{at} is negative: the installation's default {shown(threshold)} does not apply to it."
        return Finding(RULE, "NegativeLoss", message)
    if not _was_above(seen, threshold):
        message = f"{at} is below {shown(threshold)}, the installation's default, which applies only once the loss was at or above it; the highest so far was {shown(highest)}."
        return Finding(RULE, "NeverAbove", message)
    return None


def _too_few(seen: Observed, threshold: float, loss: float, step: int) -> Finding:
    low = takewhile(lambda one: one.loss is not None and one.loss < threshold, reversed(seen.track.losses.logged))
    message = (
        f"Loss {shown(loss)} at step {step} is below {shown(threshold)} ({_field(seen)}), in {sum(1 for _ in low)} of {LOW_OBSERVATIONS} observations in a"
        " row. The same value read again is no second one."
    )
    return Finding(RULE, "TooFewObservations", message)


def switched_off(spec: TrainingRunSpec) -> str:
    """Return what a negative threshold means; empty: it is not negative."""
    if spec.auto_stop_loss is None or spec.auto_stop_loss >= 0:
        return ""
    return (
        misunderstood(spec)
        or f"The loss does not end the run: autoStopLoss is {spec.auto_stop_loss:g}, which switches the rule off."
    )


def misunderstood(spec: TrainingRunSpec) -> str:
    """Return what a negative threshold means that may be written as a threshold; empty: there is none. The usual word for "off" is -1."""
    if spec.auto_stop_loss is None or spec.auto_stop_loss >= 0 or spec.auto_stop_loss == OFF_VALUE:
        return ""
    return (
        f"The loss does not end the run: a negative autoStopLoss ({spec.auto_stop_loss:g}) switches the rule off. For a threshold below zero write a"
        f" stop rule: stopRules: [{{threshold: {{value: {spec.auto_stop_loss:g}}}}}]."
    )


def stage_note(seen: Observed) -> str:
    """Return that the step fell in this pod; empty: it did not."""
    if seen.track.fell is None:
        return ""
    before, first = seen.track.fell
    return f"The step fell from {before} to {first}: a new stage of the training, and nothing before it counts."


def _is_default(seen: Observed) -> bool:
    """Whether the threshold is the default of the installation: the spec has none."""
    return seen.run.spec.auto_stop_loss is None and not seen.run.spec.auto_stop_loss_schedule


def _field(seen: Observed) -> str:
    """Return the field that has the threshold."""
    return "autoStopLossSchedule" if seen.run.spec.auto_stop_loss_schedule else "autoStopLoss"


def _was_above(seen: Observed, threshold: float) -> bool:
    """Whether the threshold applies: a default one only if a loss was at or above it before."""
    highest = seen.track.losses.highest
    return not _is_default(seen) or (highest is not None and highest >= threshold)


def unread(seen: Observed) -> Failure | None:
    """Return why there is no finite, fresh loss of the training; None: there is one."""
    pod = seen.ranks[0].pod
    if pod is not None and pod.host_network:
        return Failure(
            "HostNetwork",
            "The pod uses the host network; its metrics are not read, because they could be another pod's.",
        )
    if (trouble := seen.track.oddity or seen.track.losses.doubt) is not None:
        return trouble
    if seen.track.loss_at is None:
        return Failure(NOT_READ_YET, "The metrics have not been read yet.")
    if seen.now - seen.track.loss_at > seen.defaults.stale_after_seconds:
        return Failure("Stale", f"No loss was read for {seen.now - seen.track.loss_at:.0f} seconds.")
    return None


def _low(seen: Observed, threshold: float | None) -> tuple[Logged, ...]:
    """Return the newest losses if they are fresh and all below the threshold, and it applies to them."""
    track = seen.track
    newest = track.losses.logged[-LOW_OBSERVATIONS:]
    fresh = (
        track.oddity is None
        and track.losses.doubt is None
        and not track.below
        and track.loss_at is not None
        and seen.now - track.loss_at <= seen.defaults.stale_after_seconds
    )
    if threshold is None or not fresh or len(newest) < LOW_OBSERVATIONS or not _was_above(seen, threshold):
        return ()
    least = 0 if _is_default(seen) else float("-inf")
    return newest if all(one.loss is not None and least <= one.loss < threshold for one in newest) else ()


def has_checkpoint(seen: Observed) -> bool:
    """Whether every rank has a complete checkpoint, or none is to be saved."""
    if seen.run.spec.checkpoint.mode is CheckpointMode.DISABLED:
        return True
    reports = seen.reports
    return reports is not None and all(report.newest is not None or report.commit is not None for report in reports)
