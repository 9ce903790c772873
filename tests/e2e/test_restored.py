"""The cluster was restored from a backup that is older than what a run has done since: it does not train again, and loses nothing."""

from __future__ import annotations

import pytest
from e2e.api import RUNS
from e2e.audit import OPERATOR_USER
from e2e.etcd import Etcd
from e2e.runs import WAIT_SECONDS, condition_of

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

SHORT = ("--epochs", "1", "--batch", "72", "--step-seconds", "0.1", "--save-every", "10")
LONG = ("--epochs", "200", "--step-seconds", "0.05")


def test_a_run_whose_end_the_backup_does_not_know_is_not_trained_again(space):
    etcd = Etcd.of(space)
    run = space.run("x", *SHORT)
    run.wait_training()
    as_created = etcd.created(run)
    ended = run.wait_settled()
    commits, objects = run.commits(), space.bucket.etags(run.layout.base)

    # Nor does it know of the Job and its pods, which came after it.
    space.api.delete(f"/apis/batch/v1/namespaces/{space.name}/jobs/x", propagationPolicy="Background")
    space.api.wait(
        f"/apis/batch/v1/namespaces/{space.name}/jobs", lambda job: job is None, "no Job", WAIT_SECONDS, name="x"
    )
    etcd.restore(run, as_created)
    status = run.wait_finished()

    assert (status["phase"], status["terminationStatus"]) == ("Succeeded", ended["terminationStatus"])
    assert "This run already ended, as auto_complete" in status["terminationMessage"]
    assert (status["checkpoint"]["uri"], status["checkpoint"]["digest"]) == (
        ended["checkpoint"]["uri"],
        ended["checkpoint"]["digest"],
    )
    assert condition_of(status, "CheckpointSaved")["status"] == "True", "It was verified again."
    assert len(space.audit("create", "pods")) == 1, "It was trained once."
    assert not space.jobs()
    assert (run.commits(), space.bucket.etags(run.layout.base)) == (commits, objects), "The bucket is as it was."


def test_a_stop_whose_pods_are_gone_since_the_backup_ends_once_more_and_the_same(space):
    etcd = Etcd.of(space)
    run = space.run("x", *LONG, "--deaf", shutdown={"graceSeconds": 3})
    run.wait_training()
    run.wait_commits()
    run.merge({"spec": {"stop": True}})
    saving = space.api.wait(
        f"{RUNS}/namespaces/{space.name}/trainingruns",
        lambda one: one is not None and one["status"].get("termination", {}).get("phase") == "Saving",
        "the stop is saving",
        WAIT_SECONDS,
        name="x",
        since=run.version,
    )
    ended = run.wait_settled()
    commits = run.commits()

    etcd.restore(run, etcd.at(run, saving["metadata"]["resourceVersion"]))
    status = run.wait_finished()
    assert status["terminationStatus"] == ended["terminationStatus"] == "user_stop"
    assert {key: status["termination"][key] for key in ("id", "status", "message", "requestedAt")} == {
        key: ended["termination"][key] for key in ("id", "status", "message", "requestedAt")
    }
    run.assert_checkpoint_proven(status)
    assert run.commits() == commits
    assert len([one for one in space.audit("create", "pods") if one.user != OPERATOR_USER]) == 1, "It trained once."
    run.assert_ended_once()
