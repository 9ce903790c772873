"""Whether a pod waits for a node."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trainingrun_operator.api.template import gpus_of

if TYPE_CHECKING:
    from collections.abc import Mapping


def wants(pod: Mapping[str, Any], labels: Mapping[str, str], taints: tuple[Mapping[str, Any], ...], gpus: int) -> bool:
    """Whether a stored pod waits for a node like this one. Affinity is not evaluated and counts as a match."""
    spec = pod.get("spec") or {}
    if (
        spec.get("nodeName")
        or (pod.get("status") or {}).get("phase", "Pending") != "Pending"
        or "deletionTimestamp" in pod["metadata"]
    ):
        return False
    asked = gpus_of(pod)
    fits = 0 < asked <= gpus and all(
        labels.get(key) == value for key, value in (spec.get("nodeSelector") or {}).items()
    )
    return fits and all(_tolerated(taint, spec.get("tolerations") or ()) for taint in taints)


def _tolerated(taint: Mapping[str, Any], tolerations: tuple[Mapping[str, Any], ...]) -> bool:
    if taint.get("effect") == "PreferNoSchedule":
        return True
    return any(
        t.get("key") in (None, "", taint["key"])
        and t.get("effect") in (None, "", taint.get("effect"))
        and (t.get("operator") == "Exists" or t.get("value", "") == taint.get("value", ""))
        for t in tolerations
    )
