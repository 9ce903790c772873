"""Gauges that lie, break or hang: no decision from them, a reason with words, and nobody else is delayed."""

from __future__ import annotations

from itertools import pairwise
from statistics import median

import pytest
from e2e.runs import condition_of
from waiting import eventually

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

LONG = ("--epochs", "200", "--step-seconds", "0.1")
POLLS = 10
# digits.py, saying when it is scraped.
TELLING = """
import http.server, runpy, time
answer = http.server.BaseHTTPRequestHandler.send_response
def telling(self, *args):
    print("scraped", time.monotonic(), flush=True)
    answer(self, *args)
http.server.BaseHTTPRequestHandler.send_response = telling
runpy.run_path("/usr/local/bin/digits.py", run_name="__main__")
"""
BAD = {
    "stays at 0": (("--gauge", "zero"), {}, "NeverAdvanced", "its first value"),
    "was never set": (("--gauge", "unset"), {}, "LossNeverChanged", "the first value seen"),
    "stands for one that is not finite": (
        ("--gauge", "filtered", "--gauge-from", "40"),
        {"autoStopLoss": 0.01},
        "ZeroLoss",
        "exactly 0",
    ),
    "is one of several": (("--gauge", "ranks"), {}, "AmbiguousSeries", "labels: rank"),
    "is NaN": (("--gauge", "nan"), {}, "NotFinite", "nan"),
    "is infinite": (("--gauge", "inf"), {}, "NotFinite", "inf"),
    "is missing": (("--gauge", "missing"), {}, "NoSuchMetric", "spec.metrics.names.loss"),
    "is on another port": ((), {"metrics": {"port": 8001}}, "ConnectionRefused", "spec.metrics.port"),
}


@pytest.mark.parametrize(("args", "spec", "reason", "words"), BAD.values(), ids=BAD)
def test_no_run_is_stopped_by_a_loss_that(args, spec, reason, words, space):
    run = space.run("bad", *LONG, *args, **{"autoStopLoss": 5, **spec})
    run.wait_training()
    condition = run.wait_condition("MetricsAvailable", "False", reason)
    assert words in condition["message"]
    run.log.wait("step 30/")
    assert "terminationStatus" not in run.status, "Any real loss is below this threshold, and this one decided nothing."


def test_a_training_that_only_prints_its_loss_is_ended_by_it(space):
    saves = ("--step-seconds", "0.1", "--save-every", "20")
    runs = {
        "NoSuchMetric": space.run(
            "prints", "--epochs", "20", *saves, "--gauge", "missing", autoStopLoss=0.3, metrics={"source": "Auto"}
        ),
        # Nothing listens where its page would be, and its spec names no source: a page is waited for a minute longer.
        "ConnectionRefused": space.run("unnamed", "--epochs", "200", *saves, "--port", "8001", autoStopLoss=0.3),
    }
    for run in runs.values():
        run.wait_training()
    for reason, run in runs.items():
        status = run.wait_finished()
        run.log.wait_end()
        assert (status["phase"], status["terminationStatus"]) == ("Succeeded", "auto_low_loss")
        assert status["effective"]["metricsSource"] == "Logs"
        assert reason in status["effective"]["metricsSourceNote"]
        for one in status["termination"]["evidence"]:
            assert f"step {one['step']}/" in run.log.text, "It was decided by lines of the log."


def test_a_page_of_10_mb_and_one_that_never_ends_delay_nobody(steady_operator, space):
    well = space.run("well", *LONG, command=["python3", "-u", "-c", TELLING])
    well.wait_training()
    well.wait_condition("MetricsAvailable")
    huge = space.run("huge", *LONG, "--gauge", "huge", autoStopLoss=5)
    hang = space.run("hang", *LONG, "--gauge", "hang", autoStopLoss=5)
    assert "larger than" in huge.wait_condition("MetricsAvailable", "False", "TooLarge")["message"]
    assert "3 s" in hang.wait_condition("MetricsAvailable", "False", "Timeout")["message"]

    begun = len(scrapes(well.log.lines))
    # Each of the others' polls lasts 3 s: a run that waited for them would be late at every poll. On a busy machine, some polls are late.
    in_time = f"of {POLLS} polls in a row, none waited for the others' timeouts"
    eventually(lambda: any_in_time(scrapes(well.log.lines)[begun:]), in_time)
    for run in (huge, hang):
        assert "terminationStatus" not in run.status
    assert condition_of(well.status, "MetricsAvailable")["status"] == "True"


def test_a_loss_that_turns_to_nan_half_way_is_never_low(space):
    run = space.run("late", *LONG, "--gauge", "nan", "--gauge-from", "20", autoStopLoss=0.3)
    run.wait_training()
    run.wait_condition("MetricsAvailable", "False", "NotFinite")
    run.log.wait("step 140/")
    status = run.wait_step(140)
    assert "terminationStatus" not in status, "The true loss is below the threshold by now, but nobody has read it."
    assert condition_of(status, "MetricsAvailable")["reason"] == "NotFinite", "Its steps are followed all the same."


def any_in_time(times):
    """Whether polls in a row came every second, as asked, but for one."""
    gaps = [later - earlier for earlier, later in pairwise(times)]
    rows = (gaps[at : at + POLLS - 1] for at in range(len(times) - POLLS + 1))
    return any(median(row) < 1.5 and sum(gap >= 3 for gap in row) <= 1 for row in rows)


def scrapes(lines):
    return [float(line.text.split()[1]) for line in lines if line.text.startswith("scraped ")]
