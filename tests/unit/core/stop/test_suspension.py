"""A run is suspended with its checkpoint proven and its node given back, goes on from there, or ends there."""

from __future__ import annotations

import pytest
from builders import (
    BASE,
    RUN_UID,
    WALL,
    commit_key,
    exited_pod,
    make_node,
    make_observed,
    make_pod,
    make_run,
    make_saved,
    make_status,
    make_stop,
    make_unreachable,
    make_verified,
    make_workload,
    stopping_at,
)

from trainingrun_operator.api import names
from trainingrun_operator.api.status import SUSPENDED, NodePhase, Phase, StopMode, WorkloadRef
from trainingrun_operator.core.decide import decide
from trainingrun_operator.core.effects import (
    Advance,
    Annotate,
    Begin,
    Decision,
    RecordEvent,
    Resume,
    ResumeWorkload,
    SuspendWorkload,
)
from trainingrun_operator.core.status import render

ID = f"suspend-{RUN_UID}-20260102T030405Z"
MESSAGE = "Suspended: spec.suspend is true."
THIS = {"id": ID, "status": SUSPENDED, "message": MESSAGE}
ASLEEP = make_workload(suspended=True)
KEPT = make_node(NodePhase.RETAINED, uid="node-2", message="Kept: GPUNodePool a100 is at its minimum.")
GONE = make_node(NodePhase.RELEASED)


def suspended(*, spec=None, stop=None, nodes=(GONE, KEPT), run=None, **fields):
    """A run that rests: no pods, its Job suspended."""
    status = make_status(
        termination=make_stop(Phase.DONE, **THIS, **(stop or {})),
        nodes=nodes,
        workload=WorkloadRef(api_version="batch/v1", kind="Job", name="bert", uid="job"),
    )
    made = make_run(spec={"suspend": True, **(spec or {})}, status=status, **(run or {}))
    return make_observed(run=made, **{"workload": ASLEEP, "pods": (), "agent": None, **fields})


def begun(seen):
    return next(effect.termination for effect in decide(seen).effects if isinstance(effect, Begin))


def advanced(seen):
    return next(effect for effect in decide(seen).effects if isinstance(effect, Advance))


# -- there --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pods", [pytest.param((make_pod(),), id="it trains"), pytest.param((), id="no pod is there yet")]
)
def test_the_intent_to_suspend_is_written_first(pods):
    seen = make_observed(
        run=make_run(
            spec={"suspend": True, "stopMode": "NextCheckpoint"}, suspend_manager="field manager 'kubectl-patch'"
        ),
        pods=pods,
    )
    decision = decide(seen)
    assert decision.effects[-1] == RecordEvent("Suspending", MESSAGE)
    stop = begun(seen)
    assert (stop.status, stop.message, stop.phase, stop.mode) == (
        SUSPENDED,
        MESSAGE,
        Phase.REQUESTED,
        StopMode.NEXT_CHECKPOINT,
    )
    assert (stop.actor, stop.requested_at) == ("field manager 'kubectl-patch'", WALL)
    assert stop.suspends
    assert decision.again_seconds == 0


def test_who_wrote_it_may_be_unknown():
    assert begun(make_observed(run=make_run(spec={"suspend": True}))).actor == "spec.suspend"


def test_two_suspensions_of_a_run_have_names_of_their_own():
    first, later = names.suspension_id(RUN_UID, WALL), names.suspension_id(RUN_UID, "2026-01-02T03:04:06Z")
    assert first != later
    assert names.stop_id(RUN_UID) not in (first, later)


@pytest.mark.parametrize(
    ("seen", "status"),
    [
        pytest.param(
            make_observed(run=make_run(spec={"suspend": True, "stop": True})), "user_stop", id="it is stopped"
        ),
        pytest.param(make_observed(run=make_run(spec={"suspend": True}, deleting=True)), "deleted", id="it is deleted"),
        pytest.param(
            make_observed(run=make_run(spec={"suspend": True}), pods=(exited_pod(0),)),
            "auto_complete",
            id="it is complete",
        ),
    ],
)
def test_what_ends_a_run_comes_before_suspending_it(seen, status):
    assert begun(seen).status == status


def test_a_run_that_is_suspended_from_its_beginning_makes_no_job():
    seen = make_observed(run=make_run(spec={"suspend": True}), workload=None, pods=(), agent=None)
    assert decide(seen) == Decision(note="suspended before it began")
    status = render(seen)
    assert status.phase == "Suspended"
    assert next(c.status for c in status.conditions if c.type == "Accepted") == "True"


@pytest.mark.parametrize(
    "pod", [pytest.param(make_pod(), id="it trains"), pytest.param(exited_pod(0), id="it has left, as it was asked to")]
)
def test_its_pods_are_ended_by_suspending_the_job_and_never_through_the_gate(pod):
    """Through the gate the Job would be complete, and never go on."""
    seen = stopping_at(Phase.DELETING, stop=THIS, spec={"suspend": True}, pods=(pod,))
    effects = [effect for effect in decide(seen).effects if not isinstance(effect, Annotate)]
    assert effects == [SuspendWorkload(make_workload().uid, make_workload().generation)]


def test_it_rests_once_its_nodes_are_settled_and_is_not_over():
    status = make_status(termination=make_stop(Phase.RELEASING, **THIS), nodes=(GONE,))
    seen = make_observed(run=make_run(spec={"suspend": True}, status=status), workload=ASLEEP, pods=())
    write = advanced(seen)
    assert (write.termination.phase, write.completion) == (Phase.DONE, False)
    assert decide(seen).effects[-1] == RecordEvent("Suspended", MESSAGE)


def test_a_suspended_run_waits():
    assert decide(suspended()) == Decision(note="suspended")
    assert decide(suspended(workload=make_workload(finished=True))) == Decision(note="suspended")


def test_its_status_says_so():
    status = render(suspended())
    facts = {c.type: (c.status, c.reason) for c in status.conditions}
    assert status.phase == "Suspended"
    assert facts["Finished"] == ("False", "Suspended")
    assert facts["Succeeded"] == ("Unknown", "NotFinished")
    assert facts["CheckpointSaved"] == ("True", "Verified")
    assert status.termination_message == (
        f"{MESSAGE} Checkpoint checkpoint-1200 verified at {make_saved().uri}. Node gpu-1 released."
        " Node gpu-1: Kept: GPUNodePool a100 is at its minimum."
    )


# -- back ---------------------------------------------------------------------------------------------------------


def test_it_is_resumed_from_its_checkpoint():
    decision = decide(suspended(spec={"suspend": False}))
    # A node that was kept may be used again, and is then to be released again.
    assert decision.effects == (
        ResumeWorkload(ASLEEP.uid, ASLEEP.generation),
        Resume(ID, (GONE,)),
        RecordEvent("Resumed", f"Training resumes from {make_saved().uri}."),
    )
    assert decision.again_seconds == 0


def test_or_from_its_beginning():
    nothing = {"saved": make_saved(commit="", uri="", files=0, note="There was nothing to save.")}
    told = decide(suspended(spec={"suspend": False}, stop=nothing)).effects[-1]
    assert told == RecordEvent("Resumed", "Training resumes from the beginning: nothing was saved.")


@pytest.mark.parametrize("suspend", [True, False])
def test_a_job_that_goes_on_already_is_a_run_that_goes_on(suspend):
    """Half resumed by an operator that was killed, or set going by somebody else: suspended anew, its checkpoint is saved."""
    resume, _ = decide(suspended(spec={"suspend": suspend}, workload=make_workload())).effects
    assert resume == Resume(ID, (GONE,))


# -- or the end ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seen", "status"),
    [
        pytest.param(suspended(spec={"stop": True}), "user_stop", id="stopped by hand"),
        pytest.param(suspended(run={"deleting": True}), "deleted", id="deleted"),
        pytest.param(suspended(workload=None), "failed", id="its Job deleted by somebody else"),
        pytest.param(suspended(workload=None, namespace_ends=True), "deleted", id="its namespace deleted"),
    ],
)
def test_a_suspended_run_ends_with_what_it_was_suspended_with(seen, status):
    stop = begun(seen)
    assert (stop.id, stop.status, stop.phase) == (names.stop_id(RUN_UID), status, Phase.REQUESTED)
    assert stop.saved == make_saved()


def test_what_was_lost_when_it_was_suspended_stays_lost():
    assert begun(suspended(spec={"stop": True}, stop={"data_loss": "All."})).data_loss == "All."


def saving(saved, **fields):
    """A stop of a suspended run that looks for its checkpoint."""
    return stopping_at(Phase.SAVING, stop={"saved": saved}, workload=ASLEEP, pods=(), agent=None, **fields)


def commit(generation):
    return make_verified(generation=generation)


@pytest.mark.parametrize(
    ("saved", "verified"),
    [
        pytest.param(make_saved(), commit(7), id="it is there"),
        pytest.param(make_saved(), commit(8), id="and one that is newer, and not better"),
        pytest.param(make_saved(commit="", files=0, note="Nothing."), None, id="there was nothing to save"),
    ],
)
def test_its_checkpoint_is_read_once_more(saved, verified):
    stop = advanced(saving(saved, verified=verified)).termination
    assert (stop.phase, stop.saved, stop.data_loss) == (Phase.DELETING, saved, None)


@pytest.mark.parametrize(
    ("verified", "left"),
    [
        pytest.param(None, "", id="nothing is there"),
        pytest.param(commit(6), commit_key(1, 6), id="only an older one is there"),
    ],
)
def test_a_checkpoint_that_has_gone_meanwhile_is_a_loss_that_is_told(verified, left):
    stop = advanced(saving(make_saved(), verified=verified)).termination
    assert (stop.phase, stop.saved.commit) == (Phase.DELETING, left)
    assert stop.data_loss.startswith(
        "The checkpoint of the suspension is no longer in the bucket, or does not verify: s3://bucket/" + BASE
    )


def test_a_bucket_that_cannot_be_read_holds_it():
    assert advanced(saving(make_saved(), answer=make_unreachable())).termination.phase is Phase.HELD
