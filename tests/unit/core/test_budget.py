"""How many GPU hours a run has used and what it has cost, and the budget of both."""

from __future__ import annotations

from dataclasses import replace

import pytest
from builders import (
    make_agent,
    make_node,
    make_node_facts,
    make_observed,
    make_pod,
    make_pool,
    make_rank,
    make_run,
    make_spec,
    make_status,
    template,
)
from pydantic import ValidationError

from trainingrun_operator.api.exchange import Upload
from trainingrun_operator.api.status import Trained
from trainingrun_operator.core import acceptance, budget, duration
from trainingrun_operator.core.decide import decide
from trainingrun_operator.core.defaults import Defaults
from trainingrun_operator.core.effects import Begin, RecordEvent
from trainingrun_operator.core.rules import limit
from trainingrun_operator.core.status import render
from trainingrun_operator.exporter.series import series_of


def at(minutes):
    return f"2026-01-02T{minutes // 60:02}:{minutes % 60:02}:00Z"


def gpus(count, name="nvidia.com/gpu"):
    return template(containers=[{"name": "train", "image": "a", "resources": {"limits": {name: count}}}])


def seen_after(
    minutes, hours: float | None = 4, *, count=4, trained=None, ranks=1, agent=None, spec=None, price=None, **limits
):
    """A training that started at midnight, with a budget of GPU hours, on a node of 8 GPUs."""
    most = {"maxGpuHours": hours} if hours is not None else {}
    fields = {"template": gpus(count), "budget": {**most, **limits}, **(spec or {})}
    run = make_run(spec=fields, status=make_status(trained=trained, nodes=(make_node(),)))
    pods = (make_rank(n, pod=make_pod(rank=n, started_at=at(0)), report=agent or make_agent()) for n in range(ranks))
    pool = make_pool(price=price)
    seen = replace(make_observed(run=run), ranks=tuple(pods), wall=at(minutes))
    return replace(seen, nodes=(make_node_facts(gpus=8),), pools=(pool,))


def priced_after(minutes, most=25, hours=None, **fields):
    """The same with a budget of money: an hour of its 4 GPUs costs 20 USD."""
    price = {"perNodeHour": 40, "currency": "USD"}
    return seen_after(minutes, hours, **{"price": price, "maxCost": most, **fields})


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
    assert duration.gpu_hours(seen) == used
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
    found = limit.budgeted(seen)
    assert found is not None
    assert (found.reason, found.fires) == (reason, reason == "BudgetExhausted")


def test_it_applies_only_with_a_budget_and_a_workload():
    assert limit.budgeted(make_observed()) is None
    assert limit.budgeted(replace(seen_after(90), workload=None)) is None
    assert shown(make_observed()) is None
    assert budget.uses(make_observed()) == ()
    nothing = seen_after(90, None)
    assert (limit.budgeted(nothing), budget.stage(nothing)) == (None, "")
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
    found = limit.budgeted(raised)
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
    [{"maxCost": 0}, {"maxCost": -25}, {"maxCost": 1e308}, {"maxCost": float("nan")}, {"maxGpuHours": 0}, {"maxGpuHours": -1}, {"maxGpuHours": 1e308}, {"maxGpuHours": float("nan")}, {"maxGpuHours": 1, "warnAtPercent": 101}, {"maxGpuHours": 1, "onExhausted": "Delete"}],
    ids=["no money", "less than none", "more than there is", "money that is no number", "zero", "negative", "beyond all", "no number", "more than all", "an unknown action"],
)  # fmt: skip
def test_a_budget_that_says_nothing_is_refused_by_the_schema(wrong):
    with pytest.raises(ValidationError):
        make_spec(budget=wrong)


# -- money -----------------------------------------------------------------------------------------------------

UNPRICED = {"price": None}


@pytest.mark.parametrize(
    ("seen", "reason", "says"),
    [
        pytest.param(priced_after(30), "WithinBudget", "cost 10.00 of 25 USD (budget.maxCost). The run ends 0.67 USD before", id="less than half of it"),
        pytest.param(priced_after(60), "NearBudget", "cost 20.00 of 25 USD", id="four fifths of it"),
        pytest.param(priced_after(60, warnAtPercent=90), "WithinBudget", "cost 20.00", id="four fifths, with a later warning"),
        pytest.param(priced_after(72), "NearBudget", "cost 24.00", id="a minute before the time to save"),
        pytest.param(priced_after(74), "BudgetExhausted", "cost 24.67 of 25 USD (budget.maxCost), 0.67 of which are kept to save", id="the time to save before its end"),
        pytest.param(priced_after(63, agent=SLOW), "BudgetExhausted", "4.00 of which are kept", id="a slow upload before its end"),
        pytest.param(priced_after(73, onExhausted="Notify"), "NearBudget", "cost 24.33", id="only told, without time to save"),
        pytest.param(priced_after(75, onExhausted="Notify"), "BudgetExhausted", "cost 25.00 of 25 USD", id="only told"),
        pytest.param(priced_after(30, hours=10), "WithinBudget", "used 2.00 of 10 GPU hours (budget.maxGpuHours) and cost 10.00 of 25 USD", id="both limits"),
        pytest.param(priced_after(30, hours=2.4), "NearBudget", "used 2.00 of 2.4 GPU hours", id="near to the other limit"),
        pytest.param(priced_after(30, hours=2), "BudgetExhausted", "used 2.00 of 2 GPU hours", id="the other limit is used"),
        pytest.param(priced_after(600, **UNPRICED), "CostUnknown", "cost at least 0.00 of 25 (budget.maxCost). The cost of 40.00 GPU hours is not known and does not count: GPUNodePool 'a100' has no price", id="without a price"),
        pytest.param(priced_after(0, **UNPRICED), "CostUnknown", "The cost of the training is not known", id="without a price at its start"),
        pytest.param(priced_after(60, hours=4.5, **UNPRICED), "NearBudget", "GPUNodePool 'a100' has no price", id="without a price, and near to the other limit"),
        pytest.param(priced_after(60, hours=4, **UNPRICED), "BudgetExhausted", "used 4.00 of 4 GPU hours", id="without a price, and the other limit is used"),
    ],
)  # fmt: skip
def test_a_budget_of_money(seen, reason, says):
    found = limit.budgeted(seen)
    assert found is not None
    assert (found.reason, found.fires) == (reason, reason == "BudgetExhausted")
    assert says in found.message


def test_it_ends_the_run_with_the_cost_as_evidence():
    (begin,) = effects(priced_after(74), Begin)
    stop = begin.termination
    assert (stop.status, stop.rule) == ("budget_exhausted", "budget")
    assert [(one.what, one.value) for one in stop.evidence] == [("cost", "24.67 USD")]


def test_notify_lets_a_run_cost_more():
    assert effects(priced_after(99, onExhausted="Notify"), Begin) == []


def test_a_cost_that_is_not_known_ends_nothing():
    assert effects(priced_after(1400, **UNPRICED), Begin) == []


def test_what_is_known_of_a_cost_ends_the_run_though_not_all_of_it_is():
    """The true cost is more than what is known of it, and that is the limit."""
    first = priced_after(30, **UNPRICED)
    then = priced_after(31, trained=render(first).trained)
    assert told(first) == ["BudgetUnknown"]
    found = limit.budgeted(priced_after(105, trained=render(then).trained))
    assert found is not None
    assert (found.reason, found.fires) == ("BudgetExhausted", True)
    assert "at least 24.67 of 25 USD" in found.message


@pytest.mark.parametrize(
    ("action", "at_the_end"), [("Stop", []), ("Notify", ["BudgetSpent"])], ids=["it ends", "it goes on"]
)
def test_every_event_about_money_comes_once(action, at_the_end):
    def later(seen, minutes, **fields):
        return priced_after(minutes, trained=render(seen).trained, onExhausted=action, **fields)

    begin = priced_after(0, onExhausted=action)
    unknown = later(begin, 5, **UNPRICED)
    still = later(unknown, 6, **UNPRICED)
    known = later(still, 7)
    near = later(known, 70)
    again = later(near, 71)
    spent = later(again, 90)
    events = [told(one) for one in (begin, unknown, still, known, near, again, spent)]
    assert events == [[], ["BudgetUnknown"], [], [], ["BudgetNear"], [], at_the_end]
    assert told(later(spent, 91)) == []


def test_a_limit_of_money_that_is_raised_warns_once_more():
    near = priced_after(60)
    raised = priced_after(61, 50, trained=render(near).trained)
    assert told(near) == ["BudgetNear"]
    assert told(raised) == []
    assert told(priced_after(120, 50, trained=render(raised).trained)) == ["BudgetNear"]


def test_the_larger_share_and_the_cost_are_exported():
    seen = priced_after(30, hours=10)
    shown = series_of("ml", "bert", seen.run.spec, render(seen))
    assert shown.gauges["trainingrun_budget_used_ratio"] == 0.4
    assert shown.labelled["trainingrun_cost"] == {"USD": 10}
    unknown = priced_after(30, **UNPRICED)
    shown = series_of("ml", "bert", unknown.run.spec, render(unknown))
    assert "trainingrun_budget_used_ratio" not in shown.gauges
    assert shown.labelled["trainingrun_cost"] == {}


def test_money_of_which_nothing_would_count_is_refused():
    run = make_run(spec={"template": gpus(1, "cpu"), "budget": {"maxCost": 25, "maxGpuHours": 4}})
    problem = acceptance.complaint(run, (), Defaults())
    assert problem is not None
    assert (problem.reason, problem.permanent) == ("InvalidBudget", True)
    assert "maxGpuHours is 4 and maxCost is 25, and the template requests no GPU" in problem.message


def test_money_is_refused_where_no_pools_are_read():
    run = make_run(spec={"template": gpus(1), "budget": {"maxCost": 25}})
    assert acceptance.complaint(run, (), Defaults()) is None
    problem = acceptance.complaint(run, (), Defaults(release_nodes=False))
    assert problem is not None
    assert (problem.reason, problem.permanent) == ("InvalidBudget", False)
    assert "maxCost is 25" in problem.message
    hours = make_run(spec={"template": gpus(1), "budget": {"maxGpuHours": 4}})
    assert acceptance.complaint(hours, (), Defaults(release_nodes=False)) is None
