"""What Prometheus reads of the runs and of the operator."""

from __future__ import annotations

import re

import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import make_mocked_request
from prometheus_client.parser import text_string_to_metric_families

from trainingrun_operator.api.run import TrainingRunSpec
from trainingrun_operator.api.status import TrainingRunStatus
from trainingrun_operator.exporter import Telemetry, metrics_handler, series_of, serve

SPEC = {"template": {}, "checkpoint": {"destination": "s3://bucket/prefix"}, "stallPolls": 4}
STATUS = {
    "phase": "Stopping",
    "startTime": "2026-01-01T00:00:00Z",
    "completionTime": "2026-01-01T01:00:00Z",
    "effective": {"autoStopLoss": 0.5},
    "progress": {
        "loss": "0.25",
        "bestLoss": "0.2",
        "step": 1200,
        "epoch": "1.5",
        "percent": 50,
        "etaSeconds": 60,
        "stallPolls": 2,
        "lastObservationTime": "2026-01-01T00:30:00Z",
    },
    "checkpoint": {
        "uri": "s3://bucket/x",
        "generation": 7,
        "bytes": 7000,
        "verifiedAt": "2026-01-01T00:40:00Z",
        "lag": {"bytes": 12},
    },
    "termination": {
        "id": "stop-1",
        "status": "user_stop",
        "message": "because",
        "phase": "Held",
        "requestedAt": "2026-01-01T00:41:00Z",
        "phaseAt": "2026-01-01T00:42:00Z",
    },
    "nodes": [
        {"name": "a", "uid": "1", "phase": "Cordoned"},
        {"name": "b", "uid": "2", "phase": "Released"},
        {"name": "c", "uid": "3", "phase": "InUse"},
    ],
}


def make_series(name="llama", status=STATUS, **spec):
    return series_of("ml", name, TrainingRunSpec.parse(SPEC | spec), TrainingRunStatus.parse(status))


@pytest.fixture
def telemetry():
    return Telemetry()


async def answer(handle):
    response = await handle(make_mocked_request("GET", "/metrics"))
    assert isinstance(response, web.Response)
    assert isinstance(response.body, bytes)
    return response.body.decode()


async def read(telemetry):
    return await answer(metrics_handler(telemetry, page_seconds=0))


async def samples(telemetry, metric=""):
    """Name and labels to value, of all series or of one metric's."""
    families = text_string_to_metric_families(await read(telemetry))
    found = [sample for family in families for sample in family.samples]
    return {(one.name, tuple(sorted(one.labels.items()))): one.value for one in found if one.name.startswith(metric)}


RUN = (("name", "llama"), ("namespace", "ml"))


@pytest.mark.parametrize(
    ("metric", "value"),
    [
        ("trainingrun_info", 1),
        ("trainingrun_loss", 0.25),
        ("trainingrun_loss_best", 0.2),
        ("trainingrun_auto_stop_loss", 0.5),
        ("trainingrun_step", 1200),
        ("trainingrun_epoch", 1.5),
        ("trainingrun_progress_ratio", 0.5),
        ("trainingrun_eta_seconds", 60),
        ("trainingrun_stall_polls", 2),
        ("trainingrun_stall_polls_limit", 4),
        ("trainingrun_last_metric_timestamp_seconds", 1767227400),
        ("trainingrun_start_time_seconds", 1767225600),
        ("trainingrun_completion_time_seconds", 1767229200),
        ("trainingrun_checkpoint_last_verified_timestamp_seconds", 1767228000),
        ("trainingrun_checkpoint_generation", 7),
        ("trainingrun_checkpoint_bytes", 7000),
        ("trainingrun_checkpoint_lag_bytes", 12),
        ("trainingrun_checkpoint_held", 1),
        ("trainingrun_nodes_unreleased", 1),
    ],
)
async def test_a_run_is_exported_with_namespace_and_name_only(telemetry, metric, value):
    telemetry.runs["uid"] = make_series()
    assert (await samples(telemetry))[metric, RUN] == value


@pytest.mark.parametrize(
    ("metric", "phase"), [("trainingrun_status_phase", "Stopping"), ("trainingrun_termination_phase", "Held")]
)
async def test_only_the_current_phase_is_present(telemetry, metric, phase):
    telemetry.runs["uid"] = make_series()
    assert await samples(telemetry, metric) == {(metric, (*RUN, ("phase", phase))): 1}


async def test_a_run_of_which_nothing_is_known_has_no_made_up_numbers(telemetry):
    telemetry.runs["uid"] = make_series(status={})
    known = {name: value for (name, labels), value in (await samples(telemetry)).items() if labels == RUN}
    assert known == {
        "trainingrun_info": 1,
        "trainingrun_stall_polls_limit": 4,
        "trainingrun_checkpoint_held": 0,
        "trainingrun_nodes_unreleased": 0,
    }


@pytest.mark.parametrize(("text", "expected"), [("NaN", "NaN"), ("Infinity", "+Inf"), ("-inf", "-Inf")])
async def test_a_loss_that_is_not_finite_is_exported_as_it_is(telemetry, text, expected):
    telemetry.runs["uid"] = make_series(status={"progress": {"loss": text}})
    assert f'trainingrun_loss{{name="llama",namespace="ml"}} {expected}\n' in await read(telemetry)


async def test_a_status_that_somebody_garbled_costs_its_series_and_no_more(telemetry):
    telemetry.runs["uid"] = make_series(
        status=STATUS | {"startTime": "yesterday", "progress": {"loss": "low", "step": 3}}
    )
    found = await samples(telemetry)
    assert ("trainingrun_step", RUN) in found
    assert ("trainingrun_loss", RUN) not in found
    assert ("trainingrun_start_time_seconds", RUN) not in found


@pytest.mark.parametrize(
    ("status", "spec", "expected"),
    [
        pytest.param({"effective": {"autoStopLoss": 0.3}}, {"autoStopLoss": 0.1}, 0.3, id="what is in force"),
        pytest.param({}, {"autoStopLoss": 0.1}, 0.1, id="what is written, before anything is in force"),
        pytest.param({}, {}, None, id="nothing"),
        pytest.param({}, {"autoStopLoss": -1}, None, id="nothing where it is off"),
    ],
)
def test_the_threshold_is(status, spec, expected):
    assert make_series(status=status, **spec).gauges.get("trainingrun_auto_stop_loss") == expected


async def test_the_series_of_a_run_vanish_with_it(telemetry):
    telemetry.runs["1"] = make_series("llama")
    telemetry.runs["2"] = make_series("mistral")
    assert "llama" in await read(telemetry)
    del telemetry.runs["1"]
    page = await read(telemetry)
    assert "llama" not in page
    assert "mistral" in page


async def test_what_the_operator_does_is_counted(telemetry):
    telemetry.terminated("user_stop")
    telemetry.terminated("user_stop")
    telemetry.lost_data()
    telemetry.poll_error("metrics", "Timeout")
    telemetry.lateness(0.2)
    telemetry.lateness(-1)
    telemetry.reconciled(0.3)
    telemetry.reconcile_error()
    telemetry.notification("failed")
    found = await samples(telemetry)
    assert found["trainingrun_terminations_total", (("status", "user_stop"),)] == 2
    assert found["trainingrun_data_losses_total", ()] == 1
    assert found["trainingrun_poll_errors_total", (("reason", "Timeout"), ("source", "metrics"))] == 1
    assert found["trainingrun_scheduler_lateness_seconds_count", ()] == 2
    assert found["trainingrun_scheduler_lateness_seconds_sum", ()] == 0.2
    assert found["trainingrun_reconcile_duration_seconds_sum", ()] == 0.3
    assert found["trainingrun_reconcile_errors_total", ()] == 1
    assert found["trainingrun_notifications_total", (("result", "failed"),)] == 1


async def test_whether_this_replica_leads_is_asked_whenever_it_is_read(telemetry):
    assert await samples(telemetry, "trainingrun_leader") == {("trainingrun_leader", ()): 0}
    said = [True, False]
    telemetry.leads(lambda: said.pop(0))
    assert await samples(telemetry, "trainingrun_leader") == {("trainingrun_leader", ()): 1}
    assert await samples(telemetry, "trainingrun_leader") == {("trainingrun_leader", ()): 0}


async def test_made_up_codes_do_not_become_series_without_end(telemetry):
    for number in range(1_000):
        telemetry.poll_error("store", f"Code{number}")
    telemetry.poll_error("store", "Code1")
    found = await samples(telemetry, "trainingrun_poll_errors_total")
    assert len(found) <= 101
    assert found["trainingrun_poll_errors_total", (("reason", "Other"), ("source", "store"))] == 900
    assert found["trainingrun_poll_errors_total", (("reason", "Code1"), ("source", "store"))] == 2


async def test_names_keep_to_prometheus_conventions(telemetry):
    telemetry.runs["uid"] = make_series()
    telemetry.terminated("user_stop")
    telemetry.poll_error("metrics", "Timeout")
    page = await read(telemetry)
    kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", page, re.MULTILINE))
    helped = dict(re.findall(r"^# HELP (\S+) (.+)$", page, re.MULTILINE))
    assert kinds.keys() == helped.keys()
    for name, kind in kinds.items():
        assert re.fullmatch(r"trainingrun_[a-z]+(_[a-z]+)*", name), name
        assert (kind == "counter") == name.endswith("_total"), name
        assert not name.endswith(("_count", "_sum", "_bucket", "_created")), name
        assert not re.search(r"_(ms|milliseconds|minutes|hours|kb|mb|kilobytes|percent)$", name), name
        assert kind != "histogram" or name.endswith("_seconds"), name
        assert ("time" not in name.split("_") and "timestamp" not in name) or name.endswith("_seconds"), name
        assert helped[name].endswith("."), name
    assert not re.search(r'(uid|message|uri|step)="', page)


async def test_the_page_is_served_beside_other_routes(telemetry):
    async def healthy(_):
        return web.Response(text="ok")

    telemetry.runs["uid"] = make_series()
    runner = await serve(telemetry, 0, web.get("/healthz", healthy), host="127.0.0.1")
    try:
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        async with ClientSession() as session:
            async with session.get(f"{url}/metrics") as page:
                assert page.headers["Content-Type"].startswith("text/plain; version=")
                assert 'trainingrun_step{name="llama",namespace="ml"} 1200.0' in await page.text()
            async with session.get(f"{url}/healthz") as page:
                assert await page.text() == "ok"
    finally:
        await runner.cleanup()


async def test_two_readers_at_once_cost_one_rendering(telemetry):
    telemetry.runs["uid"] = make_series()
    handle = metrics_handler(telemetry, page_seconds=60)
    first = await answer(handle)
    telemetry.runs.clear()
    assert await answer(handle) == first
