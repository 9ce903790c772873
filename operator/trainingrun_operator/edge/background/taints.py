"""Removes the taints of runs that do not exist any more from Nodes, also from Nodes that no run uses."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainingrun_operator.api import names
from trainingrun_operator.edge.kube import KubeError

if TYPE_CHECKING:
    from collections.abc import Callable

    from trainingrun_operator.edge.clock import Clock
    from trainingrun_operator.edge.gather.owners import Owners
    from trainingrun_operator.edge.kube import Kube

Json = dict[str, Any]

REMOVED = "OrphanTaintRemoved"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Taints:
    """One sweep over all Nodes, by the leader."""

    kube: Kube
    owners: Owners
    leads: Callable[[], bool]
    clock: Clock

    async def sweep(self) -> None:
        """Remove orphaned taints. A Node that has changed since it was listed is left for the next sweep.

        Raises:
            KubeError: the Nodes cannot be listed.
        """
        if not self.leads():
            return
        # The Nodes first: a run whose taint is listed existed at that time.
        tainted = [(node, owner) async for node in self.kube.nodes() if (owner := _owner(node)) is not None]
        for node, owner in tainted:
            if await self.owners.gone(owner) and self.leads():
                await self._remove(node, owner)

    async def _remove(self, node: Json, owner: str) -> None:
        meta = node["metadata"]
        others = [taint for taint in node["spec"]["taints"] if taint["key"] != names.RELEASING_TAINT]
        message = (
            f"The taint {names.RELEASING_TAINT} of TrainingRun {owner}, which does not exist any more, was removed. That run no longer releases this node: if"
            " no other run uses it, its machine may be idle and billed."
        )
        involved = {"apiVersion": "v1", "kind": "Node", "name": meta["name"], "uid": meta["uid"]}
        try:
            await self.kube.set_taints(meta["name"], meta["uid"], meta["resourceVersion"], others)
            log.warning("node %s: %s", meta["name"], message)
            await self.kube.record_event(involved, REMOVED, message, warning=True, wall=self.clock.wall())
        except KubeError as error:
            log.warning("node %s: cannot remove the taint of run %s, which is gone: %s", meta["name"], owner, error)


def _owner(node: Json) -> str | None:
    """Return the run uid in our taint; None: there is none."""
    taints = node["spec"].get("taints") or ()
    return next((taint.get("value", "") for taint in taints if taint["key"] == names.RELEASING_TAINT), None)
