"""Says whether the run that has tainted a Node still exists.

A run that was removed by force leaves its taint behind: no other run releases that node, and no pod starts on it.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from trainingrun_operator.edge.kube import KubeError

if TYPE_CHECKING:
    from trainingrun_operator.core.facts.nodes import NodeFacts
    from trainingrun_operator.edge.cache import Cache
    from trainingrun_operator.edge.ports import Runs

log = logging.getLogger(__name__)


class Owners:
    """Knows the runs of the whole cluster, also those of other operators. A UID that is gone never comes back."""

    def __init__(self, kube: Runs, cache: Cache) -> None:
        self._kube, self._cache = kube, cache
        self._gone: set[str] = set()

    async def gone(self, run_uid: str) -> bool:
        """Return whether no run has this uid. False if it is unknown: an operator of named namespaces may not list the others.

        The taint must have been read before: its run existed then.
        """
        if run_uid in self._cache.runs:
            return False
        if run_uid in self._gone:
            return True
        try:
            async for run in self._kube.runs():
                if run["metadata"]["uid"] == run_uid:
                    return False
        except KubeError as error:
            log.warning("cannot check whether the run %s, whose taint is on a Node, still exists: %s", run_uid, error)
            return False
        self._gone.add(run_uid)
        return True

    async def marked(self, run_uid: str, facts: NodeFacts) -> NodeFacts:
        """Return the facts of a node, with whether its taint is that of a run that is gone."""
        owner = facts.tainted_by
        orphaned = owner not in (None, run_uid) and await self.gone(owner or "")
        return replace(facts, taint_orphaned=True) if orphaned else facts
