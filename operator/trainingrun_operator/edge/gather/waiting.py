"""The pods that wait for the empty nodes of all runs. Each keeps at most one of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trainingrun_operator.api import names
from trainingrun_operator.core.demand import kept
from trainingrun_operator.core.fit import Offer, fits, waits
from trainingrun_operator.edge.gather.occupants import occupant, occupies
from trainingrun_operator.edge.kube import KubeError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trainingrun_operator.core.facts.nodes import Occupant, Pool
    from trainingrun_operator.edge.cache import Cache
    from trainingrun_operator.edge.ports import Reads

Json = dict[str, Any]


class WaitingPods:
    """Says which pod keeps a node. One for all runs, so that they agree."""

    def __init__(self, kube: Reads, cache: Cache) -> None:
        self._kube, self._cache = kube, cache
        self._fitting: dict[str, tuple[Occupant, ...]] = {}
        """By Node uid, the pods that fitted on it at the last look at it."""

    async def keeping(self, node: Json, pool: Pool, run_uid: str, *, empty: bool) -> tuple[Occupant, ...]:
        """Return the pod that keeps a node of a run; empty: none does. An occupied node is kept by no waiting pod.

        Raises:
            KubeError: the pods or their namespaces cannot be read.
        """
        uid: str = node["metadata"]["uid"]
        found = await self._fitting_on(node, pool, run_uid) if empty else ()
        self._fitting[uid] = found
        released = self._cache.nodes_in_release()
        self._fitting = {one: pods for one, pods in self._fitting.items() if one == uid or one in released}
        pod = kept(self._fitting).get(uid)
        return (pod,) if pod is not None else ()

    def forget(self, uid: str) -> None:
        """Drop a node on which no pod can start now."""
        self._fitting.pop(uid, None)

    async def _fitting_on(self, node: Json, pool: Pool, run_uid: str) -> tuple[Occupant, ...]:
        offer = Offer.of(node, but=names.RELEASING_TAINT)
        pending = (
            pod for pod in await self._kube.pending_pods() if waits(pod) and occupies(pod, pool.spec.ignore_pods)
        )
        pods = (occupant(pod) for pod in pending if fits(pod, offer))
        others = sorted((pod for pod in pods if pod.run_uid != run_uid), key=lambda pod: pod.key)
        allowed = await self._allowed(pool, {pod.namespace for pod in others})
        return tuple(pod for pod in others if allowed[pod.namespace])

    async def _allowed(self, pool: Pool, namespaces: set[str]) -> dict[str, bool]:
        if pool.spec.namespace_selector is None:
            return dict.fromkeys(namespaces, True)
        return {name: pool.allows(await self._labels(name)) for name in sorted(namespaces)}

    async def _labels(self, namespace: str) -> Mapping[str, str] | None:
        """Return the labels of a namespace; None: they may not be read, so that it counts as not allowed."""
        try:
            return await self._kube.namespace_labels(namespace)
        except KubeError as error:
            if not error.forbidden:
                raise
            return None
