"""When a run is complete, and when it only looks so."""

from __future__ import annotations

import time

import pytest
from e2e.runs import base_spec, condition_of

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

# 20 steps in one epoch, some two seconds.
SHORT = ("--epochs", "1", "--batch", "72", "--step-seconds", "0.1", "--save-every", "10")


def test_exit_code_0_is_complete(space):
    run = space.run("exit", *SHORT)
    run.wait_training()
    status = run.wait_finished()
    assert (status["phase"], status["terminationStatus"]) == ("Succeeded", "auto_complete")
    assert status["terminationMessage"].startswith("Training finished with exit code 0.")
    assert status["checkpoint"]["step"] == 20, "The last checkpoint is the one that was proven."
    run.assert_checkpoint_proven(status)
    run.assert_ended_once()
    job = space.jobs()[0]
    assert [c["type"] for c in job["status"]["conditions"] if c["status"] == "True"][-1] == "Complete", (
        "The Job's own outcome is right too."
    )


def test_containers_beside_the_training_keep_no_run_from_ending(space):
    usual = base_spec(space.ground)["template"]["spec"]["containers"][0]
    proxy = {**usual, "name": "proxy", "command": ["sh", "-c", "trap 'exit 143' TERM; sleep 600 & wait"]}
    absent = {**usual, "name": "absent", "image": "no-such-image:1", "imagePullPolicy": "Never"}
    train = {**usual, "args": list(SHORT)}
    run = space.run("beside", pod={"containers": [proxy, absent, train]}, metrics={"container": "train"})
    status = run.wait_finished()
    assert (status["phase"], status["terminationStatus"]) == ("Succeeded", "auto_complete")
    assert status["terminationMessage"].startswith("Training finished with exit code 0.")
    run.assert_checkpoint_proven(status)
    assert len(space.audit("create", "pods")) == 1, "Nothing was trained again."


def test_a_marker_is_complete_although_the_process_lives(space):
    run = space.run("marker", *SHORT, "--marker", "done", "--linger", "600", completion={"settleSeconds": 2})
    run.wait_training()
    status = run.wait_finished()
    assert (status["phase"], status["terminationStatus"]) == ("Succeeded", "auto_complete")
    assert status["terminationMessage"].startswith("Training wrote the completion marker done.")
    assert status["termination"]["inferred"] is True
    run.assert_checkpoint_proven(status)
    assert status["checkpoint"]["step"] == 20


def test_a_line_of_the_log_is_complete_although_the_process_lives(space):
    # The first steps are read: the operator has seen it advance. A stall is not to come first.
    steps = (*SHORT, "--reads", "2", "--linger", "600")
    completion = {"settleSeconds": 2, "logPatterns": ["^Training complete"]}
    run = space.run("line", *steps, completion=completion, stallPolls=100)
    run.wait_training()
    status = run.wait_finished()
    assert (status["phase"], status["terminationStatus"]) == ("Succeeded", "auto_complete")
    assert (status["termination"]["rule"], status["termination"]["inferred"]) == ("logPatterns", True)
    assert [one["value"].startswith("Training complete") for one in status["termination"]["evidence"]] == [True]
    run.assert_checkpoint_proven(status)
    assert status["checkpoint"]["step"] == 20


def test_outputs_in_the_bucket_are_complete_although_the_process_lives(space):
    completion = {"settleSeconds": 2, "outputs": ["exported/*.onnx"]}
    run = space.run("outputs", *SHORT, "--linger", "600", completion=completion, stallPolls=100)
    run.wait_training()
    run.log.wait("Training complete")
    of_the_run = run.layout.base.rsplit("/", 2)[0]
    space.bucket.client.put_object(Bucket=space.bucket.name, Key=f"{of_the_run}/exported/model.onnx", Body=b"weights")
    status = run.wait_finished()
    assert (status["phase"], status["terminationStatus"]) == ("Succeeded", "auto_complete")
    assert status["terminationMessage"].startswith("Training wrote its outputs to the bucket: exported/*.onnx")
    assert status["termination"]["inferred"] is True
    run.assert_checkpoint_proven(status)
    assert status["checkpoint"]["step"] == 20


def test_a_final_epoch_that_stands_still_is_complete_although_the_process_lives(space):
    # The first steps are read: the operator has seen it advance in its first epoch, and sees an epoch end.
    steps = ("--epochs", "3", "--batch", "72", "--step-seconds", "0.1", "--save-every", "20", "--reads", "2")
    run = space.run("stall", *steps, "--linger", "600", completion={"settleSeconds": 2})
    run.wait_training()
    status = run.wait_finished()
    assert (status["phase"], status["terminationStatus"]) == ("Succeeded", "auto_complete")
    assert status["terminationMessage"].startswith("Final epoch reached and no step since 60 for ")
    assert status["termination"]["inferred"] is True
    assert {one["what"] for one in status["termination"]["evidence"]} == {"epoch", "stallPolls"}
    run.assert_checkpoint_proven(status)
    assert status["checkpoint"]["step"] == 60


def test_slow_steps_and_a_long_evaluation_are_not_completion(space):
    # Four steps of 3 s at polls of 1 s, then 16 s of evaluation in the only epoch, and only then the last checkpoint.
    slow = ("--epochs", "1", "--batch", "360", "--step-seconds", "3", "--save-every", "3", "--evaluate-seconds", "16")
    run = space.run("slow", *slow, stallPolls=3, completion={"settleSeconds": 1})
    run.wait_training()
    evaluating = run.log.wait("evaluation after epoch 1")
    run.log.wait("Training complete")
    status = run.wait_finished()
    assert status["termination"]["actor"] == "exit code", "Only its own exit ended it, after the evaluation."
    assert run.log.lines[-1].at - evaluating.at > 15, "Nobody interrupted the evaluation."
    assert "STOP_TRAINING found" not in run.log.text
    assert status["checkpoint"]["step"] == 4


def test_a_marker_before_a_crash_is_complete_with_a_warning(space):
    run = space.run("teardown", *SHORT, "--marker", "done", "--exit-code", "134")
    status = run.wait_finished()
    assert status["terminationStatus"] == "auto_complete"
    assert "ended with exit code 134" in status["terminationMessage"]
    assert run.wait_event("CompletedWithError")["type"] == "Warning"
    assert condition_of(status, "Succeeded")["status"] == "True"


def test_a_run_that_is_done_is_left_alone(steady_operator, space):
    run = space.run("still", *SHORT)
    run.wait_settled()
    version = run.read()["metadata"]["resourceVersion"]
    writes = len(space.audit("patch", "trainingruns/status"))
    time.sleep(7)  # longer than tools/install-values.yaml's statusSeconds: what would be written, would be by now
    assert run.read()["metadata"]["resourceVersion"] == version, "Nothing is written about a run that is done."
    assert len(space.audit("patch", "trainingruns/status")) == writes
