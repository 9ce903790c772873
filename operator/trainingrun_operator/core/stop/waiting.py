"""`stopMode: Auto` after the grace: wait for the training's next checkpoint, or take the last one.

A training that does not react to the stop goes on until its pod is deleted. To wait for its next checkpoint costs GPU time; not to wait costs the work
since the last one. The shorter of the two is chosen once, when the grace is over, and recorded before it is followed.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

from trainingrun_operator.api.endings import ending_of
from trainingrun_operator.api.saves import StopWait
from trainingrun_operator.api.status import StopMode, Termination
from trainingrun_operator.core import saves
from trainingrun_operator.core.stop import transitions
from trainingrun_operator.core.words import moment

if TYPE_CHECKING:
    from trainingrun_operator.core.observed import Observed
    from trainingrun_operator.core.saves import Forecast

LONGEST: Final = 2
"""Times the predicted wait after which a stop does not wait any longer."""


def applies(seen: Observed, stop: Termination) -> bool:
    """Whether the stop chooses between the next and the last checkpoint."""
    goes_on = stop.suspends or ending_of(stop.status).saves_again
    return stop.mode is StopMode.AUTO and goes_on and not transitions.disabled(seen)


def choose(seen: Observed) -> StopWait:
    """Return the choice with both figures."""
    ahead = saves.forecast(seen)
    seconds = _most(ahead)
    newest = seen.saves.at if seen.saves is not None and ahead.lost_seconds is not None else None
    return StopWait(
        predicted_seconds=None if ahead.wait_seconds is None else saves.whole(ahead.wait_seconds),
        rolled_back_seconds=None if ahead.lost_seconds is None else saves.whole(ahead.lost_seconds),
        rolled_back_steps=ahead.lost_steps,
        newest_at=newest,
        until=_later(seen.wall, seconds) if seconds else None,
        message=_sentence(ahead, seconds),
    )


def _most(ahead: Forecast) -> float | None:
    """Return for how long to wait at most; None: not at all. Waiting must not cost more than it can save."""
    if ahead.wait_seconds is None or ahead.lost_seconds is None or ahead.wait_seconds >= ahead.lost_seconds:
        return None
    return max(1.0, min(LONGEST * ahead.wait_seconds, ahead.lost_seconds))


def left(seen: Observed, wait: StopWait) -> float:
    """Return for how many seconds the stop still waits; 0 or less: it does not."""
    if wait.until is None or _saved_since(seen, wait):
        return 0.0
    return saves.seconds_between(seen.wall, wait.until) or 0.0


def _saved_since(seen: Observed, wait: StopWait) -> bool:
    """Whether a later checkpoint is complete."""
    newer = saves.seconds_between(wait.newest_at, seen.saves.at) if seen.saves is not None else None
    return newer is not None and newer > saves.SAME_SECONDS


def _later(wall: str, seconds: float) -> str | None:
    at = moment(wall)
    return None if at is None else (at + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


def _sentence(ahead: Forecast, most: float | None) -> str:
    lost = _lost(ahead)
    if most is not None:
        return (
            f"The training has not exited within its grace. Its next checkpoint is expected in {ahead.wait_seconds:.0f} s, and {lost}: the stop waits"
            f" for it, at most {most:.0f} s (stopMode Auto)."
        )
    if ahead.lost_seconds is None:
        return (
            f"The training has not exited within its grace, and it is not known when it saves next: {ahead.why}. The stop goes on with the last"
            " checkpoint, and without any it keeps the pod until one is complete (stopMode Auto)."
        )
    if ahead.wait_seconds is None:
        return (
            f"The training has not exited within its grace. Its last checkpoint is taken (stopMode Auto): {lost}, but it is not known when it saves"
            f" next: {ahead.why}."
        )
    return (
        f"The training has not exited within its grace. Its last checkpoint is taken (stopMode Auto): its next one is expected in"
        f" {ahead.wait_seconds:.0f} s, while {lost}."
    )


def _lost(ahead: Forecast) -> str:
    if ahead.lost_seconds is None:
        return ""
    steps = f" ({ahead.lost_steps} steps)" if ahead.lost_steps is not None else ""
    return f"{ahead.lost_seconds:.0f} s of training{steps} since the last one would be lost"
