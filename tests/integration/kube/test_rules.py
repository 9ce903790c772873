"""The rules that the API server itself enforces, with the sentences that people read."""

from __future__ import annotations

from itertools import pairwise

import pytest
from e2e.api import ApiError
from integration.kube.test_conflicts import NOW, TERMINATION

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(120)]

PHASES = ["Requested", "Draining", "Saving", "Deleting", "Releasing", "Done"]
TEMPLATE = {"spec": {"containers": [{"name": "train", "image": "train:2"}]}}


def refusal(call, *args, **kwargs):
    with pytest.raises(ApiError) as error:
        call(*args, **kwargs)
    assert error.value.status == 422
    return error.value.message


def change(runs, **spec):
    return runs.api.merge(f"{runs.collection}/run", {"spec": spec})


def test_a_stop_is_one_way(runs):
    runs.make()
    change(runs, stop=True)
    for back in (False, None):
        assert "spec.stop is final: a stopped run does not restart" in refusal(change, runs, stop=back)
    assert change(runs, stopReason="overfitting")["spec"]["stop"] is True


def test_stop_may_be_written_as_false_first(runs):
    runs.make(stop=False)
    assert change(runs, stop=True)["spec"]["stop"] is True


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ({"template": TEMPLATE}, "template cannot be changed: create a new TrainingRun"),
        ({"template": {"metadata": {"labels": {"a": "b"}}}}, "template cannot be changed"),
        (
            {"checkpoint": {"destination": "s3://other/runs"}},
            "checkpoint.path and checkpoint.destination cannot be changed",
        ),
        ({"checkpoint": {"path": "/elsewhere"}}, "checkpoint.path and checkpoint.destination cannot be changed"),
        ({"checkpoint": {"destination": None, "mode": "Disabled"}}, "a run's checkpoints stay in one place"),
        ({"checkpoint": {"mode": "Disabled"}}, "checkpoint.mode cannot be changed: the agent in the running pod"),
        (
            {"shutdown": {"signal": "SIGTERM"}},
            "shutdown.signal cannot be changed: it decides whether the running pod",
        ),
        (
            {"metrics": {"container": "proxy"}},
            "metrics.container cannot be changed: the checkpoint path of the running",
        ),
    ],
    ids=[
        "its template",
        "the template's metadata",
        "its destination",
        "its path",
        "that it has a destination",
        "that it saves",
        "its signal",
        "its training container",
    ],
)
def test_a_run_keeps(spec, sentence, runs):
    runs.make()
    assert sentence in refusal(change, runs, **spec)


@pytest.mark.parametrize(
    ("budget", "sentence"),
    [
        ({"warnAtPercent": 90}, "a budget needs maxGpuHours, maxCost or both"),
        ({"maxCost": 0}, "spec.budget.maxCost in body should be greater than 0"),
        ({"maxCost": -25, "maxGpuHours": 4}, "spec.budget.maxCost in body should be greater than 0"),
    ],
    ids=["no limit", "nothing", "less than nothing"],
)
def test_a_budget_has_a_limit(budget, sentence, runs):
    runs.make()
    assert sentence in refusal(change, runs, budget=budget)


@pytest.mark.parametrize(
    "spec",
    [
        {"autoStopLoss": 0.1},
        {"budget": {"maxCost": 25}},
        {"stallPolls": 9},
        {"checkpoint": {"onFailure": "Proceed"}},
        {"pollIntervalSeconds": 60},
        {"stopMode": "NextCheckpoint"},
        {"ttlSecondsAfterFinished": 60},
        {"shutdown": {"graceSeconds": 5}},
    ],
    ids=lambda spec: next(iter(spec)),
)
def test_thresholds_and_limits_may_change(spec, runs):
    runs.make()
    change(runs, **spec)


@pytest.mark.parametrize(
    "name",
    ["a" * 53, "1st", "dots.are.out", "ends-", "-begins"],
    ids=["too long for its pods", "begins with a digit", "dots", "ends with -", "begins with -"],
)
def test_a_name_that_pods_cannot_carry_is_refused(name, runs):
    assert "name" in refusal(runs.api.create, runs.collection, runs.body(name))


def test_a_name_of_52_characters_is_taken(runs):
    runs.api.create(runs.collection, runs.body("a" * 52))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"checkpoint": {}},
            "checkpoint.destination is required (s3://bucket/prefix), or set checkpoint.mode: Disabled",
        ),
        ({"checkpoint": None}, "spec.checkpoint"),
        ({"template": None}, "spec.template"),
        ({"checkpoint": {"destination": "bucket/runs"}}, "spec.checkpoint.destination"),
        ({"checkpoint": {"destination": "s3://b/r", "onFailure": "Ignore"}}, "spec.checkpoint.onFailure"),
        ({"backoffLimit": -1}, "spec.backoffLimit"),
        ({"metrics": {"port": 70_000}}, "spec.metrics.port"),
        ({"metrics": {"path": "metrics"}}, "spec.metrics.path"),
        ({"shutdown": {"file": "../STOP"}}, "spec.shutdown.file"),
        ({"shutdown": {"signal": "SIGKILL"}}, "spec.shutdown.signal"),
        ({"stopMode": "Now"}, "spec.stopMode"),
        ({"ttlSecondsAfterFinished": -1}, "spec.ttlSecondsAfterFinished"),
        ({"autoStopLoss": "low"}, "spec.autoStopLoss"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_spec_that_cannot_be_meant_is_refused(changes, words, runs):
    assert words in refusal(runs.api.create, runs.collection, runs.body(**changes))


def test_without_a_destination_a_run_may_say_that_it_saves_nothing(runs):
    runs.api.create(runs.collection, runs.body(checkpoint={"mode": "Disabled"}))


def test_a_misspelt_field_is_refused_when_kubectl_asks_for_strictness(runs):
    body = runs.body(autostoploss=0.3)
    with pytest.raises(ApiError) as error:
        runs.api.call("POST", runs.collection, body, fieldValidation="Strict")
    assert 'unknown field "spec.autostoploss"' in error.value.message


# -- the status --------------------------------------------------------------------------------------------------


def test_why_a_run_ended_never_changes(runs):
    runs.make()
    runs.put_status(terminationStatus="user_stop")
    for other in ("auto_low_loss", None):
        assert "terminationStatus never changes once written" in refusal(runs.put_status, terminationStatus=other)


@pytest.mark.parametrize("field", ["id", "status", "message"])
def test_of_a_stop_never_changes_its(field, runs):
    runs.make()
    runs.put_status(termination=TERMINATION)
    told = refusal(runs.put_status, termination={field: "another"})
    assert "termination.id, status and message never change once written" in told


def test_a_stop_is_never_forgotten(runs):
    runs.make()
    runs.put_status(termination=TERMINATION)
    assert "never change once written" in refusal(runs.put_status, termination=None)


SUSPENDED = TERMINATION | {"id": "suspend-1", "status": "suspended", "phase": "Done"}


@pytest.mark.parametrize("then", [None, TERMINATION | {"phase": "Requested"}], ids=["resumed", "ended"])
def test_a_suspension_that_is_over_may_be_forgotten(then, runs):
    runs.make()
    runs.put_status(termination=SUSPENDED)
    runs.put_status(termination=None)
    runs.put_status(termination=SUSPENDED)
    runs.put_status(termination=then)
    assert runs.read()["status"].get("termination") == then


@pytest.mark.parametrize("then", [None, TERMINATION | {"phase": "Requested"}], ids=["resumed", "ended"])
def test_and_not_before(then, runs):
    runs.make()
    runs.put_status(termination=SUSPENDED | {"phase": "Releasing"})
    assert "never change once written" in refusal(runs.put_status, termination=then)


def test_the_phases_of_a_stop_go_forward(runs):
    runs.make()
    runs.put_status(termination=TERMINATION)
    for phase in PHASES:
        runs.put_status(termination={"phase": phase, "phaseAt": NOW})
    assert runs.read()["status"]["termination"]["phase"] == "Done"


@pytest.mark.parametrize(("earlier", "later"), list(pairwise(PHASES)))
def test_the_phases_of_a_stop_never_go_back(earlier, later, runs):
    runs.make()
    runs.put_status(termination=TERMINATION | {"phase": later})
    assert "the phases of a stop only go forward" in refusal(runs.put_status, termination={"phase": earlier})


def test_saving_verifying_and_holding_may_alternate(runs):
    runs.make()
    runs.put_status(termination=TERMINATION)
    for phase in ("Saving", "Verifying", "Saving", "Held", "Saving", "Verifying", "Held", "Verifying", "Deleting"):
        runs.put_status(termination={"phase": phase})


def test_whoever_writes_the_spec_writes_no_status(runs):
    made = runs.api.create(runs.collection, runs.body() | {"status": {"terminationStatus": "user_stop"}})
    assert "status" not in made


def test_runs_are_selected_by_phase_and_by_why_they_ended(runs):
    runs.make("one")
    runs.make("two")
    runs.put_status("two", terminationStatus="user_stop", phase="Stopped")
    for selector in ("status.phase=Stopped", "status.terminationStatus=user_stop"):
        (found,) = runs.api.list(runs.collection, fieldSelector=selector)
        assert found["metadata"]["name"] == "two"
