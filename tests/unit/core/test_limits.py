"""What ends a run is checked before it starts, and again when it is changed."""

from __future__ import annotations

from typing import Any

import pytest
from builders import make_observed, make_run, make_spec
from pydantic import ValidationError

from trainingrun_operator.core import acceptance, limits

PLATEAU: dict[str, Any] = {"plateau": {}}


def below(value, **more):
    return {"name": "below", "threshold": {"value": value}, **more}


def above(value, **more):
    return {"name": "above", "goal": "Maximize", "threshold": {"value": value}, **more}


def schedule(*pairs):
    return {"autoStopLossSchedule": [{"step": step, "loss": loss} for step, loss in pairs]}


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param({}, id="nothing"),
        pytest.param({"stopRules": [PLATEAU, {"rising": {}}, {"nonFinite": {}}]}, id="each by the name of its shape"),
        pytest.param({"stopRules": [below(-15)], "autoStopLoss": -1}, id="a negative threshold"),
        pytest.param({"stopRules": [below(0.5), above(0.6)], "autoStopLoss": -1}, id="a corridor"),
        pytest.param({"stopRules": [below(0.5), above(0.4, metric="accuracy")], "autoStopLoss": -1}, id="thresholds of two metrics"),
        pytest.param({"stopRules": [below(0.5), above(0.4, action="Shadow")], "autoStopLoss": -1}, id="one of them only reports"),
        pytest.param({"stopRules": [above(0.4)], "autoStopLoss": -1}, id="beside a threshold that is off"),
        pytest.param({**schedule((0, 2), (1000, 1), (5000, 0.5)), "autoStopLoss": None}, id="a schedule that falls"),
        pytest.param({**schedule((100, 1), (5000, 0)), "autoStopLoss": 1.5}, id="a schedule below the threshold before it"),
    ],
)  # fmt: skip
def test_limits_that_agree_are_accepted(spec):
    assert limits.complaint(make_spec(**spec)) is None


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        pytest.param({"stopRules": [{"name": "a"}]}, ("stopRules[0]", "exactly one of", "none of them"), id="a rule without a shape"),
        pytest.param({"stopRules": [PLATEAU, {"plateau": {}, "rising": {}}]}, ("stopRules[1]", "plateau and rising"), id="a rule with two"),
        pytest.param({"stopRules": [PLATEAU, PLATEAU]}, ("stopRules[1]", "'plateau'", "stopRules[0]"), id="two rules of one name"),
        pytest.param({"stopRules": [{"name": "marker", **PLATEAU}]}, ("stopRules[0].name", "'marker'"), id="a name of the operator's"),
        pytest.param({"stopRules": [below(0.5), above(0.4)], "autoStopLoss": -1}, ("loss", "0.5", "0.4", "every value"), id="thresholds that hold for every value"),
        pytest.param({"stopRules": [below(1e308), above(-1e308)], "autoStopLoss": -1}, ("1e+308", "every value"), id="the largest ones"),
        pytest.param({"stopRules": [above(0.4)], "autoStopLoss": 0.5}, ("spec.autoStopLoss", "'above'"), id="with the threshold of the loss"),
        pytest.param({"stopRules": [above(0.4)], **schedule((0, 0.5)), "autoStopLoss": None}, ("autoStopLossSchedule", "'above'"), id="with the schedule"),
        pytest.param({**schedule((0, 1), (10, 1)), "autoStopLoss": None}, ("autoStopLossSchedule[1].loss", "must fall"), id="a schedule that stays"),
        pytest.param({**schedule((0, 1), (10, 0.5), (20, 0.7)), "autoStopLoss": None}, ("autoStopLossSchedule[2].loss", "0.7"), id="a schedule that rises"),
        pytest.param({**schedule((10, 1), (10, 0.5)), "autoStopLoss": None}, ("autoStopLossSchedule[1].step", "must grow"), id="one step twice"),
        pytest.param({**schedule((10, 1), (5, 0.5)), "autoStopLoss": None}, ("autoStopLossSchedule[1].step", "5"), id="steps that go backwards"),
        pytest.param({**schedule((10, 1)), "autoStopLoss": -1}, ("autoStopLoss is -1", "switches the threshold off"), id="a schedule of a threshold that is off"),
        pytest.param({**schedule((10, 1)), "autoStopLoss": 0.5}, ("autoStopLoss is 0.5", "step 10"), id="a threshold below its schedule"),
    ],
)  # fmt: skip
def test_limits_that_contradict_each_other_are_refused_with_field_and_value(spec, words):
    problem = limits.complaint(make_spec(**spec))
    assert problem is not None
    assert problem.reason == "InvalidStopRules"
    assert [word for word in words if word not in problem.message] == []
    before = make_observed(run=make_run(spec=spec), workload=None, pods=(), agent=None)
    assert acceptance.refusal(before) == problem
    assert acceptance.while_running(make_spec(**spec)) == problem


@pytest.mark.parametrize(
    "rule",
    [
        pytest.param({"threshold": {}}, id="a threshold without a value"),
        pytest.param({"threshold": {"value": float("nan")}}, id="NaN"),
        pytest.param({"threshold": {"value": float("inf")}}, id="infinity"),
        pytest.param({"plateau": {"patience": 0}}, id="no patience"),
        pytest.param({"plateau": {"minDelta": -0.1}}, id="a negative delta"),
        pytest.param({"rising": {"observations": 10_001}}, id="more observations than are counted"),
        pytest.param({"nonFinite": {}, "metric": "a b"}, id="a name with a blank"),
        pytest.param({"nonFinite": {}, "metric": "x" * 129}, id="a name that is too long"),
        pytest.param({"nonFinite": {}, "name": "-"}, id="a rule's name of signs"),
        pytest.param({"nonFinite": {}, "goal": "minimize"}, id="a goal that there is not"),
        pytest.param({"nonFinite": {}, "staleAfterSeconds": 0}, id="stale at once"),
    ],
)
def test_a_rule_that_says_nothing_is_refused_by_the_schema(rule):
    with pytest.raises(ValidationError):
        make_spec(stopRules=[rule])


def test_every_name_of_the_operators_own_rules_is_reserved():
    from trainingrun_operator.core.rules import chain  # noqa: PLC0415 - only this test needs all rules

    said = {found.rule for found in chain.findings(make_observed())}
    assert said <= limits.RESERVED
