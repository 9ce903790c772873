"""Nodes, their machines and their pools."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trainingrun_operator.api.pool import GPUNodePoolSpec
    from trainingrun_operator.api.status import RefusalKind


class Instance(StrEnum):
    """State of a machine, as the cloud reports it."""

    RUNNING = "Running"
    TERMINATING = "Terminating"
    GONE = "Gone"
    UNKNOWN = "Unknown"


@dataclass(frozen=True)
class NodeRef:
    """One node and its machine, as recorded while a pod of the run was on it."""

    name: str
    """Of the Node."""
    uid: str
    """Of the Node: Node names are reused."""
    provider_id: str
    """The Node's `spec.providerID`."""


@dataclass(frozen=True)
class Refusal:
    """Why a provider refused a call."""

    kind: RefusalKind
    message: str
    """A sentence for people, without text from the cloud."""
    after_seconds: float = 0
    """`Retryable`: how long to wait before asking again."""


@dataclass(frozen=True)
class Occupant:
    """A pod that keeps a node."""

    namespace: str
    name: str
    run_uid: str = ""
    """Of the TrainingRun that it belongs to, if any."""

    @property
    def key(self) -> str:
        """``namespace/name``."""
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True)
class NodeFacts:
    """One node as it is now."""

    name: str
    uid: str | None = None
    """None: there is no Node of this name and uid."""
    provider_id: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    gpus: int = 0
    """In the Node's capacity; 0: none is shown."""
    tainted_by: str | None = None
    """The run uid in our taint, if it carries one."""
    taint_orphaned: bool = False
    """No run of the cluster has that uid any more."""
    occupants: tuple[Occupant, ...] | None = None
    """None: they could not be listed, which counts as occupied."""
    demand: tuple[Occupant, ...] = ()
    """Pods that wait for a node like this one."""
    instance: Instance = Instance.UNKNOWN
    at_minimum: bool = False
    refusal: Refusal | None = None
    """The provider's, if it refused."""
    pool_missing: bool = False
    """The recorded pool is not known to the operator, so the provider was not asked."""

    @property
    def problem(self) -> str:
        """Message of the provider's refusal; empty: it did not refuse."""
        return self.refusal.message if self.refusal is not None else ""


@dataclass(frozen=True)
class Fate:
    """State of a silent pod's node and machine."""

    unreachable: bool = False
    lost: bool = False
    node: NodeFacts | None = None
    """Its node, if it is unreachable and recorded."""


@dataclass(frozen=True)
class Pool:
    """A GPUNodePool."""

    name: str
    spec: GPUNodePoolSpec

    def selects(self, labels: Mapping[str, str]) -> bool:
        """Whether a node with these labels belongs to the pool."""
        return all(labels.get(key) == value for key, value in self.spec.node_selector.items())

    def allows(self, namespace_labels: Mapping[str, str] | None) -> bool:
        """Whether runs of a namespace with these labels may use the pool."""
        selector = self.spec.namespace_selector
        return selector is None or (namespace_labels is not None and selector.fits(namespace_labels))
