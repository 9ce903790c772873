"""A curve of any length takes at most 500 points, and still spans the whole run."""

from __future__ import annotations

import gc
import json
from math import inf, nan

import pytest
from builders import NAME, NAMESPACE, RUN_UID, losses, make_observed, make_reading, track_of
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from trainingrun_operator.api.curve import POINTS_MAX, Curve, Point
from trainingrun_operator.core.curve import Sample, Thinned, added, config_map, joined, observed, resumed

AT = 1_767_323_045
"""2026-01-02T03:04:05Z"""
LOSSES = st.one_of(
    st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=60),
    # Far more than there are points: a seeded walk instead of a long list, which takes hypothesis seconds to draw.
    st.builds(lambda n, turn: [((i * turn) % 997) / 10 for i in range(n)], st.integers(0, 4000), st.integers(1, 996)),
)
thorough = settings(max_examples=60, deadline=None)


def line_of(values, line=None, start=0):
    for i, loss in enumerate(values, start):
        line = added(line or Thinned(), at=AT + 10 * i, step=100 * (i + 1), epoch=i / 8, loss=loss)
    return line or Thinned()


def steps(curve):
    return [point.step for point in curve.points]


# -- thinning ---------------------------------------------------------------------------------------------------


def test_a_short_run_keeps_every_observation():
    curve = line_of([2.0, 1.5, 1.2]).curve
    assert curve.every == 1
    assert curve.points[0] == Point(at="2026-01-02T03:04:05Z", step=100, epoch=0.0, loss=2.0)
    assert [(point.step, point.loss) for point in curve.points] == [(100, 2.0), (200, 1.5), (300, 1.2)]


def test_what_is_full_keeps_every_second_and_goes_on_half_as_often():
    curve = line_of([1.0] * 499).curve
    assert curve.every == 2
    assert steps(curve) == [100 * n for n in range(1, 500, 2)]


@thorough
@given(LOSSES)
def test_there_are_never_more_points_than_the_schema_takes(values):
    assert len(line_of(values).curve.points) <= POINTS_MAX


@thorough
@given(LOSSES.filter(bool))
def test_the_first_the_newest_and_the_lowest_are_always_kept(values):
    points = line_of(values).curve.points
    assert (points[0].step, points[-1].step) == (100, 100 * len(values))
    lowest = min(range(len(values)), key=values.__getitem__)
    assert (100 * (lowest + 1), values[lowest]) in [(point.step, point.loss) for point in points]


@thorough
@given(LOSSES)
def test_points_are_in_order_none_twice_and_as_they_were_read(values):
    curve = line_of(values).curve
    assert steps(curve) == sorted(set(steps(curve)))
    assert all(point.loss == values[point.step // 100 - 1] for point in curve.points)


@thorough
@given(LOSSES)
def test_a_long_curve_has_no_gap(values):
    """Between two neighbours lies no more than a point stands for; and at least half of the room is used."""
    curve = line_of(values).curve
    gaps = [(after - before) / 100 for before, after in zip(steps(curve), steps(curve)[1:], strict=False)]
    assert all(gap <= curve.every for gap in gaps)
    if curve.every > 1:
        assert len(curve.points) >= POINTS_MAX // 2 - 1


def test_the_newest_alone_changes_no_shape():
    line = line_of([1.0] * 499)
    shapes = [line := added(line, at=AT, step=10**6 + i, epoch=None, loss=1.0) for i in range(2)]
    assert shapes[0].shape == line_of([1.0] * 499).shape
    assert shapes[1].shape != shapes[0].shape


def test_the_same_step_again_is_no_observation():
    line = line_of([2.0, 1.5])
    assert added(line, at=AT + 99, step=200, epoch=None, loss=1.4) is line


def test_a_replaced_pod_that_goes_on_from_its_checkpoint_goes_back_on_the_curve():
    line = added(line_of([2.0, 1.5, 1.2]), at=AT + 99, step=150, epoch=None, loss=1.6)
    assert steps(line.curve) == [100, 200, 300, 150]


# -- going on ---------------------------------------------------------------------------------------------------


@thorough
@given(LOSSES, st.integers(0, 40))
def test_an_operator_that_is_restarted_loses_nothing_of_what_was_written(values, more):
    written = line_of(values).curve
    if len(written.points) < POINTS_MAX - 1:
        assert resumed(written).curve == written
    line = line_of([3.0] * more, resumed(written), len(values))
    points = line.curve.points
    assert len(points) <= POINTS_MAX
    if written.points:
        lowest = min(written.points, key=lambda point: point.loss)
        assert points[0] == written.points[0]
        assert lowest in points or lowest.loss >= 3.0
    assert steps(line.curve) == sorted(set(steps(line.curve)))


def test_a_full_curve_is_thinned_when_it_is_gone_on_from():
    points = tuple(Point(at="2026-01-02T03:04:05Z", step=n, loss=600.0 - n) for n in range(500))
    line = resumed(Curve(every=4, points=points))
    assert line.every == 8
    assert steps(line.curve)[-2:] == [498, 499]
    assert added(line, at=AT, step=1000, epoch=None, loss=1.0).shape == (8, 251), "The next one is due."


def test_what_was_read_before_the_old_curve_was_follows_it():
    line = joined(line_of([2.0, 1.5]), line_of([1.4, 1.3], start=2))
    assert line.curve == line_of([2.0, 1.5, 1.4, 1.3]).curve


def test_nothing_written_is_nothing_to_go_on_from():
    assert resumed(Curve()) == Thinned()
    assert joined(Thinned(), line_of([2.0])) == line_of([2.0])


# -- what a look saw --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("track", "expected"),
    [
        pytest.param(losses(1.5), [(1100, 1.5)], id="the newest observation"),
        pytest.param(losses(), [], id="a gauge at its initial value is none"),
        pytest.param(losses(1.5, nan), [], id="a loss that is not a number is none"),
        pytest.param(losses(1.5, inf), [], id="nor is an infinite one"),
    ],
)
def test_a_look_adds(track, expected):
    line = observed(Thinned(), make_observed(track=track))
    assert [(point.step, point.loss) for point in line.curve.points] == expected


def test_a_point_says_when_and_in_which_epoch():
    track = track_of((0, make_reading(loss=9.0, step=0)), (10, make_reading(loss=2.0, step=5, epoch=0.25)))
    (point,) = observed(Thinned(), make_observed(track=track)).curve.points
    assert point == Point(at="2026-01-02T03:04:05Z", step=5, epoch=0.25, loss=2.0)


# -- as it is written -------------------------------------------------------------------------------------------


def test_the_config_map_goes_with_the_run_and_is_found_by_its_label():
    made = config_map(NAMESPACE, NAME, RUN_UID, line_of([2.0]).curve)
    assert made["metadata"]["name"] == "bert-curve"
    assert made["metadata"]["labels"]["trainingrun.dev/run"] == NAME
    assert made["metadata"]["ownerReferences"] == [
        {
            "apiVersion": "trainingrun.dev/v1alpha1",
            "kind": "TrainingRun",
            "name": NAME,
            "uid": RUN_UID,
            "controller": False,
            "blockOwnerDeletion": False,
        }
    ]
    assert json.loads(made["data"]["curve.json"]) == {
        "every": 1,
        "points": [{"at": "2026-01-02T03:04:05Z", "step": 100, "epoch": 0.0, "loss": 2.0}],
    }


@pytest.mark.parametrize("loss", [nan, inf, -inf])
def test_a_point_is_always_a_number(loss):
    with pytest.raises(ValidationError):
        Point(at="2026-01-02T03:04:05Z", step=1, loss=loss)


def test_the_longest_curve_is_a_small_part_of_what_a_config_map_may_hold():
    line = line_of([1 / 3 + i / 7 for i in range(498)])
    made = config_map(NAMESPACE, NAME, RUN_UID, line.curve)
    assert len(line.curve.points) == 498
    assert len(made["data"]["curve.json"]) < 64 * 1024


@pytest.mark.parametrize("step", [0, 2**53 - 1, 10**20])
@pytest.mark.parametrize("epoch", [None, 0.0, 1.75])
def test_a_kept_sample_is_what_was_read(step, epoch):
    line = added(Thinned(), at=AT, step=step, epoch=epoch, loss=0.1)
    assert line.kept == (line.newest,) == (Sample(0, AT, step, epoch, 0.1),)


def test_a_full_curve_takes_few_bytes_and_no_objects():
    line = line_of([1.0] * 498)
    assert line.size == 498
    assert len(line.packed) < 20_000
    assert not gc.is_tracked(line.packed)
