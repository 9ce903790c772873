"""The epochs of a training: how they count, how far it is, and where the last one begins."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil
from typing import TYPE_CHECKING, Final, TypeGuard

from trainingrun_operator.core.bounds import COUNT_MAX

if TYPE_CHECKING:
    from trainingrun_operator.core.facts.reading import Reading

ROUNDING: Final = 0.05
"""Epochs by which a training may miss its total, or exceed it, without being short of it or beyond it."""
NEARLY: Final = 0.9
"""Share of all epochs from which on a training that has ended was near its end."""
FRACTION_MAX: Final = 0.25
"""Epochs that the last log may be before the end."""
_ETA_MAX: Final = 315_360_000
"""Ten years: a longer estimate is dropped."""


@dataclass(frozen=True)
class Epochs:
    """The epochs of one stage of a training; how they count belongs to the run."""

    current: float | None = None
    shown: float | None = None
    """The total that the training shows."""
    of_bar: bool = False
    """Whether it is said by a progress bar alone, as far as is known."""
    named: float | None = None
    """The total that the spec names, `completion.totalEpochs`."""
    base: int | None = None
    """Number of the first epoch, 0 or 1. None: unknown."""
    fractional: bool = False
    """Whether an epoch that is no whole number was seen."""
    began: tuple[float, float] | None = None
    """Time and number of the first epoch seen."""
    at: float = 0
    """Time when the present epoch was first seen."""

    @property
    def total(self) -> float | None:
        """The number of epochs: what the training shows, else what the spec names."""
        return self.shown if self.shown is not None else self.named

    @property
    def totals_differ(self) -> bool:
        """Whether the training shows another total than the spec names."""
        return self.shown is not None and self.named is not None and abs(self.shown - self.named) > ROUNDING

    @property
    def beyond_total(self) -> bool:
        """Whether the epoch is beyond the total: then the total is wrong."""
        if self.current is None or self.total is None:
            return False
        return is_beyond(self.current, self.total, self.base, fractional=self.fractional)

    @property
    def in_final(self) -> bool:
        """Whether the last epoch has begun; False while the number of the first epoch is unknown."""
        return is_final_epoch(self.current, self.total, self.base, fractional=self.fractional)

    @property
    def remaining(self) -> float | None:
        """Epochs to the end of the last one. A whole number does not say how much of its epoch is done. None: unknown."""
        if self.current is None or self.total is None or self.base is None or self.beyond_total:
            return None
        return self.total + self.base - self.current

    @property
    def percent(self) -> int | None:
        """Completed share of all epochs, 0 to 100."""
        if self.remaining is None or self.current is None or not self.total:
            return None
        return int(max(0.0, min(1.0, (self.current - (self.base or 0)) / self.total)) * 100)

    def eta_seconds(self, now: float) -> int | None:
        """Return the seconds to the end of the last epoch at the pace so far."""
        left = self.remaining
        if self.began is None or self.current is None or left is None:
            return None
        since, first = self.began
        if self.current <= first or self.at <= since:
            return None
        pace = (self.at - since) / (self.current - first)
        # The pace counts from the start of the present epoch: a whole number does not say how much of it is done.
        eta = left * pace - (now - self.at)
        return max(0, int(eta)) if eta <= _ETA_MAX else None

    def carried(self) -> Epochs:
        """Return what holds for the next pod or stage of the run: how epochs count."""
        return Epochs(named=self.named, base=self.base, fractional=self.fractional)

    def naming(self, total: float | None) -> Epochs:
        """Return the same with the total that the spec names now."""
        return self if total == self.named else replace(self, named=total)

    def read(self, reading: Reading, now: float) -> Epochs:
        """Add a reading whose pod has advanced."""
        if not counts(reading.epoch):
            return self
        base = self.base
        if base is None and self.began is None and reading.epoch <= 1:
            # Exactly 1.0 may also be the end of a fractional epoch 0; counting from 1 then only delays a stall.
            base = 0 if reading.epoch < 1 else 1
        # A gauge that is still 0 says no total.
        says = counts(reading.total_epochs) and reading.total_epochs > 0
        return replace(
            self,
            current=reading.epoch,
            shown=reading.total_epochs if says else self.shown,
            of_bar=reading.total_of_bar if says else self.of_bar,
            base=base,
            fractional=self.fractional or reading.epoch % 1 != 0,
            began=self.began or (now, reading.epoch),
            at=self.at if reading.epoch == self.current else now,
        )


def counts(value: float | None) -> TypeGuard[float]:
    """Whether a gauge can be a step or an epoch: finite, from 0 up, and exact in JSON."""
    return value is not None and 0 <= value <= COUNT_MAX


def is_beyond(epoch: float, total: float, base: int | None, *, fractional: bool) -> bool:
    """Whether `epoch` is beyond `total`. A fraction that counts from 1 ends one later; a whole number never does, and the third of 2.37 is called 3."""
    return epoch > (total + (base or 0) if fractional else ceil(total)) + ROUNDING


def is_final_epoch(epoch: float | None, total: float | None, base: int | None, *, fractional: bool = False) -> bool:
    """Whether `epoch` is the last of `total`, counted from `base`; False while any is unknown, or the total is wrong."""
    if epoch is None or total is None or base is None or is_beyond(epoch, total, base, fractional=fractional):
        return False
    return epoch >= final_epoch(total, base)


def final_epoch(total: float, base: int) -> int:
    """Return the number at which the last epoch begins; the last of 2.5 is the half one, and begins at 2."""
    return ceil(total) - 1 + base


def is_short(epoch: float | None, total: float | None, base: int | None, *, fractional: bool) -> bool:
    """Whether a training that ended at `epoch` was far from its end; False while it is unknown. A base that is unknown counts as 0.

    A whole number of the last epoch does not say how much of it is done.
    """
    if epoch is None or not total:
        return False
    left = total - (epoch - (base or 0))
    return left > (max(FRACTION_MAX, total * (1 - NEARLY)) if fractional or epoch % 1 else 1)
