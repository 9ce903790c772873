"""Whether the run's pods may be evicted: not while the volume holds bytes that would be lost with them.

A PodDisruptionBudget makes the eviction API, and `kubectl drain` with it, answer 429. It stands from the Job's first pod until the checkpoint is proven,
and goes in between whenever everything that was saved is proven: then an eviction costs the steps since the newest checkpoint, and the Job's
next pod goes on from there.
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
    """Put the budget up, or take it down; nothing while it is not known whether there is one."""
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
    """Whether every rank's newest checkpoint is whole, and the operator has read back the commit that holds all of them."""
    reports, verified = seen.reports, seen.verified
    return reports is not None and verified is not None and all(_proven(report, verified.key) for report in reports)


def _proven(agent: AgentReport, verified: str) -> bool:
    if agent.error is not None or agent.newest is None or agent.unfinished is not None:
        return False
    return agent.commit is not None and agent.commit.key == verified and shipped(agent)


def shipped(agent: AgentReport) -> bool:
    """Whether the newest whole checkpoint in the volume is in the bucket, by the agent's word."""
    if agent.newest is None or agent.commit is None:
        return False
    # A log grows all the time, and is worth no guard of its own.
    return agent.unsaved_bytes == 0 or (agent.newest.step is not None and agent.newest.step == agent.commit.step)


def _guarded(seen: Observed) -> bool:
    """Up at once, down only after a while: a training that saves every few seconds must not cost two calls each time."""
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
