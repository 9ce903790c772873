"""When a training has saved, as the status remembers it, and what a stop with `stopMode: Auto` made of it."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field

from trainingrun_operator.api.base import BigCount, Message, Model, Seconds, Timestamp, Word

INTERVALS_MAX: Final = 8
"""Intervals between two checkpoints that are remembered, the newest ones."""


class SaveInterval(Model):
    """Between two complete checkpoints of one pod."""

    seconds: Seconds
    """Seconds between them."""
    steps: BigCount | None = None
    """Steps between them; absent: one of them has no step, or the steps began again."""


class SaveTimes(Model):
    """When the training saves: from this, a stop predicts its next checkpoint."""

    pod_uid: Annotated[Word, Field(alias="podUID")] = ""
    """UID of the pod whose checkpoints are seen now."""
    at: Timestamp | None = None
    """When the newest complete checkpoint in the volume was written; of several ranks, that of the slowest. Absent: this pod has shown none."""
    step: BigCount | None = None
    """Its step."""
    intervals: Annotated[tuple[SaveInterval, ...], Field(max_length=INTERVALS_MAX)] = ()
    """The newest intervals between two checkpoints, oldest first, of all pods of the run."""


class StopWait(Model):
    """Whether a stop with `stopMode: Auto` waits for the next checkpoint of a training that has not exited within its grace."""

    predicted_seconds: Seconds | None = None
    """Seconds after which the next complete checkpoint was expected. Absent: it was not known; the message says why."""
    rolled_back_seconds: Seconds | None = None
    """Seconds of training since the newest complete checkpoint: what is trained again without another one. Absent: not known."""
    rolled_back_steps: BigCount | None = None
    """The same in steps."""
    newest_at: Timestamp | None = None
    """When that checkpoint was written. A later one ends the wait."""
    until: Timestamp | None = None
    """When the wait ends without a checkpoint. Absent: the stop does not wait."""
    message: Message
    """Both figures as a sentence, and what follows from them."""
