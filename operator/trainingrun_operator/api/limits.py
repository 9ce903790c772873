"""`spec.hangDetection` and `spec.budget`, and what is remembered for them in ``status.quiet`` and ``status.trained``."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final

from pydantic import Field

from trainingrun_operator.api.base import BigCount, Model, Timestamp, Word

NO_PROGRESS_SECONDS: Final = 600


class LimitAction(StrEnum):
    """What a limit does when it is reached."""

    NOTIFY = "Notify"
    STOP = "Stop"


class HangDetection(Model):
    """A training that runs and does nothing."""

    no_progress_seconds: Annotated[int, Field(ge=0, le=31_536_000)] = NO_PROGRESS_SECONDS
    """The training counts as hung after this many seconds without a step, another number, a new or growing file under checkpoint.path, or a line in
    its log, if the log is read; never before twice its longest pause between two steps so far, and not before its first step. What cannot be read
    counts as progress. 0: off. Default 600."""
    action: LimitAction = LimitAction.NOTIFY
    """Notify: an Event, the condition Hung and the metric of the alert RunHung. Stop: end the run as hung, with its last checkpoint. Default Notify."""


class Quiet(Model):
    """Since when nothing of the training has moved."""

    since: Timestamp
    """When something moved last, or could not be read."""
    what: Word
    """What that was: Step, Value, File, Log, Start, or the reason for which it could not be read."""
    step: BigCount | None = None
    """The step then."""
    pod_uid: Annotated[Word, Field(alias="podUID")] = ""
    """UID of the pod. A restarted operator goes on counting from here."""
    warned_at: Timestamp | None = None
    """When an Event said that the training hangs."""


class Budget(Model):
    """GPU hours that the run may use, over restarts and suspensions."""

    max_gpu_hours: Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)]
    """GPU hours for which the training may run: the time of status.trained, times the GPUs that its pods request. Required."""
    warn_at_percent: Annotated[int, Field(ge=1, le=100)] = 80
    """An Event warns when this share of the budget is used, in percent. Default 80."""
    on_exhausted: LimitAction = LimitAction.STOP
    """Stop: end the run as budget_exhausted, early enough to save: shutdown.graceSeconds and the longest upload so far before, at most a quarter of the
    budget. Notify: an Event says that the budget is used. Default Stop."""
