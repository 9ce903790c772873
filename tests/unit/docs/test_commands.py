"""Every command of the documentation is run by a test: make's here, helm's here and on the cluster, kubectl's on the cluster (tests/e2e/test_docs.py)."""

from __future__ import annotations

import re

import pytest
from documented import (
    ELSEWHERE,
    ENDLESS,
    PLUGINS,
    READS,
    RELEASED,
    RENDERED,
    ROOT,
    WRITES,
    Command,
    commands,
    elsewhere,
    titled,
    verb_of,
)
from unit.chart.conftest import CHART

from trainingrun_operator.cli.main import cli

TARGETS = set(re.findall(r"(?m)^([a-z0-9-]+):", (ROOT / "Makefile").read_text()))
COMMANDS = commands()
OF_A_RELEASE = ("--create-namespace", "--install", "--reset-then-reuse-values", "--wait")
"""Options that mean something only where a release is, or comes to be."""


def complaint(words):
    """Why no test runs a call; empty if one does."""
    program, verb = words[0], verb_of(words)
    match program:
        case "make":
            wanted = [word for word in words[1:] if "=" not in word]
            return "" if wanted and TARGETS.issuperset(wanted) else f"the Makefile has no {wanted}"
        case "kubectl" if verb in PLUGINS:
            return "" if words[2] in cli.commands else f"the plugin has no {words[2]}"
        case "kubectl":
            return "" if verb in READS | WRITES | ENDLESS else f"no test knows how to run kubectl {verb}"
        case "helm":
            return "" if verb in RENDERED | RELEASED else f"no test knows how to run helm {verb}"
        case _:
            return f"no test runs {program}"


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.where)
def test_a_command_is_run_by_a_test(command):
    if elsewhere(command.text) is None:
        assert not [words for call in command.calls if (words := complaint(call))], command.text


@pytest.mark.parametrize("begin", ELSEWHERE)
def test_what_no_test_runs_is_still_in_the_docs(begin):
    assert any(elsewhere(command.text) == begin for command in COMMANDS), (
        f"Nothing begins with {begin} any more: forget it."
    )


@pytest.mark.parametrize(
    "text",
    [
        "kubectl frobnicate trun bert",
        "kubectl trainingrun frobnicate bert",
        "make nonsense",
        "helm rollback x",
        "curl http://x",
        "kubectl get trun | xargs kill",
    ],
)
def test_a_command_that_nobody_runs_is_found(text):
    command = Command(text, "here")
    assert elsewhere(text) is None
    assert [words for call in command.calls if (words := complaint(call))]


def test_verbs_are_known_by_what_is_done_with_them():
    assert len(READS | WRITES | PLUGINS | ENDLESS) == len(READS) + len(WRITES) + len(PLUGINS) + len(ENDLESS)
    assert not RENDERED & RELEASED


def renders():
    calls = [(command.where, call) for command in COMMANDS for call in command.calls]
    return [pytest.param(call, id=where) for where, call in calls if call[0] == "helm" and call[1] in RENDERED]


@pytest.mark.parametrize("call", renders())
def test_helm_accepts_the_values_that_the_docs_give(call, helm, tmp_path):
    files = titled()
    chart = next(word for word in call if word.startswith("charts/"))
    place = call.index(chart)
    assert (ROOT / chart) == CHART
    options = [
        str(tmp_path / word) if word in files else word for word in call[place + 1 :] if word not in OF_A_RELEASE
    ]
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    done = helm.run("template", call[place - 1], str(CHART), *options)
    assert done.returncode == 0, done.stderr
