"""Patterns that people write are refused if they are no RE2 or too large, and searched for in bounded time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainingrun_operator.core.log_patterns import (
    complaint,
    complaint_of_groups,
    complaint_of_line,
    first_found,
    groups,
    last_line,
)

LOG = "step 1/9\rstep 2/9\rCUDA error: device-side assert triggered\r\nTraceback (most recent call last):\n  File x\nRuntimeError: NCCL\n"


@pytest.mark.parametrize(
    "pattern",
    [
        "CUDA error: (device-side assert|an illegal memory access)",
        "(?i)out of memory",
        r"\bRuntimeError\b",
        "^[[:alpha:]]+Error:",
        "(?s)Traceback.*RuntimeError",
        "é+",
        "(a+)+$",
        "(.*){50}x",
    ],
)
def test_patterns_that_are_searched_for(pattern):
    assert complaint(pattern) == ""


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        pytest.param("(", "missing ): (", id="a parenthesis that is not closed"),
        pytest.param("[a", "missing ]: [a", id="a class that is not closed"),
        pytest.param("*a", "no argument for repetition operator: *", id="nothing to repeat"),
        pytest.param("a(?=b)", "invalid perl operator: (?=", id="a lookahead, which RE2 does not have"),
        pytest.param(r"(a)\1", r"invalid escape sequence: \1", id="a backreference, which RE2 does not have"),
        pytest.param("a{1001}", "invalid repetition size: {1001}", id="too many repetitions"),
        pytest.param("(?:a?){500}b", "it is too large: 1005 instructions, at most 1000", id="a program that is too large"),
        pytest.param(r"\pL{200}x", "pattern too large - compile failed", id="one that is not even compiled"),
        pytest.param("\ud800", "it is no valid Unicode", id="half of a character"),
    ],
)  # fmt: skip
def test_patterns_that_are_refused_and_never_found(pattern, why):
    assert complaint(pattern) == why
    assert first_found([pattern], "(a" * 600) == ""


@pytest.mark.parametrize(
    ("pattern", "there"),
    [
        ("^CUDA error", True),
        ("triggered$", True),
        ("^step 2/9$", True),
        ("^error", False),
        ("device.*NCCL", False),
        ("(?s)device.*NCCL", True),
        ("cuda", False),
        ("(?i)cuda", True),
    ],
)
def test_lines_of_a_log_may_end_with_a_carriage_return(pattern, there):
    assert first_found([pattern], LOG) == (pattern if there else "")


def test_the_first_pattern_of_the_list_that_is_found_counts():
    assert first_found(["(", "absent", "NCCL", "CUDA"], LOG) == "NCCL"
    assert first_found([], LOG) == ""


@pytest.mark.parametrize("pattern", [".*", "out of memory|", "(NCCL)?", "^$", r"\s*", "$"])
def test_a_pattern_that_every_log_has_names_no_crash(pattern):
    assert complaint(pattern) == ""
    assert "an empty line" in complaint_of_line(pattern)
    assert first_found([pattern], LOG) == ""
    assert first_found([pattern, "NCCL"], LOG) == "NCCL"


@given(st.text(max_size=255), st.text(max_size=200))
def test_any_pattern_and_any_text_have_an_answer(pattern, text):
    found = first_found([pattern], text)
    assert found in ("", pattern)
    assert not (found and complaint(pattern))


@pytest.mark.parametrize(
    ("pattern", "line", "found"),
    [
        (r"step (?P<step>\d+)( loss (?P<loss>\S+))?", "step 7 loss 0.5", {"step": "7", "loss": "0.5"}),
        (r"step (?P<step>\d+)( loss (?P<loss>\S+))?", "step 7", {"step": "7"}),
        (r"^step (?P<step>\d+)", "a step 7", None),
        (r"(?P<step>", "step 7", None),
    ],
)
def test_named_groups_of_a_line(pattern, line, found):
    assert groups(pattern, line) == found


TWICE = "it has more than one group named loss, so that only the first is read: write two patterns"


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        pytest.param(r"(?P<loss>\S+) (?P<step>\d+)", "", id="two groups"),
        pytest.param(r"a (?P<loss>\S+)|b (?P<loss>\S+)", TWICE, id="a name in both alternatives"),
        pytest.param(r"(?<loss>a)(?P<loss>b)", TWICE, id="a name in both ways to write it"),
        pytest.param(r"((?P<step>a)(?P<step>b))", TWICE.replace("loss", "step"), id="another name, in a group"),
        pytest.param(r"\(?P<loss>(?P<loss>\S+)", "", id="an escaped parenthesis"),
        pytest.param(r"[](?P<loss>](?P<loss>\S+)", "", id="a class of the same signs"),
        pytest.param(r"[^\](?P<loss>](?P<loss>\S+)", "", id="what is not in such a class"),
        pytest.param(r"\Q(?P<loss>\E(?P<loss>\S+)", "", id="a literal"),
        pytest.param(r"(?P<loss>\S+)\Q(?P<loss>", "", id="a literal to the end"),
    ],
)
def test_a_name_stands_for_one_group(pattern, why):
    assert complaint_of_groups(pattern) == why


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        pytest.param("^DONE$", "", id="a whole line"),
        pytest.param("Training (complete|finished)", "", id="part of a line"),
        pytest.param(".", "", id="any line but an empty one"),
        pytest.param("(", "missing ): (", id="no pattern"),
        *(
            pytest.param(one, "it is found in an empty line, so that any line has it", id=f"{one} is found in an empty line")
            for one in ("^", "^$", "x*", "(DONE)?", "DONE|", r"\z", "(?i)")
        ),
    ],
)  # fmt: skip
def test_a_pattern_tells_one_line_from_others(pattern, why):
    assert complaint_of_line(pattern) == why
    assert why == "" or last_line([pattern], ["", "DONE"]) is None


@pytest.mark.parametrize(
    ("patterns", "found"),
    [
        (["^a", "b$"], ("b$", "c b")),
        (["b$", "^a"], ("b$", "c b")),
        (["^a"], ("^a", "a 2")),
        ([r"\Aa 1\z"], (r"\Aa 1\z", "a 1")),
        (["a 1.*c b", "(?s)1.a"], None),
        ([], None),
    ],
)
def test_the_last_line_with_a_pattern(patterns, found):
    assert last_line(patterns, ["a 1", "a 2", "c b", "d"]) == found
