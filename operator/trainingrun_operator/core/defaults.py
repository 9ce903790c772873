"""Defaults of the installation for every run: `settings` reads them, decisions use them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, InstanceOf

from trainingrun_operator.core.destinations import Destination

Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Defaults(BaseModel):
    """Times in seconds."""

    model_config = ConfigDict(frozen=True)

    auto_stop_loss: Amount = 0.5
    auto_stop_action: Literal["Shadow", "Stop"] = "Shadow"
    """Action for runs without their own threshold."""
    hold_after_seconds: Amount = 120.0
    """Time for which saving may fail before the run is held."""
    image_error_seconds: Amount = 300.0
    """Time for which an image pull may fail before the run fails."""
    unschedulable_seconds: Amount = 0.0
    """Time for which a pod may be unschedulable before the run fails; 0: no limit."""
    stale_after_seconds: Amount = 120.0
    """A loss older than this is not used."""
    termination_look_seconds: Amount = 1.0
    """Shortest interval between looks at a stop in progress."""
    node_removal_seconds: Amount = 300.0
    """Time that the cloud has to remove the Node of a terminated machine."""
    terminal_pod_seconds: Amount = 60.0
    """Time that a pod may take to end after its gate opened; then it is deleted."""
    evictable_after_seconds: Amount = 30.0
    """Time for which everything must be proven before a training pod may be evicted."""
    agent_image: str = "trainingrun-operator:dev"
    """Image of agent, gate and restore: the operator's image."""
    agent_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    agent_resources: Mapping[str, Any] = Field(default_factory=dict)
    """Resources of the agent, as in a pod."""
    agent_quiet_seconds: Amount = 10.0
    """A checkpoint file of no known format counts as complete once unchanged for this long."""
    allowed_destinations: tuple[InstanceOf[Destination], ...] = ()
    """Allowed checkpoint destinations; empty: any bucket at AWS."""
    release_nodes: bool = True
    """Whether Nodes and GPUNodePools are read and machines released. If false, namespaced permissions suffice."""
    gpu_exporter: str = ""
    """Address of the DCGM exporters, which show how busy GPUs are; empty: there is none."""
    metric_sources: tuple[str, ...] = ("Prometheus",)
    """Names of the metric sources: found at startup, not set."""
    installation: str = ""
    """Namespace and name of this operator's Lease, which distinguish it from other operators of the cluster: found at startup, not set."""
