"""``status.progress``: the training's progress for people, and what a restarted operator continues from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trainingrun_operator.api.endings import ending_of
from trainingrun_operator.api.status import Progress
from trainingrun_operator.core.epochs import is_short
from trainingrun_operator.core.rules import exits
from trainingrun_operator.core.track import comparable
from trainingrun_operator.core.words import finite, shown

if TYPE_CHECKING:
    from collections.abc import Callable

    from trainingrun_operator.api.status import Termination
    from trainingrun_operator.core.observed import Observed


def render(seen: Observed) -> Progress | None:
    """Return ``status.progress``."""
    track, before, stop = seen.track, seen.run.status.progress, seen.run.status.termination
    if (step := track.step) is None or not track.advanced:
        return _ended_progress(before, stop) if before and stop else before
    progress = _progress_of(seen, step)
    return _ended_progress(progress, stop) if stop else progress


def _ended_progress(progress: Progress, stop: Termination) -> Progress:
    """Return the progress of an ended training: without ETA, and with the saved step if it is later than the last reading.

    If it exited far from its end, the numbers stay what the metrics said.
    """
    changed: dict[str, Any] = {"eta_seconds": None}
    if stop.reason == exits.EXITED_EARLY:
        return progress.model_copy(update=changed)
    saved, step = (stop.saved.step or 0) if stop.saved else 0, progress.step or 0
    if saved > step and comparable(saved, step):
        changed["step"] = saved
    if ending_of(stop.status).complete and (stop.reason == exits.EXIT_CODE_ZERO or not _is_short(progress)):
        changed["percent"] = 100
    return progress.model_copy(update=changed)


def _is_short(progress: Progress) -> bool:
    """Whether the metrics show that the training ended far from its end."""
    return is_short(
        finite(progress.epoch), progress.total_epochs, progress.epoch_base, fractional=progress.fractional_epochs
    )


def _progress_of(seen: Observed, step: int) -> Progress:
    track, before = seen.track, seen.run.status.progress
    best, highest = track.losses.best, track.losses.highest
    fell = track.fell or (None, None)
    return Progress(
        loss=_number(track.loss, shown),
        best_loss=_number(best, shown) or (before.best_loss if before else None),
        highest_loss=_number(highest, shown),
        step=step,
        fell_from=fell[0],
        fell_to=fell[1],
        epoch=_number(track.epoch),
        total_epochs=track.total_epochs,
        percent=track.percent,
        eta_seconds=track.eta_seconds(seen.now),
        stall_polls=track.polls_without_advance if track.in_final_epoch else 0,
        last_observation_time=before.last_observation_time if before and before.step == step else seen.wall,
        step_interval=_number(track.typical_interval, _rounded),
        longest_pause=_number(track.longest_pause, _rounded),
        longest_epoch_pause=_number(track.longest_epoch_pause, _rounded),
        epoch_base=track.epoch_base,
        fractional_epochs=track.epochs.fractional,
        epoch_interval=_number(track.epoch_interval, _rounded),
        pod_uid=track.pod_uid,
    )


def _number(value: float | None, form: Callable[[float], str] = "{:g}".format) -> str | None:
    return None if value is None else form(value)


def _rounded(value: float) -> str:
    return f"{value:.3g}"
