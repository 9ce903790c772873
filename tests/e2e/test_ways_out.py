"""Every other way out of a run: what it is called, what is proven, what is left behind."""

from __future__ import annotations

import time

import pytest
from e2e.api import RUNS, seconds_of
from e2e.audit import OPERATOR_USER
from e2e.ground import OPERATOR, OPERATOR_NAMESPACE
from e2e.own_operator import OwnOperator
from e2e.runs import WAIT_SECONDS, condition_of, ended_at, unique
from waiting import eventually

from trainingrun_operator.api.names import FINALIZER

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

LONG = ("--epochs", "200", "--step-seconds", "0.05")
SHORT = ("--epochs", "1", "--batch", "144", "--step-seconds", "0.05")
NO_NODE = {"nodeSelector": {"nobody": "has-this"}}


def unmounted(space):
    """A pod that finds its node and then waits for a volume for ever."""
    mount = {"volumeMounts": [{"name": "data", "mountPath": "/data"}]}
    pod = {"volumes": [{"name": "data", "configMap": {"name": "nobodys"}}]}
    return space.run("pending", *LONG, pod=pod, container=mount)


PENDING = {
    "for a node that there is not": (lambda space: space.run("pending", *LONG, pod=NO_NODE), "Unschedulable"),
    "for an image that there is not": (
        lambda space: space.run("pending", *LONG, container={"image": "registry.invalid/nobody/nothing:1"}),
        "ErrImagePull",
    ),
    "for a volume that there is not": (unmounted, "PodInitializing"),
}


def waits(pod, reason):
    """Whether a pod waits for this reason, in the scheduler's word or the kubelet's."""
    containers = (pod.get("status") or {}).get("initContainerStatuses") or []
    containers += (pod.get("status") or {}).get("containerStatuses") or []
    reasons = [((one.get("state") or {}).get("waiting") or {}).get("reason") for one in containers]
    return reason in (*reasons, *(one.get("reason") for one in (pod.get("status") or {}).get("conditions") or ()))


@pytest.mark.parametrize(("pending", "reason"), PENDING.values(), ids=PENDING)
def test_a_stop_while_the_pod_waits(pending, reason, space):
    run = pending(space)
    run.wait_pod(lambda pod: waits(pod, reason), f"the pod waits: {reason}")
    run.merge({"spec": {"stop": True}})
    status = run.wait_settled()
    assert (status["phase"], status["terminationStatus"]) == ("Stopped", "user_stop")
    assert "Nothing to save: the training never started." in status["terminationMessage"]
    assert condition_of(status, "CheckpointSaved")["reason"] == "NothingFound"
    assert condition_of(status, "NodesReleased")["status"] == "True"
    assert "startTime" not in status
    assert not space.bucket.files(run.layout.base), "No file was written for it."
    assert len(space.audit("create", "pods")) == 1


def test_a_pod_that_finds_no_node_fails_its_run_with_the_schedulers_words_where_the_installation_says_so(space):
    own = OwnOperator.open(space, env={"TRAININGRUN_UNSCHEDULABLE_SECONDS": "5"})
    run = space.run("nowhere", *LONG, pod=NO_NODE, labels=own.labels)
    waiting = run.wait_condition("MetricsAvailable", "Unknown", "NotRunning", passes=True)
    status = run.wait_settled()
    assert (status["phase"], status["terminationStatus"]) == ("Failed", "failed")
    assert status["terminationMessage"].startswith("The pod cannot start: Unschedulable: 0/")
    assert "didn't match Pod's node affinity/selector" in status["terminationMessage"]
    assert status["termination"]["actor"] == "scheduler"
    assert condition_of(status, "Succeeded")["reason"] == "Failed"
    assert waiting["message"].startswith("No training is running.")


def test_exit_143_in_answer_to_the_stop_is_no_crash_and_nothing_is_lost_however_slow_the_proof(
    steady_operator, space, s3_proxy
):
    leaves_with_143 = ["sh", "-c", 'digits.py "$@"; exit 143', "train"]
    # Few commits: each that is there is read, and each request takes its time.
    run = space.run(
        "slow",
        *LONG,
        "--save-every",
        "200",
        command=leaves_with_143,
        shutdown={"graceSeconds": 3},
        backoffLimit=0,
        checkpoint={"s3": {"endpointURL": s3_proxy.url}},
        pod={"terminationGracePeriodSeconds": 3},
    )
    run.wait_training()
    run.wait_commits()
    operators = space.api.list(
        f"/api/v1/namespaces/{OPERATOR_NAMESPACE}/pods", labelSelector=f"app.kubernetes.io/instance={OPERATOR}"
    )
    s3_proxy.slow_down([one["status"]["podIP"] for one in operators], 2.0)
    run.merge({"spec": {"stop": True}})
    run.log.wait("STOP_TRAINING found")
    pod = run.wait_exit()
    left = time.monotonic()
    run.wait_stop("Deleting")
    took = time.monotonic() - left
    assert took >= 12, f"The proof took {took:.0f} s."

    status = run.wait_settled()
    deleted = [one.at for one in space.audit("delete", "pods") if one.name == pod["metadata"]["name"]]
    assert min(deleted) > ended_at(pod, "train") + 3, "It waited behind its gate, longer than its grace."
    assert (status["phase"], status["terminationStatus"]) == ("Stopped", "user_stop")
    assert status["terminationMessage"].startswith("Stopped by hand")
    assert status["termination"]["saved"]["final"]
    assert status["checkpoint"]["step"] == int(run.log.text.rpartition("saved checkpoint-")[2].split()[0])
    assert "dataLoss" not in status["checkpoint"]
    run.assert_checkpoint_proven(status)
    assert len(space.audit("create", "pods")) == 1, "It was not trained again."


def test_a_patch_after_the_end_changes_nothing(space):
    run = space.run("over", *SHORT, autoStopLoss=0.001)
    before = run.wait_settled()
    assert (before["phase"], before["terminationStatus"]) == ("Succeeded", "auto_complete")
    patched = run.merge({"spec": {"stop": True, "stopMode": "LastCheckpoint", "autoStopLoss": 5}})
    after = run.wait(
        lambda status: status["observedGeneration"] == patched["metadata"]["generation"], "the patch was seen"
    )
    assert unseen(after) == unseen(before)
    assert not (run.read() or {})["metadata"].get("finalizers")
    assert not run.events("Stopping")[1:], "It was told once that the run ends."


def unseen(status):
    """A status without the generation that it speaks of."""
    bare = [{**one, "observedGeneration": None} for one in status["conditions"]]
    return {**status, "observedGeneration": None, "conditions": bare}


def test_a_run_deleted_while_it_stops_goes_the_same_road_to_its_end(space):
    run = space.run("both", *LONG, "--deaf", shutdown={"graceSeconds": 6})
    run.wait_training()
    run.wait_commits()
    # Held by somebody else too, so that its last status can be read.
    run.merge({"metadata": {"finalizers": [FINALIZER, "e2e.example/looks-at-it"]}})
    try:
        run.merge({"spec": {"stop": True}})
        run.wait_stop("Draining")
        space.shell("kubectl delete trun both --wait=false")
        status = run.wait_settled(job=False)
    finally:
        run.merge({"metadata": {"finalizers": None}})
    assert (status["phase"], status["terminationStatus"]) == ("Stopped", "user_stop"), "Why it ends never changes."
    assert status["terminationMessage"].startswith("Stopped by hand: spec.stop is true.")
    run.assert_checkpoint_proven(status)
    run.wait_gone()
    assert space.bucket.files(run.layout.base), "The bucket has it all."


def test_a_job_that_somebody_deletes_while_it_trains_ends_its_run(space):
    run = space.run("jobless", *LONG)
    run.wait_training()
    run.wait_commits()
    deleted = time.time()
    space.shell("kubectl delete job jobless --wait=false")
    status = run.wait_settled(job=False)
    assert (status["phase"], status["terminationStatus"]) == ("Failed", "failed")
    assert status["terminationMessage"].startswith("Its Job jobless was deleted, and not by the operator.")
    assert condition_of(status, "Succeeded")["status"] == "False"
    run.assert_checkpoint_proven(status)
    made = {one.at for one in space.audit("create", "jobs") if one.at > deleted}
    assert not made, "No other Job was made."


def test_a_pod_that_somebody_deletes_while_it_trains_is_replaced_and_counts_as_no_crash(space):
    run = space.run("podless", *LONG, backoffLimit=0)
    first = run.wait_training()["metadata"]
    run.wait_commits()
    space.shell(f"kubectl delete pod {first['name']} --wait=false")
    second = run.wait_training(but=(first["name"],))["metadata"]["uid"]
    run.log.wait("resumed from checkpoint-")
    status = run.wait(lambda status: {"uid": second, "phase": "Running"}.items() <= newest(status).items(), "it trains")
    assert "termination" not in status
    run.merge({"spec": {"stop": True}})
    status = run.wait_settled()
    assert status["terminationStatus"] == "user_stop"
    run.assert_checkpoint_proven(status)


def newest(status):
    """What a status says of the run's newest pod."""
    return (status.get("pods") or [{}])[-1]


def test_a_release_that_does_not_end_is_abandoned_by_annotation_and_the_actor_is_told(space):
    # A pool of a cloud that knows no such group, over the node that is never empty: this release would wait for ever.
    label = unique("e2e-abandoned")
    (node,) = space.api.list("/api/v1/nodes", labelSelector="node-role.kubernetes.io/control-plane")
    path = f"/api/v1/nodes/{node['metadata']['name']}"
    space.api.merge(path, {"metadata": {"labels": {label: ""}}})
    space.undo.append(lambda: space.api.merge(path, {"metadata": {"labels": {label: None}}}))
    provider = {"region": "us-east-1", "groups": [label]}
    pool = {
        "metadata": {"name": label},
        "apiVersion": "trainingrun.dev/v1alpha1",
        "kind": "GPUNodePool",
        "spec": {"nodeSelector": {label: ""}, "awsAutoScaling": provider},
    }
    space.api.create(f"{RUNS}/gpunodepools", pool)
    space.undo.append(lambda: space.api.delete(f"{RUNS}/gpunodepools/{label}"))
    run = space.run("stuck", *SHORT, nodePool={"ref": label, "policy": "WhenEmpty"})
    waiting = run.wait_condition("NodesReleased", "False", "WaitIdle")
    assert waiting["message"]
    assert run.status["phase"] == "Stopping"

    space.shell("kubectl annotate trun stuck trainingrun.dev/abandon-release=true")
    status = run.wait_settled()
    assert (status["phase"], status["terminationStatus"]) == ("Succeeded", "auto_complete")
    (kept,) = status["nodes"]
    assert kept["phase"] == "Retained"
    assert kept["message"].startswith(
        "Abandoned by field manager 'kubectl-annotate' (trainingrun.dev/abandon-release) while WaitIdle:"
    )
    released = condition_of(status, "NodesReleased")
    assert (released["status"], released["reason"]) == ("True", "Retained")
    told = run.wait_event("ReleaseAbandoned")
    assert (told["type"], "kubectl-annotate" in told["message"]) == ("Warning", True)
    taints = (space.api.get(path) or {})["spec"].get("taints") or []
    assert not [taint for taint in taints if taint.get("value") == run.uid], "No taint of this run is left."


def test_a_run_deletes_itself_when_its_time_after_the_end_is_over_and_its_checkpoints_stay(space):
    run = space.run("short-lived", *SHORT, ttlSecondsAfterFinished=4)
    status = run.wait(lambda s: condition_of(s, "Finished").get("status") == "True", "it has ended", passes=True)
    before = space.bucket.etags(run.layout.base)
    run.wait_gone()
    space.api.wait(
        f"/apis/batch/v1/namespaces/{space.name}/jobs",
        lambda job: job is None,
        "its Job is gone",
        WAIT_SECONDS,
        name=run.name,
    )
    assert not run.pods()
    (gone,) = eventually(lambda: space.audit("delete", "trainingruns"), "the audit log says who deleted it")
    assert gone.user == OPERATOR_USER
    assert gone.at >= seconds_of(status["completionTime"]) + 4, "Not before its time."
    assert space.bucket.etags(run.layout.base) == before, "No object came, went or changed."
    assert before, "There is something in the bucket."
