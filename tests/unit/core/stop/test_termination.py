"""The phases of a stop, and the evidence that ends each."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from builders import (
    POD_UID,
    RUN_UID,
    STOP_ID,
    WALL,
    checkpoint_spec,
    commit_key,
    exited_pod,
    finished_pod,
    losses,
    make_agent,
    make_commit,
    make_mismatch,
    make_node,
    make_node_facts,
    make_observed,
    make_pod,
    make_pool,
    make_run,
    make_saved,
    make_status,
    make_stop,
    make_unreachable,
    make_verified,
    make_workload,
    pending_pod,
    stopping_at,
)

from trainingrun_operator.api import endings, names
from trainingrun_operator.api.exchange import AgentError, SaveRequest, StopRequest
from trainingrun_operator.api.spoiled import Spoiled
from trainingrun_operator.api.status import NodePhase, Phase, PodStatus, Progress, Saved, StopMode
from trainingrun_operator.checkpoints.documents import Checkpoint
from trainingrun_operator.core.decide import decide
from trainingrun_operator.core.effects import (
    AdoptWorkload,
    Advance,
    Annotate,
    Begin,
    Decision,
    DeletePod,
    DeleteWorkload,
    EndReplacements,
    RecordEvent,
    RemoveFinalizer,
    SuspendWorkload,
)
from trainingrun_operator.core.facts.bucket import Unreachable
from trainingrun_operator.core.facts.nodes import Instance
from trainingrun_operator.core.rules.finding import Finding
from trainingrun_operator.core.status import render
from trainingrun_operator.core.stop import proving, published, termination, transitions
from trainingrun_operator.core.stop.termination import UNSAVED
from trainingrun_operator.core.track import Track
from trainingrun_operator.core.watch import Watch

DISABLED = {"checkpoint": {"mode": "Disabled"}}
PROCEED = {"checkpoint": checkpoint_spec(onFailure="Proceed")}
LONG = 120.0


def advanced(seen):
    """The next state of the stop, or None if it stays where it is."""
    return next((e.termination for e in decide(seen).effects if isinstance(e, Advance)), None)


def told(seen):
    return [(e.reason, e.warning) for e in decide(seen).effects if isinstance(e, RecordEvent)]


def effects(seen):
    return [e for e in decide(seen).effects if not isinstance(e, RecordEvent)]


def asks(seen, key):
    return [e.value for e in decide(seen).effects if isinstance(e, Annotate) and e.key == key]


def save_ask(*, attempt=1, ended=True):
    return SaveRequest(id=STOP_ID, attempt=attempt, ended=ended, status="auto_low_loss")


# -- the beginning ------------------------------------------------------------------------------------------------


def test_the_intent_is_written_before_anything_is_done_about_it():
    run = make_run(spec={"stop": True, "stopReason": "overfitting"}, stop_manager="field manager 'kubectl-patch'")
    decision = decide(make_observed(run=run))
    begin, tell = decision.effects
    assert isinstance(begin, Begin)
    assert begin.termination == make_stop(
        Phase.REQUESTED,
        status="user_stop",
        rule="stop",
        reason="Asked",
        message="Stopped by hand: spec.stop is true (overfitting).",
        actor="field manager 'kubectl-patch'",
        requested_at=WALL,
        phase_at=WALL,
    )
    assert tell == RecordEvent("Stopping", "user_stop: Stopped by hand: spec.stop is true (overfitting).")
    assert decision.again_seconds == 0


def test_a_warning_of_the_finding_is_told():
    found = Finding("exitCode", "ExitAfterMarker", "Complete.", endings.AUTO_COMPLETE, warning="Exit code 134.")
    assert (
        RecordEvent("CompletedWithError", "Exit code 134.", warning=True)
        in termination.begin(make_observed(), found).effects
    )


def test_what_is_too_long_for_the_schema_is_cut():
    found = Finding("crashes", "BackoffLimitExceeded", "m" * 9000, endings.FAILED, actor="a" * 9000)
    begin = termination.begin(make_observed(), found).effects[0]
    assert isinstance(begin, Begin)
    assert (len(begin.termination.message), len(begin.termination.actor)) == (2000, 500)
    assert begin.termination.message.endswith("…")


# -- Requested, Draining ------------------------------------------------------------------------------------------


def test_requested_ends_once_it_is_written():
    stop = advanced(stopping_at(Phase.REQUESTED))
    assert stop is not None
    assert (stop.phase, stop.phase_at, stop.id, stop.attempt) == (Phase.DRAINING, WALL, STOP_ID, 1)


def test_draining_asks_every_pod_that_trains_to_leave():
    pods = (make_pod(), make_pod(name="bert-2", uid="second"), exited_pod(1, name="bert-3", uid="third"))
    seen = stopping_at(Phase.DRAINING, pods=pods, spec={"shutdown": {"graceSeconds": 30}})
    assert effects(seen) == [
        Annotate(pod.name, pod.uid, names.STOP_ANNOTATION, '{"id":"stop-0a1b2c3d-run","graceSeconds":30}')
        for pod in pods[:2]
    ]


@pytest.mark.parametrize(
    ("seen", "phase"),
    [
        pytest.param(stopping_at(Phase.DRAINING, phase_seconds=119), None, id="the training has its grace"),
        pytest.param(stopping_at(Phase.DRAINING, phase_seconds=120), Phase.SAVING, id="and no more than that"),
        pytest.param(stopping_at(Phase.DRAINING, pods=(exited_pod(0),)), Phase.SAVING, id="it has left"),
        pytest.param(stopping_at(Phase.DRAINING, pods=(pending_pod(),)), Phase.SAVING, id="it never started"),
        pytest.param(stopping_at(Phase.DRAINING, pods=()), Phase.SAVING, id="there is no pod"),
        pytest.param(stopping_at(Phase.DRAINING, pods=(exited_pod(0),), spec=DISABLED), Phase.DELETING, id="nothing is to be saved"),
        pytest.param(stopping_at(Phase.DRAINING, spec=DISABLED), None, id="it has its grace though nothing is to be saved"),
    ],
)  # fmt: skip
def test_draining_ends(seen, phase):
    stop = advanced(seen)
    assert (stop.phase if stop else None) == phase


def test_a_pod_that_was_asked_is_not_asked_again():
    seen = stopping_at(Phase.DRAINING, pods=(make_pod(stop=StopRequest(id=STOP_ID)),))
    assert (effects(seen), decide(seen).again_seconds) == ([], 1)


@pytest.mark.parametrize(
    ("pods", "final"),
    [
        pytest.param((exited_pod(0),), True, id="the training has ended"),
        pytest.param((make_pod(),), False, id="the training still runs"),
    ],
)
def test_disabled_says_that_nothing_was_saved(pods, final):
    stop = advanced(stopping_at(Phase.DRAINING, pods=pods, spec=DISABLED, phase_seconds=999))
    assert stop is not None
    assert stop.saved == make_saved(
        commit="", digest="", uri="", dir="", step=None, bytes=0, files=0, final=final,
        note="Nothing was saved: spec.checkpoint.mode is Disabled.",
    )  # fmt: skip


# -- Saving -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pod", "asked"),
    [
        pytest.param(exited_pod(0), save_ask(), id="the training has ended: whatever lies there is final"),
        pytest.param(make_pod(), save_ask(ended=False), id="the training still runs: a complete checkpoint is wanted"),
        pytest.param(exited_pod(0, save=save_ask(ended=False)), save_ask(), id="it ended after it was asked"),
        pytest.param(exited_pod(0, save=save_ask()), None, id="it was asked already"),
        pytest.param(exited_pod(1, save=SaveRequest(id=f"crash-{POD_UID}", ended=True)), save_ask(), id="it was asked for a crash"),
    ],
)  # fmt: skip
def test_saving_asks_the_agent(pod, asked):
    wanted = [asked.model_dump_json(by_alias=True)] if asked else []
    seen = stopping_at(Phase.SAVING, pods=(pod,))
    assert asks(seen, names.SAVE_ANNOTATION) == wanted
    assert advanced(seen) is None


def test_saving_asks_every_pod_that_holds_bytes():
    pods = (
        make_pod(),
        exited_pod(1, uid="exited"),
        exited_pod(1, uid="between two runs", starts_again=True),
        pending_pod(uid="beside", phase="Running", beside_ran=True),
        pending_pod(uid="pending"),
        finished_pod(1, uid="over", beside_ran=True),
    )
    asked = [e.pod_uid for e in effects(stopping_at(Phase.SAVING, pods=pods)) if isinstance(e, Annotate)]
    assert asked == [POD_UID, "exited", "between two runs", "beside"]


@pytest.mark.parametrize("verified", [None, make_verified(final=True)])
@pytest.mark.parametrize(
    "pod",
    [
        pytest.param(exited_pod(0, waiting_reason="ImagePullBackOff"), id="it has exited, and another container cannot start"),
        pytest.param(pending_pod(phase="Running", beside_ran=True), id="only another container has run"),
    ],
)  # fmt: skip
def test_a_living_pod_is_asked_before_anything_is_called_lost(pod, verified):
    seen = stopping_at(Phase.SAVING, pods=(pod,), verified=verified, agent=make_agent(unsaved_bytes=5_000_000_000))
    assert advanced(seen) is None
    assert asks(seen, names.SAVE_ANNOTATION) == [save_ask().model_dump_json(by_alias=True)]


@pytest.mark.parametrize("phase", [pytest.param(Phase.SAVING, id="saving"), pytest.param(Phase.HELD, id="held")])
@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(make_verified(), id="a commit of this id"),
        pytest.param(make_mismatch(), id="a commit of this id that does not verify"),
    ],
)
def test_saving_ends_with(phase, answer):
    stop = advanced(stopping_at(phase, answer=answer, stop={"hold_reason": "x" if phase is Phase.HELD else None}))
    assert stop is not None
    assert (stop.phase, stop.hold_reason, stop.saved) == (Phase.VERIFYING, None, None)


NEVER_STARTED = make_status(start_time=None, termination=make_stop(Phase.SAVING))


@pytest.mark.parametrize(
    "pods",
    [
        pytest.param((), id="no pod was ever there"),
        pytest.param((pending_pod(),), id="the pod is pending"),
        pytest.param((pending_pod(phase="Failed"),), id="the pod was refused"),
        pytest.param((pending_pod(phase="Failed", failure_before_start="init container fetch ended with exit code 1"),), id="an init container failed"),
    ],
)  # fmt: skip
def test_a_training_that_never_started_has_nothing_to_save(pods):
    stop = advanced(make_observed(run=make_run(status=NEVER_STARTED), pods=pods, agent=None, track=Track()))
    assert stop is not None
    assert stop.saved is not None
    assert (stop.phase, stop.data_loss, stop.saved.note, stop.saved.final) == (
        Phase.DELETING, None, "Nothing to save: the training never started.", False,
    )  # fmt: skip


def test_a_pod_that_went_before_anybody_saw_it_may_have_trained():
    seen = make_observed(run=make_run(status=NEVER_STARTED), pods=(), agent=None, workload=make_workload(failed=1))
    stop = advanced(seen)
    assert stop.phase is Phase.DELETING
    assert stop.data_loss == LOST_ALL.replace("; 245 s of training in all.", ".")


IN_THE_POD = (
    "Those files were in an emptyDir of the operator (the template mounts no volume at spec.checkpoint.path),"
    " which ends with its pod."
)
LOST_TAIL = (
    "The pod ended before its last files were saved. The last commit is"
    " s3://bucket/runs/ml/bert/0a1b2c3d-run/r0/i1-g0007-pod/checkpoint-1200; files written after it are not in the bucket."
    f" Missing: 100 steps, 1201 to 1300. {IN_THE_POD}"
)
LOST_ALL = (
    "The pod ended before anything was saved: the bucket has nothing of this run."
    f" Missing: 1300 steps, 1 to 1300; 245 s of training in all. {IN_THE_POD}"
)


@pytest.mark.parametrize("phase", [pytest.param(Phase.SAVING, id="saving"), pytest.param(Phase.HELD, id="held")])
@pytest.mark.parametrize(
    ("pods", "verified", "loss"),
    [
        pytest.param((), make_verified(), None, id="a final commit is all there is"),
        pytest.param((), make_verified(final=False), LOST_TAIL, id="pod gone, its last commit is not the end"),
        pytest.param((finished_pod(1),), make_verified(final=False), LOST_TAIL, id="pod over, its last commit is not the end"),
        pytest.param((), None, LOST_ALL, id="pod gone without any commit"),
        pytest.param((finished_pod(1),), None, LOST_ALL, id="pod over without any commit"),
        pytest.param((pending_pod(),), make_verified(), None, id="the next pod has not started, the last one was saved"),
    ],
)  # fmt: skip
def test_without_a_pod_the_bucket_says_all_there_will_ever_be(phase, pods, verified, loss):
    seen = stopping_at(phase, pods=pods, verified=verified, agent=None)
    stop = advanced(seen)
    assert stop is not None
    assert stop.saved is not None
    assert (stop.phase, stop.data_loss) == (Phase.DELETING, loss)
    assert (("DataLoss", True) in told(seen)) == (loss is not None)
    assert stop.saved.commit == (verified.key if verified else "")


@pytest.mark.parametrize(
    ("progress", "track", "commit", "lost"),
    [
        pytest.param({"pod_uid": "next", "step": 1300}, Track(), {}, True, id="the next pod had gone on from it"),
        pytest.param({"pod_uid": "next", "step": 1200}, Track(), {}, False, id="the next pod had made no new step"),
        pytest.param({"pod_uid": "next", "step": None}, Track(), {}, True, id="how far the next pod was is not known"),
        pytest.param({"pod_uid": "next", "step": 1300}, Track(), {"checkpoint": None}, True, id="what was saved has no step"),
        pytest.param({"pod_uid": POD_UID, "step": 1300}, Track(), {}, False, id="it is of the pod that trained last"),
        pytest.param({"pod_uid": "next", "step": 50, "fell_from": 1300}, Track(), {}, True, id="the next pod had begun a new stage"),
        pytest.param(None, replace(losses(2.0, 1.0), pod_uid="next", fell=(1300, 0)), {"checkpoint": {"dir": "x", "step": 9000, "complete": True, "evidence": ""}}, True, id="this process has seen the next pod begin a new stage"),
        pytest.param({"step": 1300}, Track(), {}, False, id="no pod is known to have trained after it"),
        pytest.param(None, Track(), {}, False, id="no step was ever seen"),
        pytest.param({"pod_uid": POD_UID, "step": 9}, replace(losses(2.0, 1.0, first_step=1200), pod_uid="next"), {}, True, id="this process has seen the next pod go on"),
    ],
)  # fmt: skip
def test_a_final_commit_of_an_older_pod_hides_no_loss(progress, track, commit, lost):
    status = make_status(termination=make_stop(Phase.SAVING), progress=Progress(**progress) if progress else None)
    seen = make_observed(
        run=make_run(status=status), pods=(), verified=make_verified(**commit), agent=None, track=track
    )
    stop = advanced(seen)
    assert stop is not None
    assert (stop.phase, stop.data_loss is not None) == (Phase.DELETING, lost)


@pytest.mark.parametrize(
    ("pod", "there", "lost"),
    [
        pytest.param({"uid": "next", "phase": "Running"}, (), True, id="it trained while nobody read its metrics"),
        pytest.param({"uid": "next", "phase": "Exited"}, (), True, id="it had trained"),
        pytest.param({"uid": "next", "phase": "Pending"}, (), False, id="it had not begun"),
        pytest.param({"uid": POD_UID, "phase": "Running"}, (), False, id="it is the one that was saved"),
        pytest.param({"uid": "next", "phase": "Running"}, (pending_pod(uid="next"),), False, id="it is there"),
    ],
)  # fmt: skip
def test_a_pod_that_was_seen_to_train_and_is_gone_may_have_gone_on_from_a_final_commit(pod, there, lost):
    status = make_status(
        termination=make_stop(Phase.SAVING), progress=None, pods=(PodStatus(name="bert-next", node="gpu-1", **pod),)
    )
    seen = make_observed(run=make_run(status=status), pods=there, verified=make_verified(), agent=None, track=Track())
    assert (advanced(seen).data_loss is not None) == lost


def test_a_commit_without_files_is_named_by_its_key_when_bytes_are_lost():
    verified = make_verified(final=False, total_files=0, checkpoint=None)
    stop = advanced(stopping_at(Phase.SAVING, pods=(), verified=verified))
    assert stop is not None
    assert f"The last commit is {verified.key};" in (stop.data_loss or "")


# -- Held ---------------------------------------------------------------------------------------------------------

DENIED = AgentError(code="AccessDenied", message="PutObject is not allowed.")


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        pytest.param({"answer": make_unreachable()}, "The bucket cannot be read: s3://bucket answers AccessDenied.", id="the bucket refuses"),
        pytest.param({"agent": None}, "The agent in the pod does not answer.", id="the agent is silent"),
        pytest.param({"agent": make_agent(error=DENIED)}, "The agent cannot save: AccessDenied: PutObject is not allowed.", id="the agent is refused"),
        pytest.param({"agent": make_agent(newest=None)}, "The training still runs and has not written a complete checkpoint yet.", id="no checkpoint yet"),
        pytest.param({"agent": make_agent(newest=None), "pods": (exited_pod(0),)}, None, id="the training has ended and the agent is at it"),
        pytest.param({}, None, id="a large checkpoint takes its time"),
    ],
)  # fmt: skip
def test_a_hold_says_why(fields, why):
    short = stopping_at(Phase.SAVING, save_failing_seconds=LONG - 1, **fields)
    assert advanced(short) is None
    long = stopping_at(Phase.SAVING, save_failing_seconds=LONG, **fields)
    stop = advanced(long)
    if why is None:
        assert stop is None
        return
    assert stop is not None
    assert (stop.phase, stop.hold_reason, stop.saved) == (Phase.HELD, why, None)
    assert RecordEvent("CheckpointHeld", f"Nothing is deleted. {why}", warning=True) in decide(long).effects


def test_held_goes_on_asking_and_deletes_nothing():
    seen = stopping_at(Phase.HELD, pods=(exited_pod(0),), agent=None, save_failing_seconds=9 * LONG)
    assert [type(e) for e in decide(seen).effects] == [Annotate]
    assert asks(seen, names.SAVE_ANNOTATION) == [save_ask().model_dump_json(by_alias=True)]


def test_held_without_a_pod_waits_for_the_bucket():
    first = stopping_at(Phase.SAVING, pods=(), answer=make_unreachable())
    assert advanced(first) == make_stop(
        Phase.HELD, phase_at=WALL, hold_reason="The bucket cannot be read: s3://bucket answers AccessDenied."
    )
    later = stopping_at(Phase.HELD, pods=(), answer=make_unreachable())
    assert decide(later).effects == ()


@pytest.mark.parametrize("phase", [pytest.param(p, id=p.value) for p in (Phase.SAVING, Phase.HELD, Phase.VERIFYING)])
def test_a_commit_that_does_not_verify_is_held_once_no_pod_has_the_bytes(phase):
    seen = stopping_at(phase, pods=(), answer=make_mismatch())
    stop = advanced(seen)
    if phase is Phase.HELD:
        assert decide(seen).effects == ()
        return
    assert stop is not None
    assert (stop.phase, stop.hold_reason) == (
        Phase.HELD, "The commit does not verify, and no pod has the files any more: model.safetensors has 10 bytes, not 12",
    )  # fmt: skip


@pytest.mark.parametrize("phase", [pytest.param(Phase.SAVING, id="saving"), pytest.param(Phase.HELD, id="held")])
@pytest.mark.parametrize(
    ("verified", "commit"),
    [
        pytest.param(make_verified(generation=3, final=True), "commits/i1-g0003.json", id="with the last one that was"),
        pytest.param(None, "", id="with nothing"),
    ],
)
def test_proceed_ends_the_run_though_nothing_could_be_proven(phase, verified, commit):
    seen = stopping_at(phase, spec=PROCEED, verified=verified, agent=None, save_failing_seconds=LONG)
    stop = advanced(seen)
    note = "Ended without proof (spec.checkpoint.onFailure is Proceed). The agent in the pod does not answer."
    assert stop is not None
    assert stop.saved is not None
    assert (stop.phase, stop.data_loss, stop.saved.note, stop.saved.final) == (Phase.DELETING, note, note, False)
    assert stop.saved.commit.endswith(commit)
    assert ("DataLoss", True) in told(seen)


@pytest.mark.parametrize("phase", [pytest.param(Phase.SAVING, id="saving"), pytest.param(Phase.HELD, id="held")])
def test_a_namespace_that_is_deleted_is_not_held(phase):
    seen = stopping_at(
        phase, pods=(), verified=make_verified(final=False), answer=make_unreachable(), namespace_ends=True
    )
    stop = advanced(seen)
    assert stop is not None
    assert stop.saved is not None
    assert stop.phase is Phase.DELETING
    assert stop.data_loss == (
        "Ended without proof (the namespace is being deleted, and the pods in it are gone)."
        f" The bucket cannot be read: s3://bucket answers AccessDenied. {IN_THE_POD}"
    )
    assert stop.saved.commit.endswith("i1-g0007.json"), "What was proven before is named."
    assert ("DataLoss", True) in told(seen)


def test_a_reason_that_is_too_long_for_the_schema_is_cut():
    answer = make_unreachable(message="x" * 99_999)
    for spec in ({}, PROCEED):
        stop = advanced(stopping_at(Phase.SAVING, spec=spec, answer=answer, save_failing_seconds=LONG))
        assert stop is not None
        assert 1900 < len(stop.hold_reason or stop.data_loss or "") < 4096


# -- Verifying ----------------------------------------------------------------------------------------------------


def test_verifying_ends_with_a_commit_of_which_everything_matched():
    seen = stopping_at(Phase.VERIFYING, pods=(exited_pod(0),), answer=make_verified())
    stop = advanced(seen)
    assert stop is not None
    assert (stop.phase, stop.saved) == (Phase.DELETING, make_saved())
    assert (
        RecordEvent("CheckpointSaved", f"Checkpoint checkpoint-1200 verified at {make_saved().uri}.")
        in decide(seen).effects
    )


def test_a_training_that_exits_while_its_checkpoint_is_proven_is_saved_once_more():
    running = stopping_at(Phase.VERIFYING, answer=make_verified(final=False))
    assert advanced(running) == make_stop(Phase.DELETING, phase_at=WALL, saved=make_saved(final=False))
    exited = stopping_at(Phase.VERIFYING, pods=(exited_pod(0),), answer=make_verified(final=False))
    assert advanced(exited) == make_stop(Phase.SAVING, phase_at=WALL, attempt=2)


def test_a_pod_that_goes_while_its_checkpoint_is_proven_leaves_what_was_proven_and_a_loss():
    gone = stopping_at(Phase.VERIFYING, pods=(), answer=make_verified(final=False))
    assert advanced(gone) == make_stop(
        Phase.DELETING, phase_at=WALL, saved=make_saved(final=False), data_loss=LOST_TAIL
    )
    assert ("DataLoss", True) in told(gone)


@pytest.mark.parametrize(
    ("attempt", "again"),
    [pytest.param(1, 2, id="at once"), pytest.param(4, 16, id="later")],
)
def test_a_mismatch_asks_again(attempt, again):
    seen = stopping_at(Phase.VERIFYING, answer=make_mismatch(), stop={"attempt": attempt})
    stop = advanced(seen)
    assert stop is not None
    assert (stop.phase, stop.attempt, stop.saved) == (Phase.SAVING, attempt + 1, None)
    assert told(seen) == [("CheckpointMismatch", True)]
    assert decide(seen).again_seconds == again


@pytest.mark.parametrize(
    ("answer", "seconds", "phase", "attempt"),
    [
        pytest.param(None, 1, None, 1, id="the bucket is being read"),
        pytest.param(make_unreachable(), 1, None, 1, id="the bucket is away for a moment"),
        pytest.param(make_unreachable(), LONG, Phase.HELD, 1, id="the bucket is away for long"),
        pytest.param(None, LONG, Phase.SAVING, 2, id="the commit that answered is gone"),
    ],
)
def test_verifying_waits_for(answer, seconds, phase, attempt):
    stop = advanced(stopping_at(Phase.VERIFYING, answer=answer, save_failing_seconds=seconds))
    assert (stop.phase if stop else None) == phase
    assert (stop.attempt if stop else 1) == attempt


# -- what was saved, as a record and as a sentence ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("verified", "sentence"),
    [
        pytest.param(make_verified(), f"Checkpoint checkpoint-1200 verified at {make_saved().uri}.", id="a checkpoint"),
        pytest.param(
            make_verified(checkpoint=Checkpoint(dir="checkpoint-9", step=9, complete=False, evidence="")),
            f"Checkpoint checkpoint-9 (incomplete, saved as it was) verified at {make_saved().uri}.",
            id="a half-written one",
        ),
        pytest.param(
            make_verified(checkpoint=Checkpoint(dir=".", complete=True, evidence="")),
            f"Files verified at {make_saved().uri}.",
            id="files in the path itself",
        ),
        pytest.param(
            make_verified(checkpoint=None), f"Files verified at {make_saved().uri}.", id="files of no known format"
        ),
        pytest.param(
            make_verified(checkpoint=None, total_files=0), "No file was under the checkpoint path.", id="nothing"
        ),
    ],
)
def test_a_commit_as_a_sentence(verified, sentence):
    assert proving.sentence_of(proving.saved_from(verified)) == sentence


def test_a_note_follows_the_sentence():
    saved = make_saved(note="Ended without proof.")
    assert proving.sentence_of(saved) == f"Checkpoint checkpoint-1200 verified at {saved.uri}. Ended without proof."


def test_what_a_commit_says_is_cut_to_what_the_status_can_say():
    wild = Checkpoint(dir="d" * 5000, step=2**60, complete=True, evidence="")
    saved = proving.saved_from(make_verified(checkpoint=wild, total_files=2**40, total_bytes=2**70))
    assert (len(saved.dir), saved.step, saved.files, saved.bytes) == (1024, None, 2**31 - 1, 2**53 - 1)
    below = proving.saved_from(make_verified(checkpoint=None, total_files=-1, total_bytes=-1))
    assert (below.files, below.bytes, below.uri) == (0, 0, "")


# -- Deleting -----------------------------------------------------------------------------------------------------

JOB = make_workload(replaces=False)
OPENS_GATE = Annotate("bert-x7k2p", POD_UID, names.OPEN_GATE_ANNOTATION, STOP_ID)
GONE = DeletePod("bert-x7k2p", POD_UID)
OPEN: dict[str, Any] = {"pods": (exited_pod(0),), "workload": JOB}
UNPROVEN: dict[str, Any] = {"stop": {"saved": make_saved(final=False)}}
LATE = Annotate("bert-x7k2p", POD_UID, names.SAVE_ANNOTATION, save_ask(attempt=2).model_dump_json(by_alias=True))


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        pytest.param({"pods": (exited_pod(0),)}, [EndReplacements(JOB.uid)], id="first pod replacement ends"),
        pytest.param(OPEN, [OPENS_GATE], id="training ended and proven: through the gate"),
        pytest.param({**OPEN, "pods": (exited_pod(0, gate_open=True),)}, [], id="the gate is open already"),
        pytest.param({**OPEN, "pods": (finished_pod(0),)}, [], id="the Job sees its pod finish first"),
        pytest.param({**OPEN, "pods": (pending_pod(),)}, [SuspendWorkload(JOB.uid, JOB.generation)], id="a pod that never started cannot leave through its gate"),
        pytest.param({**OPEN, "stop": {"saved": make_saved(note="ema could write.")}, "pods": (exited_pod(0, writers=("ema",)),)}, [SuspendWorkload(JOB.uid, JOB.generation)], id="another container still writes: the agent saves last, within the grace"),
        pytest.param({**OPEN, "pods": (exited_pod(3, starts_again=True),)}, [SuspendWorkload(JOB.uid, JOB.generation)], id="the kubelet would start the training again"),
        pytest.param({**OPEN, "phase_seconds": 60}, [SuspendWorkload(JOB.uid, JOB.generation)], id="a gate that never opens is not waited for"),
        pytest.param({**OPEN, "pods": (make_pod(),)}, [SuspendWorkload(JOB.uid, JOB.generation)], id="training runs: suspended, with its grace"),
        pytest.param({**OPEN, "stop": {"saved": make_saved(final=False)}}, [LATE], id="it left after the proof: the rest is saved behind its gate"),
        pytest.param({**OPEN, **UNPROVEN, "pods": (exited_pod(0, save=save_ask(attempt=2)),)}, [], id="and is asked for once"),
        pytest.param({**OPEN, **UNPROVEN, "pods": (exited_pod(0, deleting=True),)}, [SuspendWorkload(JOB.uid, JOB.generation)], id="it is told to go already: the grace is all there is"),
        pytest.param({**OPEN, **UNPROVEN, "pods": (exited_pod(0, gate_open=True),)}, [SuspendWorkload(JOB.uid, JOB.generation)], id="its gate is open already"),
        pytest.param({**OPEN, **UNPROVEN, "workload": make_workload(suspended=True)}, [], id="suspended already: the grace is all there is"),
        pytest.param({**OPEN, "stop": {"saved": make_saved(final=False), "data_loss": "All."}}, [SuspendWorkload(JOB.uid, JOB.generation)], id="given up on: nothing more is asked for"),
        pytest.param({**OPEN, **UNPROVEN, "spec": {"checkpoint": {"mode": "Disabled"}}}, [SuspendWorkload(JOB.uid, JOB.generation)], id="nothing is saved at all"),
        pytest.param({**OPEN, "stop": {"saved": None}}, [SuspendWorkload(JOB.uid, JOB.generation)], id="a stop without a record is never let through the gate"),
        pytest.param({"pods": (make_pod(),), "workload": make_workload(suspended=True)}, [], id="suspended: the pods are going"),
        pytest.param({"pods": (finished_pod(143),), "workload": make_workload(suspended=True)}, [GONE], id="suspended: what is over is deleted"),
        pytest.param({"pods": (finished_pod(143, deleting=True),), "workload": make_workload(suspended=True)}, [], id="suspended: and not twice"),
        pytest.param({"pods": (finished_pod(0),), "workload": make_workload(finished=True)}, [GONE], id="the Job is finished: its pods are deleted"),
        pytest.param({"pods": (finished_pod(0, deleting=True),), "workload": make_workload(finished=True)}, [], id="and not twice"),
        pytest.param({"pods": (make_pod(),), "workload": None}, [GONE], id="somebody deleted the Job: its pods are deleted"),
        pytest.param({"pods": ()}, [SuspendWorkload(JOB.uid, JOB.generation)], id="no pod, but a Job that would make one"),
        pytest.param({"pods": (make_pod(lost=True),)}, [SuspendWorkload(JOB.uid, JOB.generation)], id="its machine is gone: nobody makes another pod"),
        pytest.param({"pods": (exited_pod(0, unreachable=True),), "workload": make_workload(suspended=True), "phase_seconds": 999}, [], id="silent, but not told to go"),
        pytest.param({"pods": (make_pod(unreachable=True, deleting=True),), "workload": make_workload(suspended=True), "phase_seconds": 299}, [], id="silent: it may come back"),
    ],
)  # fmt: skip
def test_deleting(fields, wanted):
    fields = dict(fields)
    seen = stopping_at(Phase.DELETING, stop=fields.pop("stop", None), **fields)
    assert effects(seen) == wanted


WRITES: dict[str, Any] = {**OPEN, "pods": (exited_pod(0, writers=("ema", "async-save")),)}


def test_a_container_that_can_still_write_after_the_proof_is_told_once():
    stop = advanced(stopping_at(Phase.DELETING, **WRITES))
    assert stop is not None
    assert stop.saved == make_saved(
        note="After that, async-save, ema could still write: the agent saves it within the pod's grace."
    )
    assert advanced(stopping_at(Phase.DELETING, stop={"saved": stop.saved}, **WRITES)) is None
    later = make_verified(generation=8)
    gone: dict[str, Any] = {"pods": (), "workload": make_workload(suspended=True), "verified": later}
    last = advanced(stopping_at(Phase.DELETING, stop={"saved": stop.saved}, **gone))
    assert last is not None
    assert (last.phase, last.saved) == (Phase.RELEASING, proving.saved_from(later)), "The agent's last commit counts."


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"stop": {"saved": None}}, id="nothing was proven"),
        pytest.param({"stop": {"saved": make_saved(commit="", files=0)}}, id="there was nothing to prove"),
        pytest.param({"spec": {"checkpoint": {"mode": "Disabled"}}}, id="nothing is saved at all"),
        pytest.param({"pods": (make_pod(writers=("ema",)),)}, id="the training itself still writes"),
        pytest.param({"workload": make_workload(suspended=True)}, id="the pod ends already"),
    ],
)
def test_it_is_not_told_where_it_changes_nothing(fields):
    assert advanced(stopping_at(Phase.DELETING, **{**WRITES, **fields})) is None


@pytest.mark.parametrize(
    "pod",
    [
        pytest.param(make_pod(lost=True), id="its machine is gone"),
        pytest.param(make_pod(lost=True, deleting=True), id="its machine is gone, Terminating for ever"),
        pytest.param(make_pod(unreachable=True, deleting=True), id="its node is silent for long: only the machine's release ends it"),
    ],
)  # fmt: skip
def test_a_pod_that_nobody_can_end_is_not_waited_for(pod):
    seen = stopping_at(Phase.DELETING, pods=(pod,), workload=make_workload(suspended=True), phase_seconds=300)
    assert advanced(seen).phase is Phase.RELEASING


@pytest.mark.parametrize(
    ("pod", "saved", "loss"),
    [
        pytest.param(make_pod(lost=True), make_saved(final=False), True, id="the machine went under a training that ran on"),
        pytest.param(make_pod(lost=True), make_saved(final=True), False, id="everything had been proven"),
        pytest.param(make_pod(lost=True), Saved(note="Disabled."), False, id="nothing was to be saved"),
        pytest.param(make_pod(unreachable=True, deleting=True), make_saved(final=False), False, id="it may still be there"),
        pytest.param(make_pod(lost=True), None, False, id="nothing is recorded"),
    ],
)  # fmt: skip
def test_what_a_machine_took_with_it_after_the_proof_is_said(pod, saved, loss):
    job = make_workload(suspended=True)
    stop = advanced(stopping_at(Phase.DELETING, stop={"saved": saved}, pods=(pod,), workload=job, phase_seconds=300))
    assert (stop.data_loss or "").startswith("The machine was lost before its last files were saved.") == loss


@pytest.mark.parametrize(
    ("fields", "loss"),
    [
        pytest.param({"verified": make_verified(final=False)}, True, id="an eviction left it no time"),
        pytest.param({"verified": make_verified(final=True)}, False, id="its last commit came"),
        pytest.param({"verified": make_verified(final=False), "answer": Unreachable("Timeout", "No answer.")}, False, id="the bucket was not read"),
        pytest.param({"verified": make_verified(final=False), "pods": (make_pod(unreachable=True, deleting=True),)}, False, id="it may still be there"),
    ],
)  # fmt: skip
def test_what_a_pod_wrote_after_the_proof_and_did_not_save_is_said(fields, loss):
    stop, job = {"saved": make_saved(final=False)}, make_workload(suspended=True)
    seen = stopping_at(Phase.DELETING, stop=stop, workload=job, phase_seconds=300, **{"pods": (), **fields})
    after = advanced(seen)
    assert after.phase is Phase.RELEASING
    assert (after.data_loss or "").startswith(
        "The pod ended before its last files were saved. The last commit is"
    ) == loss
    assert bool(after.data_loss) == loss


def test_a_loss_that_was_told_before_the_machine_was_seen_to_be_gone_is_not_told_again():
    stop = {"saved": make_saved(final=False), "data_loss": "The pod ended before its last files were saved."}
    gone = make_pod(lost=True)
    seen = stopping_at(
        Phase.DELETING, stop=stop, pods=(gone,), workload=make_workload(suspended=True), phase_seconds=300
    )
    assert advanced(seen).data_loss == stop["data_loss"]
    assert not [effect for effect in decide(seen).effects if isinstance(effect, RecordEvent)]


def test_what_a_training_wrote_after_the_proof_takes_its_place():
    late = make_verified(generation=8, attempt=2)
    seen = stopping_at(Phase.DELETING, **OPEN, **UNPROVEN, answer=late)
    stop = advanced(seen)
    assert (stop.phase, stop.attempt, stop.saved) == (Phase.DELETING, 2, proving.saved_from(late))
    assert stop.saved.final


def test_a_training_that_started_after_all_is_saved_behind_its_gate():
    """Its pod was pending when the stop went by it, and nobody looked for a while."""
    nothing = {"saved": Saved(note="Nothing to save: the training never started.")}
    assert effects(stopping_at(Phase.DELETING, **OPEN, stop=nothing)) == [LATE]
    saved = make_verified(attempt=2)
    assert advanced(stopping_at(Phase.DELETING, **OPEN, stop=nothing, answer=saved)).saved == proving.saved_from(saved)
    given_up = {"saved": Saved(note=UNSAVED, gave_up=True)}
    gone = stopping_at(Phase.DELETING, stop=given_up, workload=make_workload(suspended=True), pods=())
    assert advanced(gone).data_loss == f"{UNSAVED} The bucket has nothing of this run. {IN_THE_POD}"


def test_what_cannot_be_saved_after_the_proof_is_given_up_and_said():
    """The proven checkpoint stays what deletion rests on; the agent has the pod's grace for a last try."""
    given_up = advanced(stopping_at(Phase.DELETING, **OPEN, **UNPROVEN, phase_seconds=120))
    assert (given_up.phase, given_up.saved, given_up.data_loss) == (
        Phase.DELETING,
        make_saved(final=False, note=UNSAVED, gave_up=True),
        None,
    )
    then: dict[str, Any] = {"stop": {"saved": given_up.saved}, "workload": JOB}
    assert effects(stopping_at(Phase.DELETING, pods=(exited_pod(0),), **then)) == [
        SuspendWorkload(JOB.uid, JOB.generation)
    ]
    gone: dict[str, Any] = {"stop": {"saved": given_up.saved}, "workload": make_workload(suspended=True), "pods": ()}
    lost = advanced(stopping_at(Phase.DELETING, **gone))
    assert (lost.saved, lost.data_loss) == (
        make_saved(final=False),
        proving.loss_after(stopping_at(Phase.DELETING, **gone), make_saved(), UNSAVED),
    )
    assert lost.data_loss.startswith(f"{UNSAVED} The last commit is s3://")
    assert lost.data_loss.endswith(f"files written after it are not in the bucket. {IN_THE_POD}")
    assert advanced(stopping_at(Phase.DELETING, **gone, verified=NEWER)).data_loss is None, "The last try did it."


NEWER = make_verified(generation=8)


@pytest.mark.parametrize(
    ("job", "verified", "generation"),
    [
        pytest.param(None, None, 7, id="pods and Job are gone"),
        pytest.param(make_workload(finished=True), None, 7, id="the Job is finished"),
        pytest.param(make_workload(suspended=True), None, 7, id="the Job is suspended"),
        pytest.param(make_workload(suspended=True), make_verified(), 7, id="nothing newer was committed"),
        pytest.param(make_workload(suspended=True), NEWER, 8, id="a commit on SIGTERM improves the result"),
        pytest.param(
            make_workload(suspended=True),
            make_verified(generation=8, checkpoint=Checkpoint(dir="x", step=9999, complete=False, evidence="")),
            7,
            id="a half-written one does not",
        ),
        pytest.param(
            make_workload(suspended=True),
            make_verified(generation=8, checkpoint=Checkpoint(dir="x", step=3, complete=True, evidence="")),
            7,
            id="an earlier step does not",
        ),
        pytest.param(make_workload(suspended=True), make_verified(generation=8, checkpoint=None), 7, id="one without a checkpoint does not"),
        pytest.param(
            make_workload(suspended=True),
            make_verified(generation=8, checkpoint=Checkpoint(dir="x", complete=True, evidence="")),
            7,
            id="one of an unknown step does not replace a known one",
        ),
    ],
)  # fmt: skip
def test_deleting_ends(job, verified, generation):
    stop = advanced(stopping_at(Phase.DELETING, pods=(), workload=job, verified=verified, agent=None))
    assert stop is not None
    assert stop.saved is not None
    assert stop.phase is Phase.RELEASING
    assert stop.saved.commit.endswith(f"g{generation:04d}.json")


def test_a_stop_without_a_record_cannot_be_improved():
    seen = stopping_at(Phase.DELETING, stop={"saved": None}, pods=(), workload=None, verified=NEWER)
    stop = advanced(seen)
    assert stop is not None
    assert stop.saved is None


# -- Releasing, Done ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "nodes",
    [
        pytest.param((), id="no node was used"),
        pytest.param((make_node(NodePhase.RELEASED), make_node(NodePhase.RETAINED)), id="every node is gone or kept"),
    ],
)
def test_releasing_ends_when_every_node_is_settled(nodes):
    status = make_status(termination=make_stop(Phase.RELEASING), nodes=nodes)
    advance, tell = decide(make_observed(run=make_run(status=status), pods=(), workload=None)).effects
    assert isinstance(advance, Advance)
    assert (advance.termination.phase, advance.was_phase, advance.completion) == (Phase.DONE, Phase.RELEASING, True)
    assert tell == RecordEvent("Finished", "auto_low_loss: Loss 0.2931 < 0.5 at step 1200.")


DONE = make_status(termination=make_stop(Phase.DONE))
ENDED = make_workload(finished=True)


@pytest.mark.parametrize(
    ("run", "job", "wanted"),
    [
        pytest.param({}, ENDED, (AdoptWorkload(JOB.uid),), id="the Job goes with the run from now on"),
        pytest.param({}, replace(ENDED, owned=True), (RemoveFinalizer(),), id="then nothing is left to protect"),
        pytest.param({}, None, (RemoveFinalizer(),), id="nor is it without a Job"),
        pytest.param({"finalizers": ()}, ENDED, (), id="afterwards nothing is done any more"),
        pytest.param(
            {"finalizers": ()}, make_workload(suspended=True), (), id="nor to a Job that was ended by suspending it"
        ),
        pytest.param({"deleting": True}, ENDED, (DeleteWorkload("bert", JOB.uid),), id="deleted: the Job is deleted"),
        pytest.param({"deleting": True}, make_workload(deleting=True), (), id="deleted: and not twice"),
        pytest.param({"deleting": True}, None, (RemoveFinalizer(),), id="deleted: then the finalizer lets go"),
    ],
)
def test_done(run, job, wanted):
    seen = make_observed(run=make_run(status=DONE, **run), workload=job, pods=())
    assert decide(seen).effects == wanted


def test_done_and_let_go_is_the_end():
    assert decide(make_observed(run=make_run(status=DONE, finalizers=()), workload=ENDED)) == Decision()


@pytest.mark.parametrize(
    "finalizers", [pytest.param((names.FINALIZER,), id="before the run is let go"), pytest.param((), id="and after")]
)
def test_a_job_that_comes_after_the_end_is_deleted_once(finalizers):
    """An operator that stood still between its decision and its request may create one whenever it goes on."""
    run = make_run(status=DONE, finalizers=finalizers)
    assert effects(make_observed(run=run, workload=make_workload())) == [DeleteWorkload("bert", JOB.uid)]
    assert DeleteWorkload("bert", JOB.uid) not in effects(make_observed(run=run, workload=make_workload(deleting=True)))


# -- nudges -------------------------------------------------------------------------------------------------------

ASKED = make_pod(save=SaveRequest(id=STOP_ID, ended=True))


@pytest.mark.parametrize(
    ("pod", "seconds", "nudge"),
    [
        pytest.param(ASKED, 2.9, None, id="what was asked has its time first"),
        pytest.param(ASKED, 3, "Saving 1", id="after three seconds without an effect"),
        pytest.param(ASKED, 6, "Saving 2", id="and after twice that"),
        pytest.param(ASKED, 48, "Saving 5", id="and at last after 48"),
        pytest.param(ASKED, 96, None, id="by then the kubelet has looked by itself"),
        pytest.param(replace(ASKED, nudge="Saving 1"), 4, None, id="once for each"),
        pytest.param(make_pod(), 3, None, id="a pod that nothing is asked of needs none"),
    ],
)
def test_the_kubelet_is_nudged_to_look_again(pod, seconds, nudge):
    told = transitions.nudges(make_observed(pods=(pod,)), "Saving", seconds)
    assert [(one.key, one.value) for one in told] == ([] if nudge is None else [(names.NUDGE_ANNOTATION, nudge)])


# -- patience -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("waited", "again"),
    [
        pytest.param(0, 1, id="at first every second"),
        pytest.param(10, 1, id="for the first ten seconds"),
        pytest.param(90, 9, id="then after a tenth of the wait"),
        pytest.param(7200, 60, id="what takes hours costs a look a minute"),
    ],
)
def test_a_stop_that_waits_is_looked_at_less_and_less(waited, again):
    held = make_status(termination=make_stop(Phase.HELD, hold_reason="The bucket cannot be read."))
    seen = make_observed(run=make_run(status=held), pods=(exited_pod(0),), phase_seconds=waited)
    assert decide(seen).again_seconds == again


@pytest.mark.parametrize(
    ("waited", "idle", "again"),
    [
        pytest.param(20, 0, 2, id="at first as any stop"),
        pytest.param(600, 0, 5, id="a long upload that moves on is committed at any moment"),
        pytest.param(600, 4.9, 5, id="also between two looks"),
        pytest.param(600, 5, 60, id="agents that do nothing are waited for"),
    ],
)
def test_a_commit_is_found_soon_however_long_the_upload_takes(waited, idle, again):
    saving = make_status(termination=make_stop(Phase.SAVING))
    seen = make_observed(
        run=make_run(status=saving), pods=(exited_pod(),), phase_seconds=waited, no_progress_seconds=idle
    )
    assert decide(seen).again_seconds == again


@pytest.mark.parametrize(
    ("node", "facts", "again"),
    [
        pytest.param(make_node(NodePhase.WAIT_IDLE), make_node_facts(), 0, id="empty, so it is tainted at once"),
        pytest.param(make_node(NodePhase.CORDONED), make_node_facts(), 1, id="the taint has to be seen by others"),
        pytest.param(make_node(NodePhase.RELEASING), make_node_facts(instance=Instance.TERMINATING, tainted_by=RUN_UID), 0, id="the machine is on its way"),
        pytest.param(make_node(NodePhase.VERIFYING), make_node_facts(instance=Instance.TERMINATING, tainted_by=RUN_UID), 1, id="the machine takes its time"),
        pytest.param(make_node(NodePhase.VERIFYING), make_node_facts(uid=None, instance=Instance.GONE), 0, id="the machine is gone, so the stop goes on"),
        pytest.param(make_node(NodePhase.WAIT_IDLE), make_node_facts(occupants=None), 1, id="only the message is new"),
    ],
)  # fmt: skip
def test_after_a_new_phase_of_a_node_the_next_step_does_not_wait(node, facts, again):
    releasing = make_status(termination=make_stop(Phase.RELEASING), nodes=(node,))
    seen = make_observed(run=make_run(status=releasing), pods=(), nodes=(facts,), pools=(make_pool(),))
    assert decide(seen).again_seconds == again


@pytest.mark.parametrize(
    ("tainted", "again"),
    [
        pytest.param(3, 1, id="the taint is checked while it settles"),
        pytest.param(9.75, 0.25, id="it is looked at when it has settled, and not a second later"),
    ],
)
def test_a_tainted_node_is_looked_at_when_it_has_settled(tainted, again):
    node, facts = make_node(NodePhase.CORDONED), make_node_facts(tainted_by=RUN_UID)
    releasing = make_status(termination=make_stop(Phase.RELEASING), nodes=(node,))
    seen = make_observed(run=make_run(status=releasing), pods=(), nodes=(facts,), pools=(make_pool(settleSeconds=10),))
    assert decide(replace(seen, gate_seconds={node.uid: tainted})).again_seconds == again


def test_a_node_that_moves_on_after_hours_is_looked_at_at_once_again():
    node = make_node(NodePhase.CORDONED)
    releasing = make_status(termination=make_stop(Phase.RELEASING), nodes=(node,))
    fields: dict[str, Any] = {"run": make_run(status=releasing), "pods": (), "phase_seconds": 7200.0}
    assert decide(make_observed(node_seconds={node.uid: 2.0}, **fields)).again_seconds == 1
    assert decide(make_observed(node_seconds={node.uid: 7200.0}, **fields)).again_seconds == 60


# -- a value that is not finite -----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", StopMode)
def test_a_training_that_diverged_is_not_asked_for_another_checkpoint(mode):
    """What it saves now is worth nothing, whatever spec.stopMode is."""
    run = make_run(spec={"stopMode": mode.value, "stopRules": [{"nonFinite": {}}]})
    found = Finding("nonFinite", "NonFinite", "loss nan at step 300.", endings.AUTO_NON_FINITE)
    (begin,) = [one for one in termination.begin(make_observed(run=run), found).effects if isinstance(one, Begin)]
    assert begin.termination.mode is StopMode.LAST_CHECKPOINT
    draining = begin.termination.model_copy(update={"phase": Phase.DRAINING})
    after = advanced(make_observed(run=replace(run, status=make_status(termination=draining))))
    assert (after.phase, after.mode) == (Phase.SAVING, StopMode.LAST_CHECKPOINT)


SPOILED = Spoiled(step=300, finite_step=200, written_us=7)


def diverged(phase=Phase.SAVING, *, saved=None, spoiled=SPOILED, **fields):
    stop = {
        "status": "auto_non_finite",
        "rule": "nan",
        "mode": StopMode.LAST_CHECKPOINT,
        "saved": saved,
        "spoiled": spoiled,
    }
    return stopping_at(phase, stop=stop, **fields)


def test_a_stop_remembers_from_where_on_the_checkpoints_are_spoiled():
    watch = Watch("of", spoiled=SPOILED)
    seen = make_observed(run=make_run(spec={"stopRules": [{"name": "nan", "nonFinite": {}}]}), watches={"nan": watch})
    for ending, expected in ((endings.AUTO_NON_FINITE, SPOILED), (endings.AUTO_PLATEAU, None), (None, None)):
        (begin,) = [
            one for one in termination.begin(seen, Finding("nan", "X", "x.", ending)).effects if isinstance(one, Begin)
        ]
        assert begin.termination.spoiled == expected


def test_the_agents_are_told_from_where_on_the_checkpoints_are_spoiled():
    (ask,) = [one for one in effects(diverged()) if isinstance(one, Annotate) and one.key == names.SAVE_ANNOTATION]
    assert SaveRequest.model_validate_json(ask.value).spoiled == SPOILED
    (other,) = [
        one
        for one in effects(stopping_at(Phase.SAVING))
        if isinstance(one, Annotate) and one.key == names.SAVE_ANNOTATION
    ]
    assert SaveRequest.model_validate_json(other.value).spoiled is None


FIRST = "step 300, the first one whose value is not finite"


@pytest.mark.parametrize(
    ("saved", "spoiled", "said"),
    [
        pytest.param(make_saved(step=200, finite=True), SPOILED, f"It is the newest from before {FIRST}.", id="from before"),
        pytest.param(make_saved(step=250, finite=True), SPOILED, f"It is the newest from before {FIRST}. The last finite value was read at step 200, so that what came between is not known.", id="from between the two readings"),
        pytest.param(make_saved(step=None, finite=True), Spoiled(written_us=7), "It is the newest from before the first value that is not finite.", id="by its time"),
        pytest.param(make_saved(step=400, finite=False), SPOILED, f"No complete checkpoint is known to be from before {FIRST}: this one is from after it, and may hold values that are not finite.", id="from after"),
        pytest.param(make_saved(step=200), SPOILED, f"It is the newest from before {FIRST}.", id="the agent does not say: by the steps"),
        pytest.param(make_saved(step=300), SPOILED, f"No complete checkpoint is known to be from before {FIRST}: this one is from after it, and may hold values that are not finite.", id="and later"),
        pytest.param(make_saved(step=200, epoch=1), SPOILED, f"Whether it is from before {FIRST} is not known: it may hold values that are not finite.", id="a step that may be of an epoch"),
        pytest.param(make_saved(step=None), SPOILED, f"Whether it is from before {FIRST} is not known: it may hold values that are not finite.", id="nothing is known of it"),
        pytest.param(make_saved(step=200, finite=True), None, "", id="nothing was asked"),
        pytest.param(make_saved(files=0, commit="", note="Nothing."), SPOILED, "", id="nothing was saved"),
    ],
)  # fmt: skip
def test_the_status_says_whether_the_published_checkpoint_is_from_before(saved, spoiled, said):
    seen = diverged(Phase.DELETING, saved=saved, spoiled=spoiled)
    stop = seen.run.status.termination
    assert stop is not None
    assert published.sentence(stop) == said
    shown = render(seen)
    condition = shown.condition("CheckpointSaved")
    assert said in (shown.termination_message or "")
    assert condition is not None
    assert said in condition.message


@pytest.mark.parametrize(
    ("checkpoint", "before"),
    [
        pytest.param({"step": 200}, True, id="of an earlier step"),
        pytest.param({"step": 300}, False, id="of the step"),
        pytest.param({"step": 400, "finite": True}, True, id="the agent has said so"),
        pytest.param({"step": 200, "finite": False}, False, id="the agent has said that it is not"),
        pytest.param({"step": 200, "complete": False}, False, id="it is not whole"),
        pytest.param({"step": 200, "epoch": 3}, False, id="a step that may be of an epoch"),
        pytest.param({"step": 400, "epoch": 3}, False, id="a later step"),
        pytest.param({}, False, id="without a step"),
        pytest.param(None, False, id="no checkpoint"),
    ],
)
def test_a_commit_is_known_to_be_from_before(checkpoint, before):
    about = None if checkpoint is None else Checkpoint(**{"dir": "d", "complete": True, "evidence": "x", **checkpoint})
    assert published.is_from_before(make_commit(checkpoint=about, total_files=3), SPOILED) is before
    assert not published.is_from_before(make_commit(checkpoint=about, total_files=0), SPOILED)


def test_the_published_checkpoint_is_the_runs_though_a_later_one_was_proven():
    later = make_verified(
        generation=9, checkpoint=Checkpoint(dir="checkpoint-400", step=400, complete=True, evidence="x")
    )
    saved = make_saved(commit=commit_key(1, 10), step=200, dir="checkpoint-200", finite=True)
    seen = diverged(Phase.DELETING, saved=saved, furthest=later, verified=later)
    shown = render(seen).checkpoint
    assert shown is not None
    assert (shown.dir, shown.finite) == ("checkpoint-200", True)
    without = render(
        diverged(Phase.DELETING, saved=saved.model_copy(update={"finite": None}), furthest=later)
    ).checkpoint
    assert without is not None
    assert without.dir == "checkpoint-400", "Otherwise the furthest counts."


def test_what_a_diverged_training_saves_while_it_ends_does_not_take_the_place_of_the_last_checkpoint():
    saved = make_saved(step=1200)
    later = make_verified(
        generation=8, checkpoint=Checkpoint(dir="checkpoint-1300", step=1300, complete=True, evidence="x")
    )
    gone: dict[str, Any] = {"pods": (), "workload": make_workload(suspended=True), "verified": later, "agent": None}
    for status, step in (("auto_non_finite", 1200), ("auto_plateau", 1300)):
        after = advanced(stopping_at(Phase.DELETING, stop={"status": status, "saved": saved}, **gone))
        assert after.saved.step == step
