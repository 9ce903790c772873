"""A person says stop: by a patch, or by a file."""

from __future__ import annotations

import sys
import time

import pytest
from e2e.audit import OPERATOR_USER
from e2e.ground import OUTPUTS
from e2e.runs import condition_of

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

STOP = """kubectl patch trainingrun x --type merge -p '{"spec":{"stop":true}}'"""
TAKEN_BACK = STOP.replace("true", "false")
GOAL_SECONDS = 1.0
MOST_SECONDS = 30.0
"""With a step of 50 ms, and tests beside it on two cores. By itself, the kubelet would look after a minute."""


def test_a_patch_stops_the_run_and_the_training_saves_and_leaves(steady_operator, space, capsys):
    run = space.run("x", "--epochs", "200", "--step-seconds", "0.05")
    run.wait_training()
    run.wait_step(10)

    before = time.time()
    space.shell(STOP)
    patched = time.time()
    seen = run.log.wait("STOP_TRAINING found")
    latency = seen.at - patched
    words = f"patch answered to stop file seen by the training: {latency:.2f} s (kubectl took {patched - before:.2f} s before)"
    with capsys.disabled():
        sys.stderr.write(f"\n{words}; the goal is {GOAL_SECONDS:g} s\n")
    OUTPUTS.mkdir(parents=True, exist_ok=True)
    (OUTPUTS / "stop-latency.txt").write_text(words + "\n")
    assert latency < MOST_SECONDS, words

    status = run.wait_finished()
    run.log.wait_end()
    assert (status["phase"], status["terminationStatus"]) == ("Stopped", "user_stop")
    assert status["terminationMessage"].startswith("Stopped by hand: spec.stop is true.")
    assert status["termination"]["actor"] == "field manager 'kubectl-patch'", "It says by what the stop was written."
    assert condition_of(status, "Succeeded")["status"] == "False", "A run stopped by hand has not succeeded."
    run.assert_checkpoint_proven(status)
    last = run.log.text.rsplit("saved checkpoint-", 1)[1].split()[0]
    assert status["checkpoint"]["step"] == int(last), "What it saved on its way out is what was proven."
    assert f"stopped at step {last}/" in run.log.text
    run.assert_ended_once()

    refusal = space.shell(TAKEN_BACK, fails=True)
    assert "spec.stop is final: a stopped run does not restart; create a new TrainingRun" in refusal


def test_a_reason_given_with_the_stop_is_told(space):
    run = space.run("x", "--epochs", "200", "--step-seconds", "0.05")
    run.wait_step(5)
    space.shell("""kubectl patch trun x --type merge -p '{"spec":{"stop":true,"stopReason":"overfitting"}}'""")
    status = run.wait_finished()
    assert "(overfitting)" in status["terminationMessage"]


def test_a_stop_file_that_a_person_wrote_is_a_user_stop(space):
    run = space.run("x", "--epochs", "200", "--step-seconds", "0.05")
    pod = run.wait_training()["metadata"]["name"]
    run.wait_step(5)
    space.shell(f"kubectl exec {pod} --container train -- touch /checkpoints/STOP_TRAINING")
    run.log.wait("STOP_TRAINING found")
    status = run.wait_finished()
    assert status["terminationStatus"] == "user_stop"
    assert status["termination"]["actor"] == "stop file"
    run.assert_checkpoint_proven(status)
    assert not [key for key in space.bucket.etags(run.layout.base) if key.endswith("STOP_TRAINING")], (
        "The stop file itself is not saved: a restored run must not stop at once."
    )


def test_a_training_that_does_not_listen_is_ended_when_its_grace_is_spent(space):
    run = space.run("x", "--epochs", "200", "--step-seconds", "0.05", "--deaf", shutdown={"graceSeconds": 3})
    run.wait_training()
    run.wait_commits()
    before = run.commits()[-1].checkpoint
    asked = time.monotonic()
    run.merge({"spec": {"stop": True}})
    status = run.wait_settled()
    assert time.monotonic() - asked >= 3, "It had its grace."
    assert (status["phase"], status["terminationStatus"]) == ("Stopped", "user_stop")
    assert status["terminationMessage"].startswith("Stopped by hand: spec.stop is true.")
    assert "stopped at step" not in run.log.text, "It never left by itself."
    assert status["checkpoint"]["complete"], "The last complete checkpoint is what is kept."
    assert status["checkpoint"]["step"] >= before.step
    assert "dataLoss" not in status["checkpoint"]
    run.assert_checkpoint_proven(status)


IGNORES_EVERYTHING = """
import os, time
for step in range(1, 10000):
    if step == 20:
        folder = os.environ["TRAININGRUN_CHECKPOINT_DIR"] + "/checkpoint-20"
        os.makedirs(folder)
        with open(folder + "/trainer_state.json", "w") as file:
            file.write('{"step": 20}')
    print("step", step, "loss", 2.0, flush=True)
    time.sleep(0.1)
"""
"""Process 1 of its container, without a handler: the kernel drops SIGTERM."""


def test_a_training_that_ignores_sigterm_as_well_has_its_grace_once_more_and_not_that_of_the_agent(space):
    grace, agent = 3, 30
    command = ["python3", "-u", "-c", IGNORES_EVERYTHING]
    run = space.run("x", command=command, metrics={"source": "Logs"}, shutdown={"graceSeconds": grace})
    pod = run.wait_training()["metadata"]["name"]
    run.wait_condition("CheckpointSaved")
    asked = time.monotonic()
    run.merge({"spec": {"stop": True}})
    status = run.wait_settled()
    assert time.monotonic() - asked < 100, "The 300 s for an agent's last commit are not waited for."
    run.assert_checkpoint_proven(status)
    assert status["checkpoint"]["step"] == 20
    deletes = [one.body for one in space.audit("delete", "pods") if one.name == pod and one.user == OPERATOR_USER]
    assert [body["gracePeriodSeconds"] for body in deletes] == [grace + agent]
    assert run.log.text.count("step 20 ") == 1, "No other pod has trained."


FIRST_SAVE = """
trap 'exit 0' USR1
mkdir $TRAININGRUN_CHECKPOINT_DIR/.tmp-checkpoint-100
echo half of it > $TRAININGRUN_CHECKPOINT_DIR/.tmp-checkpoint-100/model.safetensors
echo begun to save
sleep 3600 & wait
"""


def test_a_stop_during_the_first_save_of_a_training_without_metrics_waits_for_it_and_keeps_what_is_there(space):
    run = space.run("x", command=["sh", "-c", FIRST_SAVE], shutdown={"graceSeconds": 1})
    pod = run.wait_training()["metadata"]["name"]
    run.log.wait("begun to save")
    run.merge({"spec": {"stop": True}})
    run.wait_stop("Saving")
    # That no step could be read does not mean that none was made.
    held = run.wait_phase("Held")
    assert held["termination"]["holdReason"]
    # After the command has returned: it would be killed with its container.
    space.shell(f"kubectl exec {pod} --container train -- sh -c '(sleep 1; kill -USR1 1) > /dev/null 2>&1 &'")
    status = run.wait_finished()
    assert (status["terminationStatus"], status["checkpoint"]["complete"]) == ("user_stop", False)
    assert set(space.bucket.files(run.layout.base)) == {".tmp-checkpoint-100/model.safetensors"}
    assert "dataLoss" not in status["checkpoint"]
    run.assert_checkpoint_proven(status)


def test_with_mode_disabled_nothing_is_saved_and_the_status_says_so(space):
    run = space.run(
        "x",
        "--epochs",
        "200",
        "--step-seconds",
        "0.05",
        checkpoint={"mode": "Disabled", "destination": None, "s3": None},
    )
    run.wait_training()
    run.wait_step(5)
    assert condition_of(run.status, "CheckpointSaved")["reason"] == "Disabled"
    run.merge({"spec": {"stop": True}})
    run.log.wait("STOP_TRAINING found")
    status = run.wait_finished()
    assert status["terminationStatus"] == "user_stop"
    assert "Nothing was saved: spec.checkpoint.mode is Disabled." in status["terminationMessage"]
    assert "checkpoint" not in status
    assert not space.bucket.objects(run.layout.base)
    run.assert_ended_once()
