"""What the installation sets for every run: `settings` reads it, decisions are made with it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trainingrun_operator.core.destinations import Destination


@dataclass(frozen=True)
class Defaults:
    """Times in seconds."""

    auto_stop_loss: float = 0.5
    auto_stop_action: str = "Shadow"
    """Shadow or Stop, for runs that name no threshold."""
    hold_after_seconds: float = 120.0
    """How long saving may fail before the run counts as held."""
    image_error_seconds: float = 300.0
    """How long an image may fail to be pulled before the run has failed."""
    unschedulable_seconds: float = 0.0
    """How long a pod may find no node before the run has failed; 0: for ever, as in a queue."""
    stale_after_seconds: float = 120.0
    """A loss older than this is no longer available."""
    termination_look_seconds: float = 1.0
    """How often a stop in progress is looked at."""
    node_removal_seconds: float = 300.0
    """How long the cloud has to remove the Node of a machine that is gone."""
    terminal_pod_seconds: float = 60.0
    """How long a released pod may take to end before it is deleted all the same."""
    evictable_after_seconds: float = 30.0
    """How long everything must have been proven before a pod that trains may be evicted."""
    agent_image: str = "trainingrun-operator:dev"
    """Image of agent, gate and restore: the operator's own."""
    agent_pull_policy: str = "IfNotPresent"
    agent_resources: Mapping[str, Any] = field(default_factory=dict)
    """Resources of the agent, as in a pod."""
    agent_settle_seconds: float = 10.0
    """A checkpoint file of no known format counts as complete once unchanged for this long."""
    allowed_destinations: tuple[Destination, ...] = ()
    """Where runs may send their checkpoints; empty: to AWS itself, any bucket."""
    release_nodes: bool = True
    """Whether Nodes and GPUNodePools are read at all: without, machines are nobody's business and no right beyond the namespaces is needed."""
