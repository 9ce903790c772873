"""Runs of two ranks: what any, all, or rank 0 must say before something happens."""

from __future__ import annotations

from dataclasses import replace

import pytest
from builders import (
    NODE_UID,
    exited_pod,
    finished_pod,
    losses,
    make_agent,
    make_found,
    make_node_facts,
    make_observed,
    make_pod,
    make_rank,
    make_run,
    make_status,
    make_stop,
    make_verified,
    make_workload,
    pending_pod,
    stopping_at,
)

from trainingrun_operator.api import names
from trainingrun_operator.api.exchange import AgentError, CommitSeen, MarkerSeen, SaveRequest
from trainingrun_operator.api.status import Phase, StopMode
from trainingrun_operator.core.decide import decide
from trainingrun_operator.core.effects import Advance, Annotate, DeletePod, RecordNodes, SuspendWorkload
from trainingrun_operator.core.rules import chain, exits
from trainingrun_operator.core.status import render
from trainingrun_operator.core.stop import disruption

FIRST, SECOND = make_pod(uid="pod-0", name="bert-0"), make_pod(uid="pod-1", name="bert-1", rank=1)
COMMIT = CommitSeen(key="commits/i1-g0007.json", incarnation=1, generation=7, step=1200)
SHIPPED = make_agent(commit=COMMIT)
HEALTHY = (make_agent(), make_agent())


def two(first=FIRST, second=SECOND, *, reports=HEALTHY, tracks=None, **fields):
    """A run of two ranks that train."""
    tracks = tracks or (losses(2.0, 1.5, 1.2), losses(2.0, 1.5, 1.2))
    pods = (first, second)
    ranks = tuple(make_rank(i, pod=pods[i], report=reports[i], track=tracks[i]) for i in range(2))
    return make_observed(**{"workload": make_workload(world_size=2), "ranks": ranks, **fields})


def exited(pod, code):
    return exited_pod(code, uid=pod.uid, name=pod.name, rank=pod.rank)


def why(seen):
    found = chain.why_end(seen)
    return (found.status, found.reason) if found is not None else None


@pytest.mark.parametrize(
    ("codes", "reports", "ends"),
    [
        pytest.param((0, 0), None, ("auto_complete", "ExitCodeZero"), id="all ranks exited with 0"),
        pytest.param((0, None), None, None, id="one still trains"),
        pytest.param((0, 1), None, None, id="one crashed: it is replaced"),
        pytest.param((0, 1), (make_agent(), make_agent(markers=(MarkerSeen(name="done", age_seconds=1),))), ("auto_complete", "ExitAfterMarker"), id="one crashed after the marker of either"),
    ],
)  # fmt: skip
def test_completion_by_exit_code_needs_every_rank(codes, reports, ends):
    pods = (pod if code is None else exited(pod, code) for pod, code in zip((FIRST, SECOND), codes, strict=True))
    assert why(two(*pods, **({"reports": reports} if reports else {}))) == ends


def test_every_crashed_rank_counts_against_the_limit():
    run = make_run(spec={"backoffLimit": 1})
    assert why(two(FIRST, exited(SECOND, 1), run=run)) is None
    assert why(two(exited(FIRST, 3), exited(SECOND, 1), run=run)) == ("failed", "BackoffLimitExceeded")
    assert exits.crashes(two(exited(FIRST, 3), exited(SECOND, 1))) == 2


def test_a_crashed_rank_is_saved_before_it_is_replaced():
    (ask,) = [e for e in decide(two(FIRST, exited(SECOND, 1))).effects if isinstance(e, Annotate)]
    assert (ask.pod, ask.key) == ("bert-1", names.SAVE_ANNOTATION)
    assert SaveRequest.model_validate_json(ask.value).id == "crash-pod-1"
    saved = decide(two(FIRST, exited(SECOND, 1), answer=make_verified(termination_id="crash-pod-1")))
    assert [(e.pod, e.key) for e in saved.effects if isinstance(e, Annotate)] == [
        ("bert-1", names.OPEN_GATE_ANNOTATION)
    ]


@pytest.mark.parametrize(
    ("tracks", "reports", "ends"),
    [
        pytest.param((losses(2.0, 0.4, 0.3), losses(2.0, 1.5, 1.2)), (SHIPPED, SHIPPED), True, id="the loss of rank 0 decides"),
        pytest.param((losses(2.0, 1.5, 1.2), losses(2.0, 0.4, 0.3)), (SHIPPED, SHIPPED), False, id="that of rank 1 does not"),
        pytest.param((losses(2.0, 0.4, 0.3),) * 2, (SHIPPED, make_agent(newest=None)), False, id="a rank without a checkpoint is waited for"),
        pytest.param((losses(2.0, 0.4, 0.3),) * 2, (SHIPPED, None), False, id="a rank whose agent is silent is waited for"),
    ],
)  # fmt: skip
def test_a_low_loss_is_that_of_rank_0_and_waits_for_the_checkpoints_of_all(tracks, reports, ends):
    assert (why(two(tracks=tracks, reports=reports)) is not None) == ends


def test_a_stop_file_in_any_rank_stops_the_run():
    assert why(two(reports=(make_agent(), make_agent(foreign_stop_file=True)))) == ("user_stop", "Written")


def test_a_run_fails_when_any_pod_cannot_start_for_too_long():
    second = pending_pod(uid="pod-1", rank=1, waiting_reason="ImagePullBackOff", waiting_message="not found")
    seen = two(FIRST, second)
    assert why(seen) is None
    waited = replace(seen, ranks=(seen.ranks[0], replace(seen.ranks[1], waiting_seconds=300)))
    assert why(waited) == ("failed", "WaitedTooLong")


@pytest.mark.parametrize(
    ("reports", "key", "proven"),
    [
        pytest.param((SHIPPED, SHIPPED), COMMIT.key, True, id="one commit holds both"),
        pytest.param((SHIPPED, make_agent()), COMMIT.key, False, id="rank 1 has no commit"),
        pytest.param((SHIPPED, None), COMMIT.key, False, id="rank 1 is silent"),
        pytest.param((SHIPPED, SHIPPED), "commits/i1-g0008.json", False, id="another commit was verified"),
        pytest.param((SHIPPED, make_agent(commit=COMMIT, unfinished=make_found(dir="checkpoint-1300"))), COMMIT.key, False, id="rank 1 writes another"),
        pytest.param((SHIPPED, make_agent(commit=COMMIT, error=AgentError(code="AccessDenied", message="no"))), COMMIT.key, False, id="rank 1 cannot save"),
    ],
)  # fmt: skip
def test_eviction_waits_until_the_bytes_of_all_ranks_are_proven(reports, key, proven):
    seen = two(reports=reports, verified=replace(make_verified(), key=key))
    assert disruption.all_proven(seen) is proven


# -- stopping -----------------------------------------------------------------------------------------------------


def stopping(phase, first=FIRST, second=SECOND, *, stop=None, spec=None, **fields):
    seen = two(first, second, **fields)
    status = make_status(termination=make_stop(phase, **(stop or {})), termination_status="auto_low_loss")
    return replace(seen, run=make_run(spec=spec, status=status))


def phase_after(seen):
    return next((e.termination.phase for e in decide(seen).effects if isinstance(e, Advance)), None)


def test_every_rank_is_asked_to_leave_and_to_save():
    assert {e.pod for e in decide(stopping(Phase.DRAINING)).effects if isinstance(e, Annotate)} == {"bert-0", "bert-1"}
    assert {e.pod for e in decide(stopping(Phase.SAVING)).effects if isinstance(e, Annotate)} == {"bert-0", "bert-1"}


def test_draining_ends_when_the_last_rank_has_left():
    assert phase_after(stopping(Phase.DRAINING, exited(FIRST, 0), SECOND)) is None
    assert phase_after(stopping(Phase.DRAINING, exited(FIRST, 0), exited(SECOND, 0))) is Phase.SAVING


@pytest.mark.parametrize(
    ("mode", "ages", "goes_on"),
    [
        pytest.param(StopMode.NEXT_CHECKPOINT, (1, 1), True, id="all ranks have a new checkpoint"),
        pytest.param(StopMode.NEXT_CHECKPOINT, (1, 90), False, id="one rank's is old"),
        pytest.param(StopMode.NEXT_CHECKPOINT, (1, None), False, id="one rank has none"),
        pytest.param(StopMode.LAST_CHECKPOINT, (90, 90), True, id="any checkpoint of all ranks"),
        pytest.param(StopMode.LAST_CHECKPOINT, (90, None), False, id="not of all ranks"),
    ],
)
def test_a_mode_is_content_with_the_checkpoints_of_all_ranks(mode, ages, goes_on):
    reports = tuple(make_agent(newest=None if age is None else make_found(age_seconds=age)) for age in ages)
    spec = {"stopMode": mode.value}
    seen = stopping(Phase.DRAINING, stop={"mode": mode}, spec=spec, reports=reports, phase_seconds=30)
    assert (phase_after(seen) is Phase.SAVING) == goes_on


@pytest.mark.parametrize(
    ("reports", "reason"),
    [
        ((make_agent(), None), "rank 1 does not answer"),
        ((make_agent(), make_agent(error=AgentError(code="AccessDenied", message="no"))), "rank 1 cannot save: AccessDenied"),
        ((make_agent(), make_agent(newest=None)), "rank 1 still runs"),
    ],
)  # fmt: skip
def test_a_held_stop_names_the_rank_that_is_behind(reports, reason):
    seen = stopping(Phase.SAVING, reports=reports, save_failing_seconds=120)
    (held,) = [e.termination for e in decide(seen).effects if isinstance(e, Advance)]
    assert held.phase is Phase.HELD
    assert reason in (held.hold_reason or "")


def test_a_rank_whose_pods_are_over_is_not_waited_for():
    first = make_pod(uid="pod-0", name="bert-0", training=exited_pod().training, exit_code=1, phase="Failed")
    silent = stopping(Phase.SAVING, first, reports=(None, make_agent()), save_failing_seconds=120)
    assert phase_after(silent) is None


def test_there_is_nothing_to_save_only_if_no_rank_has_made_a_step_or_written_anything():
    empty = make_agent(newest=None, commit=None, files=0)
    status = make_status(termination=make_stop(Phase.SAVING), termination_status="auto_low_loss")
    none_yet = (losses(), losses())
    run = make_run(status=status)

    def stopped(reports, tracks, *, unmoved=(True, False)):
        seen = two(reports=reports, tracks=tracks)
        ranks = (replace(rank, unmoved=is_so) for rank, is_so in zip(seen.ranks, unmoved, strict=True))
        return phase_after(replace(seen, run=run, ranks=tuple(ranks)))

    assert stopped((empty, empty), none_yet) is Phase.DELETING
    assert stopped((empty, make_agent()), none_yet) is None
    assert stopped((empty, None), none_yet) is None
    assert stopped((empty, empty), (losses(), losses(2.0))) is None
    assert stopped((empty, empty), none_yet, unmoved=(False, True)) is None, "Rank 0 shows the step of all ranks."


def test_all_gates_open_once_all_ranks_have_ended():
    workload = make_workload(world_size=2, replaces=False)
    behind = stopping(Phase.DELETING, exited(FIRST, 0), exited(SECOND, 0), workload=workload)
    assert {(e.pod, e.key) for e in decide(behind).effects if isinstance(e, Annotate)} == {
        ("bert-0", names.OPEN_GATE_ANNOTATION),
        ("bert-1", names.OPEN_GATE_ANNOTATION),
    }
    one_trains = stopping(Phase.DELETING, exited(FIRST, 0), SECOND, workload=workload)
    assert any(isinstance(e, SuspendWorkload) for e in decide(one_trains).effects)


# -- pods that a commit does not cover ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pod", "told"),
    [
        pytest.param(
            make_pod(uid="next", lost=True), True, id="it trained on from the commit, and its machine is gone"
        ),
        pytest.param(exited_pod(1, uid="next", lost=True), True, id="it had ended, unsaved"),
        pytest.param(pending_pod(uid="next", node="gpu-1", lost=True), False, id="it never started"),
        pytest.param(make_pod(lost=True), False, id="it wrote the commit itself"),
    ],
)
def test_a_loss_is_told_of_a_lost_pod_that_started_after_the_final_commit(pod, told):
    seen = stopping_at(Phase.SAVING, pods=(pod,), agent=None, track=losses(), verified=make_verified(final=True))
    (after,) = [e.termination for e in decide(seen).effects if isinstance(e, Advance)]
    assert (after.phase, bool(after.data_loss)) == (Phase.DELETING, told)


# -- containers beside the training -------------------------------------------------------------------------------


def left_behind(**fields):
    return make_pod(uid="pod-0", name="bert-0", training=exited_pod().training, exit_code=1, gate_open=True, **fields)


@pytest.mark.parametrize(
    ("pod", "deleted"),
    [
        pytest.param(left_behind(gate_left=True), True, id="a proxy keeps a pod whose training and gate have ended"),
        pytest.param(left_behind(gate_left=False), False, id="the gate has not left yet"),
        pytest.param(left_behind(gate_left=True, deleting=True), False, id="it is being deleted"),
        pytest.param(finished_pod(1, gate_open=True, gate_left=True), False, id="nothing keeps it"),
        pytest.param(make_pod(gate_left=True), False, id="its training runs, although its gate was killed"),
    ],
)
def test_a_pod_that_only_a_container_beside_the_training_keeps_is_deleted(pod, deleted):
    watching = decide(make_observed(pods=(pod,)))
    assert [e.uid for e in watching.effects if isinstance(e, DeletePod)] == ([pod.uid] if deleted else [])
    workload = make_workload(replaces=False)
    ending = decide(stopping_at(Phase.DELETING, pods=(replace(pod, exit_code=0),), workload=workload))
    assert ([e for e in ending.effects if isinstance(e, DeletePod)] != []) == deleted


# -- status -------------------------------------------------------------------------------------------------------


def test_the_status_lists_the_pods_of_all_ranks_and_adds_up_what_is_unsaved():
    reports = (make_agent(unsaved_bytes=10), make_agent(unsaved_bytes=5))
    status = render(two(reports=reports, verified=make_verified()))
    assert [(pod.uid, pod.rank) for pod in status.pods] == [("pod-0", 0), ("pod-1", 1)]
    assert status.checkpoint is not None
    assert status.checkpoint.lag is not None
    assert status.checkpoint.lag.bytes == 15


def test_nodes_of_all_ranks_are_recorded():
    nodes = (make_node_facts(), make_node_facts(name="gpu-2", uid="node-2", provider_id="aws:///us-east-1a/i-2"))
    (record,) = [
        e.nodes
        for e in decide(two(second=replace(SECOND, node="gpu-2"), nodes=nodes)).effects
        if isinstance(e, RecordNodes)
    ]
    assert [node.uid for node in record] == [NODE_UID, "node-2"]
