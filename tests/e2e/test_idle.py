"""A training whose GPUs are idle: it is told first, and ended once the spec says so."""

from __future__ import annotations

from pathlib import Path

import pytest
from e2e.own_operator import Beside, OwnOperator

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

SCRIPT = Path(__file__).parent / "in_pod" / "exporter.py"
PORT = 9400
# It makes steps all the time. Without a number of epochs, nothing says that it is complete.
STEPS = ("--epochs", "10000", "--batch", "72", "--step-seconds", "0.2", "--save-every", "20")
ENDLESS = {"names": {"totalEpochs": ["no_such_total"]}}
TWO_READINGS = 300
"""Seconds: the exporter is read every 30."""


def test_a_training_with_idle_gpus_is_told_and_then_ended(gpu_nodes, space):
    env = {"TRAININGRUN_GPU_EXPORTER": f"http://127.0.0.1:{PORT}/metrics"}
    own = OwnOperator.open(space, env=env, beside=Beside(SCRIPT, {}))
    run = space.run(
        "idle", *STEPS, gpus=1, labels=own.labels, metrics=ENDLESS, autoStopLoss=-1, idleDetection={"forSeconds": 10}
    )
    pod = run.wait_training()["metadata"]["name"]
    run.wait_condition("CheckpointSaved")
    own.ask(PORT, "show", "POST", [{"namespace": space.name, "pod": pod, "utilization": 0, "power": "61.500000"}])
    assert run.wait_condition("Idle", timeout=TWO_READINGS)["reason"] == "IdleGPUs"
    assert run.wait_event("Idle")["type"] == "Warning"
    assert run.status.get("termination") is None, "It is only told."

    run.merge({"spec": {"idleDetection": {"action": "Stop"}}})
    status = run.wait_finished()
    assert (status["phase"], status["terminationStatus"]) == ("Failed", "idle")
    assert status["termination"]["rule"] == "idle"
    run.assert_checkpoint_proven(status)
    run.assert_ended_once()
