"""A cluster that was restored from a backup may know less of a run than its bucket: a run ends once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainingrun_operator.api.endings import ENDINGS, FAILED
from trainingrun_operator.api.status import Evidence
from trainingrun_operator.core.bounds import TEXT_MAX, clipped
from trainingrun_operator.core.rules.finding import Finding

if TYPE_CHECKING:
    from trainingrun_operator.core.observed import Observed


def ended_before(seen: Observed) -> Finding | None:
    """The bucket holds what a stop of this very run left. It does not apply once there is a workload, or without such a commit."""
    if seen.workload is not None or seen.ended_before is None:
        return None
    known = ENDINGS.get(seen.ended_before.commit.status or "")
    why = f"as {known.status}" if known else "for a reason that is not known any more"
    return Finding(
        "endedBefore",
        "EndedBefore",
        f"This run had ended before, {why}: its bucket knows more of it than the cluster, which was restored from a backup.",
        known or FAILED,
        actor="bucket",
        evidence=(Evidence(what="commit", value=clipped(seen.ended_before.key, TEXT_MAX)),),
    )
