"""Rules for a complete or crashed training: exit code, crashes, marker file, final-epoch stall.

The order is the order of trust: the exit code, the marker that the training wrote, the inferred stall. An inferred completion ends the run after it
has held for ``completion.settleSeconds``, so that the last writes finish.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from trainingrun_operator.api import endings
from trainingrun_operator.api.run import CheckpointMode
from trainingrun_operator.api.status import Evidence
from trainingrun_operator.core.bounds import TEXT_MAX, clipped
from trainingrun_operator.core.epochs import final_epoch
from trainingrun_operator.core.facts.pod import Training
from trainingrun_operator.core.rules.finding import Finding
from trainingrun_operator.core.track import STEP_FELL, comparable

if TYPE_CHECKING:
    from trainingrun_operator.api.exchange import AgentReport, CheckpointSeen
    from trainingrun_operator.core.facts.pod import Pod
    from trainingrun_operator.core.facts.rank import Rank
    from trainingrun_operator.core.observed import Observed

STALL_INTERVALS: Final = 3
"""A final epoch stalls after this many times the typical seconds between steps."""
STALL_PAUSES: Final = 2
"""And after this many times the longest pause between two steps so far."""
STALL_BLIND_SECONDS: Final = 86_400
"""And after this time, if a whole number of epochs does not say how much of the last one is done, and no pause at the end of an epoch was seen to
compare with: it may be an evaluation."""
_STALL: Final = "finalEpochStall"


# -- exit code --------------------------------------------------------------------------------------------------


def exit_code(seen: Observed) -> Finding | None:
    """Every rank's training exited with 0, or with another code after the marker. Does not apply to crashed pods."""
    pods = tuple(rank.pod for rank in seen.ranks if rank.pod is not None)
    if any(pod.training is Training.RUNNING and not pod.deleting for pod in pods):
        return Finding("exitCode", "StillRuns", "The training still runs: exit code 0 ends it as complete.")
    if len(pods) < len(seen.ranks) or not all(_exited_by_itself(pod) for pod in pods):
        return None
    code = next((pod.exit_code for pod in pods if pod.exit_code), 0)
    if code == 0:
        return Finding(
            "exitCode",
            "ExitCodeZero",
            "Training finished with exit code 0.",
            endings.AUTO_COMPLETE,
            actor="exit code",
            evidence=(Evidence(what="exitCode", value="0"),),
        )
    if (name := _marker_of(seen)) is None:
        return None
    return Finding(
        "exitCode",
        "ExitAfterMarker",
        f"Training wrote the marker {name} and then ended with exit code {code}.",
        endings.AUTO_COMPLETE,
        actor="marker",
        evidence=(Evidence(what="marker", value=name), Evidence(what="exitCode", value=str(code))),
        warning=f"Exit code {code} followed the completion marker {name}: the run counts as complete.",
    )


def crashed(seen: Observed) -> Finding | None:
    """The training crashed more often than ``backoffLimit``. Applies from the first crash, unless the marker is written."""
    limit, count = seen.run.spec.backoff_limit, crashes(seen)
    times = "once" if count == 1 else f"{count} times"
    rank = None if _marker_of(seen) is not None else next((rank for rank in seen.ranks if _judged(rank)), None)
    code = rank.pod.exit_code if rank is not None and rank.pod is not None else None
    if rank is not None and count > limit:
        tail = f" Last lines of its log: {rank.log_tail}" if rank.log_tail else ""
        return Finding(
            "crashes",
            "BackoffLimitExceeded",
            f"Training crashed {times} (backoffLimit {limit}), last with exit code {code}.{tail}",
            endings.FAILED,
            actor="exit code",
            evidence=(Evidence(what="exitCode", value=str(code)),),
        )
    if not count:
        return None
    last = f", last with exit code {code}" if rank is not None else ""
    message = f"Training crashed {times}{last}: more than {limit} crashes (spec.backoffLimit) end it. Each crashed pod is saved, then replaced."
    return Finding("crashes", "RestartsLeft", message)


def crashes(seen: Observed) -> int:
    """Return the number of crashed pods, including those behind their gates."""
    pods = (rank.pod for rank in seen.ranks if rank.pod is not None)
    waiting = sum(not pod.terminal and pod.training is Training.EXITED and pod.exit_code != 0 for pod in pods)
    return waiting + (seen.workload.failed if seen.workload is not None else 0)


def _judged(rank: Rank) -> bool:
    """Whether the rank's training exited by itself with an error."""
    return rank.pod is not None and _exited_by_itself(rank.pod) and rank.pod.exit_code != 0


def _exited_by_itself(pod: Pod) -> bool:
    # A pod that is being deleted was asked to exit: its exit code is no result of the training.
    return pod.training is Training.EXITED and not pod.gate_open and not pod.deleting


def _marker_of(seen: Observed) -> str | None:
    """Return the marker that any rank wrote, cut to the schema's bound; None: there is none."""
    markers = (marker for rank in seen.ranks if rank.report is not None for marker in rank.report.markers)
    return next((clipped(marker.name, TEXT_MAX) for marker in markers), None)


# -- inferred -----------------------------------------------------------------------------------------------------


def marker(seen: Observed) -> Finding | None:
    """The training still runs and has written its marker. Applies while it runs and markers are configured."""
    if not seen.runs:
        return None
    if (written := _written_marker(seen)) is not None:
        return _settled(seen, written)
    names, path = ", ".join(seen.run.spec.completion.marker_files), seen.run.spec.checkpoint.path
    if not names:
        return None
    if seen.reports is None:
        return Finding("marker", "NoReport", "The agent in the pod does not answer: markers cannot be read.")
    return Finding("marker", "NotWritten", f"There is no marker under {path} ({names}: completion.markerFiles).")


def final_epoch_stall(seen: Observed) -> Finding | None:
    """The step does not advance in the final epoch, with guards against a slow step or a long evaluation.

    Does not apply while no training runs, or once the marker is written, which is better evidence.
    """
    if not seen.runs or _written_marker(seen) is not None:
        return None
    return _missing_for_stall(seen) or _settled(seen, _stall(seen))


def inferred(seen: Observed) -> Finding | None:
    """Return the completion inferred now, held long enough or not; its actor identifies it. None: none is inferred."""
    if not seen.runs or seen.reports is None:
        return None
    return _written_marker(seen) or (None if _missing_for_stall(seen) else _stall(seen))


def _settled(seen: Observed, concluded: Finding) -> Finding:
    """Return the inferred completion once it has held for `completion.settleSeconds`; before that, a finding that waits."""
    held, hold_seconds = seen.candidate_seconds, seen.run.spec.completion.settle_seconds
    if held is not None and held >= hold_seconds:
        return concluded
    message = f"{concluded.message} It ends the run after {hold_seconds} s (completion.settleSeconds); so far {held or 0:.0f} s."
    return Finding(concluded.rule, "Settling", message)


def _written_marker(seen: Observed) -> Finding | None:
    if (name := _marker_of(seen)) is None:
        return None
    return Finding(
        "marker",
        "Written",
        f"Training wrote the completion marker {name}.",
        endings.AUTO_COMPLETE,
        actor="marker",
        evidence=(Evidence(what="marker", value=name),),
        inferred=True,
    )


def _stall(seen: Observed) -> Finding:
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


def _missing_for_stall(seen: Observed) -> Finding | None:
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
    track, names = seen.track, seen.run.spec.metrics.names
    if track.epoch is None or track.total_epochs is None:
        lacking = ", ".join(names.epoch if track.epoch is None else names.total_epochs)
        return Finding(_STALL, "NoEpoch", f"A stall cannot be detected: the metrics have none of {lacking}.")
    if track.epoch_base is None:
        message = "A stall cannot be detected: the first epoch was not observed, so it is unknown whether epochs count from 0 or 1."
        return Finding(_STALL, "EpochBaseUnknown", message)
    at = f"epoch {track.epoch:g} of {track.total_epochs:g}"
    if track.epochs.beyond_total:
        message = (
            f"A stall cannot be detected: the metrics show {at}, so the total is wrong. Show the total that the training itself uses (of the Hugging Face"
            " Trainer, state.num_train_epochs)."
        )
        return Finding(_STALL, "BeyondTotal", message)
    if not track.in_final_epoch:
        last = final_epoch(track.total_epochs, track.epoch_base)
        message = f"Final epoch not reached: {at}, the final one begins at {last}."
        return Finding(_STALL, "NotFinalEpoch", message)
    if not track.may_be_at_end:
        return Finding(_STALL, "NotAtEnd", f"The final epoch is not near its end: {at}.")
    return None


def _advances(seen: Observed, quiet: float) -> Finding | None:
    """The step has not been unchanged for long enough."""
    track, polls, least = seen.track, seen.track.polls_without_advance, seen.run.spec.stall_polls
    if polls < least:
        message = f"In the final epoch, no step for {polls} of {least} polls (spec.stallPolls)."
        return Finding(_STALL, "StillAdvances", message)
    if track.typical_interval is None:
        message = f"No step for {polls} polls, but how long a step usually takes is not known yet."
        return Finding(_STALL, "PaceUnknown", message)
    enough = STALL_INTERVALS * track.typical_interval
    if quiet < enough:
        message = f"No step for {quiet:.0f} of {enough:.3g} s, {STALL_INTERVALS} times the usual {track.typical_interval:.3g} s between steps."
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
    poll = seen.run.spec.poll_interval_seconds
    missing = (_unwritten_by(report, step, quiet, poll) for report in seen.reports or ())
    return next((found for found in missing if found is not None), None)


def _unwritten_by(agent: AgentReport, step: int, quiet: float, poll: float) -> Finding | None:
    still = "No step for long enough"
    if agent.newest is None:
        return Finding(_STALL, "NoCheckpoint", f"{still}, but the pod has no complete checkpoint.")
    if agent.unfinished is not None:
        return Finding(
            _STALL, "StillWritten", f"{still}, but checkpoint {agent.unfinished.dir} is still being written."
        )
    if agent.last_change_seconds is not None and agent.last_change_seconds < poll:
        message = f"{still}, but a file changed {agent.last_change_seconds:.0f} s ago."
        return Finding(_STALL, "StillWritten", message)
    named = agent.newest.step if agent.newest.step is not None and comparable(agent.newest.step, step) else None
    if named is not None and named >= step:
        return None
    # The step may have advanced up to one poll before the operator read it.
    if _written_after(agent, agent.newest, named, quiet + poll):
        return None
    if named is None:
        message = f"{still}, but the newest complete checkpoint is older than that."
    else:
        message = f"{still}, but the newest complete checkpoint is of step {named}, the training at {step}."
    return Finding(_STALL, "OlderCheckpoint", message)


def _written_after(agent: AgentReport, newest: CheckpointSeen, named: int | None, seconds: float) -> bool:
    """Whether the newest checkpoint was written in the last `seconds`; if its name has an earlier step, another file, such as the final model."""
    if named is None and newest.age_seconds <= seconds:
        return True
    changed = agent.last_change_seconds
    return changed is not None and changed < newest.age_seconds and changed <= seconds
