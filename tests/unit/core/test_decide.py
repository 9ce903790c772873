"""The story of a run, top to bottom."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
from builders import (
    POD_UID,
    checkpoint_spec,
    exited_pod,
    finished_pod,
    losses,
    make_agent,
    make_mismatch,
    make_observed,
    make_pod,
    make_run,
    make_status,
    make_unreachable,
    make_verified,
    make_workload,
    pending_pod,
    template,
)

from trainingrun_operator.api import names
from trainingrun_operator.api.exchange import MarkerSeen, SaveRequest
from trainingrun_operator.api.status import WorkloadRef
from trainingrun_operator.core.decide import decide
from trainingrun_operator.core.effects import AddFinalizer, Annotate, Begin, CreateWorkload, Decision, RecordEvent
from trainingrun_operator.core.rules.chain import why_end

DISABLED = {"checkpoint": {"mode": "Disabled"}}
PROCEED = {"checkpoint": checkpoint_spec(onFailure="Proceed")}
NO_JOB: dict[str, Any] = {"workload": None, "pods": (), "agent": None}


def test_a_run_is_protected_before_anything_is_created():
    decision = decide(make_observed(run=make_run(finalizers=("other",)), **NO_JOB))
    assert decision == Decision((AddFinalizer(),), again_seconds=0)


def test_then_its_job_is_created():
    create, tell = decide(make_observed(**NO_JOB)).effects
    assert isinstance(create, CreateWorkload)
    assert (create.manifest["kind"], create.manifest["metadata"]["name"]) == ("Job", "bert")
    assert tell == RecordEvent("Started", "The Job was created.")


@pytest.mark.parametrize(
    ("threshold", "warns"),
    [
        (-15, True),
        (-0.5, True),
        (-1.5, True),
        (-100, True),
        (-1, False),
        (-1.0, False),
        (0, False),
        (0.5, False),
        (None, False),
    ],
)
def test_a_negative_threshold_other_than_the_usual_minus_1_is_told_when_the_job_is_created(threshold, warns):
    effects = decide(make_observed(run=make_run(spec={"autoStopLoss": threshold}), **NO_JOB)).effects
    told = [one for one in effects if isinstance(one, RecordEvent) and one.warning]
    assert [one.reason for one in told] == ["AutoStopLossOff"] * warns
    assert all(f"({threshold:g}) switches the rule off" in one.message for one in told)


@pytest.mark.parametrize(
    ("policy", "told"),
    [(None, False), ("", False), ("Never", False), ("OnFailure", True), ("Always", True)],
)
def test_a_restart_policy_that_the_pods_do_not_get_is_told(policy, told):
    run = make_run(spec={"template": template(restartPolicy=policy)})
    create, *events = decide(make_observed(run=run, **NO_JOB)).effects
    assert isinstance(create, CreateWorkload)
    assert create.manifest["spec"]["template"]["spec"]["restartPolicy"] == "Never"
    warned = [one.message for one in events if isinstance(one, RecordEvent) and one.warning]
    assert [f"restartPolicy is {policy}" in one and "spec.backoffLimit" in one for one in warned] == [True] * told


@pytest.mark.parametrize(
    "pod",
    [
        pytest.param(make_pod(), id="it trains"),
        pytest.param(pending_pod(), id="it waits for a node"),
        pytest.param(exited_pod(1, gate_open=True), id="its crashed pod is let go"),
        pytest.param(finished_pod(1), id="its crashed pod is over"),
    ],
)
def test_then_it_is_watched(pod):
    assert decide(make_observed(pods=(pod,))) == Decision(again_seconds=10, note="watching")


def test_a_run_that_is_deleted_before_anything_of_it_existed_is_left_alone():
    decision = decide(make_observed(run=make_run(deleting=True, finalizers=()), **NO_JOB))
    assert decision.effects == ()


WORKLOAD = WorkloadRef(api_version="batch/v1", kind="Job", name="bert", uid="job")
RESTORED = make_run(status=make_status(start_time=None), finalizers=())
STOP_FILE = make_agent(foreign_stop_file=True)
MARKED = make_agent(markers=(MarkerSeen(name="done", age_seconds=1),))
LOW = losses(2.0, 0.4, 0.3)


@pytest.mark.parametrize(
    ("seen", "status", "message", "actor"),
    [
        pytest.param(
            make_observed(run=make_run(deleting=True, spec={"stop": True})),
            "deleted",
            "The TrainingRun was deleted.",
            "kubectl delete",
            id="deleted, before everything else",
        ),
        pytest.param(
            make_observed(run=make_run(spec={"stop": True}), agent=STOP_FILE),
            "user_stop",
            "Stopped by hand: spec.stop is true.",
            "spec.stop",
            id="a person's word, before a person's file",
        ),
        pytest.param(
            make_observed(
                run=make_run(
                    spec={"stop": True, "stoppedBy": "ada@example.com"}, stop_manager="field manager 'kubectl-patch'"
                )
            ),
            "user_stop",
            "Stopped by hand: spec.stop is true.",
            "ada@example.com",
            id="a person who said their name",
        ),
        pytest.param(
            make_observed(run=make_run(spec={"stop": True}, stop_manager="field manager 'kubectl-patch'")),
            "user_stop",
            "Stopped by hand: spec.stop is true.",
            "field manager 'kubectl-patch'",
            id="the program of a person who did not",
        ),
        pytest.param(
            make_observed(agent=STOP_FILE, pods=(exited_pod(0),)),
            "user_stop",
            "Stopped by hand: found the stop file STOP_TRAINING.",
            "stop file",
            id="a stop file, before the exit that follows it",
        ),
        pytest.param(
            make_observed(run=make_run(status=make_status(workload=WORKLOAD)), **NO_JOB),
            "failed",
            "Its Job bert was deleted, and not by the operator.",
            "Job",
            id="somebody deleted its Job",
        ),
        pytest.param(
            make_observed(run=make_run(status=make_status(workload=WORKLOAD)), namespace_ends=True, **NO_JOB),
            "deleted",
            "The namespace was deleted.",
            "kubectl delete",
            id="its namespace was deleted, which takes the Job first",
        ),
        pytest.param(
            make_observed(run=RESTORED, ended_before=make_verified(status="auto_low_loss"), **NO_JOB),
            "auto_low_loss",
            "This run already ended, as auto_low_loss: the bucket has the commit of its stop, and the cluster was restored from a backup.",
            "bucket",
            id="its bucket knows how it ended",
        ),
        pytest.param(
            make_observed(run=RESTORED, ended_before=make_verified(status="auto_newer"), **NO_JOB),
            "failed",
            "This run already ended, for an unknown reason: the bucket has the commit of its stop, and the cluster was restored from a backup.",
            "bucket",
            id="its bucket knows that it ended, in words that nobody knows",
        ),
        pytest.param(
            make_observed(pods=(exited_pod(0),), track=LOW),
            "auto_complete",
            "Training finished with exit code 0.",
            "exit code",
            id="an exit code, before a low loss",
        ),
        pytest.param(
            make_observed(track=LOW, agent=MARKED, candidate_seconds=999),
            "auto_low_loss",
            "Loss 0.3 < 0.5 at step 1300.",
            "autoStopLoss",
            id="a low loss, before what is only inferred",
        ),
        pytest.param(
            make_observed(agent=MARKED, candidate_seconds=999),
            "auto_complete",
            "Training wrote the completion marker done.",
            "marker",
            id="a marker, last of all",
        ),
    ],
)
def test_the_first_reason_decides(seen, status, message, actor):
    found = why_end(seen)
    assert found is not None
    assert (found.status, found.message, found.actor) == (status, message, actor)
    begin = decide(seen).effects[0]
    assert isinstance(begin, Begin)
    assert begin.termination.status == status


@pytest.mark.parametrize("stop", [pytest.param(None, id="absent"), pytest.param(False, id="false")])
def test_a_run_that_nobody_stops_goes_on(stop):
    assert why_end(make_observed(run=make_run(spec={"stop": stop}))) is None


# -- a crash with attempts left -----------------------------------------------------------------------------------

OPENS_GATE = Annotate("bert-x7k2p", POD_UID, names.OPEN_GATE_ANNOTATION, f"crash-{POD_UID}")


def ask(attempt=1):
    request = SaveRequest(id=f"crash-{POD_UID}", attempt=attempt, ended=True)
    return request, Annotate("bert-x7k2p", POD_UID, names.SAVE_ANNOTATION, request.model_dump_json(by_alias=True))


@pytest.mark.parametrize(
    ("spec", "save", "fields", "wanted"),
    [
        pytest.param({}, None, {}, ask()[1], id="what it left is saved first"),
        pytest.param({}, ask()[0], {}, None, id="and asked for once"),
        pytest.param({}, ask()[0], {"answer": make_mismatch()}, ask(2)[1], id="again if it does not verify"),
        pytest.param({}, ask()[0], {"answer": make_verified()}, OPENS_GATE, id="proven: it is let go"),
        pytest.param(DISABLED, None, {}, OPENS_GATE, id="nothing is to be saved: it is let go at once"),
        pytest.param(
            {},
            ask()[0],
            {"answer": make_unreachable(), "save_failing_seconds": 9e9},
            None,
            id="not proven: it is kept for ever",
        ),
        pytest.param(PROCEED, ask()[0], {"save_failing_seconds": 119}, None, id="Proceed gives it its time"),
        pytest.param(
            PROCEED,
            ask()[0],
            {"save_failing_seconds": 9e9, "no_progress_seconds": 119},
            None,
            id="all the time that its upload moves in",
        ),
        pytest.param(
            PROCEED,
            ask()[0],
            {"save_failing_seconds": 120, "no_progress_seconds": 120},
            OPENS_GATE,
            id="and then goes on without proof",
        ),
        pytest.param(
            PROCEED,
            ask()[0],
            {"save_failing_seconds": 120, "answer": make_unreachable()},
            OPENS_GATE,
            id="also if the bucket is away",
        ),
        pytest.param(
            PROCEED,
            ask()[0],
            {"answer": make_mismatch(curable=False)},
            OPENS_GATE,
            id="at once if no upload would be proven",
        ),
    ],
)
def test_a_crashed_pod_is_replaced_once_what_it_left_is_proven(spec, save, fields, wanted):
    pod = exited_pod(134, save=save)
    seen = make_observed(run=make_run(spec=spec), pods=(pod,), workload=make_workload(failed=1), **fields)
    decision = decide(seen)
    assert [e for e in decision.effects if not isinstance(e, RecordEvent)] == ([wanted] if wanted else [])
    let_go = wanted is not None and wanted.key == names.OPEN_GATE_ANNOTATION
    assert decision.again_seconds == (1 if let_go else max(1, min(60, seen.save_failing_seconds / 10)))


def test_a_replacement_is_told_with_how_many_are_left():
    decision = decide(make_observed(pods=(exited_pod(134),), workload=make_workload(failed=1), answer=make_verified()))
    assert decision.effects[1] == RecordEvent(
        "Restarting",
        "Training ended with exit code 134; its files are saved, and pod bert-x7k2p is replaced (2 of 3 restarts).",
        warning=True,
    )


def test_nothing_that_was_seen_is_changed():
    seen = make_observed(**NO_JOB)
    before = deepcopy(seen.run.spec.template)
    decide(seen)
    assert seen.run.spec.template == before
