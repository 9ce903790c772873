"""A training that runs and does nothing: it is told first, and ended once the spec says so."""

from __future__ import annotations

import pytest

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

# The operator reads the first steps, and so sees it advance. Without a number of epochs, nothing says that it is complete.
STEPS = (
    "--epochs",
    "3",
    "--batch",
    "72",
    "--step-seconds",
    "0.1",
    "--save-every",
    "20",
    "--reads",
    "2",
    "--linger",
    "600",
)
ENDLESS = {"names": {"totalEpochs": ["no_such_total"]}}


def test_a_training_that_hangs_is_told_and_then_ended(space):
    run = space.run("hang", *STEPS, metrics=ENDLESS, hangDetection={"noProgressSeconds": 15})
    run.wait_training()
    hung = run.wait_condition("Hung")
    assert hung["reason"] == "NoProgress"
    assert run.wait_event("Hung")["type"] == "Warning"
    assert run.status.get("termination") is None, "It is only told."

    run.merge({"spec": {"hangDetection": {"action": "Stop"}}})
    status = run.wait_finished()
    assert (status["phase"], status["terminationStatus"]) == ("Failed", "hung")
    assert status["termination"]["rule"] == "hang"
    run.assert_checkpoint_proven(status)
    assert status["checkpoint"]["step"] == 60
    run.assert_ended_once()
