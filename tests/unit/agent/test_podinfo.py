"""Annotations as the kubelet writes them."""

from __future__ import annotations

import pytest

from trainingrun_operator.agent import gate, podinfo


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (r'a="plain"', {"a": "plain"}),
        (r'a/b.c="{\"id\":\"x\"}"', {"a/b.c": '{"id":"x"}'}),
        (r'a="back\\slash"', {"a": "back\\slash"}),
        (r'a="two\nlines\tand a tab"', {"a": "two\nlines\tand a tab"}),
        (r'a="\u00e9\U0001f600"', {"a": "é😀"}),
        (r'a="\xff\xc3\xa9"', {"a": "\udcffé"}),
        (r'a="größe"', {"a": "größe"}),
        (r'a="\\n"', {"a": "\\n"}),
        (r'a=""', {"a": ""}),
        (r'a="x=\"y\""', {"a": 'x="y"'}),
        ("no annotation", {}),
        ('a="cut off', {}),
    ],
    ids=[
        "a plain value is itself",
        "escaped quotes are JSON again",
        "a doubled backslash is one",
        "control characters come back",
        "unicode escapes come back",
        "bytes that are not UTF-8 survive",
        "what is printable is not escaped",
        "an escaped backslash does not escape what follows",
        "an empty value is empty",
        "an equals sign in the value is part of it",
        "a line without a value is passed over",
        "a line without its end is passed over",
    ],
)
def test_a_quoted_annotation(line, expected):
    assert podinfo.parse(f'first="1"\n{line}\nlast="2"') == {"first": "1", "last": "2"} | expected


def test_what_the_operator_asks_for():
    text = (
        'kubernetes.io/config.seen="2026-01-01T00:00:00Z"\n'
        r'trainingrun.dev/save="{\"id\":\"t1\",\"attempt\":2,\"ended\":true}"' + "\n"
        r'trainingrun.dev/stop="{\"id\":\"t1\",\"graceSeconds\":30}"'
    )
    asked = podinfo.asked(text)
    assert asked.save
    assert asked.stop
    assert (asked.save.id, asked.save.attempt, asked.save.ended) == ("t1", 2, True)
    assert asked.stop.grace_seconds == 30
    assert not asked.released


@pytest.mark.parametrize(
    "value",
    ['"nonsense"', r'"{\"id\":1}"', '"{}"'],
    ids=["not JSON", "a wrong type", "a missing field"],
)
def test_a_request_that_does_not_parse_is_named_and_passed_over(value):
    asked = podinfo.asked(f"trainingrun.dev/stop={value}")
    assert asked.stop is None
    assert asked.unreadable == ("trainingrun.dev/stop",)


@pytest.mark.parametrize(
    ("text", "released"),
    [
        ('trainingrun.dev/released="true"', True),
        ('a="1"\ntrainingrun.dev/released=""\n', True),
        ('trainingrun.dev/releasedx="true"', False),
        (r'a="\ntrainingrun.dev/released=\"\""', False),
        ("", False),
    ],
    ids=[
        "the annotation releases",
        "its value does not matter",
        "another annotation does not",
        "nor does its name within a value",
        "nor does nothing",
    ],
)
def test_gate_and_agent_agree_on_the_release(text, released):
    assert gate.is_released(text) is released
    assert podinfo.asked(text).released is released
