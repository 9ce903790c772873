"""Why a save request is not answered yet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from trainingrun_operator.core.facts.bucket import Unreachable
from trainingrun_operator.core.stop import transitions
from trainingrun_operator.core.stop.requests import save_request

if TYPE_CHECKING:
    from trainingrun_operator.api.exchange import AgentReport
    from trainingrun_operator.core.facts.bucket import Mismatch
    from trainingrun_operator.core.facts.rank import Rank
    from trainingrun_operator.core.observed import Observed

ATTEMPTS_MAX: Final = 5
"""Save requests of a stop after which a commit that does not verify holds it."""
RETRY_SECONDS: Final = 3600
"""Time after which a held stop asks once more for a commit that verifies."""


def why(seen: Observed) -> str:
    """Return why nothing is proven yet, after `hold_after_seconds`; empty: no reason, or too early."""
    patience = seen.defaults.hold_after_seconds
    if seen.save_failing_seconds < patience:
        return ""
    if isinstance(seen.answer, Unreachable):
        return f"The bucket cannot be read: {seen.answer.message}"
    if found := next((why for rank in seen.ranks if (why := _of_rank(seen, rank))), ""):
        return found
    return _without_progress(seen) if seen.no_progress_seconds >= patience else ""


def _of_rank(seen: Observed, rank: Rank) -> str:
    """Return why one rank has not saved yet; empty: no problem is known."""
    if all(pod.terminal for pod in rank.pods):
        return ""
    of, report = _name(seen, rank), rank.report
    if report is None:
        return rank.refused.sentence if rank.refused is not None else f"The agent in the pod{of} does not answer."
    if report.error is not None:
        return f"The agent{of} cannot save: {report.error.code}: {report.error.message}"
    if report.newest is None and not transitions.ended(seen):
        return f"The training{of} still runs and has not written a complete checkpoint yet."
    return ""


def _without_progress(seen: Observed) -> str:
    """Name the ranks that the stop waits for. Their agents answer, report no error, and do nothing."""
    request = save_request(seen.run, seen.pods)
    asked = request[0] if request is not None else None
    waiting = [rank for rank in seen.ranks if rank.report is not None and not _has_answered(rank.report, asked)]
    idle = next((rank for rank in waiting if rank.report is not None and rank.report.working_on is None), None)
    late = idle or next(iter(waiting), None)
    of = _name(seen, late) if late is not None else ""
    what = f"The agent{of} reports no error, but has neither read nor sent a byte for {seen.defaults.hold_after_seconds:.0f} s"
    if idle is not None:
        return f"{what}, and does not work on the save request: see the log of container checkpoint-agent."
    return f"{what} of the save request: see the log of container checkpoint-agent."


def _has_answered(report: AgentReport, asked: str | None) -> bool:
    """Whether the rank's newest manifest or commit answers the stop."""
    return any(one is not None and one.id == asked for one in (report.commit, report.manifest))


def _name(seen: Observed, rank: Rank) -> str:
    return f" of rank {rank.number}" if len(seen.ranks) > 1 else ""


def is_spent(attempt: int, wrong: Mismatch) -> bool:
    """Whether another upload is of no use: it would fail alike, or `ATTEMPTS_MAX` have failed."""
    return not wrong.curable or attempt >= ATTEMPTS_MAX
