"""What a training printed last is in one field of the status, and in nothing that goes further: people print secrets."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from builders import exited_pod, make_observed, make_pod, make_run, make_saved, make_workload

from trainingrun_operator.api.status import Phase
from trainingrun_operator.core.bounds import MESSAGE_MAX
from trainingrun_operator.core.decide import decide
from trainingrun_operator.core.effects import Begin
from trainingrun_operator.core.notification import due
from trainingrun_operator.core.status import render

SECRET = "AWS_SECRET_ACCESS_KEY=wJalrXUtnFEMI"  # nobody's
CASES: dict[str, dict[str, Any]] = {
    "it crashed once too often": {"pods": (exited_pod(2),), "workload": make_workload(failed=1)},
    "it crashed, without a Job": {"pods": (exited_pod(2),), "workload": None},
    "its pods failed before it could start": {"pods": (), "workload": make_workload(failed=1)},
}


def crashed(case, tail=SECRET, **spec):
    run = make_run(spec={"backoffLimit": 0, **spec})
    return make_observed(run=run, log_tail=tail, **CASES[case])


def begun(seen):
    (begin,) = (effect for effect in decide(seen).effects if isinstance(effect, Begin))
    return begin.termination


@pytest.mark.parametrize("case", CASES)
def test_a_run_that_failed_has_the_end_of_its_log_in_a_field_of_its_own(case):
    assert begun(crashed(case)).last_log_lines == SECRET


@pytest.mark.parametrize("case", CASES)
def test_no_event_has_it(case):
    others = [effect for effect in decide(crashed(case)).effects if not isinstance(effect, Begin)]
    assert others
    assert SECRET not in repr(others)
    assert SECRET not in begun(crashed(case)).message


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("phase", list(Phase))
def test_neither_the_rest_of_the_status_nor_the_webhook_has_it(case, phase):
    seen = crashed(case)
    stop = begun(seen).model_copy(
        update={"phase": phase, "saved": make_saved(), "hold_reason": "AccessDenied", "data_loss": "Nothing was saved."}
    )
    run = replace(seen.run, status=seen.run.status.model_copy(update={"termination": stop}))
    later = replace(seen, run=run)
    status = render(later)
    whole = status.model_copy(update={"termination": stop})
    assert SECRET not in status.model_copy(update={"termination": None}).model_dump_json()
    assert SECRET not in repr([event.data for event in due(later, whole)])


def test_a_run_that_goes_on_after_a_crash_says_no_word_of_it():
    run = make_run(spec={"backoffLimit": 3})
    seen = make_observed(run=run, log_tail=SECRET, pods=(exited_pod(2),), workload=make_workload())
    assert SECRET not in render(seen).model_dump_json()
    assert SECRET not in repr(decide(seen))


def test_a_run_that_did_not_fail_has_none():
    seen = make_observed(run=make_run(spec={"stop": True}), pods=(make_pod(),), log_tail=SECRET)
    assert begun(seen).last_log_lines == ""


def test_what_is_longer_than_the_field_is_cut():
    assert len(begun(crashed("it crashed once too often", "x" * 2 * MESSAGE_MAX)).last_log_lines) == MESSAGE_MAX
