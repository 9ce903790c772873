"""The operator is away while things happen: what it missed, it does when it is back, once."""

from __future__ import annotations

import pytest
from e2e.audit import OPERATOR_USER
from e2e.own_operator import SHARD_LABEL, OwnOperator
from e2e.runs import Space, condition_of, unique

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

SHORT = ("--epochs", "1", "--batch", "24", "--step-seconds", "0.2", "--save-every", "20")
"""Sixty steps in twelve seconds."""
PAUSED = ["sh", "-c", 'digits.py "$@" & sleep 4; kill -STOP $!; echo paused; wait $!', "train"]
"""Stands still in the middle of them until every process of the container is told to go on."""
GO_ON = "for each in /proc/[0-9]*; do kill -CONT ${each#/proc/} || true; done"
LONG = ("--epochs", "200", "--step-seconds", "0.05")


@pytest.fixture(scope="module")
def space(ground, api, bucket, cloud, _spaces, tmp_path_factory):
    """Of this module: its operator leaves and comes back for each of the tests, and no other test notices."""
    space = Space(ground, api, bucket, cloud, unique("e2e"), tmp_path_factory.mktemp("away"))
    space.open()
    _spaces.append(space)
    yield space
    space.close()


@pytest.fixture(scope="module")
def leaver(space):
    return OwnOperator.open(space)


def test_a_training_that_exits_while_the_operator_is_away_is_done_and_not_run_again(space, leaver):
    made = len(space.audit("create", "pods"))
    # However long the operator takes to leave, the training is not over by then.
    run = space.run("exits", *SHORT, command=PAUSED, stallPolls=1000, labels=leaver.labels)
    pod = run.wait_training()["metadata"]["name"]
    run.log.wait("paused")
    with leaver.away():
        assert "termination" not in run.status, "It trains when the operator has left."
        space.shell(f"kubectl exec {pod} --container train -- sh -c '{GO_ON}'")
        run.wait_exit()
        (pod,) = run.pods()
        assert pod["status"]["phase"] == "Running", "The gate keeps pod and bytes."
    status = run.wait_finished()
    assert (status["phase"], status["terminationStatus"]) == ("Succeeded", "auto_complete")
    assert status["checkpoint"]["step"] == 60
    run.assert_checkpoint_proven(status)
    assert len(space.audit("create", "pods")) == made + 1, "The training was not run again."
    run.assert_ended_once()


def test_a_stop_and_a_deletion_written_while_the_operator_is_away_are_carried_out_when_it_is_back(space, leaver):
    stopped = space.run("stopped", *LONG, labels=leaver.labels)
    deleted = space.run("deleted", *LONG, labels=leaver.labels)
    for run in (stopped, deleted):
        run.wait_training()
        run.wait_commits()
    with leaver.away():
        stopped.merge({"spec": {"stop": True}})
        space.api.delete(deleted.path)
        assert condition_of(stopped.status, "Finished")["status"] == "False"
    status = stopped.wait_finished()
    assert status["terminationStatus"] == "user_stop"
    stopped.assert_checkpoint_proven(status)
    deleted.wait_gone()
    assert deleted.commits()[-1].final, "It was saved before it went."


def test_an_operator_killed_in_the_middle_of_a_stop_goes_on_where_it_was(space, leaver):
    run = space.run("killed", *LONG, "--deaf", shutdown={"graceSeconds": 6}, labels=leaver.labels)
    run.wait_training()
    run.wait_commits()
    run.merge({"spec": {"stop": True}})
    begun = run.wait(lambda s: s.get("termination"), "the stop is written down")["termination"]
    with leaver.away():
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
        if (one.user, one.name) == (OPERATOR_USER, run.name)
        and any(op.get("path") == "/status/terminationStatus" for op in _operations(one.body))
    ]
    assert len(begins) == 1, "It was decided once."
    run.assert_ended_once()


def test_a_run_whose_labels_become_those_of_no_operator_is_ended_by_its_own(space, leaver):
    """By an administrator, whom the admission policies let pass: the watch of its operator shows this as a deletion."""
    run = space.run("moved", *LONG, labels=leaver.labels)
    run.wait_training()
    run.merge({"metadata": {"labels": {SHARD_LABEL: "of-nobody"}}, "spec": {"stop": True}})
    status = run.wait_finished()
    assert (status["phase"], status["terminationStatus"]) == ("Stopped", "user_stop")
    run.assert_checkpoint_proven(status)
    run.wait_settled()


def test_a_final_epoch_that_stood_still_while_the_operator_was_away_is_complete(space, leaver):
    # The first steps are read: the operator has seen it advance in its first epoch.
    steps = ("--epochs", "3", "--batch", "72", "--step-seconds", "0.2", "--save-every", "20", "--reads", "2")
    run = space.run("stall", *steps, "--linger", "600", completion={"settleSeconds": 2}, labels=leaver.labels)
    run.wait_training()
    run.wait(
        lambda s: (s.get("progress") or {}).get("longestEpochPause"), "its pause at the end of an epoch is written down"
    )
    with leaver.away():
        run.log.wait("Training complete")
    status = run.wait_finished()
    assert (status["terminationStatus"], status["termination"]["actor"]) == ("auto_complete", "stallPolls")
    assert status["terminationMessage"].startswith("Final epoch reached and no step since 60 for ")
    run.assert_checkpoint_proven(status)


def _operations(body):
    return body if isinstance(body, list) else []
