"""Rules for a complete or crashed training: exit code, crashes, marker file, final-epoch stall.

The order is the order of trust: the exit code, the marker that the training wrote, the inferred stall. An inferred completion ends the run after it
has held for ``completion.settleSeconds``, so that the last writes finish.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainingrun_operator.api import endings
from trainingrun_operator.api.status import Evidence
from trainingrun_operator.core.bounds import TEXT_MAX, clipped
from trainingrun_operator.core.facts.pod import Training
from trainingrun_operator.core.rules import stall
from trainingrun_operator.core.rules.finding import Finding

if TYPE_CHECKING:
    from trainingrun_operator.core.facts.pod import Pod
    from trainingrun_operator.core.facts.rank import Rank
    from trainingrun_operator.core.observed import Observed


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
    return stall.missing(seen) or _settled(seen, stall.stalled(seen))


def inferred(seen: Observed) -> Finding | None:
    """Return the completion inferred now, held long enough or not; its actor identifies it. None: none is inferred."""
    if not seen.runs or seen.reports is None:
        return None
    return _written_marker(seen) or (None if stall.missing(seen) else stall.stalled(seen))


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
