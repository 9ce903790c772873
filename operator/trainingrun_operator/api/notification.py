"""What the operator posts to the installation's webhook: CloudEvents 1.0, JSON, structured mode."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final, Literal

from pydantic import Field

from trainingrun_operator.api.base import BigCount, Message, Model, Name, ObjectName, Text, Timestamp, Uri, Word

CONTENT_TYPE: Final = "application/cloudevents+json; charset=utf-8"


class EventType(StrEnum):
    """What is told. Open to new values: receivers must not choke on one that they do not know."""

    RUN_ENDED = "dev.trainingrun.run.ended"
    """A run is over: pods gone, checkpoint settled, nodes released or retained."""
    CHECKPOINT_HELD = "dev.trainingrun.checkpoint.held"
    """A stop, or a suspension, waits: nothing is deleted, because nothing could be proven. A person is needed."""
    DATA_LOST = "dev.trainingrun.data.lost"
    """Something that the training wrote is in no checkpoint."""
    NODE_UNRELEASED = "dev.trainingrun.node.unreleased"
    """A machine was told to go longer ago than its pool's `alertAfterSeconds`, and is still there."""

    @property
    def slug(self) -> str:
        """As it stands in an event's id, which has no full stop: a signature's parts are divided by them."""
        return self.value.removeprefix("dev.trainingrun.").replace(".", "-")


class RunData(Model):
    """The run that an event is about, as it was then."""

    namespace: Name
    """Of the run."""
    name: ObjectName
    """Of the run."""
    uid: Word
    """Of the run: another run may have the same name later."""
    termination_id: Word
    """Of its stop, or suspension."""
    status: Word
    """Why it ends, as terminationStatus has it; or suspended."""
    phase: Word
    """Stopping, Held, Suspended, Succeeded, Stopped or Failed."""
    message: Message
    """The whole sentence: why, and what became of checkpoint and nodes."""
    actor: Text = ""
    """Who or what asked for it."""
    requested_at: Timestamp
    """When it was decided."""
    completion_time: Timestamp | None = None
    """When everything was done."""
    step: BigCount | None = None
    """The newest step."""
    loss: Word | None = None
    """The newest finite loss."""
    checkpoint: Uri = ""
    """Folder of the newest proven checkpoint; empty: there is none."""
    hold_reason: Message | None = None
    """Why nothing could be proven."""
    data_loss: Message | None = None
    """What was lost and why."""
    unreleased_nodes: Annotated[tuple[ObjectName, ...], Field(max_length=64)] = ()
    """Nodes that should be gone and are not."""


class CloudEvent(Model):
    """The envelope, with the attributes that CloudEvents names."""

    specversion: Literal["1.0"] = "1.0"
    """Of CloudEvents."""
    id: Word
    """Of what happened, not of its telling: the same event told twice has the same id."""
    source: Uri
    """The run's path in the API server."""
    type: EventType
    """What happened."""
    subject: Text
    """`namespace/name`."""
    time: Timestamp
    """When it happened."""
    datacontenttype: Literal["application/json"] = "application/json"
    """Of `data`."""
    data: RunData
    """About the run."""

    def body(self) -> bytes:
        """As it is sent, and signed."""
        return self.model_dump_json(by_alias=True, exclude_none=True).encode()
