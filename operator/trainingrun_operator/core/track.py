"""The track of a training's metrics, folded one reading at a time.

An *observation* is a reading whose step has advanced. A gauge at its first value, a failed reading and a reading of the same step are not
observations. `polls_without_advance` counts successful readings without one.

A step that falls begins a new *stage*: a second fit in the same process, or a training that was started again inside its pod. Nothing older decides.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise
from math import floor, isfinite
from statistics import median
from typing import TYPE_CHECKING, Final

from trainingrun_operator.core.epochs import FRACTION_MAX, ROUNDING, Epochs, counts
from trainingrun_operator.core.facts.reading import LOGS, Failure, Reading
from trainingrun_operator.core.losses import Losses
from trainingrun_operator.core.words import finite

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trainingrun_operator.api.status import Progress

NOT_FINITE: Final = "NotFinite"
"""Reason of a reading whose loss is NaN or infinite."""
NEVER_ADVANCED: Final = "NeverAdvanced"
"""Reason of a reading whose step is still the first one seen, as at every start."""
STEP_FELL: Final = "StepFell"
"""Reason of readings below an earlier step, as long as they may be those of another rank."""
FALL_READINGS: Final = 3
"""Readings in a row below the newest step that show a small fall to be a new stage, and not another rank that is a few steps behind."""
_BEHIND: Final = 2
"""Steps, or observations' worth of steps, that another rank may be behind."""
AT_END_MAX: Final = 0.1
"""Epochs between two logs, up to which a stand before the last log is taken for the end."""
_REMEMBERED: Final = 16
_NAMES: Final = 8


@dataclass(frozen=True)
class Observation:
    """A reading whose step has advanced."""

    step: int
    loss: float | None
    """Finite and new, or None."""
    at: float
    epoch: float | None = None


@dataclass(frozen=True)
class Track:
    """The track of one stage of one pod's training. Best and highest loss, pauses and how epochs count are the run's."""

    pod_uid: str = ""
    source: str = ""
    """The metric source of the newest reading; empty: none was read by this process."""
    source_note: str = ""
    """Why `AUTO` has taken it."""
    observations: tuple[Observation, ...] = ()
    """The newest few, oldest first."""
    baseline: int | None = None
    """The first step seen, which may be a gauge's initial value."""
    polls_without_advance: int = 0
    known_interval: float | None = None
    """Typical seconds between observations, as an earlier operator process measured them."""
    known_epoch_interval: float | None = None
    """Likewise of `epoch_interval`."""
    longest_pause: float | None = None
    """Longest seconds between two observations."""
    longest_epoch_pause: float | None = None
    """The same of those between which a whole epoch ended."""
    below: int = 0
    """Successive readings further below the newest step than one."""
    fell: tuple[int, int] | None = None
    """The step before the present stage, and its first. None: the step has not fallen in this pod."""
    losses: Losses = field(default_factory=Losses)
    epochs: Epochs = field(default_factory=Epochs)
    oddity: Failure | None = None
    """Why rules cannot use the newest reading."""
    names: tuple[str, ...] = ()
    """Names of the values in the newest reading, the first few."""
    values: Mapping[str, float] = field(default_factory=dict)
    """All values of the newest reading; empty if it is not of the newest step, as that of another rank, or if the step has not advanced."""

    @property
    def newest(self) -> Observation | None:
        """The newest observation."""
        return self.observations[-1] if self.observations else None

    @property
    def advanced(self) -> bool:
        """Whether the step has advanced since the pod was first read, in any stage."""
        return bool(self.observations) or self.fell is not None

    @property
    def step(self) -> int | None:
        """The newest step, the initial one included."""
        return self.observations[-1].step if self.observations else self.baseline

    @property
    def loss(self) -> float | None:
        """The newest loss that counted."""
        return self.losses.newest

    @property
    def best_loss(self) -> float | None:
        """The lowest loss that counted."""
        return self.losses.best

    @property
    def loss_at(self) -> float | None:
        """Time when a finite loss was last read."""
        return self.losses.at

    @property
    def typical_interval(self) -> float | None:
        """Median seconds between observations; None: fewer than two intervals are known."""
        gaps = [later.at - earlier.at for earlier, later in pairwise(self.observations)]
        return median(gaps) if len(gaps) > 1 else self.known_interval

    @property
    def epoch_interval(self) -> float | None:
        """Smallest advance of a fractional epoch between two observations: the training logs at least as often. None: unknown."""
        epochs = [one.epoch for one in self.observations if one.epoch is not None]
        gaps = [later - earlier for earlier, later in pairwise(epochs) if later > earlier]
        known = [gap for gap in (*gaps, self.known_epoch_interval) if gap is not None]
        return min(known) if known and self.epochs.fractional else None

    @property
    def at_end(self) -> bool:
        """Whether everything is trained, or the rest is little and less than what the training does between two logs."""
        return self._at_most_left(AT_END_MAX)

    @property
    def may_be_at_end(self) -> bool:
        """Whether the epochs do not exclude that everything is trained. Whole numbers never do in the last epoch."""
        counted_from_0 = self.epochs.fractional and self.epoch_base == 0
        return not counted_from_0 or self._at_most_left(FRACTION_MAX)

    def _at_most_left(self, most: float) -> bool:
        left = self.epochs.remaining
        return left is not None and left <= max(ROUNDING, min(self.epoch_interval or 0, most))

    @property
    def epoch(self) -> float | None:
        """The newest epoch."""
        return self.epochs.current

    @property
    def total_epochs(self) -> float | None:
        """The number of epochs."""
        return self.epochs.total

    @property
    def epoch_base(self) -> int | None:
        """Number of the first epoch, 0 or 1. None: unknown."""
        return self.epochs.base

    @property
    def in_final_epoch(self) -> bool:
        """Whether the last epoch has begun; False while the number of the first epoch is unknown."""
        return self.epochs.in_final

    @property
    def percent(self) -> int | None:
        """Completed share of all epochs, 0 to 100."""
        return self.epochs.percent

    def eta_seconds(self, now: float) -> int | None:
        """Return the seconds to the end of the last epoch at the pace so far."""
        return self.epochs.eta_seconds(now)


def comparable(number: int, step: int) -> bool:
    """Whether the number in a checkpoint's name can be a step, by the metrics' step. It may also count epochs, reports or samples."""
    return step <= 2 * number and number <= 2 * step


def resumed(progress: Progress | None, *, pod_uid: str, now: float) -> Track:
    """Continue from the progress that an earlier operator process recorded.

    For the same pod, its step counts as an observation now, without a loss: rules use only losses that this process has read, and a stall is measured
    from now. For another pod, only what belongs to the run is kept. The track is empty if the step had not advanced.
    """
    if progress is None or progress.step is None:
        return Track()
    of_run = Track(
        longest_pause=finite(progress.longest_pause),
        longest_epoch_pause=finite(progress.longest_epoch_pause),
        losses=Losses(best=finite(progress.best_loss), highest=finite(progress.highest_loss)),
        epochs=Epochs(base=progress.epoch_base, fractional=progress.fractional_epochs),
    )
    if progress.pod_uid != pod_uid:
        return of_run
    newest, before, after = finite(progress.loss), progress.fell_from, progress.fell_to
    return replace(
        of_run,
        pod_uid=pod_uid,
        observations=(Observation(progress.step, None, now),),
        known_interval=finite(progress.step_interval),
        known_epoch_interval=finite(progress.epoch_interval),
        fell=(before, after) if before is not None and after is not None else None,
        losses=replace(of_run.losses, newest=newest, changed=newest is not None),
        # What has said the total is not recorded, so it counts as a bar's until it is read again.
        epochs=replace(of_run.epochs, current=finite(progress.epoch), shown=progress.total_epochs, of_bar=True, at=now),
    )


def fold(track: Track, reading: Reading | Failure, *, pod_uid: str, now: float) -> Track:
    """Add one reading of the pod's metrics, taken at `now`. A new pod starts a new track."""
    if track.pod_uid != pod_uid:
        track = _next(track, pod_uid, losses=track.losses.carried())
    if isinstance(reading, Failure):
        return replace(track, oddity=reading, values={})
    if track.source and reading.source != track.source:
        # What another source has read is not comparable: a gauge's first value, the name of the loss, how steps count.
        track = _next(track, pod_uid, losses=track.losses.carried())
    track = replace(
        track,
        source=reading.source,
        source_note=reading.source_note,
        names=tuple(sorted(reading.values))[:_NAMES],
    )
    moment = _moment(track, reading, now)
    track = _fold_step(_fold_loss(_fold_fall(track, reading), reading, moment), reading, moment)
    if not track.observations:
        return replace(track, values={})
    of_step = counts(reading.step) and int(reading.step) == track.step
    return replace(track, values=reading.values if of_step else {}, epochs=track.epochs.read(reading, moment))


def _next(track: Track, pod_uid: str, *, losses: Losses, fell: tuple[int, int] | None = None) -> Track:
    """Return an empty track with what belongs to the run."""
    return Track(
        pod_uid,
        track.source,
        track.source_note,
        baseline=fell[1] if fell is not None else None,
        longest_pause=track.longest_pause,
        longest_epoch_pause=track.longest_epoch_pause,
        fell=fell,
        losses=losses,
        epochs=track.epochs.carried(),
    )


def _moment(track: Track, reading: Reading, now: float) -> float:
    """Return the time of a reading, if it lies between the newest observation and now; else now."""
    earliest = track.newest.at if track.newest is not None else float("-inf")
    return reading.at if reading.at is not None and earliest <= reading.at <= now else now


def _fold_fall(track: Track, reading: Reading) -> Track:
    """Begin a new stage if the step has fallen. Several ranks that serve one page are a few steps apart, which is no fall."""
    known = track.step
    if known is None or not counts(reading.step):
        return track
    step = int(reading.step)
    fall = known - step
    if fall <= 1:
        return replace(track, below=0)
    below = track.below + 1
    if _may_be_behind(track, step, fall) and below < FALL_READINGS:
        return replace(track, below=below)
    # A default threshold acts on the losses of one stage: the highest one begins again, too.
    return _next(track, track.pod_uid, losses=Losses(best=track.losses.best), fell=(known, step))


def _may_be_behind(track: Track, step: int, fall: int) -> bool:
    """Whether a step below the newest one may be that of another rank."""
    advances = [later.step - earlier.step for earlier, later in pairwise(track.observations)]
    # Without two observations, as after a restart of the operator, it is unknown how far ranks can be apart.
    return fall <= step and (not advances or fall <= _BEHIND * median(advances))


def _fold_loss(track: Track, reading: Reading, now: float) -> Track:
    if reading.loss is None:
        return replace(track, oddity=Failure("NoSuchMetric", _without_loss(reading)))
    if not isfinite(reading.loss):
        return replace(track, oddity=Failure(NOT_FINITE, f"The loss is {reading.loss}: no rule uses it."))
    return replace(track, oddity=None, losses=track.losses.read(reading.loss, now, reading.gradient_norm))


def _fold_step(track: Track, reading: Reading, now: float) -> Track:
    if not counts(reading.step):
        return replace(track, oddity=track.oddity or Failure("NoStep", _without_step(reading)))
    step = int(reading.step)
    known = track.step
    if known is None:
        return replace(track, baseline=step, oddity=track.oddity or _never_advanced(step))
    if step <= known:
        still = None if track.observations else _never_advanced(known)
        return replace(track, polls_without_advance=track.polls_without_advance + 1, oddity=track.oddity or still)
    return _advanced(track, reading, step, now)


def _advanced(track: Track, reading: Reading, step: int, now: float) -> Track:
    """Add an observation, and measure the pause before it."""
    losses, loss = track.losses.counted(reading.loss if track.oddity is None else None, step)
    epoch = reading.epoch if counts(reading.epoch) else None
    pause, epoch_pause = track.longest_pause, track.longest_epoch_pause
    if (before := track.newest) is not None:
        pause = max(now - before.at, pause or 0)
        if epoch is not None and before.epoch is not None and floor(epoch) > floor(before.epoch):
            epoch_pause = max(now - before.at, epoch_pause or 0)
    return replace(
        track,
        observations=(*track.observations, Observation(step, loss, now, epoch))[-_REMEMBERED:],
        polls_without_advance=0,
        longest_pause=pause,
        longest_epoch_pause=epoch_pause,
        losses=losses,
    )


def _without_loss(reading: Reading) -> str:
    if reading.source == LOGS:
        return "The log has no loss: print it beside the step, or set spec.metrics.logs.patterns."
    return "The metrics page has no loss under any of the names in spec.metrics.names.loss."


def _without_step(reading: Reading) -> str:
    if reading.source == LOGS:
        return (
            "The log has no step that is certainly the training's, so no rule uses its loss: print the step beside the loss, or set"
            " spec.metrics.logs.patterns."
        )
    return "The metrics page has no finite step from 0 up under any of the names in spec.metrics.names.step."


def _never_advanced(step: int) -> Failure:
    return Failure(NEVER_ADVANCED, f"The step is still {step}, its first value: no rule uses it before it advances.")
