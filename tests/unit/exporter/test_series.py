"""What the numbers of one run are."""

from __future__ import annotations

from math import isnan

import pytest
from builders import template

from trainingrun_operator.api.run import TrainingRunSpec
from trainingrun_operator.api.status import TrainingRunStatus
from trainingrun_operator.exporter import Measured, series_of

SPEC = {"template": template(), "checkpoint": {"destination": "s3://bucket/prefix"}, "stallPolls": 4}
PROGRESS = {
    "loss": "0.25",
    "bestLoss": "0.2",
    "step": 1200,
    "epoch": "1.5",
    "totalEpochs": 2,
    "epochBase": 0,
    "percent": 75,
    "etaSeconds": 60,
    "stallPolls": 2,
    "lastObservationTime": "2026-01-01T00:30:00Z",
}
STOP = {
    "id": "stop-1",
    "status": "user_stop",
    "message": "because",
    "phase": "Held",
    "requestedAt": "2026-01-01T00:41:00Z",
    "phaseAt": "2026-01-01T00:42:00Z",
    "dataLoss": "Something.",
}
STATUS = {
    "phase": "Running",
    "startTime": "2026-01-01T00:00:00Z",
    "completionTime": "2026-01-01T01:00:00Z",
    "effective": {"autoStopLoss": 0.5},
    "progress": PROGRESS,
    "pods": [
        {"name": "p-1", "uid": "1", "node": "a", "phase": "Failed"},
        {"name": "p-2", "uid": "2", "node": "b", "phase": "Exited"},
        {"name": "p-3", "uid": "3", "phase": "Pending"},
    ],
    "checkpoint": {
        "uri": "s3://bucket/x",
        "generation": 7,
        "bytes": 7000,
        "verifiedAt": "2026-01-01T00:40:00Z",
        "lag": {"bytes": 12},
    },
    "nodes": [
        {"name": "a", "uid": "1", "phase": "Cordoned"},
        {"name": "b", "uid": "2", "phase": "Released"},
        {"name": "c", "uid": "3", "phase": "InUse"},
    ],
}
ENDING = STATUS | {"phase": "Stopping", "termination": STOP}
MEASURED = Measured(checkpoint_lag_seconds=30, upload_failing_seconds=9, nodes_overdue=1, ghosts={"a100": 1})


def make_series(name="llama", status=STATUS, measured=None, **spec):
    return series_of("ml", name, TrainingRunSpec.parse(SPEC | spec), TrainingRunStatus.parse(status), measured)


def metrics_available(status, reason, **more):
    said = {"type": "MetricsAvailable", "status": status, "reason": reason, "lastTransitionTime": STATUS["startTime"]}
    return {"conditions": [said], **more}


@pytest.mark.parametrize(
    ("metric", "value"),
    [
        ("trainingrun_info", 1),
        ("trainingrun_loss", 0.25),
        ("trainingrun_loss_best", 0.2),
        ("trainingrun_auto_stop_loss", 0.5),
        ("trainingrun_step", 1200),
        ("trainingrun_epoch", 1.5),
        ("trainingrun_progress_ratio", 0.75),
        ("trainingrun_eta_seconds", 60),
        ("trainingrun_stall_polls", 2),
        ("trainingrun_stall_polls_limit", 4),
        ("trainingrun_last_metric_timestamp_seconds", 1767227400),
        ("trainingrun_start_time_seconds", 1767225600),
        ("trainingrun_completion_time_seconds", 1767229200),
        ("trainingrun_gpus", 1),
        ("trainingrun_checkpoint_last_verified_timestamp_seconds", 1767228000),
        ("trainingrun_checkpoint_generation", 7),
        ("trainingrun_checkpoint_bytes", 7000),
        ("trainingrun_checkpoint_lag_bytes", 12),
        ("trainingrun_checkpoint_lag_seconds", 30),
        ("trainingrun_checkpoint_upload_failing_seconds", 9),
        ("trainingrun_nodes_overdue", 1),
    ],
)
def test_a_run_in_numbers(metric, value):
    assert make_series(measured=MEASURED).gauges[metric] == value


@pytest.mark.parametrize(
    ("metric", "value"),
    [
        ("trainingrun_termination_requested_timestamp_seconds", 1767228060),
        ("trainingrun_checkpoint_held", 1),
        ("trainingrun_checkpoint_data_loss", 1),
        ("trainingrun_nodes_unreleased", 1),
    ],
)
def test_a_stop_in_numbers(metric, value):
    assert make_series(status=ENDING).gauges[metric] == value
    assert metric not in make_series().gauges


@pytest.mark.parametrize(
    "metric",
    [
        "trainingrun_auto_stop_loss",
        "trainingrun_metrics_available",
        "trainingrun_eta_seconds",
        "trainingrun_stall_polls",
        "trainingrun_stall_polls_limit",
        "trainingrun_last_metric_timestamp_seconds",
    ],
)
def test_what_is_so_only_of_a_training_is_absent_once_the_run_ends(metric):
    assert metric in make_series(status=STATUS | metrics_available("True", "Fresh")).gauges
    assert metric not in make_series(status=ENDING | metrics_available("False", "NotRunning")).gauges


def test_only_the_current_phases_are_present():
    assert make_series().labelled["trainingrun_status_phase"] == {"Running": 1}
    assert make_series().labelled["trainingrun_termination_phase"] == {}
    assert make_series().labelled["trainingrun_termination_status"] == {}
    labelled = make_series(status=ENDING, measured=MEASURED).labelled
    assert labelled == {
        "trainingrun_cost": {},
        "trainingrun_finding": {},
        "trainingrun_status_phase": {"Stopping": 1},
        "trainingrun_termination_phase": {"Held": 1},
        "trainingrun_termination_status": {"user_stop": 1},
        "trainingrun_ghost_instances": {"a100": 1},
    }


def test_a_run_of_which_nothing_is_known_has_no_made_up_numbers():
    series = make_series(status={})
    assert series.gauges == {"trainingrun_info": 1}
    assert not any(series.labelled.values())


@pytest.mark.parametrize("metric", ["trainingrun_stall_polls", "trainingrun_stall_polls_limit"])
def test_what_belongs_to_the_final_epoch_is_absent_before_it(metric):
    assert metric not in make_series(status={"progress": PROGRESS | {"epoch": "0.9"}}).gauges


@pytest.mark.parametrize(
    ("epoch", "total", "shown"),
    [
        pytest.param("0.1", 0.5, True, id="the first half of one is the last"),
        pytest.param("1.9", 2.5, False, id="two whole ones come before the last half"),
        pytest.param("2.1", 2.5, True, id="the last half of two and a half"),
        pytest.param("9", 3, False, id="beyond the total there is none"),
    ],
)
def test_the_final_epoch_of_a_fraction(epoch, total, shown):
    progress = PROGRESS | {"epoch": epoch, "totalEpochs": total, "fractionalEpochs": True}
    assert ("trainingrun_stall_polls" in make_series(status={"progress": progress}).gauges) == shown


@pytest.mark.parametrize(
    ("status", "available"),
    [
        pytest.param(metrics_available("True", "Fresh"), 1, id="a fresh loss"),
        pytest.param(metrics_available("False", "Timeout"), 0, id="a page that does not answer"),
        pytest.param(metrics_available("Unknown", "NotRunning"), None, id="no training"),
        pytest.param(metrics_available("False", "NotRunning", termination=STOP), None, id="a run that ends"),
        pytest.param({}, None, id="nothing yet"),
    ],
)
def test_metrics_are_available(status, available):
    assert make_series(status=status).gauges.get("trainingrun_metrics_available") == available


def test_a_loss_that_is_not_finite_now_is_not_a_number():
    loss = make_series(status=metrics_available("False", "NotFinite", progress=PROGRESS)).gauges["trainingrun_loss"]
    assert isnan(loss)


def test_a_loss_that_is_not_finite_before_the_first_step_is_none_yet():
    assert "trainingrun_loss" not in make_series(status=metrics_available("False", "NotFinite")).gauges


def test_after_a_training_that_ended_with_nan_its_newest_finite_loss_is_left():
    ended = metrics_available("False", "NotRunning", progress=PROGRESS, termination=STOP)
    assert make_series(status=ended).gauges["trainingrun_loss"] == 0.25


@pytest.mark.parametrize("text", ["low", "nan", "Infinity"])
def test_a_status_that_somebody_garbled_costs_its_series_and_no_more(text):
    gauges = make_series(status=STATUS | {"startTime": "yesterday", "progress": {"loss": text, "step": 3}}).gauges
    assert gauges["trainingrun_step"] == 3
    assert "trainingrun_loss" not in gauges
    assert "trainingrun_start_time_seconds" not in gauges


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


def test_a_run_without_gpus_holds_none():
    assert "trainingrun_gpus" not in make_series(template={"spec": {"containers": [{"name": "train"}]}}).gauges


def findings(*found):
    return {
        "findings": [{"rule": rule, "reason": reason, "fires": fires, "message": "m"} for rule, reason, fires in found]
    }


@pytest.mark.parametrize(
    ("found", "series"),
    [
        pytest.param((), {}, id="none, as once an end is decided"),
        pytest.param((("autoStopLoss", "NotBelow", False), ("marker", "NotWritten", False)), {"NotBelow": 0, "NotWritten": 0}, id="one for every reason"),
        pytest.param((("autoStopLoss", "LowLoss", True),), {"LowLoss": 1}, id="a rule that only reports"),
        pytest.param((("marker", "NoReport", False), ("finalEpochStall", "NoReport", False)), {"NoReport": 0}, id="one reason of two rules"),
        pytest.param((("a", "X", True), ("b", "X", False)), {"X": 1}, id="of which one holds"),
        pytest.param((("a", "any text of a source", False), ("b", "x" * 100, False), ("c", "", False)), {"Other": 0}, id="what is no reason"),
    ],
)  # fmt: skip
def test_the_reasons_of_findings(found, series):
    assert make_series(status=STATUS | findings(*found)).labelled["trainingrun_finding"] == series


def test_a_loss_of_data_stays_after_a_suspension_is_over():
    lost = STATUS | {"checkpoint": {"uri": "s3://bucket/x", "dataLoss": "Something."}}
    assert make_series(status=lost).gauges["trainingrun_checkpoint_data_loss"] == 1
    assert "trainingrun_checkpoint_data_loss" not in make_series().gauges
