"""Protection of a run's pods from eviction while their volumes hold unproven files.

A PodDisruptionBudget makes the eviction API, and so `kubectl drain`, answer 429. It exists from the Job's first pod until the checkpoint is proven.
It is removed in between while everything saved is proven: an eviction then costs the steps since the newest checkpoint, from which the Job's next
pod resumes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from trainingrun_operator.api.run import CheckpointMode
from trainingrun_operator.api.status import Phase
from trainingrun_operator.core import manifests
from trainingrun_operator.core.effects import CreateDisruptionBudget, DeleteDisruptionBudget, Effect

if TYPE_CHECKING:
    from trainingrun_operator.api.exchange import AgentReport
    from trainingrun_operator.core.observed import Observed

_UNPROVEN: Final = frozenset({Phase.REQUESTED, Phase.DRAINING, Phase.SAVING, Phase.VERIFYING, Phase.HELD})


def effects(seen: Observed) -> tuple[Effect, ...]:
    """Create or delete the budget; nothing while it is unknown whether it exists."""
    if seen.disruption_budget is None or seen.workload is None:
        return ()
    if _guarded(seen):
        return (
            ()
            if seen.disruption_budget
            else (CreateDisruptionBudget(manifests.disruption_budget(seen.run, seen.workload)),)
        )
    return (
        (DeleteDisruptionBudget(manifests.disruption_budget_name(seen.run.name), seen.disruption_budget),)
        if seen.disruption_budget
        else ()
    )


def all_proven(seen: Observed) -> bool:
    """Whether every rank's newest checkpoint is complete and in the verified commit."""
    reports, verified = seen.reports, seen.verified
    return reports is not None and verified is not None and all(_proven(report, verified.key) for report in reports)


def _proven(agent: AgentReport, verified: str) -> bool:
    if agent.error is not None or agent.newest is None or agent.unfinished is not None:
        return False
    return agent.commit is not None and agent.commit.key == verified and shipped(agent)


def shipped(agent: AgentReport) -> bool:
    """Whether the agent reports that the newest complete checkpoint in its volume is in the bucket."""
    if agent.newest is None or agent.commit is None:
        return False
    # A log that grows all the time needs no protection of its own.
    return agent.unsaved_bytes == 0 or (agent.newest.step is not None and agent.newest.step == agent.commit.step)


def _guarded(seen: Observed) -> bool:
    """Whether the budget is needed. It is removed with a delay, because a training may save every few seconds."""
    stop = seen.run.status.termination
    if seen.run.spec.checkpoint.mode is CheckpointMode.DISABLED:
        return False
    if stop is not None:
        return stop.phase in _UNPROVEN
    if not seen.live_pods:
        return bool(seen.disruption_budget)
    if seen.proven_seconds is None:
        return True
    return bool(seen.disruption_budget) and seen.proven_seconds < seen.defaults.evictable_after_seconds
