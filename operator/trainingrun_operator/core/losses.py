"""The losses that a training logs: which value is a new loss, and which is none.

A page shows a value also when there is no loss: the default of a gauge, a 0 in place of NaN, the last log once more. None of them counts, for a
stop, for the shadow or for the best loss.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import isfinite
from typing import Final

from trainingrun_operator.core.facts.reading import Failure
from trainingrun_operator.core.words import shown

NEVER_CHANGED: Final = "LossNeverChanged"
"""Reason of a loss that is still the first value seen in the pod."""
ZERO: Final = "ZeroLoss"
"""Reason of a loss of exactly 0."""
GRADIENT_NOT_FINITE: Final = "GradientNotFinite"
"""Reason of a loss beside a gradient norm that is NaN or infinite."""
_REMEMBERED: Final = 4


@dataclass(frozen=True)
class Logged:
    """A step with a new loss, or with none."""

    step: int
    loss: float | None
    """None: no loss that counts; losses before and after it do not follow each other."""


@dataclass(frozen=True)
class Losses:
    """The losses of one stage of a training; best and highest are the run's."""

    first: float | None = None
    """The first finite value seen, which may be the default of a gauge."""
    changed: bool = False
    """Whether the value has ever changed."""
    last: float | None = None
    """The newest value that counted."""
    newest: float | None = None
    """The same for display; also as an earlier operator process recorded it, rounded."""
    logged: tuple[Logged, ...] = ()
    """The newest few, oldest first."""
    best: float | None = None
    highest: float | None = None
    at: float | None = None
    """Time when a finite value was last read."""
    doubt: Failure | None = None
    """Why the newest value is no loss. It says nothing about the step."""

    def carried(self) -> Losses:
        """Return what holds for the next pod of the run."""
        return Losses(best=self.best, highest=self.highest)

    def read(self, value: float, at: float, gradient_norm: float | None = None) -> Losses:
        """Add a finite value, whether or not its step has advanced, with the gradient norm beside it."""
        first = value if self.first is None else self.first
        changed = self.changed or value != first
        read = replace(self, first=first, changed=changed, at=at, doubt=_doubt(value, changed=changed))
        if gradient_norm is None or isfinite(gradient_norm):
            return read
        # Shown once more beside a finite norm, it is still the same log.
        return replace(read, last=value, doubt=_diverged(gradient_norm))

    def counted(self, value: float | None, step: int) -> tuple[Losses, float | None]:
        """Add the value of a step that has advanced; None: there is no finite one. Returns also the loss, if it is a new one."""
        if self.doubt is not None and self.doubt.reason == GRADIENT_NOT_FINITE:
            value = None
        if value is not None and not self.changed:
            return self, None
        if value is not None and self._repeats(value):
            return replace(self, last=value), None
        loss = value or None
        logged = (*self.logged, Logged(step, loss))[-_REMEMBERED:]
        if loss is None:
            return replace(self, logged=logged), None
        best = loss if self.best is None else min(loss, self.best)
        highest = loss if self.highest is None else max(loss, self.highest)
        return replace(self, last=loss, newest=loss, logged=logged, best=best, highest=highest), loss

    def _repeats(self, value: float) -> bool:
        """Whether a value is the last log once more. A restarted process knows that log as its status shows it."""
        if self.last is None:
            return self.newest is not None and shown(value) == shown(self.newest)
        return value == self.last


def _diverged(gradient_norm: float) -> Failure:
    return Failure(
        GRADIENT_NOT_FINITE,
        f"The gradient norm is {gradient_norm}: no rule uses the loss beside it, because a training that diverges may log any loss. With loss scaling"
        " (fp16) it may pass.",
    )


def _doubt(value: float, *, changed: bool) -> Failure | None:
    if not changed:
        return Failure(
            NEVER_CHANGED,
            f"The loss is still {shown(value)}, the first value seen in this pod: no rule uses it before it changes, because a metric may have a"
            " default. Set loss and step at the same moment.",
        )
    if value == 0:
        return Failure(
            ZERO,
            "The loss is exactly 0: no rule uses it, because a 0 often stands for a loss that is not a number or not known. Has the training"
            " diverged? Hugging Face's Trainer shows NaN only with logging_nan_inf_filter=False.",
        )
    return None
