"""What the installation sets for every run: `settings` reads it, decisions are made with it."""

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
    """Shadow or Stop, for runs that name no threshold."""
    hold_after_seconds: Amount = 120.0
    """How long saving may fail before the run counts as held."""
    image_error_seconds: Amount = 300.0
    """How long an image may fail to be pulled before the run has failed."""
    unschedulable_seconds: Amount = 0.0
    """How long a pod may find no node before the run has failed; 0: for ever, as in a queue."""
    stale_after_seconds: Amount = 120.0
    """A loss older than this is no longer available."""
    termination_look_seconds: Amount = 1.0
    """How often a stop in progress is looked at."""
    node_removal_seconds: Amount = 300.0
    """How long the cloud has to remove the Node of a machine that is gone."""
    terminal_pod_seconds: Amount = 60.0
    """How long a released pod may take to end before it is deleted all the same."""
    evictable_after_seconds: Amount = 30.0
    """How long everything must have been proven before a pod that trains may be evicted."""
    agent_image: str = "trainingrun-operator:dev"
    """Image of agent, gate and restore: the operator's own."""
    agent_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    agent_resources: Mapping[str, Any] = Field(default_factory=dict)
    """Resources of the agent, as in a pod."""
    agent_quiet_seconds: Amount = 10.0
    """A checkpoint file of no known format counts as complete once unchanged for this long."""
    allowed_destinations: tuple[InstanceOf[Destination], ...] = ()
    """Where runs may send their checkpoints; empty: to AWS itself, any bucket."""
    release_nodes: bool = True
    """Whether Nodes and GPUNodePools are read at all. Without it the operator releases no machine and needs no right beyond the namespaces."""
    metric_sources: tuple[str, ...] = ("Prometheus",)
    """What a run may name as its metric source: found when the operator starts, and not set."""
