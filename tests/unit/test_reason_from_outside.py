"""A reason to end that the operator does not have, added as CONTRIBUTING.md says: it ends a run, and is shown everywhere."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
from builders import NOW, losses, make_observed, make_run, make_status, make_verified

from trainingrun_operator.api.endings import ENDINGS
from trainingrun_operator.api.status import Phase
from trainingrun_operator.cli.explain import explain
from trainingrun_operator.core.decide import decide
from trainingrun_operator.core.effects import Begin
from trainingrun_operator.core.rules.chain import RULES, why_end
from trainingrun_operator.core.status import render
from trainingrun_operator.dashboard.words import Look, look
from trainingrun_operator.exporter import Telemetry

CONTRIBUTING = Path(__file__).parents[2] / "CONTRIBUTING.md"
TODAY = datetime(2026, 1, 2, 3, 10, tzinfo=UTC)
QUIET = make_observed(track=losses(2.0, 1.5, until=NOW - 3600), verified=make_verified())
"""The last step was made an hour ago."""


@pytest.fixture
def example(monkeypatch):
    """The worked example, run as it stands: its ending is a row of the table, its rule the last of the tuple."""
    text = CONTRIBUTING.read_text(encoding="utf-8")
    blocks = re.findall(
        r'^```python title="(?:api/endings|core/rules/pace)\.py"\n(.*?)^```$', text, re.DOTALL | re.MULTILINE
    )
    assert len(blocks) == 2
    made: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, str(CONTRIBUTING), "exec"), made)  # noqa: S102 - the example is what is tested
    example = SimpleNamespace(**made)
    monkeypatch.setitem(ENDINGS, example.TOO_SLOW.status, example.TOO_SLOW)
    return SimpleNamespace(ending=example.TOO_SLOW, rules=(*RULES, example.pace))


def ended(seen, rules):
    """The run after a stop that it begins now has gone all its way."""
    (stop,) = [effect.termination for effect in decide(seen, rules).effects if isinstance(effect, Begin)]
    done = stop.model_copy(update={"phase": Phase.DONE})
    status = make_status(termination=done, termination_status=done.status, completion_time=seen.wall)
    ranks = tuple(replace(rank, pod=None, earlier=()) for rank in seen.ranks)
    after = replace(seen, run=make_run(status=status), ranks=ranks, workload=None)
    return replace(after.run, status=render(after, rules).model_copy(update={"termination": done}))


def test_without_it_the_run_goes_on(example):
    assert why_end(QUIET) is None
    assert not any(isinstance(effect, Begin) for effect in decide(QUIET).effects)


def test_it_ends_a_run_with_a_status_of_its_own(example):
    run = ended(QUIET, example.rules)
    stop = run.status.termination
    assert (stop.status, stop.message, stop.actor) == ("too_slow", "No step for 3600 s, the last one was 1200.", "pace")
    assert [(one.what, one.value, one.step) for one in stop.evidence] == [("quietSeconds", "3600", 1200)]
    assert run.status.phase == "Failed"
    conditions = {one.type: (one.status, one.reason) for one in run.status.conditions}
    assert (conditions["Finished"], conditions["Succeeded"]) == (("True", "TooSlow"), ("False", "TooSlow"))


def test_what_comes_first_still_decides(example):
    asked = replace(QUIET, run=make_run(spec={"stop": True}))
    found = why_end(asked, example.rules)
    assert found is not None
    assert found.status == "user_stop"


def test_explain_says_why_it_has_not_ended_the_run_yet_and_why_it_did(example):
    seen = replace(QUIET, now=NOW - 600)
    run = replace(seen.run, status=render(seen, example.rules))
    (found,) = [one for one in run.status.findings if one.rule == "pace"]
    assert (found.reason, found.fires) == ("StillAdvances", False)
    said = "The last step was made 3000 s ago: 3600 s without a step end the run."
    assert said in explain(run, TODAY).because
    told = explain(ended(QUIET, example.rules), TODAY)
    assert "ended as too_slow" in told.answer
    assert told.because[:2] == ("Decided by the rule pace (NoStep).", "Evidence: quietSeconds 3600 at step 1200.")


def test_the_dashboard_has_its_words_and_the_metrics_its_series(example):
    run = ended(QUIET, example.rules)
    assert look(run.status.phase, run.status.termination_status or "too_slow") == Look("cross", "bad", "Too slow")
    telemetry = Telemetry()
    assert telemetry.registry.get_sample_value("trainingrun_terminations_total", {"status": "too_slow"}) == 0
