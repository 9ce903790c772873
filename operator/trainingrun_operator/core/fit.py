"""Whether a pod waits for a node, and whether it fits on a node that is empty but for its DaemonSets.

It reads what the scheduler reads: resource requests, `nodeSelector`, required node affinity, taints. Affinity to other pods, topology spread and
volumes are not evaluated and count as a fit.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

Json = dict[str, Any]

_QUANTITY: Final = re.compile(
    r"([+-]?\d{1,30}(?:\.\d{0,30})?|[+-]?\.\d{1,30})(?:([eE][+-]?\d{1,2})|([A-Za-z]{0,2}))\Z", re.ASCII
)
_UNITS: Final = {
    "": Decimal(1),
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("1e-3"),
    **{unit: Decimal(1000) ** power for power, unit in enumerate("kMGTPE", 1)},
    **{f"{unit}i": Decimal(1024) ** power for power, unit in enumerate("KMGTPE", 1)},
}
_WITHOUT_END: Final = Decimal("Infinity")


@dataclass(frozen=True)
class Offer:
    """What a node offers."""

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    taints: tuple[Mapping[str, Any], ...] = ()
    allocatable: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, node: Mapping[str, Any], *, but: str = "") -> Offer:
        """Read a stored Node, without the taint of the key `but`."""
        taints = (node.get("spec") or {}).get("taints") or ()
        return cls(
            name=node["metadata"]["name"],
            labels=node["metadata"].get("labels") or {},
            taints=tuple(taint for taint in taints if taint["key"] != but),
            allocatable=(node.get("status") or {}).get("allocatable") or {},
        )


def waits(pod: Mapping[str, Any]) -> bool:
    """Whether a stored pod waits for the scheduler to find a node. A gated pod does not: the scheduler does not look at it."""
    spec = pod.get("spec") or {}
    return (
        (pod.get("status") or {}).get("phase", "Pending") == "Pending"
        and "deletionTimestamp" not in pod["metadata"]
        and not spec.get("nodeName")
        and not spec.get("schedulingGates")
    )


def fits(pod: Mapping[str, Any], node: Offer) -> bool:
    """Whether a stored pod asks for a GPU and fits on the node when it is empty."""
    spec, asked = pod.get("spec") or {}, _requests(pod)
    return (
        any(amount > 0 for name, amount in asked.items() if name.endswith("/gpu"))
        and all(amount <= 0 or amount <= _amount(node.allocatable.get(name, 0), 0) for name, amount in asked.items())
        and all(node.labels.get(key) == value for key, value in (spec.get("nodeSelector") or {}).items())
        and _chosen(spec, node)
        and all(_tolerated(taint, spec.get("tolerations") or ()) for taint in node.taints)
    )


# -- resources ----------------------------------------------------------------------------------------------------


def _requests(pod: Mapping[str, Any]) -> dict[str, Decimal]:
    """Return what the scheduler reserves for a pod: all containers and sidecars together, or the largest init container."""
    spec = pod.get("spec") or {}
    sidecars: dict[str, Decimal] = {}
    starting: dict[str, Decimal] = {}
    for container in spec.get("initContainers") or ():
        own = _request(container)
        starting = _merged(max, starting, _sum(sidecars, own))
        if container.get("restartPolicy") == "Always":
            sidecars = _sum(sidecars, own)
    running = _sum(sidecars, *(_request(container) for container in spec.get("containers") or ()))
    of_the_pod = {
        name: _amount(amount) for name, amount in ((spec.get("resources") or {}).get("requests") or {}).items()
    }
    overhead = {name: _amount(amount) for name, amount in (spec.get("overhead") or {}).items()}
    return _sum(_merged(max, starting, running) | of_the_pod, overhead)


def _request(container: Mapping[str, Any]) -> dict[str, Decimal]:
    """Return a container's requests. The API server sets those that are missing to the limits."""
    resources = container.get("resources") or {}
    written = {**(resources.get("limits") or {}), **(resources.get("requests") or {})}
    return {name: _amount(amount) for name, amount in written.items()}


def _sum(*parts: Mapping[str, Decimal]) -> dict[str, Decimal]:
    names = {name for part in parts for name in part}
    return {name: sum((part.get(name, Decimal(0)) for part in parts), Decimal(0)) for name in names}


def _merged(choose: Any, one: Mapping[str, Decimal], other: Mapping[str, Decimal]) -> dict[str, Decimal]:
    return {name: choose(one.get(name, Decimal(0)), other.get(name, Decimal(0))) for name in one.keys() | other.keys()}


def _amount(written: Any, unreadable: Decimal | int = _WITHOUT_END) -> Decimal:
    """Parse a Kubernetes quantity, such as ``1``, ``500m``, ``64Gi`` or ``1e3``. No node has an amount that cannot be read."""
    found = _QUANTITY.match(str(written))
    if found is None or (found[3] or "") not in _UNITS:
        return Decimal(unreadable)
    return Decimal(f"{found[1]}{found[2] or ''}") * _UNITS[found[3] or ""]


# -- node affinity ------------------------------------------------------------------------------------------------


def _chosen(spec: Mapping[str, Any], node: Offer) -> bool:
    """Whether one of the required terms of the node affinity matches; without any, every node does."""
    affinity = (spec.get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution")
    return required is None or any(_matches(term, node) for term in required.get("nodeSelectorTerms") or ())


def _matches(term: Mapping[str, Any], node: Offer) -> bool:
    """Whether all requirements of a term are met; an empty term matches no node."""
    labels, fields = term.get("matchExpressions") or (), term.get("matchFields") or ()
    return (
        bool(labels or fields)
        and all(_met(one, node.labels) for one in labels)
        and all(_met(one, {"metadata.name": node.name}) for one in fields)
    )


def _met(requirement: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    found, values = labels.get(requirement["key"]), requirement.get("values") or ()
    match requirement["operator"]:
        case "In":
            return found in values
        case "NotIn":
            return found not in values
        case "Exists":
            return found is not None
        case "DoesNotExist":
            return found is None
        case "Gt":
            return _compared(found, values) > 0
        case "Lt":
            return _compared(found, values) < 0
        case _:
            # An operator of a later version: it counts as met, as everything that is not evaluated.
            return True


def _compared(found: str | None, values: Iterable[str]) -> int:
    """Compare a label with the only value, as integers; 0: they cannot be compared."""
    try:
        label, (value,) = int(found or ""), map(int, values)
    except ValueError:
        return 0
    return (label > value) - (label < value)


# -- taints -------------------------------------------------------------------------------------------------------


def _tolerated(taint: Mapping[str, Any], tolerations: Iterable[Mapping[str, Any]]) -> bool:
    if taint.get("effect") == "PreferNoSchedule":
        return True
    return any(
        t.get("key") in (None, "", taint["key"])
        and t.get("effect") in (None, "", taint.get("effect"))
        and (t.get("operator") == "Exists" or t.get("value", "") == taint.get("value", ""))
        for t in tolerations
    )
