"""The loss is low enough: the run ends by itself, its checkpoint is worth what the training said, its machine is gone."""

from __future__ import annotations

import base64
import json
import re
from typing import TYPE_CHECKING, Any

import pytest
from e2e.runs import WAIT_SECONDS, condition_of
from waiting import eventually

from trainingrun_operator.core.words import shown

if TYPE_CHECKING:
    from pathlib import Path

    from e2e.api import Json
    from e2e.runs import Space

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

LONG = ("--epochs", "200", "--step-seconds", "0.1")
"""Longer than any test: whatever ends it is not its last step."""


def scored(space: Space, files: list[Path]) -> Json:
    """What digits.py finds when it loads a downloaded checkpoint, in a pod that knows nothing of the run."""
    data = {file.name: base64.b64encode(file.read_bytes()).decode() for file in files}
    base = f"/api/v1/namespaces/{space.name}"
    space.api.create(f"{base}/configmaps", {"metadata": {"name": "checkpoint"}, "binaryData": data})
    pod = {
        "metadata": {"name": "score"},
        "spec": {
            "restartPolicy": "Never",
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 1000,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [
                {
                    "name": "score",
                    "image": space.ground.training_image,
                    "args": ["--score", "/checkpoint"],
                    "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                    "volumeMounts": [{"name": "checkpoint", "mountPath": "/checkpoint"}],
                }
            ],
            "volumes": [{"name": "checkpoint", "configMap": {"name": "checkpoint"}}],
        },
    }
    space.api.create(f"{base}/pods", pod)
    space.api.wait(
        f"{base}/pods",
        lambda pod: pod is not None and pod["status"].get("phase") in ("Succeeded", "Failed"),
        "the checkpoint is scored",
        WAIT_SECONDS,
        name="score",
    )
    score: dict[str, Any] = json.loads(space.api.log(space.name, "score", "score"))
    return score


def test_a_low_loss_ends_the_run_and_gives_its_machine_back(gpu_nodes, space, tmp_path):
    # The first steps are read: the curve has losses from before.
    run = space.run(
        "low-loss", *LONG, "--save-every", "20", "--reads", "2", "--hold-at", "10", gpus=8, autoStopLoss=0.3
    )
    pod = run.wait_training()
    # Before the loss is low.
    desired_before, running_before = space.cloud.desired, space.cloud.running()
    run.order("go", pod["metadata"]["name"])
    node = run.wait(lambda s: s.get("nodes"), "its node is recorded")["nodes"][0]
    status = run.wait_finished()
    run.log.wait_end()

    # Why it ended, with loss, threshold and step.
    assert (status["phase"], status["terminationStatus"]) == ("Succeeded", "auto_low_loss")
    said = re.match(r"Loss (0\.\d+) < 0\.3 at step (\d+)\.", status["terminationMessage"])
    assert said, f"The message names loss, threshold and step: {status['terminationMessage']}"
    evidence = status["termination"]["evidence"]
    assert len(evidence) == 2, "Two successive observations decided."
    assert all(float(one["value"]) < 0.3 for one in evidence), f"Both were below the threshold: {evidence}"
    assert int(said[2]) == evidence[-1]["step"], "The message speaks of the observation that decided."
    assert condition_of(status, "Succeeded")["reason"] == "AutoLowLoss"
    assert status["effective"] == {**status["effective"], "autoStopLoss": 0.3, "autoStopAction": "Stop"}

    # The loss curve that is kept: from the first steps down to the observation that decided.
    last = evidence[-1]
    curve = run.wait_curve(lambda c: c.points[-1].step == last["step"], "its curve ends where the decision was made")
    assert shown(curve.points[-1].loss) == last["value"] == status["progress"]["loss"]
    points, steps = curve.points, [point.step for point in curve.points]
    assert points[0].loss > 0.3 > points[-1].loss, f"It goes down: {[point.loss for point in points]}"
    assert steps == sorted(set(steps)), "One training, step by step."
    assert len(points) > 2, "It is a curve: two observations decided, and others came before."

    # The checkpoint that the status names loads, and is worth what the training said.
    run.assert_checkpoint_proven(status)
    files = space.bucket.download(status["checkpoint"]["uri"], tmp_path / "checkpoint")
    state = json.loads(next(file for file in files if file.name == "trainer_state.json").read_text())
    score = scored(space, files)
    assert score == {key: state[key] for key in ("step", "loss", "accuracy")}, "It scores what the training reported."
    assert score["step"] == status["checkpoint"]["step"], "It is of the step that the status names."
    assert score["loss"] < 0.3, "The model that was kept is the good one."
    assert score["accuracy"] > 0.85, "It reads digits that it never saw."
    assert f"saved checkpoint-{score['step']} loss {score['loss']:.4f}" in run.log.text, (
        "It is the one it said it saved."
    )

    # The machine: this one, all of it, and nothing else.
    assert node["name"] == pod["spec"]["nodeName"]
    instance = node["providerID"].rpartition("/")[2]
    assert [(n["name"], n["phase"]) for n in status["nodes"]] == [(node["name"], "Released")]
    assert condition_of(status, "NodesReleased") == {
        **condition_of(status, "NodesReleased"),
        "status": "True",
        "reason": "Released",
    }
    assert f"Node {node['name']} released." in status["terminationMessage"]
    assert space.cloud.states().get(instance, "terminated") == "terminated", "Its instance was terminated."
    assert space.api.get(f"/api/v1/nodes/{node['name']}") is None, "Its Node is gone."
    running_after = space.cloud.running()
    went, came = running_before - running_after, running_after - running_before
    assert went == {instance}, "It went, and no other instance."
    assert not came, "None was bought in its place."
    assert space.cloud.desired == desired_before - 1, "Desired capacity fell by one."
    run.assert_ended_once()


def test_without_a_threshold_the_run_goes_on_and_says_when_it_would_have_stopped(space):
    # A default counts only for a loss that was seen above it.
    run = space.run("shadow", *LONG, "--reads", "2", autoStopLoss=None)
    status = run.wait(lambda s: s.get("shadow"), "it says when it would have stopped")
    (shadow,) = status["shadow"]
    assert shadow["rule"] == "autoStopLoss"
    assert float(shadow["value"]) < 0.5, "The installation's default is 0.5."
    assert status["effective"]["autoStopAction"] == "Shadow"
    status = run.wait_step(shadow["step"] + 20)
    assert "terminationStatus" not in status, "Twenty steps later it still trains."


def test_a_negative_threshold_is_off_however_low_the_loss(space):
    run = space.run("off", "--epochs", "200", "--step-seconds", "0.05", autoStopLoss=-1)
    status = run.wait(
        lambda s: float((s.get("progress") or {}).get("bestLoss", 9)) < 0.3, "the loss is below all thresholds"
    )
    assert "terminationStatus" not in status
    assert not status.get("shadow")
    assert status["effective"]["autoStopAction"] == "Off"


def test_a_low_loss_waits_for_the_first_checkpoint(space):
    run = space.run("patient", *LONG, "--save-when-told", autoStopLoss=2.0)
    pod = run.wait_training()["metadata"]["name"]
    low = run.wait(
        lambda s: float((s.get("progress") or {}).get("loss", 9)) < 1.5 and waits_for_checkpoint(s),
        "the loss is far below the threshold, and that ends nothing",
    )
    assert "terminationStatus" not in low, "Stopping now would leave the run with nothing."
    run.order("save", pod)
    status = run.wait_finished()
    assert status["terminationStatus"] == "auto_low_loss"
    assert status["checkpoint"]["step"] > low["progress"]["step"]
    eventually(lambda: not run.pods(), "its pod is gone")


def waits_for_checkpoint(status: Json) -> bool:
    """Whether the rule of the loss would end the run, had it a checkpoint."""
    found = ((one["rule"], one["reason"]) for one in status.get("findings") or ())
    return ("autoStopLoss", "NoCheckpoint") in found
