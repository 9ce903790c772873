"""What is written of a run's loss curve and when; that nothing waits for it; and whose ConfigMap is touched."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from datetime import datetime
from types import SimpleNamespace

import pytest
from builders import (
    NAME,
    NAMESPACE,
    NOW,
    RUN_UID,
    WALL,
    losses,
    make_observed,
    make_reading,
    make_run,
    make_status,
    make_stop,
    track_of,
)
from fakes import EVENTS, ApiError, Plain, api_server

from trainingrun_operator.api.curve import Curve
from trainingrun_operator.api.status import Phase
from trainingrun_operator.core.curve import Thinned, added, config_map, observed
from trainingrun_operator.core.facts.reading import LOGS
from trainingrun_operator.edge.background import curve as module
from trainingrun_operator.edge.background import loop as worker
from trainingrun_operator.edge.background.curve import INTERVAL_MAX_SECONDS, CurveWriter
from trainingrun_operator.edge.kube import Kube

ALL = f"/api/v1/namespaces/{NAMESPACE}/configmaps"
CURVE = f"{ALL}/{NAME}-curve"
EVERY = 30
AT = int(datetime.fromisoformat(WALL).timestamp())
"""When everything is seen."""


@pytest.fixture
async def place():
    async with api_server() as api, Kube(Plain(api.url)) as kube:
        place = SimpleNamespace(api=api, kube=kube, now=1000.0, leads=True)
        place.operator = lambda: CurveWriter(kube, lambda: place.leads, EVERY, lambda: place.now)
        place.curves = place.operator()
        yield place


def seen(*values, ended=False, **fields):
    status = make_status(termination=make_stop(Phase.DRAINING)) if ended else None
    return make_observed(run=make_run(status=status, **fields), track=losses(*values, first_step=0))


FIVES = [5.0 + n / 100 for n in range(9)]
"""Each a new loss."""


def stored(place):
    return [point.loss for point in Curve.model_validate_json(place.api.objects[CURVE]["data"]["curve.json"]).points]


def own(curve=None, **meta):
    """The run's ConfigMap, with something in it."""
    made = config_map(NAMESPACE, NAME, RUN_UID, curve or observed(Thinned(), seen(2.0)).curve)
    return made | {"metadata": {**made["metadata"], "uid": "curve-uid", "resourceVersion": "7", **meta}}


async def look(place, *values, after=0.0, **how):
    place.now += after
    place.curves.note(seen(*values, **how))
    await place.curves.write()


# -- when -------------------------------------------------------------------------------------------------------


async def test_the_first_observation_is_written_at_once_the_next_after_a_while(place):
    await look(place, 2.0)
    await look(place, 2.0, 1.5, after=10)
    assert stored(place) == [2.0]
    await look(place, 2.0, 1.5, 1.2, after=20)
    assert stored(place) == [2.0, 1.5, 1.2]
    assert place.api.lines() == [f"GET {CURVE}", f"POST {ALL}", f"PATCH {CURVE}"]


@pytest.mark.parametrize(
    ("covered", "interval"),
    [
        pytest.param(0, EVERY, id="one point"),
        pytest.param(600, EVERY, id="ten minutes"),
        pytest.param(3600, 180, id="an hour"),
        pytest.param(86_400, INTERVAL_MAX_SECONDS, id="a day"),
    ],
)
async def test_the_longer_a_curve_the_less_often_it_is_written(place, covered, interval):
    line = added(Thinned(), at=AT - covered, step=0, epoch=None, loss=9.0)
    place.api.put(own(line.curve))
    values = [5.0]
    await look(place, *values)
    assert stored(place)[-1] == 5.0
    await look(place, *values, 4.0, after=interval - 1)
    assert stored(place)[-1] == 5.0
    await look(place, *values, 4.0, 3.0, after=1)
    assert stored(place)[-1] == 3.0


async def test_a_run_that_makes_no_step_costs_nothing(place):
    await look(place)
    for _ in range(5):
        await look(place, 2.0, after=EVERY)
    assert place.api.lines() == [f"GET {CURVE}", f"POST {ALL}"]


async def test_a_point_between_two_of_a_thinned_curve_is_written_at_the_end_only(place):
    line = Thinned()
    for n in range(499):
        line = added(line, at=1_767_323_045, step=n, epoch=None, loss=9.0)
    curve = line.curve
    assert curve.every == 2
    place.api.put(own(curve))
    await look(place, *FIVES)
    written = len(place.api.sent)
    await look(place, *FIVES, 4.0, after=EVERY)
    assert len(place.api.sent) == written
    await look(place, *FIVES, 4.0, ended=True)
    assert len(place.api.sent) == written + 1
    assert stored(place)[-1] == 4.0


async def test_the_end_of_a_run_is_written_at_once_and_once(place):
    await look(place, 2.0)
    await look(place, 2.0, 0.3, after=1, ended=True)
    assert stored(place) == [2.0, 0.3]
    for _ in range(3):
        await look(place, 2.0, 0.3, after=EVERY, ended=True)
    assert place.api.lines("PATCH") == [f"PATCH {CURVE}"]


async def test_a_suspended_run_that_is_resumed_goes_on_where_its_curve_ended(place):
    await look(place, 2.0, ended=True)
    await look(place, 2.0, after=600)
    await look(place, 2.0, 1.5, after=EVERY)
    await look(place, 2.0, 1.5, 1.2, after=1, ended=True)
    assert stored(place) == [2.0, 1.5, 1.2]


async def test_a_suspended_run_that_is_resumed_before_it_was_written_loses_nothing(place):
    place.api.refuse(f"POST {ALL}", ApiError(500, "InternalError"))
    await look(place, 2.0, ended=True)
    await look(place, 2.0, 1.5, after=2)
    assert stored(place) == [2.0, 1.5]


async def test_the_end_of_a_run_wakes_the_writer(place, monkeypatch):
    monkeypatch.setattr(worker, "LOOK_SECONDS", 600)
    writer = asyncio.create_task(place.curves.run())
    await asyncio.sleep(0)
    arrived = asyncio.Event()
    place.api.before = lambda sent: arrived.set() if sent.method == "POST" else None
    place.curves.note(seen(2.0, ended=True))
    await asyncio.wait_for(arrived.wait(), 10)
    writer.cancel()
    await asyncio.gather(writer, return_exceptions=True)


async def test_a_run_that_ended_without_an_observation_has_no_curve(place):
    await look(place, ended=True)
    assert place.api.sent == []


async def test_a_run_that_is_being_deleted_or_is_gone_is_not_written(place):
    place.curves.note(seen(2.0))
    await look(place, 2.0, 1.5, deleting=True)
    place.curves.note(seen(2.0))
    place.curves.forget(RUN_UID)
    await place.curves.write()
    assert place.api.sent == []


async def test_who_does_not_lead_writes_nothing(place):
    place.leads = False
    await look(place, 2.0)
    place.leads = True
    place.curves.forget_all()
    await place.curves.write()
    assert place.api.sent == []


# -- going on ---------------------------------------------------------------------------------------------------


async def test_an_operator_that_is_restarted_goes_on_from_what_is_written(place):
    await look(place, 2.0)
    await look(place, 2.0, 1.5, after=EVERY)
    place.curves = place.operator()
    place.now += EVERY
    place.curves.note(seen(2.0, 1.5, 1.2))
    await look(place, 2.0, 1.5, 1.2, 1.1, after=1)
    assert stored(place) == [2.0, 1.5, 1.2, 1.1]


@pytest.mark.parametrize(
    "data",
    [
        pytest.param({"curve.json": "{"}, id="no JSON"),
        pytest.param({"curve.json": '{"points": [{"at": "soon", "step": 1, "loss": 1}]}'}, id="no time"),
        pytest.param({"curve.json": '{"every": 0}'}, id="a schema that is not ours"),
        pytest.param({"curve.json": '{"points": [{"at": "2026-01-01T00:00:00Z", "step": 1, "loss": NaN}]}'}, id="NaN"),
        pytest.param({}, id="another key"),
        pytest.param(None, id="nothing"),
    ],
)
async def test_what_is_not_understood_is_written_anew(place, data):
    place.api.put({**own(), "data": data})
    await look(place, 2.0)
    assert stored(place) == [2.0]


async def test_a_curve_that_somebody_deleted_comes_back_whole(place):
    await look(place, 2.0)
    place.api.objects.clear()
    await look(place, 2.0, 1.5, after=EVERY)
    assert place.api.objects == {}
    await look(place, 2.0, 1.5, after=2)
    assert stored(place) == [2.0, 1.5]


async def test_a_curve_that_somebody_made_anew_is_not_written_by_its_old_uid(place):
    await look(place, 2.0)
    place.api.put(own())
    await look(place, 2.0, 1.5, after=EVERY)
    await look(place, 2.0, 1.5, after=2)
    assert stored(place) == [2.0, 1.5]
    assert [sent.body["metadata"]["uid"] for sent in place.api.sent if sent.method == "PATCH"][-1] == "curve-uid"


# -- failing ----------------------------------------------------------------------------------------------------


async def test_a_write_that_fails_is_tried_again_later_and_later(place, caplog):
    waits, since = [], place.now
    for _ in range(3):
        place.api.refuse(f"POST {ALL}", ApiError(403, "Forbidden"))
    while CURVE not in place.api.objects:
        tried = len(place.api.lines("POST"))
        await look(place, 2.0, after=1)
        if len(place.api.lines("POST")) > tried:
            waits.append(place.now - since)
            since = place.now
    assert waits == [1, 2, 4, 8]
    assert len([record for record in caplog.records if "is retried" in record.message]) == 1


async def test_what_fails_at_the_end_of_a_run_is_still_written(place):
    await look(place, 2.0)
    place.api.refuse(f"PATCH {CURVE}", ApiError(500, "InternalError"))
    await look(place, 2.0, 0.3, after=1, ended=True)
    assert stored(place) == [2.0]
    place.now += 2
    await place.curves.write()
    assert stored(place) == [2.0, 0.3]


async def test_a_bug_costs_one_curve_a_try_and_no_other_curve_anything(place, monkeypatch, caplog):
    monkeypatch.setattr(module, "_written_before", lambda kept, found: 1 / 0)
    place.api.put(own())
    place.curves.note(seen(2.0))
    place.curves.note(seen(3.0, name="gpt", uid="gpt-uid"))
    await place.curves.write()
    assert f"{ALL}/gpt-curve" in place.api.objects
    assert "ZeroDivisionError" in caplog.text


async def test_a_write_that_hangs_keeps_nobody_from_being_noted(place):
    answered = asyncio.Event()
    real = place.kube.config_map

    async def hangs(*args):
        await answered.wait()
        return await real(*args)

    place.kube.config_map = hangs
    place.curves.note(seen(2.0))
    writing = asyncio.create_task(place.curves.write())
    await asyncio.sleep(0)
    place.curves.note(seen(2.0, 1.5))
    assert not writing.done()
    answered.set()
    await writing
    assert stored(place) == [2.0, 1.5]


# -- whose ------------------------------------------------------------------------------------------------------


async def test_a_config_map_of_somebody_else_is_left_alone_and_that_is_said_once(place):
    theirs = own(ownerReferences=[])
    place.api.put({**theirs, "data": {"mine": "1"}})
    for _ in range(4):
        await look(place, 2.0, after=700)
    assert place.api.objects[CURVE]["data"] == {"mine": "1"}
    assert place.api.lines("PATCH") == []
    (told,) = [sent.body for sent in place.api.sent if sent.line == f"POST {EVENTS}"]
    assert told["reason"] == "CurveNotKept"
    assert told["message"] == (
        "The loss curve is not stored: ConfigMap bert-curve exists and does not belong to this run. Delete or rename it."
    )
    assert told["involvedObject"]["uid"] == RUN_UID


async def test_a_word_that_could_not_be_said_is_said_later(place):
    place.api.put(own(ownerReferences=[]))
    place.api.refuse(f"POST {EVENTS}", ApiError(500, "InternalError"))
    for _ in range(3):
        await look(place, 2.0, after=700)
    assert place.api.lines("POST") == [f"POST {EVENTS}"] * 2


async def test_once_it_is_out_of_the_way_the_curve_is_kept(place):
    place.api.put(own(ownerReferences=[]))
    await look(place, 2.0)
    place.api.objects.clear()
    await look(place, 2.0, 1.5, after=700)
    assert stored(place) == [2.0, 1.5]


async def test_the_curve_of_an_earlier_run_of_that_name_is_waited_for_without_a_word(place):
    owner = {**own()["metadata"]["ownerReferences"][0], "uid": "earlier"}
    place.api.put(own(ownerReferences=[owner]))
    await look(place, 3.0)
    assert place.api.lines("POST", "PATCH") == []
    place.api.objects.clear()
    await look(place, 3.0, after=2)
    assert stored(place) == [3.0]


async def test_what_is_written_can_be_read_by_anybody(place):
    await look(place, 2.0)
    body = json.loads(place.api.objects[CURVE]["data"]["curve.json"])
    assert body["every"] == 1
    assert set(body["points"][0]) == {"at", "step", "loss"}


# -- values beside the loss -------------------------------------------------------------------------------------


def with_values(step, *, ended=False, **values):
    """A look at a training whose log has these values, and a loss that does not count yet."""
    start = replace(make_reading(step=0), source=LOGS)
    track = track_of((0, start), (NOW, replace(start, step=step, values=values)))
    status = make_status(termination=make_stop(Phase.DRAINING)) if ended else None
    return make_observed(run=make_run(status=status), track=track)


def values_of(place):
    curve = Curve.model_validate_json(place.api.objects[CURVE]["data"]["curve.json"])
    return {one.name: [(point.step, point.value) for point in one.points] for one in curve.values}


async def test_values_without_a_loss_are_kept_too(place):
    place.curves.note(with_values(10, accuracy=0.5))
    await place.curves.write()
    assert (stored(place), values_of(place)) == ([], {"accuracy": [(10, 0.5)]})


async def test_a_restarted_operator_goes_on_from_the_stored_values(place):
    place.curves.note(with_values(10, accuracy=0.5))
    await place.curves.write()
    place.curves = place.operator()
    for step, value in ((20, 0.5), (30, 0.7)):
        place.curves.note(with_values(step, accuracy=value))
    await place.curves.write()
    assert values_of(place) == {"accuracy": [(10, 0.5), (30, 0.7)]}
    place.curves.note(with_values(40, ended=True, accuracy=0.8))
    await place.curves.write()
    assert values_of(place) == {"accuracy": [(10, 0.5), (30, 0.7), (40, 0.8)]}


async def test_a_value_that_does_not_change_costs_no_write(place):
    for step in (10, 20, 30):
        place.now += EVERY
        place.curves.note(with_values(step, accuracy=0.5))
        await place.curves.write()
    assert place.api.lines() == [f"GET {CURVE}", f"POST {ALL}"]
