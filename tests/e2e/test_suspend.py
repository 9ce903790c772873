"""A run is suspended: checkpoint proven, pod ended, machine given back. It goes on from there, or it ends there."""

from __future__ import annotations

import pytest
from e2e.runs import condition_of

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

SUSPEND = """kubectl patch trainingrun x --type merge -p '{"spec":{"suspend":true}}'"""
RESUME = SUSPEND.replace("true", "false")
STOP = SUSPEND.replace("suspend", "stop")
DIGITS = ("--epochs", "200", "--step-seconds", "0.05", "--save-every", "20")


def instance_of(status):
    return status["nodes"][0]["providerID"].rpartition("/")[2]


def assert_suspended(run, status):
    """Nothing of it runs, its checkpoint is proven, and it has not ended."""
    assert not run.pods(), "No pod of it is left."
    run.assert_checkpoint_proven(status)
    assert "terminationStatus" not in status
    assert "completionTime" not in status
    assert condition_of(status, "Finished")["reason"] == "Suspended"
    assert status["terminationMessage"].startswith("Suspended: spec.suspend is true. Checkpoint ")


def test_a_suspended_run_gives_its_machine_back_and_goes_on_from_its_checkpoint(gpu_nodes, space):
    run = space.run("x", *DIGITS, gpus=8)
    first = run.wait_training()["metadata"]["name"]
    run.wait_step(10)
    space.shell(SUSPEND)

    status = run.wait_phase("Suspended")
    assert_suspended(run, status)
    assert status["termination"]["actor"] == "field manager 'kubectl-patch'"
    assert [node["phase"] for node in status["nodes"]] == ["Released"]
    machine = instance_of(status)
    assert space.cloud.states().get(machine, "terminated") == "terminated", "Nobody pays for it any more."
    saved, uri = status["checkpoint"]["step"], status["checkpoint"]["uri"]

    space.shell(RESUME)
    run.wait_training(but=(first,))
    run.log.wait(f"resumed from checkpoint-{saved} at step {saved}")
    status = run.wait_step(saved + 5)
    assert status["phase"] == "Running"
    assert "termination" not in status
    assert run.wait_event("Resumed")["message"] == f"Training resumes from {uri}."

    space.shell(STOP)
    status = run.wait_finished()
    assert (status["phase"], status["terminationStatus"]) == ("Stopped", "user_stop")
    assert status["checkpoint"]["step"] >= saved + 5, "It ended with what it had learnt since."
    run.assert_checkpoint_proven(status)
    assert [node["phase"] for node in status["nodes"]] == ["Released", "Released"], "Both machines went back."
    assert len(space.audit("create", "pods")) == 2, "It was trained in two pods."
    run.assert_ended_once()


def test_a_suspended_run_that_is_stopped_ends_with_the_checkpoint_that_it_was_suspended_with(space):
    run = space.run("x", *DIGITS, suspend=True)
    status = run.wait_phase("Suspended")
    assert condition_of(status, "Accepted")["status"] == "True"
    assert not space.jobs(), "Suspended from its beginning: nothing was made."

    space.shell(RESUME)
    run.wait_training()
    run.wait_step(10)
    space.shell(SUSPEND)
    suspended = run.wait_phase("Suspended")
    assert_suspended(run, suspended)

    space.shell(STOP)
    status = run.wait_finished()
    assert (status["phase"], status["terminationStatus"]) == ("Stopped", "user_stop")
    assert status["termination"]["saved"] == suspended["termination"]["saved"]
    assert "dataLoss" not in status["checkpoint"], "Nothing was lost."
    run.assert_checkpoint_proven(status)
    assert len(space.audit("create", "pods")) == 1, "Nothing was started only to be stopped."
    run.wait_settled()
