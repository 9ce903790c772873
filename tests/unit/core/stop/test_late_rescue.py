"""A rescue in Deleting: pods are gone that wrote more than the proof covers, and a volume may still have it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from builders import (
    EARLIER,
    POD_UID,
    STOP_ID,
    checkpoint_spec,
    exited_pod,
    make_agent,
    make_mismatch,
    make_node,
    make_node_facts,
    make_pod,
    make_rank,
    make_saved,
    make_status,
    make_stop,
    make_unreachable,
    make_verified,
    make_workload,
    stopping_at,
    template,
)

from trainingrun_operator.api import names
from trainingrun_operator.api.exchange import SaveRequest
from trainingrun_operator.api.status import NodePhase, Phase, Rescue, Saved
from trainingrun_operator.checkpoints.documents import Checkpoint
from trainingrun_operator.core.decide import decide
from trainingrun_operator.core.effects import (
    Advance,
    Annotate,
    CreateRescue,
    DeletePod,
    DeleteRescue,
    RecordEvent,
    RecordNodes,
    StartRescue,
    SuspendWorkload,
)
from trainingrun_operator.core.facts.rescue import Claim, RescueFacts, RescueJob
from trainingrun_operator.core.kept_volume import kept_volume
from trainingrun_operator.core.stop import rescue
from trainingrun_operator.core.stop.late_rescue import PATIENCE_SECONDS
from trainingrun_operator.core.stop.proving import saved_from
from trainingrun_operator.core.stop.requests import rescues_late, save_request

JOB = "bert-rescue"
BOUND = Claim("checkpoints", "claim-uid", "Bound", ("ReadWriteOnce",), "pv-1", EARLIER)
SHARED = replace(BOUND, access_modes=("ReadWriteMany",))
FACTS = RescueFacts(BOUND, last_node="gpu-1", home="gpu-1")
PROVEN = make_saved(final=False)
BEGUN = Rescue(claim="checkpoints", node="gpu-1", since=EARLIER, attempt=2)
ANYWHERE = BEGUN.model_copy(update={"node": ""})
WAITING = RescueJob(JOB, "rescue-uid", STOP_ID, suspended=True, generation=1)
ITS_JOB = RescueJob(JOB, "rescue-uid", STOP_ID)
ITS_POD = exited_pod(name=f"{JOB}-a1b2c", uid="rescue-pod", node="cpu-1", exit_code=None)
NAMED = BEGUN.model_copy(update={"job": WAITING.uid})
SILENT = make_pod(unreachable=True, deleting=True)
LOST = make_pod(lost=True)
NEWER = make_verified(incarnation=2, generation=8, attempt=2, pod_uid=ITS_POD.uid)
ENDED = "The pod ended before its last files were saved."


def at_last(*, stop=None, source=None, checkpoint=None, **fields):
    """A stop in Deleting on a proof that is not final, with all pods gone and the checkpoints in a claim."""
    pod = template(volumes=[{"name": "data", **(source or {"persistentVolumeClaim": {"claimName": "checkpoints"}})}])
    pod["spec"]["containers"][0]["volumeMounts"] = [{"name": "data", "mountPath": "/checkpoints"}]
    spec = {"template": pod, "checkpoint": checkpoint_spec(**(checkpoint or {}))}
    seen = {
        "pods": (),
        "agent": None,
        "rescue": FACTS,
        "verified": make_verified(final=False),
        "workload": make_workload(suspended=True),
        **fields,
    }
    return stopping_at(Phase.DELETING, stop={"saved": PROVEN, **(stop or {})}, spec=spec, **seen)


def begun(*, rescued=BEGUN, facts=FACTS, stop=None, **fields):
    return at_last(stop={"rescue": rescued, "attempt": 2, **(stop or {})}, rescue=facts, **fields)


def effects(seen):
    return [effect for effect in decide(seen).effects if not isinstance(effect, RecordEvent)]


def advanced(seen):
    return next((effect.termination for effect in decide(seen).effects if isinstance(effect, Advance)), None)


def events(seen):
    return [effect.reason for effect in decide(seen).effects if isinstance(effect, RecordEvent)]


# -- whether it begins ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({}, id="evicted, or deleted by force"),
        pytest.param({"pods": (LOST,)}, id="its machine is gone"),
        pytest.param({"pods": (SILENT,), "phase_seconds": 300}, id="it is silent and was told to go"),
        pytest.param({"workload": None}, id="its Job was deleted"),
        pytest.param({"workload": make_workload(finished=True)}, id="its Job is finished"),
        pytest.param({"verified": None}, id="nothing is known of the bucket"),
        pytest.param({"answer": make_unreachable()}, id="the bucket cannot be read"),
        pytest.param(
            {"stop": {"saved": make_saved(final=False, note="?", gave_up=True)}}, id="its agent could not save"
        ),
        pytest.param({"stop": {"saved": Saved(note="Nothing to save.")}}, id="it had written nothing before"),
        pytest.param({"stop": {"status": "auto_non_finite"}}, id="it has diverged"),
        pytest.param(
            {"pods": (LOST,), "verified": make_verified(pod_uid="an-older-pod")}, id="the last word is an older pod's"
        ),
    ],
)
def test_what_lost_pods_wrote_after_a_proof_that_is_not_final_is_rescued(fields):
    seen = at_last(**fields)
    written, event = decide(seen).effects
    stop = seen.run.status.termination
    assert isinstance(written, Advance)
    assert isinstance(event, RecordEvent)
    after = written.termination
    assert (after.phase, after.attempt, after.data_loss, after.saved) == (Phase.DELETING, 2, None, stop.saved)
    assert after.rescue is not None
    assert after.rescue.model_copy(update={"since": ""}) == Rescue(claim="checkpoints", node="gpu-1", attempt=2)
    assert (written.was_phase, written.was_attempt) == (Phase.DELETING, 1)
    assert (event.reason, event.warning) == ("Rescuing", True)


def test_a_rescue_before_the_proof_is_followed_by_one_after_it():
    """A pod came up meanwhile and was lost in Deleting."""
    before = Rescue(claim="checkpoints", node="gpu-1", job="earlier")
    after = advanced(at_last(stop={"rescue": before, "attempt": 4}))
    assert (after.rescue.attempt, after.rescue.job) == (5, "")


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"verified": make_verified(generation=8, final=True)}, id="its agent has said the last word"),
        pytest.param({"stop": {"saved": make_saved()}}, id="the proof was of everything"),
        pytest.param({"stop": {"data_loss": "Given up."}}, id="a loss is told"),
        pytest.param({"stop": {"rescue": BEGUN.model_copy(update={"over": True})}}, id="it was rescued before"),
        pytest.param({"checkpoint": {"mode": "Disabled"}}, id="nothing is to be saved"),
        pytest.param({"source": {"emptyDir": {}}, "rescue": None}, id="its volume ended with it"),
        pytest.param({"rescue": replace(FACTS, claim=Claim("checkpoints"))}, id="the claim is gone"),
        pytest.param(
            {"ranks": (make_rank(0, pod=LOST, report=None), make_rank(1, pod=LOST, report=None))}, id="several ranks"
        ),
    ],
)
def test_it_does_not_begin_where_nothing_is_missing_or_nothing_can_be_saved(fields):
    after = advanced(at_last(**fields))
    assert after.phase is Phase.RELEASING
    assert after.rescue is None or after.rescue.over


@pytest.mark.parametrize(
    "pod",
    [
        pytest.param(make_pod(), id="it runs"),
        pytest.param(exited_pod(0), id="it waits behind its gate"),
        pytest.param(make_pod(unreachable=True), id="it is silent and was not told to go"),
    ],
)
def test_a_pod_that_may_save_itself_is_not_rescued(pod):
    seen = at_last(pods=(pod,))
    assert rescue.volume_to_read(seen.run, seen.pods) is None
    assert advanced(seen) is None


@pytest.mark.parametrize("seconds", [0, 299])
def test_a_silent_pod_may_come_back_before_it_is_rescued(seconds):
    seen = at_last(pods=(SILENT,), phase_seconds=seconds)
    assert rescue.volume_to_read(seen.run, seen.pods) is not None
    assert (advanced(seen), effects(seen)) == (None, [])


def test_what_several_ranks_lost_says_that_no_job_can_save_it():
    ranks = (make_rank(0, pod=LOST, report=None), make_rank(1, pod=LOST, report=None))
    loss = advanced(at_last(ranks=ranks)).data_loss
    assert "No rescue Job can save them: the run has 2 ranks" in loss
    assert "Those files may still be in PersistentVolumeClaim checkpoints" in loss


# -- its effects ----------------------------------------------------------------------------------------------------


def test_the_job_is_created_named_and_started_in_this_order():
    seen = begun()
    (create,) = effects(seen)
    assert isinstance(create, CreateRescue)
    assert create.termination_id == STOP_ID
    assert create.manifest["spec"]["suspend"] is True
    waits = begun(facts=replace(FACTS, job=WAITING))
    (name,) = decide(waits).effects
    assert isinstance(name, Advance)
    after = name.termination
    assert (after.phase, after.attempt, after.rescue, after.saved) == (Phase.DELETING, 3, NAMED, PROVEN)
    started = begun(facts=replace(FACTS, job=WAITING), rescued=NAMED)
    assert effects(started) == [StartRescue(JOB, "rescue-uid", 1)]


def test_the_nodes_without_the_volume_are_released_before():
    seen = begun(rescued=ANYWHERE, facts=replace(FACTS, claim=SHARED))
    status = seen.run.status.model_copy(update={"nodes": (make_node(),)})
    waits = replace(seen, run=replace(seen.run, status=status), nodes=(make_node_facts(),))
    (first,) = effects(waits)
    assert isinstance(first, RecordNodes)
    assert first.nodes[0].phase is NodePhase.CORDONED
    late = replace(waits, phase_seconds=waits.defaults.node_removal_seconds)
    assert [type(one) for one in effects(late)] == [RecordNodes, CreateRescue]


def test_a_node_with_the_volume_is_not_released_before():
    seen = begun()
    status = seen.run.status.model_copy(update={"nodes": (make_node(),)})
    seen = replace(seen, run=replace(seen.run, status=status), nodes=(make_node_facts(),))
    assert [type(one) for one in effects(seen)] == [CreateRescue]


def test_the_job_waits_for_a_silent_pod_to_be_gone():
    """It may still write, and its agent may still save."""
    silent = begun(pods=(SILENT,), phase_seconds=300)
    assert effects(silent) == []
    assert [type(one) for one in effects(begun(pods=(LOST,)))] == [CreateRescue]


def test_its_agent_is_asked_for_the_attempt_of_the_rescue():
    facts = replace(FACTS, job=ITS_JOB, pod=ITS_POD, report=make_agent(pod_uid=ITS_POD.uid))
    seen = begun(facts=facts, rescued=NAMED, stop={"attempt": 3})
    (ask,) = effects(seen)
    request = SaveRequest(id=STOP_ID, attempt=3, ended=True, status="auto_low_loss")
    assert ask == Annotate(ITS_POD.name, ITS_POD.uid, names.SAVE_ANNOTATION, request.model_dump_json(by_alias=True))
    assert save_request(seen.run, ()) == (STOP_ID, 3)


def test_a_pod_that_comes_up_meanwhile_is_ended_first():
    """As after a Job that a person has resumed."""
    job = make_workload()
    resumed = begun(pods=(make_pod(),), workload=job)
    assert effects(resumed) == [SuspendWorkload(job.uid, job.generation)]
    left = begun(pods=(exited_pod(0),), workload=job)
    assert effects(left) == [SuspendWorkload(job.uid, job.generation)], "Its rescue saves what it has written."
    over = begun(pods=(make_pod(phase="Failed"),))
    assert effects(over) == [DeletePod("bert-x7k2p", POD_UID)]


# -- its end --------------------------------------------------------------------------------------------------------


def test_its_proof_takes_the_place_of_the_record_and_the_job_goes_before_the_nodes():
    facts = replace(FACTS, job=ITS_JOB, pod=ITS_POD, left=True)
    seen = begun(facts=facts, rescued=NAMED, answer=NEWER)
    after = advanced(seen)
    over = NAMED.model_copy(update={"over": True})
    assert (after.phase, after.attempt, after.rescue, after.data_loss) == (Phase.DELETING, 3, over, None)
    assert after.saved == saved_from(NEWER)
    assert after.saved.final
    assert events(seen) == ["CheckpointSaved"]
    then = begun(facts=facts, rescued=over, stop={"saved": after.saved})
    assert effects(then) == [DeleteRescue(JOB, "rescue-uid")]
    assert advanced(begun(rescued=over, stop={"saved": after.saved}, pods=(LOST,))).phase is Phase.RELEASING


@pytest.mark.parametrize(
    ("fields", "stop"),
    [
        pytest.param({"checkpoint": Checkpoint(dir="x", step=9999, complete=False, evidence="")}, {}, id="a save that was cut off has overwritten it"),
        pytest.param({"checkpoint": Checkpoint(dir="x", step=3, complete=True, evidence="")}, {}, id="only an earlier one is left"),
        pytest.param({"checkpoint": None}, {}, id="no checkpoint is left"),
        pytest.param({}, {"status": "auto_non_finite"}, id="it has diverged"),
    ],
)  # fmt: skip
def test_what_reaches_less_is_saved_beside_the_record_and_nothing_is_lost(fields, stop):
    found = make_verified(incarnation=2, generation=8, attempt=2, **fields)
    after = advanced(begun(answer=found, stop=stop))
    assert (after.rescue.over, after.saved, after.data_loss) == (True, PROVEN, None)
    last = advanced(begun(rescued=after.rescue, pods=(LOST,), stop=stop))
    assert (last.phase, last.saved, last.data_loss) == (Phase.RELEASING, PROVEN, None)


def test_a_commit_that_is_not_final_ends_no_rescue():
    assert advanced(begun(answer=make_verified(attempt=2, final=False))) is None


def test_a_commit_that_does_not_verify_is_made_again():
    facts = replace(FACTS, job=ITS_JOB, pod=ITS_POD)
    seen = begun(facts=facts, rescued=NAMED, answer=make_mismatch(attempt=2))
    after = advanced(seen)
    assert (after.phase, after.attempt, after.saved, after.rescue) == (Phase.DELETING, 3, PROVEN, NAMED)
    assert events(seen) == ["CheckpointMismatch"]


FAILS = [
    pytest.param({"no_progress_seconds": PATIENCE_SECONDS}, f"{ENDED} The files of the dead pod are in PersistentVolumeClaim checkpoints. The rescue Job {JOB} is not there yet.", id="it makes no progress"),
    pytest.param({"no_progress_seconds": PATIENCE_SECONDS, "pods": (SILENT,), "phase_seconds": 300}, f"{ENDED} Pod bert-x7k2p is silent, and may still run.", id="the pod is silent all the time"),
    pytest.param({"no_progress_seconds": 120.0, "checkpoint": {"onFailure": "Proceed"}}, ENDED, id="a person proceeds without the files"),
    pytest.param({"no_progress_seconds": 120.0, "namespace_ends": True}, ENDED, id="the namespace is being deleted"),
    pytest.param({"answer": make_mismatch(attempt=7), "stop": {"attempt": 7}}, f"{ENDED} The rescue has failed 5 times: model.safetensors", id="its commits do not verify"),
    pytest.param({"stop": {"attempt": 7}}, f"{ENDED} The rescue has failed 5 times: The files", id="its Job is deleted again and again"),
    pytest.param({"answer": make_mismatch(attempt=2, curable=False)}, f"{ENDED} What the rescue Job saved does not verify: model.safetensors", id="no other upload would verify"),
    pytest.param({"facts": replace(FACTS, claim=replace(BOUND, deleting=True))}, f"{ENDED} The last commit is s3://", id="the claim is deleted meanwhile"),
    pytest.param({"facts": None}, ENDED, id="the volume is not known any more"),
    pytest.param({"answer": make_unreachable(), "no_progress_seconds": PATIENCE_SECONDS}, "Whether the bucket has the last files of the pod is not known: s3://bucket answers AccessDenied.", id="the bucket cannot be read"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "words"), FAILS)
def test_a_rescue_that_fails_is_given_up_and_what_may_be_lost_is_said(fields, words):
    seen = begun(**fields)
    after = advanced(seen)
    assert (after.phase, after.attempt) == (Phase.DELETING, seen.run.status.termination.attempt + 1)
    assert (after.rescue.over, after.saved) == (True, PROVEN)
    assert after.data_loss.startswith(words)
    assert events(seen) == ["DataLoss"]
    gone = advanced(begun(rescued=after.rescue, stop={"data_loss": after.data_loss}))
    assert (gone.phase, gone.data_loss, gone.saved) == (Phase.RELEASING, after.data_loss, PROVEN)


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"no_progress_seconds": PATIENCE_SECONDS - 1}, id="too early"),
        pytest.param({"answer": make_unreachable(), "no_progress_seconds": 600.0}, id="the bucket is away for a while"),
    ],
)
def test_what_may_pass_is_waited_for(fields):
    assert advanced(begun(**fields)) is None


def test_nodes_that_are_still_released_are_waited_for():
    seen = begun(rescued=ANYWHERE, no_progress_seconds=2 * PATIENCE_SECONDS)
    status = seen.run.status.model_copy(update={"nodes": (make_node(NodePhase.VERIFYING),)})
    assert advanced(replace(seen, run=replace(seen.run, status=status))) is None


def test_a_folder_on_another_machine_of_this_name_is_not_read():
    on_host = {"hostPath": {"path": "/data"}}
    made = at_last(source=on_host)
    kept = kept_volume(made.run)
    assert kept is not None
    facts = RescueFacts(None, kept, hosts=("gpu-1",), last_node="gpu-1", other_machine=True)
    after = advanced(begun(source=on_host, facts=facts))
    assert "No rescue Job can save them: Node gpu-1 has another uid" in after.data_loss


def test_an_agent_that_gave_up_leaves_no_trace_of_that_once_its_files_are_rescued():
    gave_up = make_saved(final=False, note="Given up.", gave_up=True)
    over = BEGUN.model_copy(update={"over": True})
    last = advanced(begun(rescued=over, stop={"saved": gave_up}))
    assert (last.phase, last.saved, last.data_loss) == (Phase.RELEASING, PROVEN, None)


# -- which phases and requests count --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stop", "late"),
    [
        pytest.param(None, False, id="no stop"),
        pytest.param(make_stop(Phase.DELETING), False, id="no rescue"),
        pytest.param(make_stop(Phase.DELETING, rescue=Rescue(claim="c")), False, id="it began before the proof"),
        pytest.param(make_stop(Phase.DELETING, rescue=BEGUN), True, id="it began after the proof"),
        pytest.param(make_stop(Phase.DELETING, rescue=BEGUN.model_copy(update={"over": True})), False, id="it is over"),
        pytest.param(make_stop(Phase.RELEASING, rescue=BEGUN), False, id="the stop has gone on"),
    ],
)
def test_a_rescue_after_the_proof_is_in_progress(stop, late):
    assert rescues_late(stop) == late
    assert rescue.may_lack(replace(at_last().run, status=make_status(termination=stop))) is False
