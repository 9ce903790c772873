"""Stop rules over any training: total, monotone in patience, and unaffected by what is no observation."""

from __future__ import annotations

from itertools import pairwise
from math import isfinite
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stop_rules import RESTART, TIMEOUT, ended_at, first_end, operator, reading, rows

from trainingrun_operator.core.decide import decide
from trainingrun_operator.core.facts.reading import Reading
from trainingrun_operator.core.status import render

pytestmark = pytest.mark.timeout(900)
"""Many examples: on a busy machine they take minutes."""

CRD = Path(__file__).parents[2] / "crds" / "trainingrun.dev_trainingruns.yaml"
SCHEMA = yaml.safe_load(CRD.read_text(encoding="utf-8"))["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
STATUS = jsonschema.Draft202012Validator(SCHEMA["properties"]["status"])

look = settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))

ANY_NUMBER = st.one_of(st.floats(), st.sampled_from([0.0, -0.0, 1e308, -1e308, 0.5]))
VALUES = st.lists(st.one_of(st.sampled_from([0.1, 0.2, 0.3, -1.0, 2.0]), st.floats(-10, 10)), min_size=2, max_size=30)
SHAPES: dict[str, st.SearchStrategy[dict[str, Any]]] = {
    "threshold": st.fixed_dictionaries({"value": st.floats(-10, 10)}),
    "plateau": st.fixed_dictionaries({"patience": st.integers(1, 8), "minDelta": st.sampled_from([0, 0.05, 1e308])}),
    "rising": st.fixed_dictionaries({"observations": st.integers(1, 4), "minDelta": st.sampled_from([0, 0.05])}),
    "nonFinite": st.just({}),
}


@st.composite
def written(draw):
    """A stop rule as a person writes it."""
    shape = draw(st.sampled_from(list(SHAPES)))
    return {
        "metric": draw(st.sampled_from(["loss", "eval_loss"])),
        "goal": draw(st.sampled_from(["Minimize", "Maximize"])),
        "action": draw(st.sampled_from(["Stop", "Stop", "Shadow"])),
        "warmupSteps": draw(st.sampled_from([0, 1500])),
        shape: draw(SHAPES[shape]),
        **draw(st.sampled_from([{}, {"forObservations": 1}, {"forObservations": 3}])),
    }


ANY_READING = st.one_of(
    st.just(TIMEOUT),
    st.builds(
        Reading,
        step=st.one_of(st.none(), st.integers(0, 300), ANY_NUMBER),
        values=st.dictionaries(st.sampled_from(["loss", "eval_loss", "gradientNorm"]), ANY_NUMBER),
    ),
)


@look
@given(written(), st.lists(st.one_of(ANY_READING, st.just(RESTART)), max_size=12))
def test_any_readings_have_a_decision_and_a_status_that_the_api_server_takes(rule, polls):
    def check(seen):
        decide(seen)
        assert [error.message for error in STATUS.iter_errors(render(seen).dump())] == []
        for watch in seen.watches.values():
            assert watch.best is None or isfinite(watch.best.value)
            assert watch.newest is None or watch.newest.step <= (seen.track.step or 2**53)

    first_end(operator(rule), polls, until=check)


def series(values):
    return rows(*values, name="eval_loss", first=1000)


@look
@given(VALUES, st.sampled_from(["plateau", "rising"]), st.integers(1, 8), st.sampled_from(["Minimize", "Maximize"]))
def test_more_patience_never_ends_a_run_earlier(values, shape, patience, goal):
    field = "patience" if shape == "plateau" else "observations"

    def end(number):
        found = first_end(operator({"metric": "eval_loss", "goal": goal, shape: {field: number}}), series(values))
        return float("inf") if found is None else found.evidence[-1].step

    assert end(patience) <= end(patience + 1)


@look
@given(VALUES, st.floats(-10, 10), st.integers(1, 4))
def test_more_observations_never_end_a_run_earlier(values, threshold, number):
    def end(needed):
        rule = {"metric": "eval_loss", "threshold": {"value": threshold}, "forObservations": needed}
        found = first_end(operator(rule), series(values))
        return float("inf") if found is None else found.evidence[-1].step

    assert end(number) <= end(number + 1)


@look
@given(VALUES, st.sampled_from(["plateau", "rising"]), st.integers(1, 6), st.integers(-30, 30))
def test_the_unit_of_a_value_changes_nothing(values, shape, number, power):
    """What a value usually moves is measured in the value's own unit. A power of two changes no digit."""
    rule = {"metric": "eval_loss", shape: {"patience" if shape == "plateau" else "observations": number}}
    # Very small numbers lose digits.
    given = [0.0 if abs(value) < 1e-100 else value for value in values]

    def end(unit):
        polls = [reading(1000 + 100 * at, eval_loss=value * unit) for at, value in enumerate(given)]
        return ended_at(first_end(operator(rule), polls))

    assert end(1.0) == end(2.0**power)


@st.composite
def disturbed(draw):
    """A training, and the same one with failed polls, repeated and older readings, and restarts of the operator."""
    polls = series(draw(VALUES))
    told: list[Any] = polls[:2]
    for before, newest in pairwise(polls[1:]):
        told.append(newest)
        between = draw(st.lists(st.sampled_from(["failed", "again", "older", "restart"]), max_size=3))
        for what in between:
            match what:
                case "failed":
                    told.append(TIMEOUT)
                case "again":
                    told.append(newest)
                case "older":
                    # Not three in a row: these are a new stage.
                    told.extend((before, newest))
                case _:
                    told.append(RESTART)
    return polls, told


@look
@given(written().map(lambda rule: rule | {"metric": "eval_loss", "warmupSteps": 0, "action": "Stop"}), disturbed())
def test_what_is_no_observation_changes_nothing(rule, trainings):
    calm, told = trainings
    assert ended_at(first_end(operator(rule), told)) == ended_at(first_end(operator(rule), calm))


def test_the_disturbances_disturb():
    """Readings that are new observations do change when a run ends."""
    rule = {"metric": "eval_loss", "plateau": {"patience": 4}}
    calm = series([1.0, 1.1, 1.2, 1.3, 1.4, 1.5])
    more = [*calm[:4], reading(1350, eval_loss=1.25), *calm[4:]]
    assert ended_at(first_end(operator(rule), calm)) != ended_at(first_end(operator(rule), more))
