"""The page: which lines stand on it and how they look. UPDATE_GOLDENS=1 rewrites the golden page of one run."""

from __future__ import annotations

import math
import re
import subprocess

import pytest
from bench import crowd
from goldens import assert_golden

from trainingrun_operator.api.endings import ENDINGS
from trainingrun_operator.exporter import RunSeries, Telemetry, catalogue
from trainingrun_operator.exporter.metrics import OPERATOR_METRICS, RUN_METRICS

RUN = (("name", "llama"), ("namespace", "ml"))
RUN_BYTES_MAX = 1500
"""Ten thousand runs stay below 15 MB."""


def make_series(name="llama", **gauges):
    phases = {"trainingrun_status_phase": {"Running": 1.0}}
    return RunSeries("ml", name, {"trainingrun_info": 1, "trainingrun_step": 1200, **gauges}, phases)


def every_series(name="llama"):
    """A run that has a series of every metric."""
    return RunSeries(
        "ml",
        name,
        {metric.name: 0.5 for metric in RUN_METRICS if len(metric.labels) == 2},
        {metric.name: {"some": 1} for metric in RUN_METRICS if len(metric.labels) == 3},
    )


def everything():
    """An operator that has seen everything once."""
    telemetry = Telemetry()
    telemetry.runs.put("uid", every_series())
    telemetry.leads(lambda: True)
    telemetry.calls(lambda: {"kubernetes": 3})
    telemetry.terminated("user_stop")
    telemetry.lost_data()
    telemetry.gpu_seconds(60)
    telemetry.gpu_seconds_saved("user_stop", 60)
    telemetry.node_released("a100", 45)
    telemetry.uploaded(1000, 2)
    telemetry.upload_failures(1)
    telemetry.poll_error("metrics", "Timeout")
    telemetry.lateness(0.2)
    telemetry.reconciled(0.3)
    telemetry.reconcile_error()
    telemetry.notification("failed")
    return telemetry


def test_one_run_as_prometheus_reads_it(telemetry):
    telemetry.runs.put("uid", make_series(trainingrun_loss=0.25, trainingrun_start_time_seconds=1767225600.0))
    text = b"".join(telemetry.runs.chunks()).decode()
    assert_golden("exporter/one-run.txt", text)


@pytest.mark.parametrize("metric", catalogue(), ids=lambda metric: metric.name)
def test_every_metric_of_the_catalogue_is_on_the_page_as_it_says(metric):
    page = b"".join(everything().page()).decode()
    assert f"# HELP {metric.name} {metric.help}\n" in page
    assert f"# TYPE {metric.name} {metric.kind}\n" in page
    (series, *_) = re.findall(rf"^{metric.name}(?:_count)?(?:\{{(.*)\}})? ", page, re.MULTILINE)
    assert sorted(re.findall(r'(\w+)="', series)) == sorted(metric.labels)


def test_nothing_is_on_the_page_that_the_catalogue_does_not_say():
    page = b"".join(everything().page()).decode()
    on_it = re.findall(r"^# TYPE (\S+)", page, re.MULTILINE)
    assert sorted(on_it) == sorted(metric.name for metric in catalogue())
    assert len(set(on_it)) == len(on_it) == len(RUN_METRICS) + len(OPERATOR_METRICS)


def test_promtool_has_nothing_to_say():
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=b"".join(everything().page()), capture_output=True, check=False
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


def test_promtool_would_say_something():
    wrong = b"# HELP trainingrun_ends Ends.\n# TYPE trainingrun_ends counter\ntrainingrun_ends 1\n"
    assert subprocess.run(["promtool", "check", "metrics"], input=wrong, capture_output=True, check=False).returncode


@pytest.mark.parametrize("metric", catalogue(), ids=lambda metric: metric.name)
def test_a_metric_keeps_to_prometheus_conventions(metric):
    name = metric.name
    assert re.fullmatch(r"trainingrun_[a-z]+(_[a-z]+)*", name)
    assert (metric.kind == "counter") == name.endswith("_total")
    assert not re.search(r"_(ms|milliseconds|minutes|hours|kb|mb|kilobytes|percent|count|sum|bucket|created)$", name)
    assert metric.kind != "histogram" or name.endswith("_seconds")
    assert ("time" not in name.split("_") and "timestamp" not in name) or name.endswith("_seconds")
    assert metric.help.endswith(".")
    assert "\n" not in metric.help
    assert not {"uid", "message", "uri", "step"} & set(metric.labels)


# -- lines ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (7.0, "7"),
        (0, "0"),
        (0.25, "0.25"),
        (1767225600.0, "1767225600"),
        (-1.5, "-1.5"),
        (1e300, "1e+300"),
        (math.nan, "NaN"),
        (math.inf, "+Inf"),
        (-math.inf, "-Inf"),
    ],
)
def test_a_number_is_written(telemetry, page, samples, value, text):
    telemetry.runs.put("uid", make_series(trainingrun_loss=value))
    assert f'trainingrun_loss{{namespace="ml",name="llama"}} {text}\n' in page()
    assert samples()["trainingrun_loss", RUN] == pytest.approx(value, nan_ok=True)


def test_what_a_label_must_not_hold_is_escaped(telemetry, samples):
    odd = 'a"b\\c\nd'
    telemetry.runs.put("uid", RunSeries("ml", "llama", {}, {"trainingrun_status_phase": {odd: 1}}))
    assert list(samples("trainingrun_status_phase")) == [("trainingrun_status_phase", (*RUN, ("phase", odd)))]


def test_the_lines_of_one_metric_stand_together(telemetry, page):
    for name in ("llama", "mistral", "bert"):
        telemetry.runs.put(name, every_series(name))
    names = [line.partition("{")[0] for line in page().splitlines() if "llama" in line or "bert" in line]
    assert len([name for name, before in zip(names, ["", *names], strict=False) if name != before]) == len(RUN_METRICS)


def test_the_series_of_a_run_vanish_with_it(telemetry, page):
    telemetry.runs.put("1", every_series("llama"))
    telemetry.runs.put("2", every_series("mistral"))
    telemetry.runs.forget("1")
    assert "llama" not in page()
    assert "mistral" in page()
    assert (len(telemetry.runs), "1" in telemetry.runs, "2" in telemetry.runs) == (1, False, True)


def test_all_of_them_vanish_when_another_operator_leads(telemetry, page):
    telemetry.runs.put("1", every_series("llama"))
    telemetry.runs.clear()
    assert "llama" not in page()
    assert len(telemetry.runs) == 0


def test_forgetting_a_run_that_is_not_known_is_no_error(telemetry):
    telemetry.runs.forget("nobody")


def test_a_series_that_a_run_has_no_more_vanishes(telemetry, samples):
    telemetry.runs.put("uid", make_series(trainingrun_eta_seconds=60))
    telemetry.runs.put("uid", make_series())
    assert not samples("trainingrun_eta_seconds")


def test_of_two_phases_only_the_newer_is_present(telemetry, samples):
    for phase in ("Running", "Held"):
        telemetry.runs.put("uid", RunSeries("ml", "llama", {}, {"trainingrun_status_phase": {phase: 1}}))
    assert samples("trainingrun_status_phase") == {("trainingrun_status_phase", (*RUN, ("phase", "Held"))): 1}


# -- size -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("run", ["training", "over"])
def test_ten_thousand_runs_fit_into_fifteen_megabytes(telemetry, run):
    """With names of 24 letters together."""
    empty = sum(map(len, telemetry.runs.chunks()))
    telemetry.runs.put("uid", crowd.series(crowd.STATUSES[run], namespace="team-07", name="llama-sft-0012345"))
    assert sum(map(len, telemetry.runs.chunks())) - empty <= RUN_BYTES_MAX


# -- counters ---------------------------------------------------------------------------------------------------


def test_what_the_operator_does_is_counted(telemetry, samples):
    telemetry.terminated("user_stop")
    telemetry.terminated("user_stop")
    telemetry.lost_data()
    telemetry.gpu_seconds(120)
    telemetry.gpu_seconds_saved("auto_low_loss", 60)
    telemetry.node_released("a100", 45)
    telemetry.uploaded(1000, 2)
    telemetry.upload_failures(3)
    telemetry.poll_error("metrics", "Timeout")
    telemetry.lateness(0.2)
    telemetry.lateness(-1)
    telemetry.reconciled(0.3)
    telemetry.reconcile_error()
    telemetry.notification("failed")
    found = samples()
    assert found["trainingrun_terminations_total", (("status", "user_stop"),)] == 2
    assert found["trainingrun_data_losses_total", ()] == 1
    assert found["trainingrun_gpu_seconds_total", ()] == 120
    assert found["trainingrun_gpu_seconds_saved_total", (("status", "auto_low_loss"),)] == 60
    assert found["trainingrun_node_release_seconds_sum", (("pool", "a100"),)] == 45
    assert found["trainingrun_checkpoint_upload_bytes_total", ()] == 1000
    assert found["trainingrun_checkpoint_upload_duration_seconds_sum", ()] == 2
    assert found["trainingrun_checkpoint_upload_failures_total", ()] == 3
    assert found["trainingrun_poll_errors_total", (("reason", "Timeout"), ("source", "metrics"))] == 1
    assert found["trainingrun_scheduler_lateness_seconds_count", ()] == 2
    assert found["trainingrun_scheduler_lateness_seconds_sum", ()] == 0.2
    assert found["trainingrun_reconcile_duration_seconds_sum", ()] == 0.3
    assert found["trainingrun_reconcile_errors_total", ()] == 1
    assert found["trainingrun_notifications_total", (("result", "failed"),)] == 1


@pytest.mark.parametrize(
    ("metric", "statuses"),
    [
        ("trainingrun_terminations_total", ENDINGS),
        (
            "trainingrun_gpu_seconds_saved_total",
            (
                "auto_low_loss",
                "auto_threshold",
                "auto_plateau",
                "auto_rising",
                "user_stop",
                "max_duration",
                "budget_exhausted",
            ),
        ),
    ],
)
def test_the_first_event_is_an_increase(samples, metric, statuses):
    assert samples(metric) == {(metric, (("status", status),)): 0 for status in statuses}


def test_requests_are_asked_for_whenever_they_are_read(telemetry, samples):
    made = {"kubernetes": 1, "s3": 0}
    telemetry.calls(lambda: made)
    made["kubernetes"] = 5
    assert samples("trainingrun_api_calls_total") == {
        ("trainingrun_api_calls_total", (("api", "kubernetes"),)): 5,
        ("trainingrun_api_calls_total", (("api", "s3"),)): 0,
    }


def test_whether_this_replica_leads_is_asked_whenever_it_is_read(telemetry, samples):
    assert samples("trainingrun_leader") == {("trainingrun_leader", ()): 0}
    said = [True, False]
    telemetry.leads(lambda: said.pop(0))
    assert samples("trainingrun_leader") == {("trainingrun_leader", ()): 1}
    assert samples("trainingrun_leader") == {("trainingrun_leader", ()): 0}


def test_made_up_codes_do_not_become_series_without_end(telemetry, samples):
    for number in range(1_000):
        telemetry.poll_error("store", f"Code{number}")
    telemetry.poll_error("store", "Code1")
    found = samples("trainingrun_poll_errors_total")
    assert len(found) <= 101
    assert found["trainingrun_poll_errors_total", (("reason", "Other"), ("source", "store"))] == 900
    assert found["trainingrun_poll_errors_total", (("reason", "Code1"), ("source", "store"))] == 2
