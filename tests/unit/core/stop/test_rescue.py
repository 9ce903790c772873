"""A rescue of what dead pods have left in a claim: intent, release of the nodes, Job, proof, and what stands in the way."""

from __future__ import annotations

from dataclasses import replace

import pytest
from builders import (
    EARLIER,
    STOP_ID,
    checkpoint_spec,
    exited_pod,
    finished_pod,
    make_agent,
    make_mismatch,
    make_node,
    make_node_facts,
    make_observed,
    make_pod,
    make_rank,
    make_run,
    make_saved,
    make_status,
    make_stop,
    make_unreachable,
    make_verified,
    make_workload,
    pending_pod,
    stopping_at,
    template,
)

from trainingrun_operator.api import names
from trainingrun_operator.api.exchange import AgentError, SaveRequest
from trainingrun_operator.api.status import NodePhase, Phase, PodStatus, Progress, Rescue
from trainingrun_operator.api.template import Template
from trainingrun_operator.core.decide import decide
from trainingrun_operator.core.effects import (
    Advance,
    Annotate,
    CreateRescue,
    DeleteRescue,
    RecordEvent,
    RecordNodes,
    StartRescue,
    SuspendWorkload,
)
from trainingrun_operator.core.facts.rescue import Claim, RescueFacts, RescueJob, bound_to
from trainingrun_operator.core.kept_volume import kept_volume
from trainingrun_operator.core.stop import rescue

JOB = "bert-rescue"
BOUND = Claim("checkpoints", "claim-uid", "Bound", ("ReadWriteOnce",), "pv-1", EARLIER)
SHARED = replace(BOUND, access_modes=("ReadWriteMany",))
FACTS = RescueFacts(BOUND, home="gpu-1")
BEGUN = Rescue(claim="checkpoints", node="gpu-1", since=EARLIER)
ANYWHERE = Rescue(claim="checkpoints", since=EARLIER)
ITS_JOB = RescueJob(JOB, "rescue-uid", STOP_ID)
ITS_POD = exited_pod(name=f"{JOB}-a1b2c", uid="rescue-pod", node="cpu-1", exit_code=None)
WAITING = replace(ITS_JOB, suspended=True, generation=1)
NAMED = BEGUN.model_copy(update={"job": WAITING.uid})
LONG = 120.0
PROCEED = {"onFailure": "Proceed"}


def volume(**source):
    mounts = [{"name": "data", "mountPath": "/checkpoints", **source.pop("mount", {})}]
    pod = template(volumes=[{"name": "data", **(source or {"persistentVolumeClaim": {"claimName": "checkpoints"}})}])
    pod["spec"]["containers"][0]["volumeMounts"] = mounts
    return pod


NFS = {"nfs": {"server": "nfs.example", "path": "/exports/bert"}}
ON_HOST = {"hostPath": {"path": "/data", "type": "DirectoryOrCreate"}}


def inline(source, **fields):
    """What is read about a volume that the template itself has."""
    kept = kept_volume(make_run(spec={"template": volume(**source)}))
    assert kept is not None
    hosts = ("gpu-1",) if kept.on_host else ()
    return RescueFacts(None, kept, **{"hosts": hosts, "last_node": "gpu-1", "home": "gpu-1", **fields})


def dead(phase=Phase.SAVING, *, stop=None, checkpoint=None, source=None, **fields):
    """A stop that is to save, with the only pod over and the checkpoints in a claim."""
    spec = {"template": volume(**(source or {})), "checkpoint": checkpoint_spec(**(checkpoint or {}))}
    seen = {
        "pods": (finished_pod(137),),
        "agent": None,
        "rescue": FACTS,
        "verified": make_verified(final=False),
        **fields,
    }
    return stopping_at(phase, stop=stop, spec=spec, **seen)


def begun(*, rescued=BEGUN, facts=FACTS, phase=Phase.SAVING, **fields):
    """A rescue that has begun; no pod of the run is replaced any more."""
    stop = {"rescue": rescued, "attempt": 2}
    return dead(phase, **{"stop": stop, "rescue": facts, "workload": make_workload(suspended=True), **fields})


def effects(seen):
    return [effect for effect in decide(seen).effects if not isinstance(effect, RecordEvent)]


def advanced(seen):
    return next((effect.termination for effect in decide(seen).effects if isinstance(effect, Advance)), None)


# -- whether there is anything to rescue --------------------------------------------------------------------------


@pytest.mark.parametrize("phase", [Phase.SAVING, Phase.HELD])
@pytest.mark.parametrize("verified", [None, make_verified(final=False)], ids=["nothing", "an earlier checkpoint"])
@pytest.mark.parametrize("pods", [(finished_pod(137),), ()], ids=["its pod is over", "its pod is gone"])
def test_files_in_a_claim_that_the_bucket_may_lack_are_rescued(phase, verified, pods):
    stop = advanced(dead(phase, pods=pods, verified=verified))
    assert stop is not None
    assert (stop.phase, stop.attempt, stop.data_loss, stop.saved) == (Phase.SAVING, 2, None, None)
    assert stop.rescue == Rescue(claim="checkpoints", node="gpu-1", since=EARLIER if pods else "")


def test_the_intent_is_written_and_told_before_any_effect_of_it():
    written, event = decide(dead()).effects
    assert isinstance(written, Advance)
    assert isinstance(event, RecordEvent)
    assert (event.reason, event.warning) == ("Rescuing", True)
    assert "PersistentVolumeClaim checkpoints" in event.message


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"verified": make_verified()}, id="the last commit is of the end"),
        pytest.param({"source": {"emptyDir": {}}}, id="its volume ended with the pod"),
        pytest.param({"rescue": None}, id="nothing was read about the claim"),
        pytest.param({"stop": {"saved": make_saved()}}, id="it was suspended with everything proven"),
    ],
)
def test_nothing_is_rescued_that_is_proven_or_gone(fields):
    stop = advanced(dead(**fields))
    assert stop is not None
    assert (stop.phase, stop.rescue) == (Phase.DELETING, None)


def test_a_training_that_never_started_has_left_nothing():
    seen = dead(pods=(pending_pod(),), verified=None)
    stop = advanced(replace(seen, run=replace(seen.run, status=make_status(start_time=None, termination=make_stop()))))
    assert stop is not None
    assert (stop.phase, stop.rescue) == (Phase.DELETING, None)


def test_a_pod_that_can_save_needs_no_rescue():
    assert not [one for one in effects(dead(pods=(exited_pod(),), rescue=None)) if not isinstance(one, Annotate)]


def test_a_bucket_that_cannot_be_read_is_no_evidence_that_it_lacks_anything():
    stop = advanced(dead(answer=make_unreachable(), verified=None))
    assert stop is not None
    assert (stop.phase, stop.rescue) == (Phase.HELD, None)


@pytest.mark.parametrize("phase", [Phase.SAVING, Phase.VERIFYING])
def test_a_commit_that_does_not_verify_is_made_again_by_a_rescue(phase):
    stop = advanced(dead(phase, answer=make_mismatch(), verified=None))
    assert stop is not None
    assert (stop.phase, stop.attempt, stop.rescue) == (Phase.SAVING, 2, BEGUN)


def test_a_pod_that_dies_while_its_checkpoint_is_verified_is_rescued():
    """Its training has exited meanwhile: the claim may have more than was verified."""
    stop = advanced(dead(Phase.VERIFYING, answer=make_verified(final=False)))
    assert stop is not None
    assert (stop.phase, stop.rescue) == (Phase.SAVING, BEGUN)


# -- where ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("facts", "node"),
    [
        pytest.param(FACTS, "gpu-1", id="one Node at a time, and the Node lives"),
        pytest.param(replace(FACTS, home=""), "", id="one Node at a time, and the Node is gone"),
        pytest.param(replace(FACTS, claim=SHARED), "", id="any Node"),
        pytest.param(replace(FACTS, hosts=("gpu-1",)), "gpu-1", id="a disk of the Node"),
        pytest.param(
            replace(FACTS, hosts=("h-1.example",), last_node="gpu-1"), "gpu-1", id="a disk of a host of another name"
        ),
        pytest.param(replace(FACTS, hosts=("gpu-1",), home=""), "gpu-1", id="a disk of a Node that takes no pods"),
        pytest.param(replace(FACTS, hosts=("a", "b"), claim=SHARED), "gpu-1", id="some Nodes"),
    ],
)
def test_the_job_runs_where_the_volume_is(facts, node):
    stop = advanced(dead(rescue=facts))
    assert stop is not None
    assert stop.rescue is not None
    assert stop.rescue.node == node


@pytest.mark.parametrize(
    ("volume", "hosts"),
    [
        pytest.param(None, (), id="no volume"),
        pytest.param({"spec": {}}, (), id="no affinity"),
        pytest.param([[("topology.kubernetes.io/zone", "In", ["a"])]], (), id="a zone"),
        pytest.param([[("kubernetes.io/hostname", "In", ["gpu-1"])]], ("gpu-1",), id="a host"),
        pytest.param([[("zone", "In", ["a"]), ("kubernetes.io/hostname", "In", ["x"])]], ("x",), id="a host in a zone"),
        pytest.param([[("kubernetes.io/hostname", "In", ["a"])], [("zone", "In", ["b"])]], (), id="a host or a zone"),
        pytest.param([[("kubernetes.io/hostname", "NotIn", ["a"])]], (), id="any other host"),
        pytest.param([[]], (), id="an empty term"),
    ],
)
def test_only_a_volume_whose_every_term_names_hosts_is_bound_to_them(volume, hosts):
    if isinstance(volume, list):
        terms = [
            {"matchExpressions": [{"key": key, "operator": how, "values": values} for key, how, values in term]}
            for term in volume
        ]
        volume = {"spec": {"nodeAffinity": {"required": {"nodeSelectorTerms": terms}}}}
    assert bound_to(volume) == hosts


@pytest.mark.parametrize(
    ("source", "facts", "node", "words"),
    [
        pytest.param(NFS, {}, "", "the nfs volume 'data' (server nfs.example, path /exports/bert) of the template", id="a network file system"),
        pytest.param({"cephfs": {"monitors": ["m:6789"]}}, {}, "", "the cephfs volume 'data' (monitors ['m:6789']) of the template", id="another one"),
        pytest.param({"iscsi": {"targetPortal": "p:3260"}}, {}, "gpu-1", "the iscsi volume 'data' (targetPortal p:3260) of the template", id="a disk of one Node at a time"),
        pytest.param({"iscsi": {"targetPortal": "p:3260"}}, {"home": ""}, "", "the iscsi volume 'data' (targetPortal p:3260) of the template", id="such a disk, and its Node is gone"),
        pytest.param(ON_HOST, {}, "gpu-1", "the hostPath volume 'data' (path /data) of the template", id="a folder of the Node"),
        pytest.param(ON_HOST, {"home": ""}, "gpu-1", "the hostPath volume 'data' (path /data) of the template", id="a folder of a Node that takes no pods"),
    ],
)  # fmt: skip
def test_a_volume_without_a_claim_is_rescued_where_a_pod_finds_its_files(source, facts, node, words):
    seen = dead(source=source, rescue=inline(source, **facts))
    stop = advanced(seen)
    assert (stop.phase, stop.data_loss) == (Phase.SAVING, None)
    assert stop.rescue == Rescue(claim="", volume=words, node=node, since=EARLIER)
    started = begun(source=source, rescued=stop.rescue, facts=inline(source, **facts))
    (create,) = effects(started)
    assert isinstance(create, CreateRescue)
    made = create.manifest["spec"]["template"]["spec"]["volumes"][0]
    assert made == {"name": "data", **source} | (
        {"hostPath": {"path": "/data", "type": "Directory"}} if source is ON_HOST else {}
    )
    held = advanced(replace(started, no_progress_seconds=LONG))
    assert held.hold_reason.startswith(f"The files of the dead pod are in {words}.")


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        pytest.param(
            {"last_node": "", "hosts": ()}, "it is not known on which Node they are", id="no trace of the pod"
        ),
        pytest.param({"other_machine": True}, "Node gpu-1 has another uid", id="another machine has its name"),
    ],
)
def test_a_folder_of_a_node_is_not_read_on_another_one(facts, words):
    """It would be empty there, and its commit would say that nothing was lost."""
    stop = advanced(dead(source=ON_HOST, rescue=inline(ON_HOST, **facts)))
    assert (stop.phase, stop.rescue) == (Phase.HELD, None)
    assert words in stop.hold_reason


@pytest.mark.parametrize(
    ("source", "facts", "words"),
    [
        pytest.param({"emptyDir": {}}, None, "Those files were in the emptyDir volume 'data' of the template, which ends with its pod.", id="emptyDir"),
        pytest.param({"csi": {"driver": "d"}}, None, "Those files were in the csi volume 'data' of the template, which ends with its pod.", id="an inline volume of a driver"),
        pytest.param({"ephemeral": {}}, None, "Those files were in PersistentVolumeClaim bert-x7k2p-data, which is deleted with its pod.", id="a claim of the pod's own"),
        pytest.param(ON_HOST, inline(ON_HOST), "The hostPath volume 'data' (path /data) of the template is on gpu-1, whose machine is gone.", id="a folder of the machine"),
    ],
)  # fmt: skip
def test_a_data_loss_says_where_the_files_were(source, facts, words):
    stop = advanced(dead(source=source, rescue=facts, pods=(make_pod(lost=True),)))
    assert stop.phase is Phase.DELETING
    assert stop.data_loss.endswith(words)


LATER_LOST = [
    pytest.param({}, "Those files may still be in PersistentVolumeClaim checkpoints: the operator deletes nothing there.", id="a claim"),
    pytest.param(NFS, "Those files may still be in the nfs volume 'data' (server nfs.example, path /exports/bert) of the template: the operator deletes nothing there.", id="a network file system"),
    pytest.param(ON_HOST, "Those files were in the hostPath volume 'data' (path /data) of the template, on the disk of Node gpu-1.", id="a folder of the machine"),
    pytest.param({"emptyDir": {}}, "Those files were in the emptyDir volume 'data' of the template, which ends with its pod.", id="emptyDir"),
]  # fmt: skip


@pytest.mark.parametrize(("source", "words"), LATER_LOST)
def test_a_machine_that_is_lost_after_the_proof_leaves_a_word_about_its_last_files(source, words):
    stop = {"saved": make_saved(final=False)}
    suspended = make_workload(suspended=True)
    lost = dead(Phase.DELETING, stop=stop, source=source, rescue=None, pods=(make_pod(lost=True),), workload=suspended)
    after = advanced(lost)
    assert after.phase is Phase.RELEASING
    assert after.data_loss.startswith("The machine was lost before its last files were saved. The last commit is s3://")
    assert after.data_loss.endswith(f"files written after it are not in the bucket. {words}")


def test_a_claim_goes_with_its_namespace():
    lost = dead(rescue=None, source={}, namespace_ends=True, verified=None)
    assert "PersistentVolumeClaim checkpoints, which is deleted with its namespace" in rescue.whereabouts(lost)


def test_the_checkpoint_of_a_suspension_that_left_the_bucket_may_still_be_in_the_claim():
    after = advanced(dead(stop={"saved": make_saved(generation=9)}, rescue=None, verified=None))
    assert after.data_loss.startswith("The checkpoint of the suspension is no longer in the bucket")
    assert after.data_loss.endswith(LATER_LOST[0].values[1])


# -- the order of effects ------------------------------------------------------------------------------------------


def test_first_no_pod_is_replaced_any_more():
    job = make_workload()
    assert effects(begun(workload=job)) == [SuspendWorkload(job.uid, job.generation)]


@pytest.mark.parametrize(
    "job", [None, make_workload(finished=True), make_workload(suspended=True), make_workload(deleting=True)]
)
def test_without_replacements_the_job_is_created(job):
    (create,) = effects(begun(workload=job))
    assert isinstance(create, CreateRescue)
    assert create.termination_id == STOP_ID
    assert create.manifest["metadata"]["name"] == JOB


@pytest.mark.parametrize("phase", [Phase.SAVING, Phase.VERIFYING, Phase.HELD])
@pytest.mark.parametrize("before", ["", "deleted-by-somebody"], ids=["the first", "after one that was deleted"])
def test_the_status_names_the_job_before_it_starts(phase, before):
    """Alone, and by a new attempt: no operator that has not seen this Job can go on to the next phase."""
    rescued = BEGUN.model_copy(update={"job": before})
    answer = make_verified(final=False) if phase is Phase.VERIFYING else None
    seen = begun(facts=replace(FACTS, job=WAITING), phase=phase, rescued=rescued, answer=answer)
    stop = seen.run.status.termination
    (written,) = decide(seen).effects
    after = advanced(seen)
    assert written == Advance(after, phase, 2)
    assert (after.rescue, after.attempt, after.saved) == (NAMED, 3, None)
    assert after.phase is (Phase.SAVING if phase is Phase.VERIFYING else phase), "Its commit is of the next attempt."
    assert after.hold_reason == stop.hold_reason
    assert decide(seen).again_seconds == 0
    status = seen.run.status.model_copy(update={"termination": after})
    named = replace(seen, run=replace(seen.run, status=status), answer=None)
    assert effects(named) == [StartRescue(JOB, "rescue-uid", 1)]
    assert decide(named).note.endswith("has not started yet.")


@pytest.mark.parametrize(
    "job",
    [
        pytest.param(replace(WAITING, suspended=False, generation=2), id="it has started"),
        pytest.param(replace(WAITING, generation=3), id="somebody has suspended it since"),
        pytest.param(replace(WAITING, deleting=True), id="it is being deleted"),
        pytest.param(replace(WAITING, termination_id=""), id="it is not the operator's"),
    ],
)
@pytest.mark.parametrize("rescued", [BEGUN, NAMED], ids=["not named", "named"])
def test_only_a_job_of_the_stop_that_has_not_started_is_named_and_started(job, rescued):
    assert effects(begun(facts=replace(FACTS, job=job), rescued=rescued)) == []


@pytest.mark.parametrize("phase", [Phase.REQUESTED, Phase.DRAINING, Phase.RELEASING, Phase.DONE])
def test_a_job_that_is_created_late_is_neither_named_nor_started(phase):
    seen = begun(facts=replace(FACTS, job=WAITING), phase=phase, pods=())
    assert not [one for one in effects(seen) if isinstance(one, StartRescue)]
    after = advanced(seen)
    assert after is None or after.rescue == BEGUN


@pytest.mark.parametrize("label", [STOP_ID, "changed-by-somebody"])
def test_a_stop_does_not_leave_deleting_before_the_job_that_may_run_is_gone(label):
    seen = begun(facts=replace(FACTS, job=replace(ITS_JOB, termination_id=label)), phase=Phase.DELETING, rescued=NAMED)
    assert effects(seen) == [DeleteRescue(JOB, "rescue-uid")]


def test_a_pod_that_waits_to_start_ends_first():
    assert effects(begun(pods=(pending_pod(),))) == []


def test_the_nodes_are_released_before_the_job_starts():
    seen = begun(rescued=ANYWHERE, facts=replace(FACTS, claim=SHARED))
    waits = replace(
        seen,
        run=replace(seen.run, status=seen.run.status.model_copy(update={"nodes": (make_node(),)})),
        nodes=(make_node_facts(),),
    )
    (first,) = effects(waits)
    assert isinstance(first, RecordNodes)
    assert first.nodes[0].phase is NodePhase.CORDONED
    assert decide(waits).note == "the nodes are released before the rescue Job starts"
    late = replace(waits, phase_seconds=waits.defaults.node_removal_seconds)
    assert [type(one) for one in effects(late)] == [RecordNodes, CreateRescue]
    done = waits.run.status.model_copy(update={"nodes": (make_node(NodePhase.RELEASED),)})
    assert [type(one) for one in effects(replace(waits, run=replace(waits.run, status=done)))] == [CreateRescue]


def test_a_node_with_the_volume_is_not_released_before_its_files_are_saved():
    seen = begun()
    status = seen.run.status.model_copy(update={"nodes": (make_node(),)})
    seen = replace(seen, run=replace(seen.run, status=status), nodes=(make_node_facts(),))
    assert [type(one) for one in effects(seen)] == [CreateRescue]


def test_its_agent_is_asked_like_that_of_any_pod():
    facts = replace(FACTS, job=ITS_JOB, pod=ITS_POD, report=make_agent(pod_uid=ITS_POD.uid))
    (ask,) = effects(begun(facts=facts))
    request = SaveRequest(id=STOP_ID, attempt=2, ended=True, status="auto_low_loss")
    assert ask == Annotate(ITS_POD.name, ITS_POD.uid, names.SAVE_ANNOTATION, request.model_dump_json(by_alias=True))
    assert effects(begun(facts=replace(facts, pod=replace(ITS_POD, save=request)))) == []


def test_its_commit_is_proven_like_any_other():
    facts = replace(FACTS, job=ITS_JOB, pod=ITS_POD)
    proven = make_verified(attempt=2, incarnation=2, pod_uid=ITS_POD.uid)
    assert advanced(begun(facts=facts, answer=proven)).phase is Phase.VERIFYING
    stop = advanced(begun(facts=facts, answer=proven, phase=Phase.VERIFYING))
    assert (stop.phase, stop.saved.commit, stop.saved.final, stop.data_loss) == (Phase.DELETING, proven.key, True, None)


def test_a_pod_that_started_meanwhile_ends_before_its_checkpoint_is_the_proof():
    """No pod is replaced any more, so it is being ended; what it writes until then is saved by its agent, or by the rescue."""
    proven = make_verified(attempt=2, final=False)
    seen = begun(pods=(make_pod(),), answer=proven, phase=Phase.VERIFYING)
    assert advanced(seen) is None
    assert advanced(replace(seen, phase_seconds=10_000.0)).phase is Phase.DELETING
    assert advanced(replace(seen, workload=make_workload())).phase is Phase.DELETING, "Nothing ends it yet."
    (create,) = effects(begun(pods=(), answer=proven, phase=Phase.VERIFYING))
    assert isinstance(create, CreateRescue)


def test_its_commit_is_asked_for_again_if_it_does_not_verify():
    facts = replace(FACTS, job=ITS_JOB, pod=ITS_POD)
    stop = advanced(begun(facts=facts, answer=make_mismatch(attempt=2), phase=Phase.VERIFYING))
    assert (stop.phase, stop.attempt, stop.rescue) == (Phase.SAVING, 3, BEGUN)


@pytest.mark.parametrize(
    ("facts", "wanted"),
    [
        pytest.param(replace(FACTS, job=ITS_JOB, pod=ITS_POD, left=True), [DeleteRescue(JOB, "rescue-uid")], id="it is there"),
        pytest.param(replace(FACTS, job=replace(ITS_JOB, deleting=True), left=True), [], id="it is going"),
        pytest.param(replace(FACTS, left=True), [], id="its pod is going"),
    ],
)  # fmt: skip
def test_the_job_is_deleted_after_the_proof_and_before_the_nodes(facts, wanted):
    seen = begun(facts=facts, phase=Phase.DELETING, pods=())
    assert effects(seen) == wanted
    assert decide(seen).note == "the rescue Job is deleted"
    gone = replace(seen, rescue=FACTS)
    assert advanced(gone).phase is Phase.RELEASING


def test_the_job_of_another_stop_goes_first():
    other = replace(ITS_JOB, termination_id="suspend-x")
    facts = replace(FACTS, job=other)
    assert effects(begun(facts=facts)) == [DeleteRescue(JOB, "rescue-uid")]
    assert effects(begun(facts=replace(facts, job=replace(other, deleting=True)))) == []
    assert advanced(begun(facts=facts, phase=Phase.DELETING, pods=())).phase is Phase.RELEASING


# -- what stands in the way ----------------------------------------------------------------------------------------

IN_THE_WAY = [
    pytest.param({"refused": "exceeded quota: pods"}, "exceeded quota: pods", id="the API server refuses it"),
    pytest.param({}, f"The rescue Job {JOB} is not there yet", id="it does not appear"),
    pytest.param({"job": RescueJob(JOB, "x", "")}, "belongs to another owner", id="its name is taken"),
    pytest.param({"job": replace(ITS_JOB, failed="DeadlineExceeded")}, "failed (DeadlineExceeded). Delete it", id="it failed"),
    pytest.param({"job": replace(ITS_JOB, complete=True)}, "ended before the files were saved", id="it ended"),
    pytest.param({"job": ITS_JOB}, "has no pod yet", id="it makes no pod"),
    pytest.param(
        {"job": replace(WAITING, generation=3)}, "is suspended, and not by the operator. Resume it", id="a queue of Jobs or a person has suspended it"
    ),
    pytest.param(
        {"job": ITS_JOB, "pod": pending_pod(name="p", waiting_reason="Unschedulable", waiting_message="0/3 nodes")},
        "The rescue pod p does not run yet (Unschedulable: 0/3 nodes).",
        id="no Node can mount the volume",
    ),
    pytest.param(
        {"job": ITS_JOB, "pod": pending_pod(name="p"), "claim": replace(BOUND, resizing=True)},
        "(Pending). PersistentVolumeClaim checkpoints is being resized.",
        id="the claim is being resized",
    ),
    pytest.param({"job": ITS_JOB, "pod": ITS_POD}, "does not answer", id="its agent does not answer"),
    pytest.param({"job": ITS_JOB, "pod": ITS_POD, "report": make_agent()}, "saves", id="its agent makes no progress"),
    pytest.param(
        {"job": ITS_JOB, "pod": ITS_POD, "report": make_agent(error=AgentError(code="AccessDenied", message="no"))},
        "cannot save: AccessDenied: no",
        id="its agent cannot save",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("facts", "words"), IN_THE_WAY)
def test_what_keeps_the_files_from_being_saved_holds_the_stop(facts, words):
    seen = begun(facts=replace(FACTS, **facts))
    assert advanced(replace(seen, no_progress_seconds=LONG - 1)) is None, "It may still pass."
    stop = advanced(replace(seen, no_progress_seconds=LONG))
    assert (stop.phase, stop.data_loss, stop.rescue) == (Phase.HELD, None, BEGUN)
    assert words in stop.hold_reason
    assert "The files of the dead pod are in PersistentVolumeClaim checkpoints." in stop.hold_reason
    held = begun(facts=replace(FACTS, **facts), phase=Phase.HELD, no_progress_seconds=LONG)
    assert advanced(held) is None
    assert effects(held) == effects(seen), "Held, it goes on."


@pytest.mark.parametrize(("facts", "words"), IN_THE_WAY)
def test_a_person_may_proceed_without_the_files(facts, words):
    stop = advanced(begun(facts=replace(FACTS, **facts), no_progress_seconds=LONG, checkpoint=PROCEED))
    assert stop.phase is Phase.DELETING
    assert stop.data_loss.startswith("Ended without proof (spec.checkpoint.onFailure is Proceed). ")
    assert words in stop.data_loss
    assert stop.saved.commit == make_verified(final=False).key, "The last commit is what is left."


def test_a_bucket_that_cannot_be_read_holds_it_with_its_own_words():
    facts = replace(FACTS, job=ITS_JOB, pod=ITS_POD)
    seen = begun(facts=facts, answer=make_unreachable())
    assert advanced(seen) is None
    assert "AccessDenied" in advanced(replace(seen, no_progress_seconds=LONG)).hold_reason


def test_a_bucket_that_cannot_be_read_holds_a_stop_whose_claim_has_gone_as_well():
    stop = advanced(begun(facts=RescueFacts(Claim("checkpoints")), answer=make_unreachable()))
    assert (stop.phase, stop.data_loss) == (Phase.HELD, None)
    assert "AccessDenied" in stop.hold_reason


def test_a_folder_that_only_the_dead_pod_could_name_is_said_and_held():
    seen = dead(source={"mount": {"subPathExpr": "$(POD_NAME)"}})
    stop = advanced(seen)
    assert (stop.phase, stop.rescue) == (Phase.HELD, None)
    assert "'$(POD_NAME)' (subPathExpr)" in stop.hold_reason
    assert advanced(dead(source={"mount": {"subPathExpr": "run-1"}})).rescue is not None


def test_the_files_of_several_ranks_are_said_and_held():
    seen = dead(ranks=(make_rank(0, pod=finished_pod(1), report=None), make_rank(1, pod=finished_pod(1), report=None)))
    stop = advanced(seen)
    assert (stop.phase, stop.rescue) == (Phase.HELD, None)
    assert "the run has 2 ranks" in stop.hold_reason


def test_a_template_that_is_refused_names_no_claim():
    seen = dead()
    spec = seen.run.spec.model_copy(update={"template": Template.of({"spec": {"containers": []}})})
    assert rescue.volume_to_read(replace(seen.run, spec=spec), seen.pods) is None


def test_a_patient_release_of_nodes_does_not_hold_it():
    seen = begun(rescued=ANYWHERE, no_progress_seconds=10 * LONG)
    status = seen.run.status.model_copy(update={"nodes": (make_node(NodePhase.VERIFYING),)})
    assert advanced(replace(seen, run=replace(seen.run, status=status))) is None


GONE = [
    pytest.param(Claim("checkpoints"), (), "was deleted", id="the claim was deleted"),
    pytest.param(replace(BOUND, deleting=True), (), "is being deleted", id="the claim is being deleted"),
    pytest.param(replace(BOUND, phase="Lost"), (), "has lost its PersistentVolume pv-1", id="the volume is lost"),
    pytest.param(replace(BOUND, phase="Pending"), (), "is not bound to a volume", id="it waits for its first consumer"),
    pytest.param(replace(BOUND, created="2026-01-02T03:02:00Z"), (), "had started", id="the claim is another one"),
    pytest.param(BOUND, ("gpu-1",), "whose machine is gone", id="the disk went with its machine"),
]


@pytest.mark.parametrize(("claim", "hosts", "words"), GONE)
@pytest.mark.parametrize("stop", [{}, {"rescue": BEGUN, "attempt": 2}], ids=["before", "meanwhile"])
def test_what_has_destroyed_the_files_is_a_data_loss(claim, hosts, words, stop):
    facts = RescueFacts(claim, hosts=hosts)
    after = advanced(dead(stop=stop, rescue=facts, pods=(make_pod(lost=True),)))
    assert after.phase is Phase.DELETING
    assert after.data_loss.startswith("The pod ended before its last files were saved. The last commit is s3://")
    assert words in after.data_loss
    assert after.saved.commit == make_verified(final=False).key


@pytest.mark.parametrize(
    ("known", "made", "lost"),
    [
        pytest.param({"started": "2026-01-02T03:02:00Z"}, "2026-01-02T03:01:30Z", False, id="a pod that came later has a claim of its own"),
        pytest.param({"started": "2026-01-02T03:02:00Z"}, "2026-01-02T03:02:30Z", True, id="made again after the last pod had started"),
        pytest.param({"since": "2026-01-02T03:02:00Z"}, "2026-01-02T03:01:30Z", False, id="the last pod is gone, and the rescue has its start"),
        pytest.param({"read": "2026-01-02T03:03:00Z"}, "2026-01-02T03:02:30Z", False, id="the training was read after the claim was made"),
        pytest.param({"read": "2026-01-02T03:03:00Z"}, "2026-01-02T03:03:30Z", True, id="made again after the training was read last"),
        pytest.param({}, "2026-01-02T03:02:30Z", True, id="only the start of the run is known"),
    ],
)  # fmt: skip
def test_a_claim_has_the_files_if_it_is_older_than_the_last_sign_of_the_training(known, made, lost):
    """Not of the first pod: one that came later may write to a claim that was made meanwhile."""
    pods = (replace(finished_pod(137), started_at=known["started"]),) if "started" in known else ()
    rescued = BEGUN.model_copy(update={"since": known.get("since", "")})
    seen = begun(facts=replace(FACTS, claim=replace(BOUND, created=made)), pods=pods, rescued=rescued)
    progress = Progress(step=3, last_observation_time=known["read"]) if "read" in known else None
    status = seen.run.status.model_copy(update={"start_time": "2026-01-02T03:01:00Z", "progress": progress})
    assert bool(rescue.gone(replace(seen, run=replace(seen.run, status=status)))) == lost


# -- what a look reads ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "claim"),
    [
        pytest.param({}, "checkpoints", id="a claim"),
        pytest.param({"ephemeral": {"volumeClaimTemplate": {}}}, "bert-x7k2p-data", id="a claim of the pod's own"),
        pytest.param({"emptyDir": {}}, None, id="a volume of the pod"),
        pytest.param({"nfs": {"server": "n", "path": "/"}}, "", id="a volume without a claim"),
    ],
)
@pytest.mark.parametrize("known", ["pod", "status"])
def test_the_claim_is_that_of_the_checkpoint_path(source, claim, known):
    seen = dead(source=source)
    run, pods = seen.run, seen.pods
    if known == "status":
        run = replace(run, status=run.status.model_copy(update={"pods": (PodStatus(name="bert-x7k2p", uid="u"),)}))
        pods = ()
    found = rescue.volume_to_read(run, pods)
    assert (found.claim if found is not None else None) == claim


def test_without_any_trace_of_a_pod_its_own_claim_is_not_known():
    assert rescue.volume_to_read(dead(source={"ephemeral": {}}).run, ()) is None


@pytest.mark.parametrize(
    ("seen", "reads"),
    [
        pytest.param(make_observed(), False, id="no stop"),
        pytest.param(dead(Phase.DRAINING), False, id="it is not to save yet"),
        pytest.param(dead(pods=(exited_pod(),)), False, id="a pod can save"),
        pytest.param(begun(pods=(exited_pod(),)), True, id="it has begun, and a pod can save"),
        pytest.param(begun(phase=Phase.DELETING), True, id="its Job may still be there"),
        pytest.param(begun(phase=Phase.DONE), False, id="it is over"),
    ],
)
def test_nothing_is_read_about_a_claim_that_decides_nothing(seen, reads):
    assert (rescue.volume_to_read(seen.run, seen.pods) is not None) == reads


@pytest.mark.parametrize(
    ("stop", "first"),
    [
        pytest.param(None, False, id="no stop"),
        pytest.param(make_stop(), False, id="no rescue"),
        pytest.param(make_stop(rescue=BEGUN), False, id="the volume is on a node"),
        pytest.param(make_stop(rescue=ANYWHERE), True, id="the volume is on no node"),
        pytest.param(make_stop(Phase.DELETING, rescue=ANYWHERE), False, id="everything is proven"),
    ],
)
def test_nodes_are_released_first_where_the_volume_is_not_on_them(stop, first):
    assert rescue.releases_first(stop) == first


def test_it_is_total_without_what_should_have_been_read():
    seen = begun(facts=None)
    stop = seen.run.status.termination
    assert rescue.effects(seen, stop) == ()
    assert (rescue.gone(seen), rescue.end(seen), rescue.saver(seen)) == ("", None, None)
    assert rescue.waits(seen, stop) == "the volume with the files is read"
    assert rescue.trouble(seen, stop) == "The volume with the files was not read."
    assert rescue.where(seen) == "The files of the dead pod are in the volume of the run."
    assert rescue.intent(seen) is None
    assert rescue.end(replace(begun(), run=make_run())) is None


@pytest.mark.parametrize(
    ("stored", "job"),
    [
        ({}, RescueJob("j", "u", "")),
        ({"conditions": [{"type": "Complete", "status": "True"}]}, RescueJob("j", "u", "", complete=True)),
        ({"conditions": [{"type": "Failed", "status": "True"}]}, RescueJob("j", "u", "", failed="Failed")),
        (
            {"conditions": [{"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded", "message": "seven"}]},
            RescueJob("j", "u", "", failed="BackoffLimitExceeded: seven"),
        ),
        ({"conditions": [{"type": "Failed", "status": "False"}]}, RescueJob("j", "u", "")),
    ],
)  # fmt: skip
def test_a_job_as_stored(stored, job):
    assert RescueJob.of({"metadata": {"name": "j", "uid": "u"}, "status": stored}) == job


@pytest.mark.parametrize(("suspend", "generation", "waits"), [(True, 1, True), (True, 3, False), (False, 2, False)])
def test_a_stored_job_waits_until_its_first_start(suspend, generation, waits):
    found = RescueJob.of(
        {"metadata": {"name": "j", "uid": "u", "generation": generation}, "spec": {"suspend": suspend}}
    )
    assert (found.suspended, found.generation, found.waits) == (suspend, generation, waits)


def test_a_claim_as_stored():
    stored = {
        "metadata": {"uid": "u", "creationTimestamp": EARLIER, "deletionTimestamp": EARLIER},
        "spec": {"accessModes": ["ReadWriteOnce"], "volumeName": "pv"},
        "status": {"phase": "Bound", "conditions": [{"type": "Resizing", "status": "True"}]},
    }
    assert Claim.of("c", stored) == Claim(
        "c", "u", "Bound", ("ReadWriteOnce",), "pv", EARLIER, deleting=True, resizing=True
    )
    assert Claim.of("c", None) == Claim("c")
    assert Claim.of("c", {"metadata": {"uid": "u"}}) == Claim("c", "u", "Pending")
