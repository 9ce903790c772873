"""The guards of a stall in the final epoch: whether a training that makes no step is over, or only slow, paused or evaluated."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from trainingrun_operator.api import endings
from trainingrun_operator.api.run import CheckpointMode
from trainingrun_operator.api.status import Evidence
from trainingrun_operator.core.epochs import final_epoch
from trainingrun_operator.core.facts.reading import LOGS
from trainingrun_operator.core.rules.finding import Finding
from trainingrun_operator.core.track import STEP_FELL, comparable

if TYPE_CHECKING:
    from trainingrun_operator.api.exchange import AgentReport, CheckpointSeen
    from trainingrun_operator.core.observed import Observed

STALL_INTERVALS: Final = 3
"""A final epoch stalls after this many times the typical seconds between steps."""
STALL_PAUSES: Final = 2
"""And after this many times the longest pause between two steps so far."""
STALL_BLIND_SECONDS: Final = 86_400
"""And after this time, if nothing was seen to compare with: no usual pace, or no pause at the end of an epoch where a whole number of epochs does not
say how much of the last one is done."""
_SAME_WRITE_SECONDS: Final = 3
"""The agent sees a write this much later than the file's own time at most."""
_STALL: Final = "finalEpochStall"


def stalled(seen: Observed) -> Finding:
    """Return the finding of a stall whose guards all hold."""
    track, polls = seen.track, seen.track.polls_without_advance
    return Finding(
        _STALL,
        "Stalled",
        f"Final epoch reached and no step since {track.step} for {polls} polls.",
        endings.AUTO_COMPLETE,
        actor="stallPolls",
        evidence=(
            Evidence(what="epoch", value=f"{track.epoch:g} of {track.total_epochs:g}"),
            Evidence(what="stallPolls", value=str(polls), step=track.step),
        ),
        inferred=True,
    )


def missing(seen: Observed) -> Finding | None:
    """Return the first guard of a stall that does not hold; None: all hold."""
    if (unreadable := _unreadable(seen)) is not None:
        return unreadable
    if (newest := seen.track.newest) is None:
        return Finding(_STALL, "NeverAdvanced", "A stall cannot be detected: the step has not advanced yet.")
    quiet = seen.now - newest.at
    return _before_end(seen) or _advances(seen, quiet) or _pauses(seen, quiet) or _unwritten(seen, newest.step, quiet)


def _unreadable(seen: Observed) -> Finding | None:
    """The values that show a stall cannot be read."""
    oddity = seen.track.oddity
    if seen.run.spec.checkpoint.mode is CheckpointMode.DISABLED:
        message = "A stall does not end the run: without checkpoints (spec.checkpoint.mode Disabled) it is unknown whether all files are written."
        return Finding(_STALL, "CheckpointsDisabled", message)
    if seen.reports is None:
        return Finding(_STALL, "NoReport", "A stall cannot be detected: the agent in the pod does not answer.")
    if oddity is not None:
        message = f"A failed reading does not count as a stall ({oddity.reason}): {oddity.message}"
        return Finding(_STALL, oddity.reason, message)
    if seen.track.below:
        message = f"A stall cannot be detected: the step is below {seen.track.step}, the newest one."
        return Finding(_STALL, STEP_FELL, message)
    return None


def _before_end(seen: Observed) -> Finding | None:
    """The last epoch has not begun or is far from its end, or the epochs do not say so."""
    track, names, final = seen.track, seen.run.spec.metrics.names, seen.run.spec.completion.final_step
    if final is not None and track.step is not None and track.step < final:
        message = f"No stall counts before the final step: step {track.step} of {final} (completion.finalStep)."
        return Finding(_STALL, "BeforeFinalStep", message)
    if track.epoch is None or track.total_epochs is None:
        lacking = ", ".join(names.epoch if track.epoch is None else names.total_epochs)
        named = "" if track.epoch is None else ", and the spec names no completion.totalEpochs"
        return Finding(_STALL, "NoEpoch", f"A stall cannot be detected: the metrics have none of {lacking}{named}.")
    if track.epochs.totals_differ:
        message = (
            f"A stall cannot be detected: the metrics show {track.epochs.shown:g} epochs, completion.totalEpochs is {track.epochs.named:g}. Correct it, or"
            " remove it."
        )
        return Finding(_STALL, "TotalsDiffer", message)
    if _is_total_of_bar(seen):
        message = (
            f"A stall cannot be detected: the total of {track.total_epochs:g} epochs is that of a progress bar, which may be one of several, in a log that"
            " the spec does not name as the source. Set completion.totalEpochs, or spec.metrics.source: Logs."
        )
        return Finding(_STALL, "TotalOfBar", message)
    if track.epoch_base is None:
        message = "A stall cannot be detected: the first epoch was not observed, so it is unknown whether epochs count from 0 or 1."
        return Finding(_STALL, "EpochBaseUnknown", message)
    at = f"epoch {track.epoch:g} of {track.total_epochs:g}"
    if track.epochs.beyond_total:
        from_spec = "Correct completion.totalEpochs." if track.epochs.shown is None else ""
        advice = "Show the total that the training itself uses (of the Hugging Face Trainer, state.num_train_epochs)."
        message = f"A stall cannot be detected: the metrics show {at}, so the total is wrong. {from_spec or advice}"
        return Finding(_STALL, "BeyondTotal", message)
    if not track.in_final_epoch:
        last = final_epoch(track.total_epochs, track.epoch_base)
        message = f"Final epoch not reached: {at}, the final one begins at {last}."
        return Finding(_STALL, "NotFinalEpoch", message)
    if not track.may_be_at_end:
        return Finding(_STALL, "NotAtEnd", f"The final epoch is not near its end: {at}.")
    return None


def _is_total_of_bar(seen: Observed) -> bool:
    """Whether only a progress bar says how many epochs there are, in a log that the spec does not name as the source."""
    track = seen.track
    unnamed = track.source == LOGS and seen.run.spec.metrics.source != LOGS
    return unnamed and track.epochs.named is None and track.epochs.of_bar


def _advances(seen: Observed, quiet: float) -> Finding | None:
    """The step has not been unchanged for long enough."""
    track, polls, least = seen.track, seen.track.polls_without_advance, seen.run.spec.stall_polls
    if polls < least:
        message = f"In the final epoch, no step for {polls} of {least} polls (spec.stallPolls)."
        return Finding(_STALL, "StillAdvances", message)
    # A pause at the end of an epoch is longer than a usual step.
    usual = track.typical_interval or track.longest_epoch_pause
    if usual is None and quiet < STALL_BLIND_SECONDS:
        message = f"No step for {quiet:.0f} of {STALL_BLIND_SECONDS} s. How long a step usually takes is not known: fewer than three were seen."
        return Finding(_STALL, "PaceUnknown", message)
    enough = STALL_INTERVALS * (usual or 0)
    if quiet < enough:
        message = (
            f"No step for {quiet:.0f} of {enough:.3g} s, {STALL_INTERVALS} times the usual {usual:.3g} s between steps."
        )
        return Finding(_STALL, "WithinPace", message)
    return None


def _pauses(seen: Observed, quiet: float) -> Finding | None:
    """The step has not been unchanged for clearly longer than in earlier pauses, such as evaluations."""
    track = seen.track
    if track.longest_epoch_pause is None and not track.at_end and quiet < STALL_BLIND_SECONDS:
        message = (
            f"No step for {quiet:.0f} of {STALL_BLIND_SECONDS} s. Epoch {track.epoch:g} of {track.total_epochs:g} may be over or be evaluated, and no pause"
            " at the end of an earlier epoch was seen to compare with. An epoch that is shown as a fraction, at every step, says more."
        )
        return Finding(_STALL, "PauseUnknown", message)
    longest = max(track.longest_pause or 0, track.longest_epoch_pause or 0)
    if quiet < STALL_PAUSES * longest:
        message = (
            f"No step for {quiet:.0f} of {STALL_PAUSES * longest:.3g} s, {STALL_PAUSES} times the longest pause so far."
        )
        return Finding(_STALL, "WithinPause", message)
    return None


def _unwritten(seen: Observed, step: int, quiet: float) -> Finding | None:
    """A rank still writes files, or has no checkpoint as new as the last step."""
    # The step may have advanced up to one poll before the operator read it.
    seconds = quiet + seen.run.spec.poll_interval_seconds
    return unwritten(seen, _STALL, "No step for long enough", f"the training at {step}", step, seconds)


def refuted(seen: Observed, rule: str, words: str) -> Finding | None:
    """Return why a completion is not known to be one: an agent is silent, or a rank has crashed; None: nothing speaks against it.

    Args:
        seen: the run.
        rule: the name of the rule that would end it.
        words: why it would end the run.
    """
    if seen.reports is None:
        return Finding(rule, "NoReport", f"{words}, but the agent in the pod does not answer.")
    for rank in seen.ranks:
        if rank.pod is not None and rank.pod.result:
            return Finding(rule, "RankCrashed", f"{words}, but rank {rank.number} ended with {rank.pod.exit_words}.")
    return None


def unwritten(
    seen: Observed, rule: str, words: str, where: str, step: int, seconds: float, *, goes_on: bool = False
) -> Finding | None:
    """Return why the files of a rank are not all written; None: each has a complete checkpoint of `step`, and none grows.

    Args:
        seen: the run. All agents answer.
        rule: the name of the rule that waits.
        words: why it would end the run.
        where: the step that the checkpoint is to have, in words.
        step: a checkpoint of this step or a later one counts.
        seconds: so does one without a step that was written in this time.
        goes_on: the training makes steps and writes, so a file that grows says nothing.
    """
    poll, at = seen.run.spec.poll_interval_seconds, seen.track.step or step
    for report in seen.reports or ():
        if report.newest is None:
            return Finding(rule, "NoCheckpoint", f"{words}, but the pod has no complete checkpoint.")
        if report.unfinished is not None:
            message = f"{words}, but checkpoint {report.unfinished.dir} is still being written."
            return Finding(rule, "StillWritten", message)
        changed = report.last_change_seconds
        if not goes_on and changed is not None and changed < poll:
            return Finding(rule, "StillWritten", f"{words}, but a file changed {changed:.0f} s ago.")
        named = report.newest.step
        named = named if named is not None and comparable(named, at) else None
        if named is not None and named >= step:
            continue
        if _written_after(report, report.newest, named, seconds, goes_on=goes_on):
            continue
        older = "older than that" if named is None else f"of step {named}, {where}"
        return Finding(rule, "OlderCheckpoint", f"{words}, but the newest complete checkpoint is {older}.")
    return None


def _written_after(
    agent: AgentReport, newest: CheckpointSeen, named: int | None, seconds: float, *, goes_on: bool
) -> bool:
    """Whether the newest checkpoint was written in the last `seconds`; if its name has an earlier step, another file, such as the final model."""
    if named is None and newest.age_seconds <= seconds:
        return True
    changed = agent.last_change_seconds
    if goes_on or changed is None:
        return False
    return changed + _SAME_WRITE_SECONDS < newest.age_seconds and changed <= seconds
