"""A pod dies while its run ends, with its newest checkpoint in a claim alone: a rescue Job saves it, and the claim stays as it is."""

from __future__ import annotations

import pytest
from e2e.runs import unique
from waiting import eventually

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

LONG = ("--epochs", "200", "--step-seconds", "0.1", "--save-every", "5", "--deaf")
RUNS_ON = 'trap "" TERM; digits.py "$@" & wait'
"""The training hears no SIGTERM, and runs on until the end of its pod's grace."""
VOLUMES = "/api/v1/persistentvolumes"


@pytest.fixture
def disk(space):
    """A claim on a disk of the Node that all small trainings run on. Returns its name."""
    name = unique("disk")
    (node,) = space.api.list("/api/v1/nodes", labelSelector="node-role.kubernetes.io/control-plane")
    host = {
        "key": "kubernetes.io/hostname",
        "operator": "In",
        "values": [node["metadata"]["labels"]["kubernetes.io/hostname"]],
    }
    spec = {
        "capacity": {"storage": "1Gi"},
        "accessModes": ["ReadWriteOnce"],
        "persistentVolumeReclaimPolicy": "Retain",
        "storageClassName": "",
        "local": {"path": "/var/tmp"},  # noqa: S108 - any user may write there, and each run has a folder of its own (subPath)
        "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [host]}]}},
        "claimRef": {"namespace": space.name, "name": "checkpoints"},
    }
    space.api.create(VOLUMES, {"metadata": {"name": name}, "spec": spec})
    space.undo.append(lambda: space.api.delete(f"{VOLUMES}/{name}"))
    claim = {
        "accessModes": ["ReadWriteOnce"],
        "storageClassName": "",
        "volumeName": name,
        "resources": {"requests": {"storage": "1Gi"}},
    }
    claims = f"/api/v1/namespaces/{space.name}/persistentvolumeclaims"
    space.api.create(claims, {"metadata": {"name": "checkpoints"}, "spec": claim})
    eventually(lambda: space.api.get(f"{claims}/checkpoints")["status"].get("phase") == "Bound", "the claim is bound")
    return name


def test_what_a_dead_pod_has_left_in_a_claim_is_saved_by_a_job(steady_operator, space, s3_proxy, disk):
    run = space.run(
        "rescued",
        *LONG,
        shutdown={"graceSeconds": 600},
        checkpoint={"s3": {"endpointURL": s3_proxy.url}},
        pod={
            # Ownership of the folder that is shared with others is not to be changed.
            "securityContext": {"fsGroup": None},
            "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "checkpoints"}}],
        },
        container={"volumeMounts": [{"name": "data", "mountPath": "/checkpoints", "subPath": disk}]},
    )
    pod = run.wait_training()
    run.wait_commits()
    s3_proxy.cut()
    before = run.status.get("progress", {}).get("step") or 0
    run.wait_step(before + 20)
    run.merge({"spec": {"stop": True}})
    run.wait(lambda s: s.get("termination", {}).get("phase") == "Draining", "waiting for the training to exit")
    space.api.delete(f"/api/v1/namespaces/{space.name}/pods/{pod['metadata']['name']}", gracePeriodSeconds=0)

    held = run.wait_phase("Held")
    assert "cannot be read" in held["termination"]["holdReason"], "What the bucket has is not known."
    s3_proxy.mend()

    assert "PersistentVolumeClaim checkpoints" in run.wait_event("Rescuing")["message"]
    status = run.wait_finished()
    assert (status["phase"], status["terminationStatus"]) == ("Stopped", "user_stop")
    assert (status["termination"]["rescue"]["claim"], status["termination"]["saved"]["final"]) == ("checkpoints", True)
    assert status["termination"]["rescue"]["job"], "The Job was named before it started."
    assert status["termination"]["rescue"]["node"] == pod["spec"]["nodeName"], "The disk is there and nowhere else."
    assert "dataLoss" not in status["checkpoint"]
    assert status["checkpoint"]["step"] > before, "The bucket did not have it before."
    run.assert_checkpoint_proven(status)
    run.assert_ended_once()
    assert [job["metadata"]["name"] for job in space.jobs()] == ["rescued"], "The rescue Job is gone."
    claims = space.api.list(f"/api/v1/namespaces/{space.name}/persistentvolumeclaims")
    assert [claim["status"]["phase"] for claim in claims] == ["Bound"], "Nobody has touched it."


def test_what_a_pod_could_write_after_its_proof_is_saved_by_a_job(steady_operator, space, s3_proxy, disk):
    """Its training runs on when its checkpoint is proven, and it is lost before its agent could say the last word."""
    run = space.run(
        "rescued-late",
        *LONG,
        command=["sh", "-c", RUNS_ON, "sh"],
        stopMode="LastCheckpoint",
        shutdown={"graceSeconds": 600},
        checkpoint={"s3": {"endpointURL": s3_proxy.url}},
        pod={
            "securityContext": {"fsGroup": None},
            "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "checkpoints"}}],
        },
        container={"volumeMounts": [{"name": "data", "mountPath": "/checkpoints", "subPath": disk}]},
    )
    pod = run.wait_training()
    run.wait_commits()
    run.merge({"spec": {"stop": True}})
    deletes = run.wait(lambda s: s.get("termination", {}).get("phase") == "Deleting", "its checkpoint is proven")
    proven = deletes["termination"]["saved"]
    s3_proxy.cut()
    assert proven["commit"]
    assert not proven.get("final")
    space.api.delete(f"/api/v1/namespaces/{space.name}/pods/{pod['metadata']['name']}", gracePeriodSeconds=0)
    assert "after the proof" in run.wait_event("Rescuing")["message"]
    s3_proxy.mend()

    status = run.wait_finished()
    rescue, saved = status["termination"]["rescue"], status["termination"]["saved"]
    assert (status["phase"], status["terminationStatus"]) == ("Stopped", "user_stop")
    assert (rescue["claim"], rescue["node"], rescue["over"]) == ("checkpoints", pod["spec"]["nodeName"], True)
    assert saved["final"]
    assert saved["step"] >= proven["step"]
    assert "dataLoss" not in status["checkpoint"]
    run.assert_checkpoint_proven(status)
    run.assert_ended_once()
    assert [job["metadata"]["name"] for job in space.jobs()] == ["rescued-late"], "The rescue Job is gone."
