"""What a stop waits for: the training itself, its next checkpoint, nothing; and the signal for a training that knows no stop file."""

from __future__ import annotations

import pytest
from e2e.runs import condition_of

from trainingrun_operator.api import names
from trainingrun_operator.api.exchange import AGENT_CONFIG_ENV

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

# A checkpoint every two seconds, for longer than any test.
LONG = ("--epochs", "200", "--step-seconds", "0.05")
HOUR = {"graceSeconds": 3600}


def saved(log):
    """The step of the last checkpoint that a log speaks of; 0 if there is none."""
    return int(log.text.rpartition("saved checkpoint-")[2].split()[0]) if "saved checkpoint-" in log.text else 0


def assert_stopped_by_hand(status, mode):
    assert (status["phase"], status["terminationStatus"]) == ("Stopped", "user_stop")
    assert status["terminationMessage"].startswith("Stopped by hand: spec.stop is true.")
    assert status["termination"]["mode"] == mode
    assert (condition_of(status, "Succeeded")["status"], condition_of(status, "Finished")["reason"]) == (
        "False",
        "UserStop",
    )
    assert "dataLoss" not in status["checkpoint"]


def test_next_checkpoint_ends_a_training_that_does_not_listen_as_soon_as_it_has_saved_again(space):
    run = space.run("next", *LONG, "--deaf", shutdown=HOUR)
    run.wait_training()
    run.wait_commits()
    before = saved(run.log)
    space.shell("""kubectl patch trun next --type merge -p '{"spec":{"stop":true,"stopMode":"NextCheckpoint"}}'""")
    status = run.wait_settled()
    assert_stopped_by_hand(status, "NextCheckpoint")
    run.assert_checkpoint_proven(status)
    assert status["checkpoint"]["complete"]
    assert status["checkpoint"]["step"] > before, "What was saved after the stop is what was waited for."


def test_the_mode_may_be_changed_while_stopping_and_the_last_checkpoint_is_then_enough(space):
    # One checkpoint, and then none for an hour: only this mode ends the stop before its grace does.
    evaluates = (
        "--batch",
        "72",
        "--step-seconds",
        "0.05",
        "--save-every",
        "20",
        "--evaluate-seconds",
        "3600",
        "--deaf",
    )
    run = space.run("last", *evaluates, shutdown=HOUR)
    run.wait_training()
    run.wait_commits()
    run.merge({"spec": {"stop": True}})
    asked = run.wait_phase("Stopping")["termination"]
    assert asked["mode"] == "Auto"

    space.shell("""kubectl patch trun last --type merge -p '{"spec":{"stopMode":"LastCheckpoint"}}'""")
    status = run.wait_settled()
    assert_stopped_by_hand(status, "LastCheckpoint")
    kept = ("id", "status", "message", "actor", "requestedAt")
    assert {key: status["termination"][key] for key in kept} == {key: asked[key] for key in kept}
    run.assert_checkpoint_proven(status)
    assert status["checkpoint"]["step"] == 20
    assert "LastCheckpoint now; it was Auto" in run.wait_event("StopModeChanged")["message"]


def test_a_training_that_knows_only_sigterm_is_sent_it_once_at_half_its_grace_and_saves(space):
    run = space.run("sigterm", *LONG, "--sigterm-only", shutdown={"graceSeconds": 30, "signal": "SIGTERM"})
    pod = run.wait_training()
    assert pod["spec"]["shareProcessNamespace"]
    run.wait_commits()
    # The agent's processes are seen, and neither its files nor its environment can be read.
    inside = f"kubectl exec {pod['metadata']['name']} -c train -- sh -c"
    assert "trainingrun_operator agent" in space.shell(f"{inside} 'cat /proc/[0-9]*/cmdline' | tr '\\0' ' '")
    assert AGENT_CONFIG_ENV not in space.shell(
        f"{inside} 'cat /proc/[0-9]*/environ 2>/dev/null || true' | tr '\\0' ' '"
    )
    space.shell(f"{inside} 'cat /proc/[0-9]*/root{names.SECRET_PATH}/{names.SECRET_KEY}'", fails=True)
    # A shell of somebody's looks like a container's first process too: it is not what trains.
    space.shell(f"kubectl exec {pod['metadata']['name']} -c train -- sleep 120 > /dev/null 2>&1 &")
    run.merge({"spec": {"stop": True}})
    run.log.wait("SIGTERM between two steps")
    status = run.wait_settled()
    run.log.wait_end()

    assert run.log.text.count("SIGTERM between") + run.log.text.count("SIGTERM in the middle") == 1, "It was sent once."
    last = saved(run.log)
    assert f"stopped at step {last}/" in run.log.text, "It saved on the signal, and left by itself."
    assert_stopped_by_hand(status, "Auto")
    run.assert_checkpoint_proven(status)
    assert status["checkpoint"]["step"] == last, "What it saved on the signal is what was proven."
    assert (status["termination"]["saved"]["final"], status["termination"]["saved"]["complete"]) == (True, True)
    assert len(space.audit("create", "pods")) == 1, "Exit code 143 in answer to a stop starts no other pod."
