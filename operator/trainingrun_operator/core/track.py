"""The track of a training's metrics, folded one reading at a time.

An *observation* is a reading whose step has advanced. A gauge at its first value, a failed reading and a reading of the same step are not
observations. `polls_without_advance` counts successful readings without one.
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
"""Reason of a reading whose step is still the first one seen, as at every start."""
_REMEMBERED: Final = 16
_ETA_MAX: Final = 315_360_000
"""Ten years: a longer estimate is dropped."""


@dataclass(frozen=True)
class Observation:
    """A reading whose step has advanced."""

    step: int
    loss: float | None
    """Finite, or None."""
    at: float


@dataclass(frozen=True)
class Track:
    """The track of one pod's training; the best loss is the run's."""

    pod_uid: str = ""
    observations: tuple[Observation, ...] = ()
    """The newest few, oldest first."""
    baseline: int | None = None
    """The first step seen, which may be a gauge's initial value."""
    epoch: float | None = None
    total_epochs: float | None = None
    epoch_base: int | None = None
    """Number of the first epoch, 0 or 1. None: unknown."""
    began: tuple[float, float] | None = None
    """Time and number of the first epoch seen."""
    epoch_at: float = 0
    """Time when the present epoch was first seen."""
    polls_without_advance: int = 0
    known_interval: float | None = None
    """Typical seconds between observations, as an earlier operator process measured them."""
    best_loss: float | None = None
    loss_at: float | None = None
    """Time of the last finite loss."""
    oddity: Failure | None = None
    """Why rules cannot use the newest reading."""

    @property
    def newest(self) -> Observation | None:
        """The newest observation."""
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
        """Median seconds between observations; None: fewer than two intervals are known."""
        times = [o.at for o in self.observations]
        gaps = [later - earlier for earlier, later in pairwise(times)]
        return median(gaps) if len(gaps) > 1 else self.known_interval

    @property
    def in_final_epoch(self) -> bool:
        """Whether the last epoch has begun; False while the number of the first epoch is unknown."""
        return is_final_epoch(self.epoch, self.total_epochs, self.epoch_base)

    @property
    def percent(self) -> int | None:
        """Completed share of all epochs, 0 to 100."""
        if self.epoch is None or not self.total_epochs or self.epoch_base is None:
            return None
        return int(max(0.0, min(1.0, (self.epoch - self.epoch_base) / self.total_epochs)) * 100)

    def eta_seconds(self, now: float) -> int | None:
        """Return the seconds to the end of the last epoch at the pace so far."""
        if self.began is None or self.epoch is None or self.total_epochs is None or self.epoch_base is None:
            return None
        since, first = self.began
        if self.epoch <= first or self.epoch_at <= since:
            return None
        pace = (self.epoch_at - since) / (self.epoch - first)
        # The pace counts from the start of the present epoch: a whole number does not say how much of it is done.
        eta = (self.total_epochs + self.epoch_base - self.epoch) * pace - (now - self.epoch_at)
        return max(0, int(eta)) if eta <= _ETA_MAX else None


def is_final_epoch(epoch: float | None, total_epochs: float | None, base: int | None) -> bool:
    """Whether `epoch` is the last of `total_epochs`, counted from `base`; False while any of them is unknown."""
    if epoch is None or total_epochs is None or base is None:
        return False
    return epoch >= total_epochs - 1 + base


def resumed(progress: Progress | None, *, pod_uid: str, now: float) -> Track:
    """Continue from the progress that an earlier operator process recorded for the same pod.

    Its step counts as an observation now, without a loss: rules use only losses that this process has read, and a stall is measured from now. The
    track is empty for another pod, or if the step had not advanced.
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
    """Add one reading of the pod's metrics, taken at `now`. A new pod starts a new track."""
    if track.pod_uid != pod_uid:
        track = Track(pod_uid=pod_uid, best_loss=track.best_loss)
    if isinstance(reading, Failure):
        return replace(track, oddity=reading)
    moment = _moment(track, reading, now)
    return _fold_epoch(_fold_step(_fold_loss(track, reading, moment), reading, moment), reading, moment)


def _moment(track: Track, reading: Reading, now: float) -> float:
    """Return the time of a reading, if it lies between the newest observation and now; else now."""
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
        return replace(track, oddity=Failure(NOT_FINITE, f"The loss is {reading.loss}: no rule uses it."))
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
    """Whether a gauge can be a step or an epoch: finite, from 0 up, and exact in JSON."""
    return value is not None and 0 <= value <= COUNT_MAX


def _never_advanced(step: int) -> Failure:
    return Failure(NEVER_ADVANCED, f"The step is still {step}, its first value: no rule uses it before it advances.")


def _fold_epoch(track: Track, reading: Reading, now: float) -> Track:
    if not track.advanced or not _counts(reading.epoch):
        return track
    total = reading.total_epochs if _counts(reading.total_epochs) else track.total_epochs
    base = track.epoch_base
    if base is None and track.began is None and reading.epoch <= 1:
        # Exactly 1.0 may also be the end of a fractional epoch 0; counting from 1 then only delays a stall.
        base = 0 if reading.epoch < 1 else 1
    return replace(
        track,
        epoch=reading.epoch,
        total_epochs=total,
        epoch_base=base,
        began=track.began or (now, reading.epoch),
        epoch_at=track.epoch_at if reading.epoch == track.epoch else now,
    )
