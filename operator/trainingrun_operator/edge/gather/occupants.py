"""Which pods count for a node, on it or waiting for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trainingrun_operator.api import names
from trainingrun_operator.core.facts.nodes import Occupant

if TYPE_CHECKING:
    from trainingrun_operator.api.pool import IgnoredPods

Json = dict[str, Any]


def occupies(pod: Json, ignored: tuple[IgnoredPods, ...]) -> bool:
    """Whether a pod occupies its node. A terminating pod does; DaemonSet, mirror, finished and ignored pods do not."""
    meta = pod["metadata"]
    if (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed"):
        return False
    if any(
        owner["kind"] == "DaemonSet" for owner in meta.get("ownerReferences") or ()
    ) or "kubernetes.io/config.mirror" in (meta.get("annotations") or {}):
        return False
    labels = meta.get("labels") or {}
    return not any(rule.namespace == meta["namespace"] and rule.labels.items() <= labels.items() for rule in ignored)


def occupant(pod: Json) -> Occupant:
    """Read which pod it is, and of which run."""
    meta = pod["metadata"]
    return Occupant(meta["namespace"], meta["name"], (meta.get("labels") or {}).get(names.RUN_UID_LABEL, ""))
