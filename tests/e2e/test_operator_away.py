"""The operator is away while things happen: what it missed, it does when it is back, once."""

from __future__ import annotations

import pytest
from e2e.audit import OPERATOR_USER
from e2e.faults import operator_away
from e2e.runs import condition_of

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

SHORT = ("--epochs", "1", "--batch", "72", "--step-seconds", "1", "--save-every", "10")
"""Twenty seconds: longer than it takes an operator to leave."""
LONG = ("--epochs", "200", "--step-seconds", "0.05")


def test_a_training_that_exits_while_the_operator_is_away_is_done_and_not_run_again(own_operator, space):
    run = space.run("x", *SHORT)
    run.wait_training()
    with operator_away(space.api):
        assert "termination" not in run.status, "It trains when the operator has left."
        run.wait_exit()
        (pod,) = run.pods()
        assert pod["status"]["phase"] == "Running", "The gate keeps pod and bytes."
    status = run.wait_finished()
    assert (status["phase"], status["terminationStatus"]) == ("Succeeded", "auto_complete")
    assert status["checkpoint"]["step"] == 20
    run.assert_checkpoint_proven(status)
    assert len(space.audit("create", "pods")) == 1, "The training was not run again."
    run.assert_ended_once()


def test_a_stop_and_a_deletion_written_while_the_operator_is_away_are_carried_out_when_it_is_back(own_operator, space):
    stopped = space.run("stopped", *LONG)
    deleted = space.run("deleted", *LONG)
    for run in (stopped, deleted):
        run.wait_training()
        run.wait_commits()
    with operator_away(space.api):
        stopped.merge({"spec": {"stop": True}})
        space.api.delete(deleted.path)
        assert condition_of(stopped.status, "Finished")["status"] == "False"
    status = stopped.wait_finished()
    assert status["terminationStatus"] == "user_stop"
    stopped.assert_checkpoint_proven(status)
    deleted.wait_gone()
    assert deleted.commits()[-1].final, "It was saved before it went."


def test_an_operator_killed_in_the_middle_of_a_stop_goes_on_where_it_was(own_operator, space):
    run = space.run("x", *LONG, "--deaf", shutdown={"graceSeconds": 6})
    run.wait_training()
    run.wait_commits()
    run.merge({"spec": {"stop": True}})
    begun = run.wait(lambda s: s.get("termination"), "the stop is written down")["termination"]
    with operator_away(space.api):
        assert run.status["termination"]["id"] == begun["id"]
    status = run.wait_finished()
    ended = status["termination"]
    assert {key: ended[key] for key in ("id", "status", "message", "requestedAt")} == {
        key: begun[key] for key in ("id", "status", "message", "requestedAt")
    }, "It is the same stop."
    run.assert_checkpoint_proven(status)
    begins = [
        one
        for one in space.audit("patch", "trainingruns/status")
        if one.user == OPERATOR_USER
        and any(op.get("path") == "/status/terminationStatus" for op in _operations(one.body))
    ]
    assert len(begins) == 1, "It was decided once."
    run.assert_ended_once()


def test_a_final_epoch_that_stood_still_while_the_operator_was_away_is_complete(own_operator, space):
    steps = ("--epochs", "1", "--batch", "24", "--step-seconds", "0.2", "--save-every", "20")
    run = space.run("stall", *steps, "--linger", "600", completion={"settleSeconds": 2})
    run.wait_training()
    run.wait(lambda s: (s.get("progress") or {}).get("stepInterval"), "the usual time between steps is written down")
    with operator_away(space.api):
        run.log.wait("Training complete")
    status = run.wait_finished()
    assert (status["terminationStatus"], status["termination"]["actor"]) == ("auto_complete", "stallPolls")
    assert status["terminationMessage"].startswith("Final epoch reached and no step since 60 for ")
    run.assert_checkpoint_proven(status)


def _operations(body):
    return body if isinstance(body, list) else []
