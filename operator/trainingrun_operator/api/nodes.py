"""`TrainingRun.status.nodes`: the nodes of a run, and their release."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from trainingrun_operator.api.base import Message, Model, ObjectName, Text, Timestamp, Word


class NodePhase(StrEnum):
    """The phases of one node's release."""

    IN_USE = "InUse"
    """The run's pod is on the node, or has just left it."""
    WAIT_IDLE = "WaitIdle"
    CORDONED = "Cordoned"
    RELEASING = "Releasing"
    VERIFYING = "Verifying"
    RELEASED = "Released"
    RETAINED = "Retained"


class RefusalKind(StrEnum):
    """What a provider's refusal requires."""

    RETRYABLE = "Retryable"
    """A retry: throttling, an activity in progress, an outage."""
    REFUSED = "Refused"
    """A correction: the minimum is reached, or the machine is not in the pool."""
    DENIED = "Denied"
    """A permission: an administrator has to grant it."""


class NodeStatus(Model):
    """One node that the run used, and its release."""

    name: ObjectName
    """Name of the Node."""
    uid: Word
    """UID of the Node; a new Node with the same name is another machine."""
    provider_id: Annotated[Text, Field(alias="providerID")] = ""
    """The cloud's id of the machine."""
    pool: ObjectName = ""
    """The GPUNodePool that selects the Node."""
    phase: NodePhase = NodePhase.IN_USE
    """InUse, WaitIdle, Cordoned, Releasing, Verifying, Released or Retained."""
    phase_at: Timestamp | None = None
    """When the phase began."""
    message: Message = ""
    """Explains the phase: who still uses the node, why it is kept, what the cloud answered."""
    refusal: RefusalKind | None = None
    """The provider's last refusal while the node is being released: Retryable (it may pass without action), Refused (the pool or the machine needs a
    correction) or Denied (the operator lacks a permission). Absent: no refusal."""
    waited_out: bool = False
    """The node was kept for waiting pods as long as its pool allows."""
    released_at: Timestamp | None = None
    """When the operator found both machine and Node gone."""
