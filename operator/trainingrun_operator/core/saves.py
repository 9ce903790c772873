"""When a training saves: its complete checkpoints as its agents show them, and from their intervals a forecast of the next one.

Times are by the operator's clock: that of a look, less the age that the agent reports. Nothing is extrapolated from fewer than two checkpoints.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median_high
from typing import TYPE_CHECKING, Final

from trainingrun_operator.api.saves import INTERVALS_MAX, SaveInterval, SaveTimes
from trainingrun_operator.core.bounds import WORD_MAX, clipped, counted
from trainingrun_operator.core.words import before, moment

if TYPE_CHECKING:
    from trainingrun_operator.core.facts.gathered import Facts
    from trainingrun_operator.core.facts.pod import Pod
    from trainingrun_operator.core.observed import Observed

SAME_SECONDS: Final = 5.0
"""Two times that are closer are those of one checkpoint: ages are exact to the duration of a look."""
_SECONDS_MAX: Final = 315_360_000
"""Bound of `api.base.Seconds`."""


def seconds_between(earlier: str | None, later: str | None) -> float | None:
    """Return the seconds from one stored time to another; None: one of them is missing or no time."""
    start, end = moment(earlier), moment(later)
    return None if start is None or end is None else (end - start).total_seconds()


def whole(seconds: float) -> int:
    """Return seconds as the schema bounds them."""
    return round(min(max(seconds, 0.0), _SECONDS_MAX))


def fold(known: SaveTimes | None, facts: Facts) -> SaveTimes | None:
    """Add the reports of one look. A look without a report of every rank changes nothing; None: no checkpoint was seen yet."""
    known = known if known is not None else facts.run.status.save_times
    pods, reports = facts.ranks[0], [facts.reports.get(number) for number in range(len(facts.ranks))]
    newest = [report.newest for report in reports if report is not None and report.newest is not None]
    if not pods or len(newest) < len(reports):
        return known
    uid = clipped(pods[-1].uid, WORD_MAX)
    known = known if known is not None else SaveTimes(pod_uid=uid)
    if known.pod_uid != uid:
        known = SaveTimes(pod_uid=uid, intervals=known.intervals)
    at = before(facts.wall, max(0.0, *(one.age_seconds for one in newest)))
    steps = [step for one in newest if (step := counted(one.step)) is not None]
    step = min(steps) if len(steps) == len(newest) else None
    return _added(known, at, step, pods[-1])


def _added(known: SaveTimes, at: str, step: int | None, pod: Pod) -> SaveTimes:
    """Add a checkpoint, unless it is the newest one again."""
    passed = seconds_between(known.at, at)
    if passed is None:
        return known.model_copy(update={"at": at, "step": step})
    if passed <= SAME_SECONDS or (step is not None and step == known.step):
        return known
    interval = _interval(known, passed, step, pod)
    intervals = (*known.intervals, *interval)[-INTERVALS_MAX:]
    return known.model_copy(update={"at": at, "step": step, "intervals": intervals})


def _interval(known: SaveTimes, passed: float, step: int | None, pod: Pod) -> tuple[SaveInterval, ...]:
    """Return the interval to a new checkpoint. One that began before this pod's training did has a pause in it."""
    running = seconds_between(pod.started_at, known.at)
    if running is None or running < 0:
        return ()
    steps = step - known.step if step is not None and known.step is not None and step > known.step else None
    return (SaveInterval(seconds=whole(passed), steps=steps),)


@dataclass(frozen=True)
class Forecast:
    """When the next checkpoint is expected, and what the newest one lacks."""

    wait_seconds: float | None = None
    """None: it is not known, and `why` says why."""
    lost_seconds: float | None = None
    """Seconds of training since the newest complete checkpoint, of this pod alone; None: there is none, or it is not known."""
    lost_steps: int | None = None
    why: str = ""


def forecast(seen: Observed) -> Forecast:
    """Return what is known about the next checkpoint of a training that runs."""
    if seen.reports is None:
        return Forecast(why="an agent does not answer, so that no later checkpoint would be seen")
    times, pod = seen.saves, seen.ranks[0].pod
    since = seconds_between(times.at, seen.wall) if times is not None else None
    if times is None or since is None or pod is None or times.pod_uid != clipped(pod.uid, WORD_MAX):
        return Forecast(why="no checkpoint is complete yet")
    running = seconds_between(pod.started_at, seen.wall)
    lost = max(0.0, since if running is None else min(since, running))
    steps = _steps_since(seen, times)
    if not times.intervals:
        return Forecast(
            None,
            lost,
            steps,
            "fewer than two checkpoints of this training were seen, so that their interval is not known",
        )
    longer = _by_steps(times, lost, steps)
    if longer is None:
        longer = [one.seconds - lost for one in times.intervals if one.seconds > lost]
    if not longer:
        many = len(times.intervals)
        why = "it is overdue: " + (
            "the only interval that was seen is shorter"
            if many == 1
            else f"each of the last {many} intervals was shorter"
        )
        return Forecast(None, lost, steps, why)
    return Forecast(median_high(longer), lost, steps)


def _steps_since(seen: Observed, times: SaveTimes) -> int | None:
    """Return the steps since the newest checkpoint; None: they cannot be counted."""
    track = seen.track
    if track.step is None or times.step is None or track.fell is not None or track.step < times.step:
        return None
    return track.step - times.step


def _by_steps(times: SaveTimes, lost: float, steps: int | None) -> list[float] | None:
    """Return the waits by the intervals that are longer in steps, at the present pace; None: the steps say nothing.

    The pace since the newest checkpoint is the present one: a training that has become slower saves later.
    """
    if not steps or lost <= 0 or any(one.steps is None for one in times.intervals):
        return None
    return [
        (one.steps - steps) * lost / steps for one in times.intervals if one.steps is not None and one.steps > steps
    ]
