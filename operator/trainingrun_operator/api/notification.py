"""Events that the operator posts to the installation's webhook: CloudEvents 1.0, JSON, structured mode."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final, Literal

from pydantic import Field

from trainingrun_operator.api.base import BigCount, Message, Model, Name, ObjectName, Text, Timestamp, Uri, Word

CONTENT_TYPE: Final = "application/cloudevents+json; charset=utf-8"


class EventType(StrEnum):
    """Type of an event. New values may be added; receivers must accept unknown values."""

    RUN_ENDED = "dev.trainingrun.run.ended"
    """The run has ended: its pods are gone, its checkpoint is settled, its nodes are released or kept."""
    CHECKPOINT_HELD = "dev.trainingrun.checkpoint.held"
    """A stop or suspension is held: the checkpoint is not proven and nothing is deleted. A person must act."""
    DATA_LOST = "dev.trainingrun.data.lost"
    """Data written by the training is in no checkpoint."""
    NODE_UNRELEASED = "dev.trainingrun.node.unreleased"
    """A machine was not released within its pool's `alertAfterSeconds`."""

    @property
    def slug(self) -> str:
        """Type as used in an event id: without dots, which separate the parts of a signed text."""
        return self.value.removeprefix("dev.trainingrun.").replace(".", "-")


class RunData(Model):
    """The run at the time of the event."""

    namespace: Name
    """Namespace of the run."""
    name: ObjectName
    """Name of the run."""
    uid: Word
    """UID of the run; a later run may have the same name."""
    termination_id: Word
    """Id of its stop or suspension."""
    status: Word
    """Why it ends, as terminationStatus has it; or suspended."""
    phase: Word
    """Stopping, Held, Suspended, Succeeded, Stopped or Failed."""
    message: Message
    """Message: why the run ended, and the result for checkpoint and nodes."""
    actor: Text = ""
    """Who or what requested it."""
    requested_at: Timestamp
    """When it was decided."""
    completion_time: Timestamp | None = None
    """When the run was finished."""
    step: BigCount | None = None
    """Latest step."""
    loss: Word | None = None
    """Latest finite loss."""
    checkpoint: Uri = ""
    """Folder of the latest proven checkpoint; empty if there is none."""
    hold_reason: Message | None = None
    """Why the checkpoint is not proven."""
    data_loss: Message | None = None
    """What data was lost, and why."""
    unreleased_nodes: Annotated[tuple[ObjectName, ...], Field(max_length=64)] = ()
    """Nodes whose release is overdue."""


class CloudEvent(Model):
    """The envelope, with the attributes of CloudEvents."""

    specversion: Literal["1.0"] = "1.0"
    """Version of CloudEvents."""
    id: Word
    """Id of the event; repeated deliveries have the same id."""
    source: Uri
    """The run's path in the API server."""
    type: EventType
    """Event type."""
    subject: Text
    """`namespace/name`."""
    time: Timestamp
    """Time of the event."""
    datacontenttype: Literal["application/json"] = "application/json"
    """Media type of `data`."""
    data: RunData
    """The run."""

    def body(self) -> bytes:
        """The body as sent and signed."""
        return self.model_dump_json(by_alias=True, exclude_none=True).encode()
