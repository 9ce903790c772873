"""`GPUNodePool`: the nodes that may be released, and their provider. An administrator writes it; a run never names a cloud resource."""

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
    """Comparison of a label, as elsewhere in Kubernetes."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"


class LabelRequirement(Model):
    """A requirement on the labels."""

    cel_rules = (
        Cel(
            "(self.operator in ['In', 'NotIn']) == (has(self.values) && size(self.values) > 0)",
            "values is required for In and NotIn, and not allowed for other operators",
        ),
    )

    key: LabelKey
    """Label key."""
    operator: SelectorOperator
    """In, NotIn, Exists or DoesNotExist."""
    values: Annotated[tuple[LabelValue, ...], Field(max_length=64)] = ()
    """Values for In and NotIn. Default none."""

    def fits(self, labels: Mapping[str, str]) -> bool:
        """Whether the labels meet the requirement. An absent label equals none of the values."""
        match self.operator:
            case SelectorOperator.IN:
                return labels.get(self.key) in self.values
            case SelectorOperator.NOT_IN:
                return labels.get(self.key) not in self.values
            case SelectorOperator.EXISTS:
                return self.key in labels
            case SelectorOperator.DOES_NOT_EXIST:
                return self.key not in labels
            case _ as never:  # pragma: no cover - mypy checks that the match is exhaustive
                assert_never(never)


class NamespaceSelector(Model):
    """A selector of namespaces by their labels; all parts must match."""

    match_labels: Annotated[dict[LabelKey, LabelValue], Field(max_length=16)] = Field(default_factory=dict)
    """Labels that the namespace must have. Default none."""
    match_expressions: Annotated[tuple[LabelRequirement, ...], Field(max_length=16)] = ()
    """Further requirements on the labels; `kubernetes.io/metadata.name` is the namespace's name. Default none."""

    def fits(self, labels: Mapping[str, str]) -> bool:
        """Whether a namespace with these labels matches."""
        return self.match_labels.items() <= labels.items() and all(each.fits(labels) for each in self.match_expressions)


class IgnoredPods(Model):
    """Pods that do not keep a node in use, such as an exporter that runs on every node and is not a DaemonSet."""

    namespace: ObjectName
    """Namespace of the pods."""
    labels: Annotated[dict[LabelKey, LabelValue], Field(min_length=1, max_length=16)]
    """Labels of the pods; all must match."""


class AWSAutoScaling(Model):
    """EC2 Auto Scaling, including EKS managed node groups: the instance is terminated by id, and the desired capacity is reduced by one."""

    region: Annotated[str, Field(pattern=r"^[a-z0-9-]+$", max_length=63)]
    """AWS region of the groups."""
    groups: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=255)], ...], Field(min_length=1, max_length=64)
    ]
    """Names of the Auto Scaling groups with the pool's machines."""


class External(Model):
    """A provider that another package brings, installed beside the operator."""

    provider: PluginName
    """Its name, as that package registers it."""
    config: Annotated[
        dict[LabelKey, Annotated[str, Field(max_length=1024)]],
        Field(max_length=32),
    ] = Field(default_factory=dict)
    """What it needs to know of this pool: up to 32 texts by name, checked by the provider. No secrets. Default nothing."""


Amount = Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)]


class Price(Model):
    """What a node or a GPU of the pool costs for an hour."""

    cel_rules = (
        Cel(
            "has(self.perNodeHour) != has(self.perGpuHour)",
            "exactly one of perNodeHour and perGpuHour is required",
        ),
    )

    per_node_hour: Amount | None = None
    """Price of a whole node for an hour. A pod costs the share of it that its GPUs are of the GPUs in the Node's capacity; idle GPUs of the node cost no
    run anything."""
    per_gpu_hour: Amount | None = None
    """Price of one GPU for an hour, as pods request GPUs."""
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$", max_length=3)]
    """Currency of the price, three letters: USD. Give all pools that one run may use the same currency."""


class GPUNodePoolSpec(Model):
    """The nodes of the pool and their provider."""

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
    """Labels that select the pool's nodes; never empty."""
    namespace_selector: NamespaceSelector | None = None
    """Namespaces whose runs may use the pool. Default: all namespaces."""
    min_nodes: Count = 0
    """Number of nodes that are always kept. Default 0."""
    max_idle_seconds: Seconds = 7200
    """Maximum time that waiting demand keeps an empty node, in seconds. Default 7200."""
    settle_seconds: Seconds = 10
    """Time between tainting a node and checking again that it is empty, in seconds. Default 10."""
    ignore_pods: Annotated[tuple[IgnoredPods, ...], Field(max_length=32)] = ()
    """Pods that do not keep a node in use, in addition to DaemonSet pods."""
    alert_after_seconds: Seconds = 900
    """Time after which a release counts as overdue, in seconds. Default 900."""
    price: Price | None = None
    """What the nodes cost, for spec.budget.maxCost and status.trained.cost of runs. A change counts from then on. Default absent: not known."""
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
    """Status of the pool; empty."""


RESOURCE = Resource(
    kind=names.POOL_KIND,
    plural=names.POOL_PLURAL,
    spec=GPUNodePoolSpec,
    status=GPUNodePoolStatus,
    scope="Cluster",
    short_names=("gnp",),
    categories=("training",),
    description="GPU nodes that may be released after a training run, and the provider that releases them.",
    columns=(
        Column("Groups", ".spec.awsAutoScaling.groups"),
        Column("Provider", ".spec.external.provider", wide=True),
        Column("Min", ".spec.minNodes", type="integer"),
        Column("Age", ".metadata.creationTimestamp", type="date"),
    ),
)
