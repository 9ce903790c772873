"""Rules for a training that has exited: complete or crashed.

An exit code is a result only if the training exited by itself: `core.facts.pod.Pod.result`.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Final

from trainingrun_operator.api import endings
from trainingrun_operator.api.status import Evidence
from trainingrun_operator.core import crash_causes
from trainingrun_operator.core.epochs import is_short
from trainingrun_operator.core.facts.pod import Training
from trainingrun_operator.core.rules import same_step, workload
from trainingrun_operator.core.rules.completion import marker_of
from trainingrun_operator.core.rules.finding import Finding

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trainingrun_operator.core.facts.pod import Pod
    from trainingrun_operator.core.facts.rank import Rank
    from trainingrun_operator.core.observed import Observed

NEAR_READINGS: Final = 2
"""It is near its end too if no more steps are left than these many readings advance."""
EXITED_EARLY: Final = "ExitedEarly"
"""Reason of a completion by exit code 0 far from the end: the progress stays what the metrics said."""
EXIT_CODE_ZERO: Final = "ExitCodeZero"
"""Reason of a completion by exit code 0 at the end, or where the end is not known."""
_RULE: Final = "exitCode"


def exit_code(seen: Observed) -> Finding | None:
    """Every rank's training exited with 0, or with another code after the marker. Does not apply to crashed pods."""
    pods = tuple(rank.pod for rank in seen.ranks if rank.pod is not None)
    if (left := next((pod for pod in pods if pod.told_to_leave and not pod.gate_open), None)) is not None:
        message = f"Pod {left.name} was told to leave ({left.told_to_leave}): its exit code does not count, and the Job replaces it."
        return Finding(_RULE, "ToldToLeave", message)
    if (again := next((pod for pod in pods if pod.starts_again), None)) is not None:
        message = f"The training ended with {again.exit_words}, and its own restart rules start it again in pod {again.name}: it has no result yet."
        return Finding(_RULE, "StartsAgain", message)
    if any(pod.training is Training.RUNNING for pod in pods):
        return Finding(_RULE, "StillRuns", "The training still runs: exit code 0 ends it as complete.")
    if len(pods) < len(seen.ranks) or any(pod.result is None for pod in pods):
        return None
    failed = next((pod for pod in pods if pod.result), None)
    if failed is None:
        return _exit_code_zero(seen, pods)
    if (name := marker_of(seen)) is None:
        return None
    return Finding(
        _RULE,
        "ExitAfterMarker",
        f"Training wrote the marker {name} and then ended with {failed.exit_words}.",
        endings.AUTO_COMPLETE,
        actor="marker",
        evidence=(Evidence(what="marker", value=name), *_evidence(failed)),
        warning=f"The training ended with {failed.exit_words} after the completion marker {name}: the run counts as complete.",
    )


def _exit_code_zero(seen: Observed, pods: Sequence[Pod]) -> Finding:
    """Return the completion by exit code 0, with a warning if something is odd about it."""
    odd = next((pod for pod in pods if pod.exit_reason), None)
    short = _short_of_the_end(seen)
    warnings = (
        f"The kubelet says {odd.exit_reason} of a training that exited with 0: the run counts as complete."
        if odd
        else "",
        f"The training exited with 0 {short}: the run counts as complete. Was it meant to end there?" if short else "",
    )
    return Finding(
        _RULE,
        EXITED_EARLY if short else EXIT_CODE_ZERO,
        f"Training finished with {odd.exit_words if odd else 'exit code 0'}{', ' + short if short else ''}.",
        endings.AUTO_COMPLETE,
        actor="exit code",
        evidence=_evidence(odd or pods[0]),
        warning=" ".join(filter(None, warnings)),
    )


def _short_of_the_end(seen: Observed) -> str:
    """Return where the metrics were last seen, if that is far from the end of the last epoch; empty: near to it, or unknown.

    A whole number of the last epoch does not say how much of it is done, and the last reading may be as old as the pause between two log lines.
    """
    track = same_step.track_of_attempt(seen)
    epoch, total, step = track.epoch, track.total_epochs, track.step
    if epoch is None or total is None or step is None:
        return ""
    if not is_short(epoch, total, track.epoch_base, fractional=track.epochs.fractional):
        return ""
    done = epoch - (track.epoch_base or 0)
    steps = [*(() if track.baseline is None else (track.baseline,)), *(one.step for one in track.observations)]
    gaps = [later - earlier for earlier, later in pairwise(steps)]
    if gaps and step * (total - done) <= done * NEAR_READINGS * max(gaps):
        return ""
    return f"with epoch {epoch:g} of {total:g} at step {step}"


def _evidence(pod: Pod) -> tuple[Evidence, ...]:
    reason = (Evidence(what="exitReason", value=pod.exit_reason),) if pod.exit_reason else ()
    return (Evidence(what="exitCode", value=str(pod.exit_code)), *reason)


def crashed(seen: Observed) -> Finding | None:
    """The training crashed more often than ``backoffLimit``. Applies from the first crash, unless the marker is written."""
    if (fatal := _fatal(seen)) is not None:
        return fatal
    limit, count = seen.run.spec.backoff_limit, crashes(seen)
    times = "once" if count == 1 else f"{count} times"
    rank = None if marker_of(seen) is not None else next((rank for rank in seen.ranks if _judged(rank)), None)
    pod = rank.pod if rank is not None else None
    last = f", last with {pod.exit_words}" if pod is not None else ""
    over = f" {said}" if pod is not None and (said := _trained_to_the_end(seen)) else ""
    cause = crash_causes.sentence(rank) if rank is not None else ""
    if rank is not None and pod is not None and count > limit:
        message = f"Training crashed {times} (backoffLimit {limit}){last}.{cause}{over}"
        return _failed("BackoffLimitExceeded", message, _evidence(pod))
    if (stuck := _stuck(seen)) is not None:
        return stuck
    if not count or (pod is None and workload.last_failure_before_start(seen)):
        return None
    message = f"Training crashed {times}{last}: more than {limit} crashes (spec.backoffLimit) end it. Each crashed pod is saved, then replaced.{cause}{over}"
    return Finding("crashes", "RestartsLeft", message)


def _fatal(seen: Observed) -> Finding | None:
    """The training crashed with one of ``crash.fatalExitCodes``, or its log has one of ``crash.fatalLogPatterns``, and it wrote no marker."""
    codes, patterns = seen.run.spec.crash.fatal_exit_codes, seen.run.spec.crash.fatal_log_patterns
    for pod, rank in _crashed_pods(seen):
        pattern, cause = rank.fatal_pattern, crash_causes.sentence(rank)
        if pod.result in codes:
            message = f"Training crashed with {pod.exit_words}, which spec.crash.fatalExitCodes names: it is not tried again.{cause}"
            return _failed("FatalExitCode", message, _evidence(pod))
        if pattern in patterns:
            message = (
                f"Training crashed with {pod.exit_words}, and the end of its log has {pattern!r}, a pattern of spec.crash.fatalLogPatterns: it is not"
                f" tried again.{cause}"
            )
            return _failed("FatalLogPattern", message, (*_evidence(pod), Evidence(what="logPattern", value=pattern)))
    return None


def _stuck(seen: Observed) -> Finding | None:
    """The training crashed ``crash.sameStepLimit`` times in a row without a step forward, and wrote no marker."""
    row, limit = same_step.row(seen), seen.run.spec.crash.same_step_limit
    pod, rank = next(iter(_crashed_pods(seen)), (None, None))
    if pod is None or rank is None or row is None or row.without_step < limit:
        return None
    times = "once" if row.without_step == 1 else f"{row.without_step} times in a row"
    message = (
        f"Training crashed {times} without a step forward (spec.crash.sameStepLimit {limit}), last with {pod.exit_words}: no attempt got further than"
        f" step {row.step}.{crash_causes.sentence(rank)}"
    )
    return _failed(
        same_step.NO_STEP_FORWARD, message, (*_evidence(pod), Evidence(what="step", value=str(row.step), step=row.step))
    )


def _crashed_pods(seen: Observed) -> list[tuple[Pod, Rank]]:
    """Return the pods whose crash counts, and their ranks; none after a marker."""
    if marker_of(seen) is not None:
        return []
    return [(rank.pod, rank) for rank in seen.ranks if rank.pod is not None and _judged(rank)]


def _failed(reason: str, message: str, evidence: tuple[Evidence, ...]) -> Finding:
    return Finding("crashes", reason, message, endings.FAILED, actor="exit code", evidence=evidence)


def _trained_to_the_end(seen: Observed) -> str:
    """Return that the last epoch was over and its checkpoint is proven; empty: at least one of the two is not known."""
    track, proven = seen.track, seen.verified.commit.checkpoint if seen.verified is not None else None
    epoch, total, newest = track.epoch, track.total_epochs, track.newest
    if not track.in_final_epoch or epoch is None or total is None or newest is None:
        return ""
    if epoch < total and epoch % 1:
        return ""
    if proven is None or not proven.complete or proven.step is None or proven.step < newest.step:
        return ""
    markers = ", ".join(seen.run.spec.completion.marker_files) or "named in spec.completion.markerFiles"
    return (
        f"Before that it had come to epoch {epoch:g} of {total:g}, and its checkpoint of step {proven.step} is proven."
        f" If it was complete, let it write a marker file when it is done ({markers}): an error after the marker is no crash."
    )


def crashes(seen: Observed) -> int:
    """Return the number of crashed pods, including those behind their gates and those whose gates were opened."""
    pods = (rank.pod for rank in seen.ranks if rank.pod is not None and not rank.pod.terminal)
    waiting = sum(bool(pod.exit_code if pod.gate_open else pod.result) for pod in pods)
    return waiting + workload.failed(seen)


def _judged(rank: Rank) -> bool:
    """Whether the rank's training exited by itself with an error."""
    return rank.pod is not None and bool(rank.pod.result)
