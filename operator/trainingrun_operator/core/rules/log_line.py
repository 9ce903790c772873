"""The line of the log that the spec names: whether the training has printed it, stands still after it, and has written its files."""

from __future__ import annotations

from math import floor, inf
from typing import TYPE_CHECKING, Final

from trainingrun_operator.api import endings
from trainingrun_operator.api.run import CheckpointMode
from trainingrun_operator.api.status import Evidence
from trainingrun_operator.core.epochs import ROUNDING
from trainingrun_operator.core.rules import stall
from trainingrun_operator.core.rules.finding import Finding

if TYPE_CHECKING:
    from trainingrun_operator.core.completion_line import CompletionLine
    from trainingrun_operator.core.observed import Observed
    from trainingrun_operator.core.track import Track

RULE: Final = "logPatterns"


def found(seen: Observed) -> Finding:
    """Return the completion by a line of the log, or what is missing for it."""
    said = seen.completion_line
    if seen.run.spec.checkpoint.mode is CheckpointMode.DISABLED:
        message = "No line of the log ends the run: without checkpoints (spec.checkpoint.mode Disabled) it is unknown whether all files are written."
        return Finding(RULE, "CheckpointsDisabled", message)
    if said is None or not said.pattern:
        return _unsaid(seen, said)
    return _refuted(seen, said) or _goes_on(seen, said) or _unwritten(seen, said) or _complete(said)


def _complete(said: CompletionLine) -> Finding:
    """Return the completion. A training may print secrets: the message names the pattern, and only the evidence has the line."""
    return Finding(
        RULE,
        "Printed",
        f"{_words(said)}.",
        endings.AUTO_COMPLETE,
        actor=RULE,
        evidence=(Evidence(what="logLine", value=said.line, step=said.step),),
        inferred=True,
    )


def _words(said: CompletionLine) -> str:
    return f"The training printed a line with {said.pattern!r} (completion.logPatterns)"


def _unsaid(seen: Observed, said: CompletionLine | None) -> Finding:
    """Say why there is no line that counts."""
    if said is None:
        return Finding(RULE, "NotReadYet", "The log was not read yet (completion.logPatterns).")
    if said.trouble is not None:
        message = f"It is not known whether the log has a line of completion.logPatterns. {said.trouble.message}"
        return Finding(RULE, said.trouble.reason, message)
    if said.taken_back:
        message = (
            "The training made steps after it had printed a line of completion.logPatterns: it was not the last one."
        )
        return Finding(RULE, "GoesOn", message)
    patterns = ", ".join(map(repr, seen.run.spec.completion.log_patterns))
    return Finding(RULE, "NotPrinted", f"The training has printed no line with {patterns} (completion.logPatterns).")


def _refuted(seen: Observed, said: CompletionLine) -> Finding | None:
    """The line is none of a training that is complete, or not all ranks are known to be."""
    if seen.track.step is not None and seen.track.newest is None:
        return Finding(RULE, "NeverAdvanced", f"{_words(said)}, but the step has not advanced yet.")
    return stall.refuted(seen, RULE, _words(said))


def _goes_on(seen: Observed, said: CompletionLine) -> Finding | None:
    """The training may go on: not enough time has passed since the line, compared with its pauses so far."""
    track, quiet = seen.track, seen.now - said.since
    if quiet < seen.run.spec.poll_interval_seconds:
        return Finding(RULE, "JustPrinted", f"{_words(said)}. Whether it goes on shows at the next poll.")
    left = track.epochs.remaining is not None and not (track.in_final_epoch and track.may_be_at_end)
    if left and not _saw_an_epoch_end(track):
        message = (
            f"{_words(said)}, but the metrics show epoch {track.epoch:g} of {track.total_epochs:g}: the epoch may be evaluated, and no pause at the end of an"
            " earlier one was seen to compare with."
        )
        return Finding(RULE, "PauseUnknown", message)
    enough = stall.STALL_PAUSES * _longest_pause(seen)
    if quiet < enough:
        message = f"{_words(said)}, and has made no step for {quiet:.0f} of {enough:.3g} s since, {stall.STALL_PAUSES} times the longest pause so far."
        return Finding(RULE, "WithinPause", message)
    return None


def _saw_an_epoch_end(track: Track) -> bool:
    """Whether steps were seen after the end of an epoch, so that the pause for its evaluation is known."""
    epochs = track.epochs
    if track.longest_epoch_pause is None or epochs.current is None:
        return False
    # A fraction that is a whole number is the end itself.
    return not epochs.fractional or epochs.began is None or epochs.current - ROUNDING >= floor(epochs.began[1]) + 1


def _longest_pause(seen: Observed) -> float:
    """Return the longest pause between two steps; before two were seen, the time in which the training came to its newest one."""
    track = seen.track
    if track.newest is None:
        return 0
    if track.longest_pause is not None:
        return max(track.longest_pause, track.longest_epoch_pause or 0)
    return max(0.0, _running_seconds(seen) - (seen.now - track.newest.at))


def _unwritten(seen: Observed, said: CompletionLine) -> Finding | None:
    """A rank still writes files, or has no checkpoint as new as the newest step; if no step is read, none that this pod has written."""
    newest, poll = seen.track.newest, seen.run.spec.poll_interval_seconds
    if newest is not None:
        seconds = seen.now - newest.at + poll
        return stall.unwritten(seen, RULE, _words(said), f"the training at {newest.step}", newest.step, seconds)
    if (unwritten := stall.unwritten(seen, RULE, _words(said), "", 0, inf)) is not None:
        return unwritten
    running, found = _running_seconds(seen), (one.newest for one in seen.reports or () if one.newest is not None)
    if any(checkpoint.age_seconds >= running for checkpoint in found):
        message = f"{_words(said)}, but the newest complete checkpoint is older than its start, and no step is read."
        return Finding(RULE, "OlderCheckpoint", message)
    return None


def _running_seconds(seen: Observed) -> float:
    """Return for how long the training of rank 0 has run; 0: it is not known."""
    pod = seen.ranks[0].pod
    return seen.seconds_since(pod.started_at) if pod is not None and pod.started_at else 0
