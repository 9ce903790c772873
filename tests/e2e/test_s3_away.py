"""The bucket is away when it matters: nothing is deleted, nothing is lost, and everybody is told."""

from __future__ import annotations

import time

import pytest
from e2e.faults import kill_container
from e2e.runs import SECRET, condition_of, started_at, state_of

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

AWAY_SECONDS = (30, pytest.param(90, marks=pytest.mark.exhaustive))
"""Of the outage: six times the pod's grace, or eighteen times. Nothing in between ends anything."""
SHORT = ("--epochs", "1", "--batch", "72", "--step-seconds", "0.1", "--save-every", "5")
HELD_AT_5 = (*SHORT, "--hold-at", "5")
"""Until the bucket is away."""
# digits.py, and then a digest of every byte it left behind.
THEN_DIGESTS = ["sh", "-c", 'digits.py "$@" && cd /checkpoints && find . -type f -exec sha256sum {} +', "train"]


def through(proxy):
    return {"s3": {"endpointURL": proxy.url}}


@pytest.mark.parametrize("seconds", AWAY_SECONDS)
def test_no_byte_is_lost_when_s3_is_away_after_the_training_has_exited(seconds, space, s3_proxy):
    # A grace of 5 s and an emptyDir: without the gate, kubelet would have thrown it all away long before S3 is back.
    run = space.run(
        "away", *HELD_AT_5, command=THEN_DIGESTS, checkpoint=through(s3_proxy), pod={"terminationGracePeriodSeconds": 5}
    )
    pod = run.wait_training()["metadata"]["name"]
    run.log.wait("saved checkpoint-5")
    s3_proxy.cut()
    cut = time.monotonic()
    run.order("go", pod)
    run.log.wait_end()
    written = {path.removeprefix("./"): digest for digest, path in digests(run.log.text)}
    assert {"checkpoint-20/model.npz", "checkpoint-5/model.npz"} <= written.keys()

    status = run.wait_phase("Held")
    held = condition_of(status, "CheckpointSaved")
    assert (held["status"], held["reason"]) == ("False", "Held")
    assert held["message"], "It says why."
    assert status["terminationStatus"] == "auto_complete", "Why it ends is known already."
    assert "Nothing is deleted." in run.wait_event("CheckpointHeld")["message"]

    time.sleep(max(0, seconds - (time.monotonic() - cut)))  # the outage itself is the point
    (pod,) = run.pods()
    assert pod["status"]["phase"] == "Running", "The pod outlived its training by far more than its grace."
    assert "deletionTimestamp" not in pod["metadata"]
    s3_proxy.mend()

    status = run.wait_finished()
    assert (status["phase"], status["terminationStatus"]) == ("Succeeded", "auto_complete")
    run.assert_checkpoint_proven(status)
    assert "dataLoss" not in status["checkpoint"]
    assert space.bucket.files(run.layout.base) == written, "The bucket holds what the volume held, byte by byte."
    assert len(space.audit("create", "pods")) == 1, "It was not trained again."
    run.assert_ended_once()


def test_an_agent_killed_after_the_training_has_exited_is_restarted_and_commits(space, s3_proxy):
    run = space.run("killed", *HELD_AT_5, checkpoint=through(s3_proxy))
    pod = run.wait_training()["metadata"]["name"]
    run.log.wait("saved checkpoint-5")
    s3_proxy.cut()
    run.order("go", pod)
    run.wait_exit()
    kill_container(run, "checkpoint-agent")
    run.wait_pod(lambda pod: restarts(pod, "checkpoint-agent") >= 1, "the agent was restarted")
    run.wait_pod(lambda pod: state_of(pod, "checkpoint-agent") == "running", "the agent runs again")
    s3_proxy.mend()
    status = run.wait_finished()
    assert (status["phase"], status["terminationStatus"]) == ("Succeeded", "auto_complete")
    run.assert_checkpoint_proven(status)
    assert status["checkpoint"]["step"] == 20, "It committed what the training had left."
    run.assert_ended_once()


def test_a_stop_is_held_while_the_bucket_is_away_and_goes_on_when_it_is_back(space, s3_proxy):
    run = space.run("held", "--epochs", "200", "--step-seconds", "0.05", checkpoint=through(s3_proxy))
    pod = run.wait_pod(lambda pod: state_of(pod, "checkpoint-gate") == "running", "its gate runs")
    run.wait_commits()
    s3_proxy.cut()
    run.merge({"spec": {"stop": True}})
    status = run.wait_phase("Held")
    assert status["termination"]["holdReason"]
    assert started_at(run.pods()[0], "checkpoint-gate") >= started_at(pod, "checkpoint-gate"), "The gate holds the pod."
    s3_proxy.mend()
    status = run.wait_finished()
    assert (status["phase"], status["terminationStatus"]) == ("Stopped", "user_stop")
    assert "holdReason" not in status["termination"], "What held it is over, and no longer said."
    run.assert_checkpoint_proven(status)


def test_a_hold_ends_without_proof_when_a_person_says_proceed(space, s3_proxy):
    run = space.run("proceed", "--epochs", "200", "--step-seconds", "0.05", checkpoint=through(s3_proxy))
    run.wait_training()
    run.wait_commits()
    s3_proxy.cut()
    run.merge({"spec": {"stop": True}})
    run.wait_phase("Held")
    space.shell("""kubectl patch trun proceed --type merge -p '{"spec":{"checkpoint":{"onFailure":"Proceed"}}}'""")
    status = run.wait_settled()
    assert (status["phase"], status["terminationStatus"]) == ("Stopped", "user_stop")
    assert condition_of(status, "Finished")["status"] == "True"
    saved = condition_of(status, "CheckpointSaved")
    assert (saved["status"], saved["reason"]) == ("False", "DataLoss"), "It never claims what it could not prove."
    assert "Ended without proof (spec.checkpoint.onFailure is Proceed)." in status["terminationMessage"]
    assert run.wait_event("DataLoss")["type"] == "Warning"
    assert space.bucket.files(run.layout.base), "What was committed before the bucket went away is still there."


def test_keys_that_are_renewed_reach_a_running_agent(space):
    run = space.run("keys", "--epochs", "200", "--step-seconds", "0.05", "--save-every", "20")
    pod = run.wait_training()["metadata"]["name"]
    log = space.api.follow(space.name, pod, "checkpoint-agent")

    def hand_over(access_key):
        keys = {"stringData": {"AWS_ACCESS_KEY_ID": access_key}}
        space.api.merge(f"/api/v1/namespaces/{space.name}/secrets/{SECRET}", keys)
        # The kubelet looks at a Secret every other minute, and at once when the pod changes.
        space.shell(f"kubectl annotate --overwrite pod {pod} e2e/keys-of={access_key}")

    log.wait("Committed")
    hand_over("nobody")
    log.wait("Retrying")
    committed = log.text.count("Committed")
    hand_over(space.ground["AWS_ACCESS_KEY_ID"])
    log.wait("Committed", times=committed + 1)
    run.merge({"spec": {"stop": True}})
    run.assert_checkpoint_proven(run.wait_finished())
    run.assert_ended_once()


def restarts(pod, container):
    return sum(
        one["restartCount"] for one in pod["status"].get("initContainerStatuses") or () if one["name"] == container
    )


def digests(text):
    return [line.split(maxsplit=1) for line in text.splitlines() if "  ./" in line and len(line.split()[0]) == 64]
