"""Whether it is known that a running training has nothing to save.

That a value could not be read is no evidence of it: an agent that has not looked yet, metrics that cannot be read, or an operator that has just
started. The stop then goes on asking for a checkpoint.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainingrun_operator.core.facts.bucket import Unreachable
from trainingrun_operator.core.stop import transitions

if TYPE_CHECKING:
    from trainingrun_operator.api.exchange import AgentReport
    from trainingrun_operator.core.observed import Observed


def to_save(seen: Observed) -> bool:
    """Whether the training runs, its step is known to be 0, every volume is known to be empty, and no checkpoint of the run is known.

    A checkpoint may never come of such a training, so that a stop does not wait for it.
    """
    return not transitions.ended(seen) and _is_at_start(seen) and _is_empty(seen) and not _has_checkpoint(seen)


def _is_at_start(seen: Observed) -> bool:
    """Whether the newest reading shows step 0, and no step was ever read. Rank 0 shows the step of all ranks."""
    moved = seen.run.status.progress is not None or any(rank.track.advanced for rank in seen.ranks)
    return seen.ranks[0].unmoved and not moved


def _is_empty(seen: Observed) -> bool:
    """Whether every agent has looked, and found no file under any name."""
    reports = seen.reports
    return reports is not None and all((report.files, report.temporary_files) == (0, 0) for report in reports)


def _has_checkpoint(seen: Observed) -> bool:
    """Whether status, bucket or an agent knows anything that was saved; also if the bucket cannot be read."""
    if isinstance(seen.answer, Unreachable) or seen.verified is not None or seen.run.status.checkpoint is not None:
        return True
    return any(_has_written(report) for report in seen.reports or ())


def _has_written(report: AgentReport) -> bool:
    return report.commit is not None or report.manifest is not None
