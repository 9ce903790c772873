"""Runs that ended before the cluster was restored from a backup: a run ends once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainingrun_operator.api.endings import ENDINGS, FAILED
from trainingrun_operator.api.status import Evidence
from trainingrun_operator.core.bounds import TEXT_MAX, clipped
from trainingrun_operator.core.rules.finding import Finding

if TYPE_CHECKING:
    from trainingrun_operator.core.observed import Observed


def ended_before(seen: Observed) -> Finding | None:
    """The bucket has the commit of a stop of this run. Applies only without a workload."""
    if seen.workload is not None or seen.ended_before is None:
        return None
    known = ENDINGS.get(seen.ended_before.commit.status or "")
    why = f"as {known.status}" if known else "for an unknown reason"
    return Finding(
        "endedBefore",
        "EndedBefore",
        f"This run already ended, {why}: the bucket has the commit of its stop, and the cluster was restored from a backup.",
        known or FAILED,
        actor="bucket",
        evidence=(Evidence(what="commit", value=clipped(seen.ended_before.key, TEXT_MAX)),),
    )
