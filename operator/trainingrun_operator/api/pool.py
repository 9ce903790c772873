"""`GPUNodePool`: which nodes may be released, and by which provider. Written by the administrator; no run ever names a cloud resource."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, assert_never

from pydantic import Field

from trainingrun_operator.api import names
from trainingrun_operator.api.base import Cel, Column, Count, Model, ObjectName, PluginName, Resource, Seconds

if TYPE_CHECKING:
    from collections.abc import Mapping

LabelKey = Annotated[str, Field(max_length=317)]
LabelValue = Annotated[str, Field(max_length=63)]


class SelectorOperator(StrEnum):
    """How a label is compared, as everywhere in Kubernetes."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"


class LabelRequirement(Model):
    """One thing that the labels must fulfil."""

    cel_rules = (
        Cel(
            "(self.operator in ['In', 'NotIn']) == (has(self.values) && size(self.values) > 0)",
            "values is written for In and NotIn, and only for them",
        ),
    )

    key: LabelKey
    """The label."""
    operator: SelectorOperator
    """In, NotIn, Exists or DoesNotExist."""
    values: Annotated[tuple[LabelValue, ...], Field(max_length=64)] = ()
    """For In and NotIn: the values. Default none."""

    def fits(self, labels: Mapping[str, str]) -> bool:
        """Whether the labels fulfil it. A label that is absent has none of the values."""
        match self.operator:
            case SelectorOperator.IN:
                return labels.get(self.key) in self.values
            case SelectorOperator.NOT_IN:
                return labels.get(self.key) not in self.values
            case SelectorOperator.EXISTS:
                return self.key in labels
            case SelectorOperator.DOES_NOT_EXIST:
                return self.key not in labels
            case _ as never:  # pragma: no cover - mypy proves that there is no other operator
                assert_never(never)


class NamespaceSelector(Model):
    """Namespaces by their labels; all of it must fit."""

    match_labels: Annotated[dict[LabelKey, LabelValue], Field(max_length=16)] = Field(default_factory=dict)
    """Labels that the namespace carries. Default none."""
    match_expressions: Annotated[tuple[LabelRequirement, ...], Field(max_length=16)] = ()
    """What else its labels must fulfil; `kubernetes.io/metadata.name` is its name. Default nothing."""

    def fits(self, labels: Mapping[str, str]) -> bool:
        """Whether a namespace with these labels is meant."""
        return self.match_labels.items() <= labels.items() and all(each.fits(labels) for each in self.match_expressions)


class IgnoredPods(Model):
    """Pods that do not keep a node: an exporter that runs everywhere without being a DaemonSet."""

    namespace: ObjectName
    """Their namespace."""
    labels: Annotated[dict[LabelKey, LabelValue], Field(min_length=1, max_length=16)]
    """Labels that all of them carry."""


class AWSAutoScaling(Model):
    """EC2 Auto Scaling, EKS managed node groups included: the instance is terminated by its id and the desired capacity lowered with it."""

    region: Annotated[str, Field(pattern=r"^[a-z0-9-]+$", max_length=63)]
    """Region of the groups."""
    groups: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=255)], ...], Field(min_length=1, max_length=64)
    ]
    """Names of the Auto Scaling groups that the pool's machines belong to."""


class External(Model):
    """A provider that another package brings, installed beside the operator."""

    provider: PluginName
    """Its name, as that package registers it."""
    config: Annotated[
        dict[LabelKey, Annotated[str, Field(max_length=1024)]],
        Field(max_length=32),
    ] = Field(default_factory=dict)
    """What it needs to know of this pool: up to 32 texts by name, checked by the provider. No secrets. Default nothing."""


class GPUNodePoolSpec(Model):
    """Which nodes, and who releases them."""

    cel_rules = (
        Cel(
            "!('node-role.kubernetes.io/control-plane' in self.nodeSelector)",
            "a pool cannot select control-plane nodes",
            field_path=".nodeSelector",
        ),
        Cel(
            "has(self.awsAutoScaling) != has(self.external)",
            "exactly one provider is required: awsAutoScaling or external",
        ),
    )

    node_selector: Annotated[dict[LabelKey, LabelValue], Field(min_length=1, max_length=16)]
    """Labels of the pool's nodes; never empty."""
    namespace_selector: NamespaceSelector | None = None
    """Namespaces whose runs may use the pool. Default absent: all."""
    min_nodes: Count = 0
    """So many nodes are always kept. Default 0."""
    max_idle_seconds: Seconds = 7200
    """Waiting demand keeps an empty node no longer than this, in seconds. Default 7200."""
    settle_seconds: Seconds = 10
    """Between tainting a node and looking once more whether it is empty, in seconds. Default 10."""
    ignore_pods: Annotated[tuple[IgnoredPods, ...], Field(max_length=32)] = ()
    """Pods that do not keep a node, besides those of DaemonSets."""
    alert_after_seconds: Seconds = 900
    """A release that takes longer is said to be overdue, in seconds. Default 900."""
    aws_auto_scaling: AWSAutoScaling | None = None
    """EC2 Auto Scaling, EKS managed node groups included."""
    external: External | None = None
    """A provider of another package."""

    @property
    def provider(self) -> str:
        """The provider's name; empty: a pool of a version that knows others."""
        if self.external is not None:
            return self.external.provider
        return "AWSAutoScaling" if self.aws_auto_scaling is not None else ""


class GPUNodePoolStatus(Model):
    """What the operator knows about the pool."""


RESOURCE = Resource(
    kind=names.POOL_KIND,
    plural=names.POOL_PLURAL,
    spec=GPUNodePoolSpec,
    status=GPUNodePoolStatus,
    scope="Cluster",
    short_names=("gnp",),
    categories=("training",),
    description="GPU nodes that may be released when a training run has ended, and the provider that releases them.",
    columns=(
        Column("Groups", ".spec.awsAutoScaling.groups"),
        Column("Provider", ".spec.external.provider", wide=True),
        Column("Min", ".spec.minNodes", type="integer"),
        Column("Age", ".metadata.creationTimestamp", type="date"),
    ),
)
