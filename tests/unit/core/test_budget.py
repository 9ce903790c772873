"""How many GPU hours a run has used, and the budget of them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from builders import make_agent, make_observed, make_pod, make_rank, make_run, make_spec, make_status, template
from pydantic import ValidationError

from trainingrun_operator.api.exchange import Upload
from trainingrun_operator.api.status import Trained
from trainingrun_operator.core import acceptance, budget
from trainingrun_operator.core.decide import decide
from trainingrun_operator.core.effects import Begin, RecordEvent
from trainingrun_operator.core.rules import limit
from trainingrun_operator.core.status import render
from trainingrun_operator.exporter.series import series_of


def at(minutes):
    return f"2026-01-02T{minutes // 60:02}:{minutes % 60:02}:00Z"


def gpus(count, name="nvidia.com/gpu"):
    return template(containers=[{"name": "train", "image": "a", "resources": {"limits": {name: count}}}])


def seen_after(minutes, hours=4, *, count=4, trained=None, ranks=1, agent=None, spec=None, **limits):
    """A training that started at midnight, with a budget of GPU hours."""
    fields = {"template": gpus(count), "budget": {"maxGpuHours": hours, **limits}, **(spec or {})}
    run = make_run(spec=fields, status=make_status(trained=trained))
    pods = (make_rank(n, pod=make_pod(rank=n, started_at=at(0)), report=agent or make_agent()) for n in range(ranks))
    return replace(make_observed(run=run), ranks=tuple(pods), wall=at(minutes))


EARLIER = Trained(seconds=1800, last_seconds=1800, pod_uid="earlier", started_at=at(0))
SLOW = make_agent(uploads=(Upload(incarnation=1, generation=1, seconds=600),))


def shown(seen):
    trained = render(seen).trained
    assert trained is not None
    return trained.gpu_hours


@pytest.mark.parametrize(
    ("seen", "used"),
    [
        pytest.param(seen_after(30), 2, id="four GPUs for half an hour"),
        pytest.param(seen_after(30, count=1), 0.5, id="one GPU for half an hour"),
        pytest.param(seen_after(30, ranks=3), 6, id="three ranks"),
        pytest.param(seen_after(30, trained=EARLIER), 4, id="after an earlier pod"),
    ],
)
def test_gpu_hours_are_time_of_training_times_gpus(seen, used):
    assert budget.hours(seen) == used
    assert shown(seen) == used


@pytest.mark.parametrize(
    ("seen", "reason"),
    [
        pytest.param(seen_after(30), "WithinBudget", id="half of it"),
        pytest.param(seen_after(48), "NearBudget", id="four fifths of it"),
        pytest.param(seen_after(48, warnAtPercent=90), "WithinBudget", id="four fifths, with a later warning"),
        pytest.param(seen_after(57), "NearBudget", id="a minute before the time to save"),
        pytest.param(seen_after(58), "BudgetExhausted", id="the time to save before its end"),
        pytest.param(seen_after(48, agent=SLOW), "BudgetExhausted", id="a slow upload before its end"),
        pytest.param(seen_after(44, agent=make_agent(uploads=(Upload(incarnation=1, generation=1, seconds=9000),))), "WithinBudget", id="no upload takes more than a quarter"),
        pytest.param(seen_after(58, onExhausted="Notify"), "NearBudget", id="only told, without time to save"),
        pytest.param(seen_after(60, onExhausted="Notify"), "BudgetExhausted", id="only told"),
        pytest.param(seen_after(600, count=0), "WithinBudget", id="a template without GPUs uses none"),
    ],
)  # fmt: skip
def test_a_budget_of_gpu_hours(seen, reason):
    found = limit.gpu_hours(seen)
    assert found is not None
    assert (found.reason, found.fires) == (reason, reason == "BudgetExhausted")


def test_it_applies_only_with_a_budget_and_a_workload():
    assert limit.gpu_hours(make_observed()) is None
    assert limit.gpu_hours(replace(seen_after(90), workload=None)) is None
    assert shown(make_observed()) is None
    assert budget.reserve_hours(make_observed()) == 0
    assert (
        render(replace(make_observed(run=make_run(status=make_status())), ranks=(make_rank(pod=None),))).trained is None
    )


def effects(seen, kind):
    return [one for one in decide(seen).effects if isinstance(one, kind)]


def test_it_ends_the_run_with_the_hours_as_evidence():
    (begin,) = effects(seen_after(58), Begin)
    stop = begin.termination
    assert (stop.status, stop.rule, stop.actor) == ("budget_exhausted", "budget", "budget")
    assert [(one.what, one.value) for one in stop.evidence] == [("gpuHours", "3.87")]


def test_notify_ends_nothing_and_says_what_stop_would_have_saved():
    seen = seen_after(60, onExhausted="Notify")
    assert effects(seen, Begin) == []
    assert [one.rule for one in render(seen).shadow] == ["budget"]


def told(seen):
    return [one.reason for one in effects(seen, RecordEvent) if one.reason.startswith("Budget")]


def later(seen, minutes, **limits):
    """The same run after its status was stored."""
    return seen_after(minutes, trained=render(seen).trained, **limits)


@pytest.mark.parametrize(("action", "at_the_end"), [("Stop", []), ("Notify", ["BudgetSpent"])])
def test_every_event_comes_once_over_restarts_of_the_operator(action, at_the_end):
    begin = seen_after(30, onExhausted=action)
    near = later(begin, 48, onExhausted=action)
    again = later(near, 50, onExhausted=action)
    spent = later(again, 60, onExhausted=action)
    assert [told(one) for one in (begin, near, again, spent)] == [[], ["BudgetNear"], [], at_the_end]
    assert told(later(spent, 61, onExhausted=action)) == []


def test_a_budget_that_is_raised_warns_once_more():
    near = seen_after(48)
    raised = later(near, 50, hours=8)
    assert told(raised) == []
    found = limit.gpu_hours(raised)
    assert found is not None
    assert found.reason == "WithinBudget"
    assert told(later(raised, 100, hours=8)) == ["BudgetNear"]


def test_the_used_share_is_exported_while_it_trains():
    seen = seen_after(30)
    gauges = series_of("ml", "bert", seen.run.spec, render(seen)).gauges
    assert gauges["trainingrun_budget_used_ratio"] == 0.5
    without = make_observed()
    assert "trainingrun_budget_used_ratio" not in series_of("ml", "bert", without.run.spec, render(without)).gauges
    assert "trainingrun_budget_used_ratio" not in series_of("ml", "bert", seen.run.spec, make_status()).gauges


@pytest.mark.parametrize(
    "name",
    ["cpu", "nvidia.com/mig-1g.10gb", "example.com/tpu"],
    ids=["no GPU", "a slice of a GPU", "another accelerator"],
)
def test_a_template_of_which_nothing_would_count_is_refused(name):
    run = make_run(spec={"template": gpus(1, name), "budget": {"maxGpuHours": 4}})
    problem = acceptance.complaint(run, (), make_observed().defaults)
    assert problem is not None
    assert problem.reason == "InvalidBudget"
    assert "maxGpuHours is 4" in problem.message
    assert acceptance.while_running(run.spec) == problem


def test_a_template_with_gpus_is_accepted():
    spec = make_spec(budget={"maxGpuHours": 0.5})
    assert acceptance.while_running(spec) is None
    assert spec.budget is not None
    assert (spec.budget.warn_at_percent, spec.budget.on_exhausted) == (80, "Stop")


@pytest.mark.parametrize(
    "wrong",
    [{}, {"maxGpuHours": 0}, {"maxGpuHours": -1}, {"maxGpuHours": 1e308}, {"maxGpuHours": float("nan")}, {"maxGpuHours": 1, "warnAtPercent": 101}, {"maxGpuHours": 1, "onExhausted": "Delete"}],
    ids=["no hours", "zero", "negative", "beyond all", "no number", "more than all", "an unknown action"],
)  # fmt: skip
def test_a_budget_that_says_nothing_is_refused_by_the_schema(wrong):
    with pytest.raises(ValidationError):
        make_spec(budget=wrong)
