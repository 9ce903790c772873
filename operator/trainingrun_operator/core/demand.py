"""Which pod keeps which empty node."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from trainingrun_operator.core.facts.nodes import Occupant


def kept(fitting: Mapping[str, Sequence[Occupant]]) -> dict[str, Occupant]:
    """Return the nodes that are kept, each with the pod that keeps it: every pod keeps at most one node.

    As many nodes are kept as possible. The nodes are served by uid, and a node that is kept stays so whatever nodes follow: so every look at the same
    pods has the same result.

    Args:
        fitting: by uid of each empty node, the waiting pods that fit on it.
    """
    keeps: dict[Occupant, str] = {}
    kept_by: dict[str, Occupant] = {}
    for node in sorted(fitting):
        _keep(node, fitting, keeps, kept_by)
    return kept_by


def _keep(
    node: str,
    fitting: Mapping[str, Sequence[Occupant]],
    keeps: dict[Occupant, str],
    kept_by: dict[str, Occupant],
) -> None:
    """Give a node a pod. Pods of earlier nodes are exchanged for others if that frees one (an augmenting path of the matching)."""
    asked = [node]
    wanted_by: dict[Occupant, str] = {}
    for each in asked:
        for pod in fitting[each]:
            if pod in wanted_by:
                continue
            wanted_by[pod] = each
            if pod in keeps:
                asked.append(keeps[pod])
                continue
            free: Occupant | None = pod
            while free is not None:
                taker = wanted_by[free]
                before = kept_by.get(taker)
                keeps[free], kept_by[taker] = taker, free
                free = before
            return
