"""The checks before a node is released, and the phases of its release.

::

    InUse → WaitIdle → Cordoned → Releasing → Verifying → Released
                ↑__________│ (occupied again)      └→ Retained

A node is released by the identity recorded while the run's pod was on it, and only when empty. It counts as released once its machine and its
Node are gone.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Final, assert_never

from trainingrun_operator.api import names
from trainingrun_operator.api.run import NodePoolPolicy
from trainingrun_operator.api.status import NodePhase, NodeStatus, Phase
from trainingrun_operator.core.bounds import MESSAGE_MAX, clipped
from trainingrun_operator.core.effects import (
    DeleteNode,
    Effect,
    RecordEvent,
    RecordNodes,
    ReleaseMachine,
    TaintNode,
    UntaintNode,
)
from trainingrun_operator.core.facts.nodes import Instance
from trainingrun_operator.core.node_pools import why_no_pool

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trainingrun_operator.core.facts.nodes import NodeFacts, Pool
    from trainingrun_operator.core.observed import Observed

SETTLED: Final = frozenset({NodePhase.RELEASED, NodePhase.RETAINED})
POOL_RETURN_SECONDS: Final = 300.0
"""Time in which a deleted pool may be created again, as `kubectl replace` and GitOps tools do; then its nodes are kept."""
_GOING: Final = frozenset({Instance.TERMINATING, Instance.GONE})
_TOLD_TO_GO: Final = frozenset({NodePhase.RELEASING, NodePhase.VERIFYING})
_GOES: Final = "The machine is being terminated; waiting until machine and Node are gone."
_NODE_GONE: Final = "The Node is gone; releasing the machine."
_TAKEN: Final = "Handed over: another run already releases this node."
Transition = tuple[NodeStatus, tuple[Effect, ...]]


class Gate(StrEnum):
    """A condition whose duration decides over a node."""

    IDLE = "empty"
    TAINTED = "tainted by this run"
    MACHINE_GONE = "the machine is gone"
    POOL_MISSING = "its pool is missing"


def unsettled(nodes: tuple[NodeStatus, ...]) -> tuple[NodeStatus, ...]:
    """Return the nodes that are neither released nor retained."""
    return tuple(node for node in nodes if node.phase not in SETTLED)


def seconds_still(seen: Observed) -> float:
    """Return the seconds since an unsettled node last changed its phase."""
    waiting = unsettled(seen.run.status.nodes)
    return min((seen.node_seconds.get(node.uid, 0.0) for node in waiting), default=0.0)


def until_settled(seen: Observed) -> float:
    """Return the seconds until the next tainted node is checked once more; infinite: no node settles."""
    settle = {pool.name: pool.spec.settle_seconds for pool in seen.pools}
    left = (
        settle.get(node.pool, 0) - tainted
        for node in seen.run.status.nodes
        if node.phase is NodePhase.CORDONED and (tainted := seen.gate_seconds.get(node.uid, 0)) > 0
    )
    return min((seconds for seconds in left if seconds > 0), default=float("inf"))


def overdue(seen: Observed) -> tuple[NodeStatus, ...]:
    """Return the nodes whose release takes longer than their pool's `alertAfterSeconds`."""
    pools = {pool.name: pool for pool in seen.pools}
    going = (node for node in seen.run.status.nodes if node.phase in _TOLD_TO_GO and node.pool in pools)
    return tuple(node for node in going if _late(seen, node, pools[node.pool]))


def _late(seen: Observed, node: NodeStatus, pool: Pool) -> bool:
    """Whether the release of a node is overdue."""
    return seen.node_seconds.get(node.uid, 0) >= pool.spec.alert_after_seconds


def ghosts(seen: Observed) -> tuple[NodeStatus, ...]:
    """Return the nodes whose Node is gone and whose machine still runs, and is billed, after its termination was requested."""
    verifying = (
        (node, facts_of(seen.nodes, node)) for node in seen.run.status.nodes if node.phase is NodePhase.VERIFYING
    )
    return tuple(node for node, facts in verifying if facts is not None and is_ghost(facts))


def is_ghost(facts: NodeFacts) -> bool:
    """Whether a machine runs without a Node."""
    return facts.uid is None and facts.instance is Instance.RUNNING


def next_effects(seen: Observed) -> tuple[Effect, ...]:
    """Advance every node of the run: write changed phases first, then do what the written phases allow."""
    nodes: list[NodeStatus] = []
    effects: list[Effect] = []
    for node in seen.run.status.nodes:
        facts = facts_of(seen.nodes, node)
        status, wanted = _transition(seen, node, facts)
        nodes.append(_with_refusal(status, facts))
        effects += wanted
    changed = tuple(nodes) != seen.run.status.nodes
    # The effects of a phase follow after it is written; our own taint may always be removed.
    untaints = tuple(effect for effect in effects if isinstance(effect, UntaintNode))
    events = tuple(effect for effect in effects if isinstance(effect, RecordEvent))
    return (*untaints, RecordNodes(tuple(nodes)), *events) if changed else tuple(effects)


def advances(seen: Observed, effects: Sequence[Effect]) -> bool:
    """Whether these effects write a new phase of a node."""
    before = [node.phase for node in seen.run.status.nodes]
    return any(isinstance(one, RecordNodes) and [node.phase for node in one.nodes] != before for one in effects)


def _with_refusal(node: NodeStatus, facts: NodeFacts | None) -> NodeStatus:
    """Record the kind of the provider's refusal while the node is not settled."""
    refusal = facts.refusal if facts is not None and node.phase not in SETTLED else None
    return node.model_copy(update={"refusal": refusal.kind if refusal is not None else None})


def facts_of(nodes: Sequence[NodeFacts], node: NodeStatus) -> NodeFacts | None:
    """Return the facts of a recorded node. Node names are reused: another uid is another machine, unless the providerID is the same."""
    alike = [facts for facts in nodes if facts.name == node.name]
    present = (facts for facts in alike if facts.uid == node.uid)
    recreated = (facts for facts in alike if facts.uid is not None and facts.provider_id == node.provider_id != "")
    gone = (facts for facts in alike if facts.uid is None and facts.provider_id in ("", node.provider_id))
    return next(present, None) or next(recreated, None) or next(gone, None)


def gate_of(run_uid: str, node: NodeStatus, facts: NodeFacts | None) -> Gate | None:
    """Return the condition whose duration counts for a node now; None: none holds."""
    if facts is None or node.phase in SETTLED:
        return None
    if facts.pool_missing:
        return Gate.POOL_MISSING
    match node.phase:
        case NodePhase.WAIT_IDLE if facts.occupants == ():
            return Gate.IDLE
        case NodePhase.CORDONED if facts.tainted_by == run_uid:
            return Gate.TAINTED
        case NodePhase.IN_USE | NodePhase.VERIFYING if facts.instance is Instance.GONE:
            return Gate.MACHINE_GONE
        case _:
            return None


def deserted(seen: Observed) -> tuple[Effect, ...]:
    """Remove the Nodes of machines that are gone while the run uses them: until then their pods are not replaced."""
    stop = seen.run.status.termination
    if stop is not None and stop.phase is Phase.DONE:
        return ()
    in_use = (node for node in seen.run.status.nodes if node.phase is NodePhase.IN_USE)
    return tuple(
        effect
        for node in in_use
        if (facts := facts_of(seen.nodes, node)) is not None
        for effect in _left_behind(seen, node, facts)
    )


def _left_behind(seen: Observed, node: NodeStatus, facts: NodeFacts) -> tuple[Effect, ...]:
    """Remove the Node of a terminated machine after the cloud's time to remove it."""
    due = seen.gate_seconds.get(node.uid, 0) >= seen.defaults.node_removal_seconds
    gone = (facts.uid, facts.instance) == (node.uid, Instance.GONE)
    return (DeleteNode(node.name, node.uid),) if gone and due else ()


def _transition(seen: Observed, node: NodeStatus, facts: NodeFacts | None) -> Transition:
    if node.phase in SETTLED:
        return node, ()
    if kept := _kept(seen, node, facts):
        return kept
    pool = next((pool for pool in seen.pools if pool.name == node.pool), None)
    if pool is None:
        return _without_pool(seen, node, facts)
    if facts is None:
        return node, ()
    return _recreated(seen, node, facts) or _further(seen, node, facts, pool)


def _further(seen: Observed, node: NodeStatus, facts: NodeFacts, pool: Pool) -> Transition:
    match node.phase:
        case NodePhase.IN_USE | NodePhase.WAIT_IDLE:
            return _when_idle(seen, node, facts, pool)
        case NodePhase.CORDONED:
            return _when_settled(seen, node, facts, pool)
        case NodePhase.RELEASING:
            return _release(seen, node, facts, pool)
        case NodePhase.VERIFYING:
            return _verify(seen, node, facts, pool)
        case NodePhase.RELEASED | NodePhase.RETAINED:  # pragma: no cover - settled above
            return node, ()
        case _ as never:  # pragma: no cover - mypy proves that there is no other phase
            assert_never(never)


def _without_pool(seen: Observed, node: NodeStatus, facts: NodeFacts | None) -> Transition:
    """Wait for a pool that was deleted to be created again, then retain the node. An unreleased node does not stay tainted meanwhile."""
    missing = f"GPUNodePool {node.pool!r} does not exist, or its spec is not valid for this operator"
    if seen.gate_seconds.get(node.uid, 0) < POOL_RETURN_SECONDS:
        waits = f"{missing}: the node's provider is unknown. If it is not back within {POOL_RETURN_SECONDS:.0f} s, the node is kept."
        if node.phase is NodePhase.CORDONED:
            return _to(seen, node, NodePhase.WAIT_IDLE, waits), _back(seen, node, facts)
        return _to(seen, node, node.phase, waits), ()
    asked = " Its termination may have been requested already." if node.phase in _TOLD_TO_GO else ""
    kept, back = _retained(
        seen,
        node,
        facts,
        f"Kept: {missing}, so the node's provider is unknown.{asked} Its machine may still run and be billed: release it yourself if it is not needed.",
    )
    return kept, (RecordEvent("PoolMissing", f"Node {node.name}: {kept.message}", warning=True), *back)


def _kept(seen: Observed, node: NodeStatus, facts: NodeFacts | None) -> Transition | None:
    """Retain a node that the run does not release; None: it does."""
    if why := _kept_for_good(seen, node, facts):
        return _retained(seen, node, facts, f"Kept: {why}")
    return _abandon(seen, node, facts) if seen.run.abandoned_by else None


def _kept_for_good(seen: Observed, node: NodeStatus, facts: NodeFacts | None) -> str:
    if seen.run.spec.node_pool.policy is NodePoolPolicy.NEVER:
        return "spec.nodePool.policy is Never."
    if not seen.defaults.release_nodes:
        tainted = node.phase in _TOLD_TO_GO or node.phase is NodePhase.CORDONED
        untaint = f" It may still have the taint {names.RELEASING_TAINT}: remove it." if tainted else ""
        return f"this operator does not release nodes (nodeRelease.enabled of its chart).{untaint}"
    return "" if node.pool else why_no_pool(seen, facts)


def _retained(seen: Observed, node: NodeStatus, facts: NodeFacts | None, why: str) -> Transition:
    """Retain a node without our taint."""
    return _to(seen, node, NodePhase.RETAINED, why), _back(seen, node, facts)


def _abandon(seen: Observed, node: NodeStatus, facts: NodeFacts | None) -> Transition:
    """Retain a node because a person abandoned its release."""
    stood = f" {node.message}" if node.message else ""
    message = (
        f"Abandoned by {seen.run.abandoned_by} ({names.ABANDON_RELEASE_ANNOTATION}) while {node.phase.value}: the run no longer waits"
        f" for it, and its machine may still run and be billed.{stood}"
    )
    going = facts is not None and facts.instance in _GOING
    event = RecordEvent("ReleaseAbandoned", f"Node {node.name}: {message}", warning=True)
    return _to(seen, node, NodePhase.RETAINED, message), (event, *(() if going else _back(seen, node, facts)))


def _recreated(seen: Observed, node: NodeStatus, facts: NodeFacts) -> Transition | None:
    """Restart the checks of a machine whose Node was deleted and recreated, under the new uid."""
    if facts.uid in (None, node.uid):
        return None
    if any(other.uid == facts.uid for other in seen.run.status.nodes):
        twice = "A newer Node of the same machine is also recorded."
        return _to(seen, node, NodePhase.RETAINED, twice), ()
    again = _to(seen, node, NodePhase.WAIT_IDLE, "Its Node was recreated: all checks start again.")
    return again.model_copy(update={"uid": facts.uid}), ()


def _back(seen: Observed, node: NodeStatus, facts: NodeFacts | None) -> tuple[Effect, ...]:
    """Remove our own taint, and no other."""
    if facts is None or facts.uid is None or facts.tainted_by != seen.run.uid:
        return ()
    return (UntaintNode(node.name, facts.uid),)


def _when_idle(seen: Observed, node: NodeStatus, facts: NodeFacts, pool: Pool) -> Transition:
    if facts.instance in _GOING:
        return _to(seen, node, NodePhase.VERIFYING, _GOES), ()
    if facts.uid is None:
        return _to(seen, node, NodePhase.RELEASING, _NODE_GONE), ()
    if taken := _taken(seen, node, facts):
        return taken
    if kept := _handed_over(seen, facts):
        return _retained(seen, node, facts, kept)
    if facts.at_minimum:
        return _retained(seen, node, facts, f"Kept: GPUNodePool {pool.name} is at its minimum.")
    if why := _busy(seen, node, facts, pool):
        return _to(seen, node, NodePhase.WAIT_IDLE, why), ()
    # A node with demand was kept for the pool's `maxIdleSeconds`; demand is not checked again after the taint.
    cordoned = _to(seen, node, NodePhase.CORDONED, "Empty: tainted; checked once more before its release.")
    return cordoned.model_copy(update={"waited_out": bool(facts.demand)}), ()


def _taken(seen: Observed, node: NodeStatus, facts: NodeFacts) -> Transition | None:
    """Retain a node that another run releases; a taint of a run that is gone is removed instead. None: neither."""
    owner = facts.tainted_by
    if owner in (None, seen.run.uid):
        return None
    if facts.uid is None or not facts.taint_orphaned:
        return _retained(seen, node, facts, _TAKEN)
    removed = f"The taint of run {owner}, which does not exist any more, is removed: all checks start again."
    return _to(seen, node, NodePhase.WAIT_IDLE, removed), (UntaintNode(node.name, facts.uid, owner or ""),)


def _handed_over(seen: Observed, facts: NodeFacts) -> str:
    """Return why another run will release the node: all its pods belong to runs that release later."""
    runs = [pod for pod in facts.occupants or () if pod.run_uid and pod.run_uid not in seen.ending_runs]
    if not runs or len(runs) != len(facts.occupants or ()):
        return ""
    others = sorted({pod.key for pod in runs})
    run, release, end = (
        ("runs", "releases", "it ends") if len(others) == 1 else ("run", "the last releases", "they end")
    )
    return f"Handed over: {', '.join(others)} still {run} on it and {release} it when {end}."


def _busy(seen: Observed, node: NodeStatus, facts: NodeFacts, pool: Pool) -> str:
    """Return why the node must stay for now."""
    if why := _occupied(facts):
        return why
    if facts.instance is Instance.UNKNOWN:
        return f"The provider of GPUNodePool {pool.name} does not report the state of this machine. {facts.problem}".rstrip()
    waited = seen.gate_seconds.get(node.uid, 0) if node.phase is NodePhase.WAIT_IDLE else 0
    if facts.demand and not node.waited_out and waited < pool.spec.max_idle_seconds:
        return f"Kept for {', '.join(pod.key for pod in facts.demand[:5])}, which waits for a node like this."
    return ""


def _occupied(facts: NodeFacts) -> str:
    if facts.occupants is None:
        return "The pods on this node could not be listed: it counts as occupied."
    return f"Occupied by {', '.join(pod.key for pod in facts.occupants[:5])}." if facts.occupants else ""


def _when_settled(seen: Observed, node: NodeStatus, facts: NodeFacts, pool: Pool) -> Transition:
    if facts.uid is None:
        return _to(seen, node, NodePhase.RELEASING, _NODE_GONE), ()
    if taken := _taken(seen, node, facts):
        return taken
    if kept := _handed_over(seen, facts):
        return _retained(seen, node, facts, kept)
    if why := _busy(seen, node, facts, pool):
        return _to(seen, node, NodePhase.WAIT_IDLE, why), _back(seen, node, facts)
    if facts.tainted_by != seen.run.uid:
        return node, (TaintNode(node.name, node.uid),)
    if seen.gate_seconds.get(node.uid, 0) < pool.spec.settle_seconds:
        return node, ()
    return _to(seen, node, NodePhase.RELEASING, "Empty after the taint: releasing the machine."), ()


def _release(seen: Observed, node: NodeStatus, facts: NodeFacts, pool: Pool) -> Transition:
    if facts.instance in _GOING:
        return _to(seen, node, NodePhase.VERIFYING, _GOES), ()
    if facts.at_minimum and facts.uid is not None:
        return _retained(seen, node, facts, f"Kept: GPUNodePool {pool.name} is at its minimum.")
    if why := _not_ours(seen, facts):
        return _to(seen, node, NodePhase.WAIT_IDLE, why), _back(seen, node, facts)
    message = f"{_overdue(seen, node, pool)}{facts.problem}".strip()
    return _to(seen, node, node.phase, message or node.message), (_machine(seen, node, pool),)


def _machine(seen: Observed, node: NodeStatus, pool: Pool) -> ReleaseMachine:
    stop = seen.run.status.termination
    operation = f"{stop.id if stop else seen.run.uid}-{node.uid}"
    return ReleaseMachine(pool.name, node.provider_id, node.name, node.uid, operation)


def _overdue(seen: Observed, node: NodeStatus, pool: Pool) -> str:
    """Return the start of the message of an overdue node; empty: it is not overdue."""
    return "Overdue. " if _late(seen, node, pool) else ""


def _not_ours(seen: Observed, facts: NodeFacts) -> str:
    """Return why a Node that still exists must not be released."""
    if facts.uid is None:
        return ""
    if facts.tainted_by != seen.run.uid:
        return "Its taint was removed: all checks start again."
    return _occupied(facts)


def _verify(seen: Observed, node: NodeStatus, facts: NodeFacts, pool: Pool) -> Transition:
    overdue = _overdue(seen, node, pool)
    match facts.instance, facts.uid:
        case Instance.GONE, None:
            return _to(seen, node, NodePhase.RELEASED, "Machine and Node are gone."), ()
        case Instance.GONE, str():
            return node, _left_behind(seen, node, facts)
        case Instance.RUNNING, _ if why := _not_ours(seen, facts):
            return _to(seen, node, NodePhase.WAIT_IDLE, why), _back(seen, node, facts)
        case Instance.RUNNING, _:
            ghost = "A machine without a Node still runs and is billed. " if is_ghost(facts) else ""
            return _to(
                seen, node, node.phase, f"{overdue}{ghost}Termination requested again. {facts.problem}".strip()
            ), (_machine(seen, node, pool),)
        case _ if overdue:
            answer = facts.problem or f"The cloud reports this state of the machine: {facts.instance.value}."
            return _to(
                seen, node, node.phase, f"{overdue}Its termination was requested, and it still exists. {answer}"
            ), ()
        case _:
            return node, ()


def _to(seen: Observed, node: NodeStatus, phase: NodePhase, message: str) -> NodeStatus:
    message = clipped(message, MESSAGE_MAX)
    if phase is node.phase:
        return node.model_copy(update={"message": message})
    released = seen.wall if phase is NodePhase.RELEASED else node.released_at
    changes = {"phase": phase, "phase_at": seen.wall, "message": message, "released_at": released, "waited_out": False}
    return node.model_copy(update=changes)
