"""The nodes that a run has used, and the pool of each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainingrun_operator.api.status import NodePhase, NodeStatus

if TYPE_CHECKING:
    from collections.abc import Iterable

    from trainingrun_operator.core.facts.nodes import NodeFacts, Pool
    from trainingrun_operator.core.observed import Observed


def recorded(seen: Observed) -> tuple[NodeStatus, ...]:
    """Return `status.nodes` with new nodes of the run's pods, and with the pools that now select nodes without one."""
    known = {node.uid for node in seen.run.status.nodes}
    used = {pod.node for pod in seen.live_pods if pod.node}
    new = (
        NodeStatus(
            name=facts.name,
            uid=facts.uid,
            provider_id=facts.provider_id,
            pool=_pool_of(seen, facts),
            phase_at=seen.wall,
        )
        for facts in seen.nodes
        if facts.uid is not None and facts.name in used and facts.uid not in known
    )
    return (*(_with_pool(seen, node) for node in seen.run.status.nodes), *new)


def why_no_pool(seen: Observed, facts: NodeFacts | None) -> str:
    """Return why a node was recorded without a pool: no pool selects it, or several do."""
    if facts is None or facts.uid is None:
        return "its Node is gone, and no GPUNodePool selected it while the run used it."
    selecting = [pool for pool in seen.pools if pool.selects(facts.labels)]
    usable = [pool for pool in selecting if pool.allows(seen.namespace_labels)]
    named, space = seen.run.spec.node_pool.ref, seen.run.namespace
    if len(usable) > 1 and not named:
        return f"GPUNodePools {_listed(usable)} all select it for namespace {space}: only one may, or name one in spec.nodePool.ref."
    if named:
        others = f" {_listed(usable)} would." if usable else ""
        return f"spec.nodePool.ref is {named!r}, which does not select it for namespace {space}.{others}"
    fenced = f" {_listed(selecting)} would, but not for this namespace (spec.namespaceSelector)." if selecting else ""
    return f"no GPUNodePool selects it for namespace {space}.{fenced}"


def _listed(pools: Iterable[Pool]) -> str:
    return ", ".join(sorted(pool.name for pool in pools))


def _with_pool(seen: Observed, node: NodeStatus) -> NodeStatus:
    """Set the pool of a node in use whose pool is not known or does not exist any more: pools may be created, changed and deleted."""
    facts = next((facts for facts in seen.nodes if facts.uid == node.uid), None)
    known = any(pool.name == node.pool for pool in seen.pools)
    if known or node.phase is not NodePhase.IN_USE or facts is None:
        return node
    return node.model_copy(update={"pool": _pool_of(seen, facts) or node.pool})


def _pool_of(seen: Observed, facts: NodeFacts) -> str:
    named = seen.run.spec.node_pool.ref
    open_to_it = [pool for pool in seen.pools if pool.allows(seen.namespace_labels) and named in ("", pool.name)]
    selecting = [pool.name for pool in open_to_it if pool.selects(facts.labels)]
    return selecting[0] if len(selecting) == 1 else ""
