"""Reads of one node: its Node, its pods, the pods that wait for it, and the provider's state of its machine."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from trainingrun_operator.api import names
from trainingrun_operator.api.template import gpus_in
from trainingrun_operator.core.facts.nodes import Instance, NodeFacts, NodeRef
from trainingrun_operator.edge.gather.occupants import occupant, occupies
from trainingrun_operator.edge.kube import KubeError
from trainingrun_operator.edge.nodes.provider import ProviderError

if TYPE_CHECKING:
    from trainingrun_operator.api.status import NodeStatus
    from trainingrun_operator.core.facts.nodes import Pool, Refusal
    from trainingrun_operator.edge.gather.waiting import WaitingPods
    from trainingrun_operator.edge.ports import Providers, Reads

Json = dict[str, Any]


async def identity(kube: Reads, name: str) -> NodeFacts | None:
    """Return the identity of a node; None: there is no such Node."""
    found = await kube.node(name)
    return None if found is None else _facts(found)


async def gather(
    kube: Reads, providers: Providers, waiting: WaitingPods, run_uid: str, node: NodeStatus, pool: Pool | None
) -> NodeFacts:
    """Return the facts of the release checks. Unreadable facts count against the release."""
    if pool is None:
        waiting.forget(node.uid)
        return await _without_pool(kube, node)
    found, pods, (instance, at_minimum, refusal) = await asyncio.gather(
        kube.node(node.name),
        _pods_on(kube, node.name, pool),
        machine(providers, pool, NodeRef(node.name, node.uid, node.provider_id)),
    )
    # On a NotReady node, our pod stays Terminating while the Node exists, and the Node is kept while the pod exists.
    silent = found is not None and not answers(found)
    left = None if pods is None else [pod for pod in pods if not (silent and _ours_and_going(pod, run_uid))]
    occupants = None if left is None else tuple(occupant(pod) for pod in left)
    if found is None or not _same_machine(found, node):
        waiting.forget(node.uid)
        return NodeFacts(
            name=node.name,
            provider_id=node.provider_id,
            occupants=occupants,
            instance=instance,
            at_minimum=at_minimum,
            refusal=refusal,
        )
    return replace(
        _facts(found),
        occupants=occupants,
        demand=await waiting.keeping(found, pool, run_uid, empty=occupants == ()),
        instance=instance,
        at_minimum=at_minimum,
        refusal=refusal,
    )


async def _without_pool(kube: Reads, node: NodeStatus) -> NodeFacts:
    """Return what is known of a node without its pool: our taint may be on it. No provider can be asked."""
    found = await kube.node(node.name)
    missing = node.pool != ""
    if found is None or not _same_machine(found, node):
        return NodeFacts(name=node.name, provider_id=node.provider_id, pool_missing=missing)
    return replace(_facts(found), pool_missing=missing)


def _facts(node: Json) -> NodeFacts:
    taints = (node["spec"].get("taints")) or ()
    return NodeFacts(
        name=node["metadata"]["name"],
        uid=node["metadata"]["uid"],
        provider_id=node["spec"].get("providerID", ""),
        labels=node["metadata"].get("labels") or {},
        gpus=gpus_in((node.get("status") or {}).get("capacity")),
        tainted_by=next((taint.get("value", "") for taint in taints if taint["key"] == names.RELEASING_TAINT), None),
    )


def answers(node: Json) -> bool:
    """Whether a Node is Ready and not being deleted."""
    conditions = (node.get("status") or {}).get("conditions") or ()
    ready = any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)
    return ready and "deletionTimestamp" not in node["metadata"]


def _same_machine(found: Json, node: NodeStatus) -> bool:
    """Whether a Node has the recorded uid, or was recreated for the same machine."""
    recreated = bool(node.provider_id) and found["spec"].get("providerID", "") == node.provider_id
    return found["metadata"]["uid"] == node.uid or recreated


def _ours_and_going(pod: Json, run_uid: str) -> bool:
    meta = pod["metadata"]
    return (meta.get("labels") or {}).get(names.RUN_UID_LABEL) == run_uid and "deletionTimestamp" in meta


async def _pods_on(kube: Reads, node: str, pool: Pool) -> list[Json] | None:
    try:
        pods = await kube.pods_on(node)
    except KubeError:
        return None
    return [pod for pod in pods if occupies(pod, pool.spec.ignore_pods)]


async def machine(providers: Providers, pool: Pool, node: NodeRef) -> tuple[Instance, bool, Refusal | None]:
    """Return the provider's state of a machine, whether its pool is at the minimum, and the provider's refusal."""
    try:
        provider = providers(pool)
        instance = await provider.instance(pool, node)
        at_minimum = instance is Instance.RUNNING and await provider.at_minimum(pool, node)
    except ProviderError as error:
        return Instance.UNKNOWN, False, error.refusal
    return instance, at_minimum, None
