"""The curves of values beside the loss: which values have one, which readings are points, and how large they become."""

from __future__ import annotations

import json
from dataclasses import replace
from math import inf, nan

import pytest
from builders import NAME, NAMESPACE, NOW, RUN_UID, WALL, make_observed, make_reading, make_run, make_spec, track_of

from trainingrun_operator.api.curve import (
    POINTS_MAX,
    VALUE_POINTS_MAX,
    VALUES_MAX,
    Curve,
    Point,
    ValueCurve,
    ValuePoint,
)
from trainingrun_operator.core.curve import config_map
from trainingrun_operator.core.facts.reading import AUTO, FILES, LOGS, PROMETHEUS, PUSH, Failure
from trainingrun_operator.core.value_curves import ValueLines, joined, observed, resumed, threshold_of

RULES = frozenset[str]()


def look(known, step, source=LOGS, rules=(), pod_uid="pod", others=(), **values):
    """Add one reading of a training that has advanced before."""
    start = replace(make_reading(loss=9.0, step=0), source=source)
    newest = replace(start, step=step, values={"loss": 1.0 + step, **values, **dict(others)})
    spec = {"stopRules": [{"name": f"r{n}", "metric": name, "nonFinite": {}} for n, name in enumerate(rules)]}
    seen = make_observed(run=make_run(spec=spec), track=track_of((0, start), (NOW, newest), pod_uid=pod_uid))
    return observed(known, seen)


def looks(*values, source=LOGS, known=None, start=1):
    """One reading of `accuracy` for each value."""
    for step, value in enumerate(values, start):
        known = look(known or ValueLines(), step, source, accuracy=value)
    return known or ValueLines()


def points(known, name="accuracy"):
    return [(point.step, point.value) for one in known.stored if one.name == name for point in one.points]


# -- which readings are points ----------------------------------------------------------------------------------


@pytest.mark.parametrize("source", [LOGS, FILES, PUSH])
def test_each_new_value_that_the_training_wrote_down_is_a_point(source):
    assert points(looks(0.5, 0.5, 0.7, 0.6, source=source)) == [(1, 0.5), (3, 0.7), (4, 0.6)]


@pytest.mark.parametrize("source", [PROMETHEUS, AUTO, "JSONLines", ""])
def test_the_first_value_of_a_page_may_be_a_default_and_is_no_point_before_it_changes(source):
    assert points(looks(0.0, 0.0, 0.7, 0.0, source=source)) == [(3, 0.7), (4, 0.0)]


def test_the_default_of_the_next_pod_is_no_point_either():
    known = looks(0.0, 0.7, source=PROMETHEUS)
    known = look(known, 3, PROMETHEUS, pod_uid="next", accuracy=0.0)
    assert points(look(known, 4, PROMETHEUS, pod_uid="next", accuracy=0.8)) == [(2, 0.7), (4, 0.8)]


@pytest.mark.parametrize("value", [nan, inf, -inf])
def test_what_is_not_finite_is_no_point(value):
    assert points(looks(0.5, value, 0.6)) == [(1, 0.5), (3, 0.6)]


def test_a_page_that_shows_nan_once_begins_with_no_new_default():
    assert points(looks(0.0, 0.5, nan, 0.7, source=PROMETHEUS)) == [(2, 0.5), (4, 0.7)]


def test_a_negative_and_a_huge_value_are_points_like_others():
    assert points(looks(-3.0, 1e308, -1e308)) == [(1, -3.0), (2, 1e308), (3, -1e308)]


@pytest.mark.parametrize(
    "reading",
    [
        pytest.param(replace(make_reading(step=7), values={"accuracy": 0.9}), id="of another rank, some steps behind"),
        pytest.param(replace(make_reading(step=None), values={"accuracy": 0.9}), id="without a step"),
        pytest.param(Failure("Timeout", "No answer."), id="that failed"),
    ],
)
def test_no_value_is_taken_from_a_reading(reading):
    track = track_of(
        (0, make_reading(loss=2.0, step=0)),
        (5, make_reading(loss=1.5, step=5)),
        (9, make_reading(loss=1.0, step=9)),
        (NOW, reading),
    )
    assert observed(ValueLines(), make_observed(track=track)) == ValueLines()


def test_before_the_step_advances_nothing_is_a_point():
    track = track_of((NOW, replace(make_reading(loss=2.0, step=5), source=LOGS, values={"accuracy": 0.5})))
    assert observed(ValueLines(), make_observed(track=track)) == ValueLines()


def test_a_replaced_pod_that_goes_on_from_its_checkpoint_goes_back_on_the_curve():
    assert points(look(looks(0.5, 0.6, 0.7), 2, pod_uid="next", accuracy=0.65)) == [
        (1, 0.5),
        (2, 0.6),
        (3, 0.7),
        (2, 0.65),
    ]


# -- which values have a curve ----------------------------------------------------------------------------------


def test_the_loss_by_any_of_its_names_and_the_axes_have_none_here():
    known = look(ValueLines(), 1, others={"eval_loss": 0.5, "train_loss": 1.0, "epoch": 1.0, "step": 1.0})
    assert [one.name for one in known.stored] == ["eval_loss"]


def test_of_too_many_values_those_of_rules_are_kept_then_those_that_judge_a_training_then_others():
    speeds = {f"a_speed_{n}": float(n) for n in range(9)}
    judges = {"eval_loss": 1.0, "validAccuracy": 2.0, "grad_norm": 3.0, "rewards/mean": 4.0, "eval_f1": 5.0}
    known = look(ValueLines(), 1, rules=["z_mine"], others={**speeds, **judges, "z_mine": 6.0})
    assert {one.name for one in known.stored} == {"z_mine", *judges, "a_speed_0", "a_speed_1"}


def test_a_value_that_comes_later_and_judges_the_training_takes_the_place_of_one_that_does_not():
    known = look(ValueLines(), 1, others={f"a_speed_{n}": float(n) for n in range(20)})
    assert len(known.stored) == VALUES_MAX
    known = look(known, 2, eval_loss=0.5)
    assert [one.name for one in known.stored] == [*(f"a_speed_{n}" for n in (0, 1, 10, 11, 12, 13, 14)), "eval_loss"]


def test_the_threshold_of_a_value_is_that_of_the_first_rule_that_has_one():
    rules = [
        {"name": "flat", "metric": "accuracy", "plateau": {}},
        {"name": "other", "metric": "reward", "threshold": {"value": 1}},
        {"name": "good", "metric": "accuracy", "threshold": {"value": 2}},
        {"name": "better", "metric": "accuracy", "threshold": {"value": 3}},
    ]
    spec = make_spec(stopRules=rules)
    found = [threshold_of(spec, name) for name in ("accuracy", "reward", "eval_loss")]
    assert [rule and rule.called for rule in found] == ["good", "other", None]


# -- how large --------------------------------------------------------------------------------------------------


def many(count, start=1, known=None):
    return looks(*(((step * 37) % 1009) / 7 for step in range(start, start + count)), known=known, start=start)


def test_a_long_curve_is_thinned_and_keeps_the_first_the_newest_the_lowest_and_the_highest():
    values = [((step * 37) % 1009) / 7 for step in range(1, 701)]
    kept = points(many(700))
    assert len(kept) <= VALUE_POINTS_MAX
    assert (kept[0], kept[-1]) == ((1, values[0]), (700, values[-1]))
    assert {min(values), max(values)} <= {value for _, value in kept}
    assert [step for step, _ in kept] == sorted({step for step, _ in kept})


def test_a_curve_of_one_point_less_than_the_room_is_whole():
    assert len(points(many(116))) == 116


def test_all_curves_together_are_a_small_part_of_what_a_config_map_and_the_plugin_take():
    at, number = "2026-01-02T03:04:05Z", 1.2345678901234567e-100
    one = tuple(ValuePoint(at=at, step=2**53 - 1, epoch=1234.123456789, value=-number) for _ in range(VALUE_POINTS_MAX))
    full = Curve(
        points=tuple(Point(at=at, step=2**53 - 1, epoch=1234.123456789, loss=number) for _ in range(POINTS_MAX)),
        values=tuple(ValueCurve(name="n" * 128, points=one) for _ in range(VALUES_MAX)),
    )
    assert len(config_map(NAMESPACE, NAME, RUN_UID, full)["data"]["curve.json"]) < 192 * 1024


def test_only_points_that_stay_change_the_shape():
    known = many(700)
    shapes = {many(more, 701, known).shape for more in (1, 2, 3)}
    assert known.shape in shapes
    assert many(16, 701, known).shape != known.shape


# -- going on ---------------------------------------------------------------------------------------------------


def test_a_restarted_operator_goes_on_from_what_is_stored():
    stored = looks(0.5, 0.6, 0.2).stored
    known = joined(resumed(stored), looks(0.2, 0.9, start=3), RULES)
    assert points(known) == [(1, 0.5), (2, 0.6), (3, 0.2), (4, 0.9)]
    assert resumed(stored).stored == stored


@pytest.mark.parametrize("count", [VALUE_POINTS_MAX, VALUE_POINTS_MAX - 1])
def test_a_full_stored_curve_is_thinned_and_keeps_its_extremes(count):
    numbers = [50.0, 999.0, 1.0, *(float(n) for n in range(2, count - 1))]
    stored = ValueCurve(
        name="accuracy", points=tuple(ValuePoint(at=WALL, step=n, value=one) for n, one in enumerate(numbers))
    )
    known = resumed([stored])
    assert {(0, 50.0), (1, 999.0), (2, 1.0)} <= set(points(known))
    assert len(points(many(500, 1000, known))) <= VALUE_POINTS_MAX


def test_an_empty_stored_curve_is_one_to_go_on_from():
    known = joined(resumed([ValueCurve(name="accuracy")]), looks(0.5), RULES)
    assert points(known) == [(1, 0.5)]


def test_names_of_an_earlier_operator_and_of_this_one_have_room_together():
    before = look(ValueLines(), 1, others={f"a_speed_{n}": float(n) for n in range(VALUES_MAX)}).stored
    known = joined(resumed(before), look(ValueLines(), 2, mine=1.0, eval_loss=0.5), frozenset({"mine"}))
    assert [one.name for one in known.stored] == [*(f"a_speed_{n}" for n in range(6)), "eval_loss", "mine"]


# -- as it is written -------------------------------------------------------------------------------------------


def test_a_curve_of_an_earlier_operator_is_read_and_one_without_values_is_written_as_before():
    old = '{"every": 1, "points": [{"at": "2026-01-02T03:04:05Z", "step": 100, "loss": 2.0}]}'
    curve = Curve.model_validate_json(old)
    assert curve.values == ()
    assert json.loads(config_map(NAMESPACE, NAME, RUN_UID, curve)["data"]["curve.json"]) == json.loads(old)


def test_values_are_written_by_name():
    curve = Curve(values=looks(0.5).stored)
    assert json.loads(config_map(NAMESPACE, NAME, RUN_UID, curve)["data"]["curve.json"])["values"] == [
        {"name": "accuracy", "every": 1, "points": [{"at": WALL, "step": 1, "value": 0.5}]}
    ]
