"""`spec.hangDetection`, `spec.idleDetection` and `spec.budget`, and what the status remembers for them."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final

from pydantic import Field

from trainingrun_operator.api.base import BigCount, Cel, Count, Model, Timestamp, Word

NO_PROGRESS_SECONDS: Final = 600
IDLE_SECONDS: Final = 1800
COST_MAX: Final = 1e15
"""Bound of amounts of money in the status."""


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


class IdleDetection(Model):
    """A training whose GPUs do nothing."""

    gpu_utilization_below_percent: Annotated[int, Field(ge=1, le=100)] = 5
    """A GPU is idle while its utilization is below this, in percent. Default 5."""
    power_below_watts: Annotated[int, Field(ge=0, le=100_000)] = 150
    """A GPU is idle only while it also draws less power than this, in watts. 0: power is not looked at. Default 150."""
    for_seconds: Annotated[int, Field(ge=0, le=31_536_000)] = IDLE_SECONDS
    """The training counts as idle after all GPUs of all its pods have been idle for this many seconds. What cannot be read counts as busy. It applies
    where the installation names a DCGM exporter. 0: off. Default 1800."""
    action: LimitAction = LimitAction.NOTIFY
    """Notify: an Event, the condition Idle and the metric of the alert RunIdle. Stop: end the run as idle, with its last checkpoint. Default Notify."""


class Idle(Model):
    """Since when all GPUs of the training have been idle."""

    since: Timestamp
    """When a GPU was last busy, or could not be read."""
    until: Timestamp
    """The newest reading."""
    what: Word
    """What was last at since: Busy, Start, or the reason for which a GPU could not be read."""
    pods: Word
    """Digest of the UIDs of the newest pods. A restarted operator goes on counting for the same pods."""
    warned_at: Timestamp | None = None
    """When an Event said that the training is idle."""


class Budget(Model):
    """What the run may use, over restarts and suspensions: GPU hours, money or both. The first limit that is used ends it."""

    cel_rules = (Cel("has(self.maxGpuHours) || has(self.maxCost)", "a budget needs maxGpuHours, maxCost or both"),)

    max_gpu_hours: Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)] | None = None
    """GPU hours for which the training may run: the time of status.trained, times the GPUs that its pods request. Default absent: no limit."""
    max_cost: Annotated[float, Field(gt=0, le=1e12, allow_inf_nan=False)] | None = None
    """What the training may cost (status.trained.cost): its GPU hours at the prices of their GPUNodePools (spec.price), in the currency of these
    prices. GPU hours without a known price do not count; a finding and an Event say so. Default absent: no limit."""
    warn_at_percent: Annotated[int, Field(ge=1, le=100)] = 80
    """An Event warns when this share of a limit is used, in percent. Default 80."""
    on_exhausted: LimitAction = LimitAction.STOP
    """Stop: end the run as budget_exhausted, early enough to save: shutdown.graceSeconds and the longest upload so far before, at most a quarter of the
    limit. Notify: an Event says that the budget is used. Default Stop."""


class Cost(Model):
    """What the training has cost, as far as prices are known."""

    shown: Word = ""
    """Amount and currency: `9.83 USD`. It begins with `at least` if the cost of some GPU hours is not known."""
    projected: Word = ""
    """What the training will have cost at the end of its last epoch, at its present pace and price: `25.10 USD`. Empty: its end or its price is not known."""
    amount: Annotated[float, Field(ge=0, le=COST_MAX)] = 0
    """The amount. It never falls: a price counts for the time in which it holds."""
    currency: Word = ""
    """Its currency. Prices in another one do not count."""
    per_hour: Annotated[float, Field(ge=0, le=COST_MAX)] = 0
    """What an hour of the training costs now. A changed price counts from the observation that finds it."""
    priced_gpus: Count = 0
    """GPUs whose cost is known now. Those of a rank whose pod has no node cost nothing."""
    priced_gpu_hours: Annotated[float, Field(ge=0, le=1e9)] = 0
    """GPU hours whose cost is in the amount."""
