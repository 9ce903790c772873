"""What is remembered of ``completion.logPatterns`` in ``status.completionLine``."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from trainingrun_operator.api.base import BigCount, Model, Text, Timestamp, Word


class CompletionLine(Model):
    """The newest line of the log that has one of spec.completion.logPatterns, unless the training has gone on after it."""

    pattern: Text
    """The pattern."""
    line: Text
    """The line, cut to 200 characters."""
    step: BigCount | None = None
    """The step as it was last read; absent: none was."""
    pod_uid: Annotated[Word, Field(alias="podUID")]
    """UID of the pod that has printed it."""
    started_at: Timestamp | None = None
    """When the container that has printed it was started. A restarted operator continues from this line for the same container."""
