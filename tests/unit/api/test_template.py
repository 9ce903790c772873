"""A pod template is kept as text, and any text can be kept or is refused with words."""

from __future__ import annotations

import json
from typing import Any

import pytest
from builders import spec_dict
from cpu import quiet_seconds
from pydantic import ValidationError

from trainingrun_operator.api.run import TrainingRunSpec
from trainingrun_operator.api.template import DEPTH_MAX, LEFT_OUT, TEMPLATE_MAX_BYTES, Template, gpus_of

WRITTEN = {"metadata": {"labels": {"a": "é"}}, "spec": {"containers": [{"name": "train", "x": [1, None, "}{"]}]}}


@pytest.mark.parametrize(
    "taken", [WRITTEN, json.dumps(WRITTEN), Template.of(WRITTEN)], ids=["object", "text", "template"]
)
def test_it_reads_as_it_was_written(taken):
    template = TrainingRunSpec.parse({**spec_dict(), "template": taken}).template
    assert template == WRITTEN
    assert template["spec"] == WRITTEN["spec"]
    assert (list(template), len(template)) == (["metadata", "spec"], 2)
    assert template.first_container == "train"
    assert (template.problem, template != {}) == ("", True)


def test_it_is_written_as_an_object():
    assert TrainingRunSpec.parse({**spec_dict(), "template": WRITTEN}).dump()["template"] == WRITTEN


def test_what_is_parsed_belongs_to_the_caller():
    template = Template.of(WRITTEN)
    template.parse()["spec"]["containers"].clear()
    assert template == WRITTEN
    assert hash(template) == hash(Template.of(WRITTEN))
    assert repr(template).startswith("Template({")


@pytest.mark.parametrize("written", [None, 7, ["x"]])
def test_what_is_no_object_is_refused_as_before(written):
    with pytest.raises(ValidationError, match="valid dictionary"):
        TrainingRunSpec.parse({**spec_dict(), "template": written})


def nested(levels):
    value: dict[str, Any] = {}
    for _ in range(levels - 1):
        value = {"x": value}
    return value


@pytest.mark.parametrize(
    ("written", "problem"),
    [
        pytest.param({"x": "y" * (TEMPLATE_MAX_BYTES - 8)}, "", id="as long as allowed"),
        pytest.param({"x": "y" * (TEMPLATE_MAX_BYTES - 7)}, "has 262145 bytes as JSON, more than 262144", id="longer"),
        pytest.param({"x": [{}] * 100_000}, "has 300007 bytes as JSON, more than 262144", id="small parts"),
        pytest.param(nested(DEPTH_MAX), "", id="as deep as allowed"),
        pytest.param(nested(DEPTH_MAX + 1), "has objects or lists nested more than 64 levels deep", id="deeper"),
        pytest.param(nested(900), "has objects or lists nested more than 64 levels deep", id="hardly parsed"),
        pytest.param(nested(100_000), "has objects or lists nested more than 64 levels deep", id="too deep to write"),
        pytest.param('{"x":' * 5000 + "1" + "}" * 5000, "has objects or lists nested more than 64", id="as text"),
        pytest.param({"x": "[" * 1000}, "", id="brackets in a text"),
        pytest.param(
            {LEFT_OUT: 300_007}, "has 300007 bytes as JSON, more than 262144", id="left out where it was read"
        ),
        pytest.param({LEFT_OUT: "300007"}, "", id="an author's key of that name"),
    ],
)
def test_of_one_that_is_too_large_or_too_deep_only_the_problem_is_kept(written, problem):
    template = Template.of(written)
    assert template.problem.startswith(problem)
    assert bool(template.problem) is bool(problem)
    if problem:
        assert (template.text, template.parse(), template.first_container, template.gpus) == ("", {}, "", 0)


@pytest.mark.parametrize("unit", ["{}", "[]", '{"a":1}', "[[]]", '""', "1"])
def test_the_largest_is_taken_over_within_some_milliseconds(unit):
    text = '{"x":[' + ",".join([unit] * (250_000 // (len(unit) + 1))) + "]}"
    assert not Template.of(text).problem
    assert quiet_seconds(lambda: Template.of(text)) < 0.05


@pytest.mark.parametrize(
    ("pod", "gpus"),
    [
        ({}, 0),
        ({"spec": None}, 0),
        ({"spec": "x"}, 0),
        ({"spec": {"containers": "x"}}, 0),
        ({"spec": {"containers": ["x", None, 7]}}, 0),
        ({"spec": {"containers": [{"resources": []}]}}, 0),
        ({"spec": {"containers": [{"resources": {"limits": ["nvidia.com/gpu"]}}]}}, 0),
        ({"spec": {"containers": [{"resources": {"limits": {"nvidia.com/gpu": "9" * 5000}}}]}}, 0),
        ({"spec": {"containers": [{"resources": {"limits": {"nvidia.com/gpu": 10**4000}}}]}}, 0),
        ({"spec": {"containers": [{"resources": {"limits": {"nvidia.com/gpu": -1}}}]}}, 0),
        ({"spec": {"containers": [{"resources": {"limits": {"nvidia.com/gpu": None}}}]}}, 0),
        ({"spec": {"containers": [{"resources": {"limits": {"nvidia.com/gpu": "8"}}}, "x"]}}, 8),
    ],
)
def test_gpus_of_anything_are_counted(pod, gpus):
    assert gpus_of(pod) == gpus
