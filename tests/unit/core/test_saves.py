"""When a training saves, folded from the reports of its agents, and what is forecast from that."""

from __future__ import annotations

from dataclasses import replace

import pytest
from builders import (
    POD_UID,
    WALL,
    losses,
    make_agent,
    make_found,
    make_observed,
    make_pod,
    make_run,
    make_status,
    make_workload,
)

from trainingrun_operator.api.saves import INTERVALS_MAX, SaveInterval, SaveTimes
from trainingrun_operator.core import saves
from trainingrun_operator.core.facts.gathered import Facts
from trainingrun_operator.core.saves import Forecast, fold, forecast
from trainingrun_operator.core.words import before

START = before(WALL, 10_000)
POD = make_pod(started_at=START)


def look(at: float, *newest, pod=POD, run=None) -> Facts:
    """A look so many seconds after the start of the training; per rank its newest checkpoint as (step, written at), or None."""
    pods = tuple(
        replace(pod, uid=pod.uid if not number else f"{pod.uid}-{number}", rank=number) for number in range(len(newest))
    )
    reports = {
        number: make_agent(
            newest=None if one is None else make_found(dir=f"checkpoint-{one[0]}", step=one[0], age_seconds=at - one[1])
        )
        for number, one in enumerate(newest)
    }
    workload = make_workload(world_size=len(newest))
    return Facts(run=run or make_run(), wall=before(START, -at), pods=pods, workload=workload, reports=reports)


def folded(*looks: Facts) -> SaveTimes | None:
    known = None
    for facts in looks:
        known = fold(known, facts)
    return known


def intervals(*pairs):
    return tuple(SaveInterval(seconds=seconds, steps=steps) for seconds, steps in pairs)


@pytest.mark.parametrize(
    ("looks", "found"),
    [
        pytest.param([look(10, None)], None, id="none"),
        pytest.param([look(110, (100, 100))], (100, 100, ()), id="one checkpoint has no interval"),
        pytest.param([look(110, (100, 100)), look(120, (100, 100)), look(130, (100, 102))], (100, 100, ()), id="the same one again, its age exact to a look"),
        pytest.param([look(110, (100, 100)), look(250, (200, 240))], (200, 240, intervals((140, 100))), id="two"),
        pytest.param([look(110, (100, 100)), look(250, (100, 240))], (100, 100, ()), id="a file was added to the same one: it is not another"),
        pytest.param([look(110, (None, 100)), look(250, (None, 240))], (None, 240, intervals((140, None))), id="one file written again and again, without a step"),
        pytest.param([look(110, (100, 100)), look(250, (None, 240))], (None, 240, intervals((140, None))), id="one of them has no step"),
        pytest.param([look(110, (900, 100)), look(250, (20, 240))], (20, 240, intervals((140, None))), id="the steps begin again"),
        pytest.param([look(110, (100, 100)), look(120, (90, 40))], (100, 100, ()), id="the newest one was deleted"),
        pytest.param([look(110, (100, 100)), look(120, None), look(250, (200, 240))], (200, 240, intervals((140, 100))), id="a look without one between"),
        pytest.param([look(10, (100, -50)), look(110, (200, 100)), look(310, (300, 300))], (300, 300, intervals((200, 100))), id="no interval from what lay there before the training started"),
        pytest.param([look(110, (100, 100), (100, 90))], (100, 90, ()), id="of two ranks, the slower one's"),
        pytest.param([look(110, (100, 100), None)], None, id="one of two ranks has none"),
        pytest.param([look(110, (100, 100), (100, 95)), look(250, (200, 245), (100, 95)), look(260, (200, 245), (200, 250))], (200, 245, intervals((150, 100))), id="it counts once every rank has it"),
    ],
)  # fmt: skip
def test_the_checkpoints_that_are_seen_are_remembered_with_their_intervals(looks, found):
    known = folded(*looks)
    if found is None:
        assert known is None
        return
    step, at, between = found
    assert known is not None
    assert (known.pod_uid, known.step, known.intervals) == (POD_UID, step, between)
    assert known.at == before(START, -at)


def test_only_the_newest_intervals_are_kept():
    known = folded(*(look(100 * n + 10, (n, 100 * n)) for n in range(1, 30)))
    assert known is not None
    assert known.intervals == intervals(*[(100, 1)] * INTERVALS_MAX)


def test_an_agent_that_does_not_answer_changes_nothing():
    known = folded(look(110, (100, 100)))
    assert fold(known, replace(look(200, (150, 190)), reports={})) == known
    assert fold(known, replace(look(200, (150, 190)), pods=())) == known


def test_a_restarted_operator_goes_on_from_the_status():
    known = folded(look(110, (100, 100)), look(250, (200, 240)))
    run = make_run(status=make_status(save_times=known))
    again = fold(None, look(400, (300, 380), run=run))
    assert again is not None
    assert again.intervals == intervals((140, 100), (140, 100))


def test_a_new_pod_keeps_the_intervals_and_counts_none_over_the_pause():
    known = folded(look(110, (100, 100)), look(250, (200, 240)))
    later = make_pod(uid="pod-2", started_at=before(START, -5000))
    moved = fold(known, look(5010, (200, 240), pod=later))
    after = fold(moved, look(5200, (300, 5150), pod=later))
    assert after is not None
    assert (after.pod_uid, after.step) == ("pod-2", 300)
    assert after.intervals == intervals((140, 100))


def training(times, *, ran=10_000.0, **fields):
    """A training that has run for so many seconds. Its newest checkpoint is `times.at`."""
    return make_observed(**{"pods": (make_pod(started_at=before(WALL, ran)),), "saves": times, **fields})


def saved(ago, *pairs, step=None):
    return SaveTimes(pod_uid=POD_UID, at=before(WALL, ago), step=step, intervals=intervals(*pairs))


ONLY = "fewer than two checkpoints of this training were seen, so that their interval is not known"


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        pytest.param(training(None), Forecast(why="no checkpoint is complete yet"), id="no checkpoint"),
        pytest.param(training(SaveTimes(pod_uid=POD_UID)), Forecast(why="no checkpoint is complete yet"), id="none of this pod"),
        pytest.param(training(saved(60, (100, None)).model_copy(update={"pod_uid": "other"})), Forecast(why="no checkpoint is complete yet"), id="only of another pod"),
        pytest.param(training(saved(60, (100, None)), agent=None), Forecast(why="an agent does not answer, so that no later checkpoint would be seen"), id="an agent is silent"),
        pytest.param(training(saved(60)), Forecast(None, 60, None, ONLY), id="one checkpoint is no interval"),
        pytest.param(training(saved(60, (100, None), (100, None))), Forecast(40, 60), id="by the time between two"),
        pytest.param(training(saved(60, (30, None), (500, None), (80, None), (90, None))), Forecast(30, 60), id="irregular: the middle one of the intervals that are not over yet"),
        pytest.param(training(saved(60, (50, None), (55, None))), Forecast(None, 60, None, "it is overdue: each of the last 2 intervals was shorter"), id="overdue"),
        pytest.param(training(saved(60, (50, None))), Forecast(None, 60, None, "it is overdue: the only interval that was seen is shorter"), id="overdue, by one interval"),
        pytest.param(training(saved(5000, (600, None)), ran=100), Forecast(500, 100), id="a restored checkpoint: only what this pod has trained would be lost"),
        pytest.param(training(saved(60, (100, 100), step=1000), track=losses(1, 1, first_step=820)), Forecast(240, 60, 20), id="slower than before: 20 steps in 60 s, 80 to go"),
        pytest.param(training(saved(60, (100, 120), step=1000), track=losses(1, 1, first_step=890)), Forecast(20, 60, 90), id="faster than before"),
        pytest.param(training(saved(60, (100, 100), step=1000), track=losses(1, 1, first_step=950)), Forecast(None, 60, 150, "it is overdue: the only interval that was seen is shorter"), id="overdue by the steps"),
        pytest.param(training(saved(60, (100, 100), step=1000), track=losses(1, 1, first_step=800)), Forecast(40, 60, 0), id="no step since then: by the time"),
        pytest.param(training(saved(60, (100, 100), (90, None), step=1000), track=losses(1, 1, first_step=820)), Forecast(40, 60, 20), id="an interval without steps: by the time"),
        pytest.param(training(saved(60, (100, 100), step=9000), track=losses(1, 1, first_step=820)), Forecast(40, 60), id="the steps of metrics and checkpoints differ: by the time"),
        pytest.param(training(saved(60, (100, 100), step=1000), track=replace(losses(1, 1, first_step=820), fell=(2000, 0))), Forecast(40, 60), id="the steps began again: by the time"),
        pytest.param(training(saved(-30, (100, 100), step=1000), track=losses(1, 1, first_step=820)), Forecast(100, 0, 20), id="a clock that runs ahead"),
    ],
)  # fmt: skip
def test_the_next_checkpoint_is_forecast_from_the_intervals_that_were_seen(seen, expected):
    assert forecast(seen) == expected


def test_a_pod_without_a_start_counts_since_the_checkpoint():
    assert forecast(training(saved(60, (100, None)), pods=(make_pod(started_at=""),))) == Forecast(40, 60)


@pytest.mark.parametrize(("earlier", "later"), [(None, WALL), (WALL, None), ("soon", WALL)])
def test_what_is_no_time_is_no_duration(earlier, later):
    assert saves.seconds_between(earlier, later) is None
