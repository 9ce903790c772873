"""What is remembered of a run's samples: folded one reading at a time, so that polls are never mistaken for observations.

An *observation* is a reading whose step has advanced. A gauge still at its first value is none, a failed reading is none, and a reading of
the same step again is none; only its absence is counted (`polls_without_advance`), and only while readings succeed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from math import isfinite
from statistics import median
from typing import TYPE_CHECKING, Final, TypeGuard

from trainingrun_operator.core.bounds import COUNT_MAX
from trainingrun_operator.core.facts.reading import Failure, Reading
from trainingrun_operator.core.words import finite

if TYPE_CHECKING:
    from trainingrun_operator.api.status import Progress

NOT_FINITE: Final = "NotFinite"
"""Reason of a reading whose loss is NaN or infinite."""
NEVER_ADVANCED: Final = "NeverAdvanced"
"""Reason of a reading whose step is still the first that was seen: every training begins so."""
_REMEMBERED: Final = 16
_ETA_MAX: Final = 315_360_000
"""Ten years: what is further away is no estimate."""


@dataclass(frozen=True)
class Observation:
    """One step forward."""

    step: int
    loss: float | None
    """Finite, or None."""
    at: float


@dataclass(frozen=True)
class Track:
    """Of one pod's training; the best loss is the run's."""

    pod_uid: str = ""
    observations: tuple[Observation, ...] = ()
    """The newest few, oldest first."""
    baseline: int | None = None
    """The first step seen, which may be a gauge's initial value."""
    epoch: float | None = None
    total_epochs: float | None = None
    epoch_base: int | None = None
    """0 or 1: what the first epoch is called. None: unknown."""
    began: tuple[float, float] | None = None
    """When the first epoch was seen, and which it was."""
    epoch_at: float = 0
    """When the present epoch was first seen."""
    polls_without_advance: int = 0
    known_interval: float | None = None
    """Usual seconds between observations, as an operator before this one measured them."""
    best_loss: float | None = None
    loss_at: float | None = None
    """When a finite loss was last read."""
    oddity: Failure | None = None
    """Why the newest reading is no loss to decide by."""

    @property
    def newest(self) -> Observation | None:
        """The last step forward."""
        return self.observations[-1] if self.observations else None

    @property
    def advanced(self) -> bool:
        """Whether the step has advanced since the pod was first read."""
        return bool(self.observations)

    @property
    def step(self) -> int | None:
        """The newest step, the initial one included."""
        return self.observations[-1].step if self.observations else self.baseline

    @property
    def loss(self) -> float | None:
        """The newest finite loss."""
        return next((o.loss for o in reversed(self.observations) if o.loss is not None), None)

    @property
    def typical_interval(self) -> float | None:
        """Median seconds between observations; None with fewer than two intervals that anybody has measured."""
        times = [o.at for o in self.observations]
        gaps = [later - earlier for earlier, later in pairwise(times)]
        return median(gaps) if len(gaps) > 1 else self.known_interval

    @property
    def in_final_epoch(self) -> bool:
        """Whether the last epoch has begun; False while it is unknown how epochs are counted."""
        return is_final_epoch(self.epoch, self.total_epochs, self.epoch_base)

    @property
    def percent(self) -> int | None:
        """Share of all epochs that is behind us, 0 to 100."""
        if self.epoch is None or not self.total_epochs or self.epoch_base is None:
            return None
        return int(max(0.0, min(1.0, (self.epoch - self.epoch_base) / self.total_epochs)) * 100)

    def eta_seconds(self, now: float) -> int | None:
        """Seconds to the end of the last epoch at the pace so far."""
        if self.began is None or self.epoch is None or self.total_epochs is None or self.epoch_base is None:
            return None
        since, first = self.began
        if self.epoch <= first or self.epoch_at <= since:
            return None
        pace = (self.epoch_at - since) / (self.epoch - first)
        # From when the present epoch began: a whole epoch says nothing of how much of it is done.
        eta = (self.total_epochs + self.epoch_base - self.epoch) * pace - (now - self.epoch_at)
        return max(0, int(eta)) if eta <= _ETA_MAX else None


def is_final_epoch(epoch: float | None, total_epochs: float | None, base: int | None) -> bool:
    """Whether this is the last of so many epochs, the first of which is called `base`; False while any of it is unknown."""
    if epoch is None or total_epochs is None or base is None:
        return False
    return epoch >= total_epochs - 1 + base


def resumed(progress: Progress | None, *, pod_uid: str, now: float) -> Track:
    """Go on from what an operator before this one wrote down of the same pod.

    The step that it saw counts as seen now, without a loss: nothing is decided by losses that this process has not read, and a stall is measured from
    here. Of another pod, or before the step had advanced, a track is empty.
    """
    if progress is None or progress.pod_uid != pod_uid or progress.step is None:
        return Track()
    return Track(
        pod_uid=pod_uid,
        observations=(Observation(progress.step, None, now),),
        epoch=finite(progress.epoch),
        total_epochs=progress.total_epochs,
        epoch_base=progress.epoch_base,
        epoch_at=now,
        known_interval=finite(progress.step_interval),
        best_loss=finite(progress.best_loss),
    )


def fold(track: Track, reading: Reading | Failure, *, pod_uid: str, now: float) -> Track:
    """Add one reading of the pod's metrics, taken at `now`. A new pod begins a new track."""
    if track.pod_uid != pod_uid:
        track = Track(pod_uid=pod_uid, best_loss=track.best_loss)
    if isinstance(reading, Failure):
        return replace(track, oddity=reading)
    moment = _moment(track, reading, now)
    return _fold_epoch(_fold_step(_fold_loss(track, reading, moment), reading, moment), reading, moment)


def _moment(track: Track, reading: Reading, now: float) -> float:
    """When it was measured: not later than now, and not earlier than the newest observation, or what is measured by it runs backwards."""
    earliest = track.newest.at if track.newest is not None else float("-inf")
    return reading.at if reading.at is not None and earliest <= reading.at <= now else now


def _fold_loss(track: Track, reading: Reading, now: float) -> Track:
    if reading.loss is None:
        return replace(
            track,
            oddity=Failure(
                "NoSuchMetric",
                "The metrics page has no loss under any of the names in spec.metrics.names.loss.",
            ),
        )
    if not isfinite(reading.loss):
        return replace(track, oddity=Failure(NOT_FINITE, f"The loss is {reading.loss}: nothing is decided by it."))
    return replace(track, oddity=None, loss_at=now)


def _fold_step(track: Track, reading: Reading, now: float) -> Track:
    if not _counts(reading.step):
        oddity = track.oddity or Failure(
            "NoStep", "The metrics page has no finite step from 0 up under any of the names in spec.metrics.names.step."
        )
        return replace(track, oddity=oddity)
    step = int(reading.step)
    known = track.step
    if known is None:
        return replace(track, baseline=step, oddity=track.oddity or _never_advanced(step))
    if step <= known:
        still = None if track.advanced else _never_advanced(step)
        return replace(track, polls_without_advance=track.polls_without_advance + 1, oddity=track.oddity or still)
    loss = reading.loss if track.oddity is None else None
    best = track.best_loss if loss is None else min(loss, track.best_loss if track.best_loss is not None else loss)
    observations = (*track.observations, Observation(step, loss, now))[-_REMEMBERED:]
    return replace(track, observations=observations, polls_without_advance=0, best_loss=best)


def _counts(value: float | None) -> TypeGuard[float]:
    """Whether a gauge can be a step or an epoch: finite, not negative, and not larger than what every JSON reader keeps exact."""
    return value is not None and 0 <= value <= COUNT_MAX


def _never_advanced(step: int) -> Failure:
    return Failure(
        NEVER_ADVANCED, f"The step still stands at {step}, its first value: nothing is decided before it advances."
    )


def _fold_epoch(track: Track, reading: Reading, now: float) -> Track:
    if not track.advanced or not _counts(reading.epoch):
        return track
    total = reading.total_epochs if _counts(reading.total_epochs) else track.total_epochs
    base = track.epoch_base
    if base is None and track.began is None and reading.epoch <= 1:
        # 1.0 exactly may also be the end of a fractional epoch 0; taking it for the first of a count from 1 only makes a stall fire later.
        base = 0 if reading.epoch < 1 else 1
    return replace(
        track,
        epoch=reading.epoch,
        total_epochs=total,
        epoch_base=base,
        began=track.began or (now, reading.epoch),
        epoch_at=track.epoch_at if reading.epoch == track.epoch else now,
    )
