"""A run that is deleted while it trains: saved and proven first, then everything of it goes, and the bucket stays as it is."""

from __future__ import annotations

import subprocess

import pytest
from e2e.api import seconds_of
from e2e.audit import OPERATOR_USER
from e2e.ground import OPERATOR, OPERATOR_NAMESPACE
from e2e.runs import WAIT_SECONDS
from waiting import eventually

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

LONG = ("--epochs", "200", "--step-seconds", "0.05")
DELETE = "kubectl delete trun x --timeout=230s"


def exported(space):
    """The operator's metrics page, as Prometheus reads it."""
    service = f"/api/v1/namespaces/{OPERATOR_NAMESPACE}/services/{OPERATOR}:8080"
    return space.api.call("GET", f"{service}/proxy/metrics")


def test_its_series_are_exported_while_it_is_there_and_vanish_with_it(space):
    run = space.run("x", *LONG)
    run.wait_step(10)
    mine = f'{{namespace="{space.name}",name="x"'
    seen = (
        "trainingrun_step",
        "trainingrun_loss",
        "trainingrun_metrics_available",
        "trainingrun_checkpoint_lag_seconds",
    )
    page = eventually(lambda: all(name + mine in (page := exported(space)) for name in seen) and page, "it is exported")
    assert [line for line in page.splitlines() if line.startswith(f"trainingrun_status_phase{mine}")] == [
        f'trainingrun_status_phase{mine},phase="Running"}} 1'
    ], "Only the phase that it is in."
    asked = {line.split('"')[1] for line in page.splitlines() if line.startswith("trainingrun_api_calls_total{")}
    assert asked == {"kubernetes", "s3", "cloud", "agent", "metrics"}
    checked = subprocess.run(["promtool", "check", "metrics"], input=page, capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, ""), "promtool has nothing to say."

    space.shell(DELETE)
    eventually(lambda: mine not in exported(space), "nothing of it is exported any more")


def test_foreground_deletion_saves_and_proves_first_and_leaves_nothing_but_the_bucket(space):
    run = space.run("x", *LONG)
    run.wait_training()
    run.wait_step(10)
    space.shell(f"{DELETE} --cascade=foreground")
    run.wait_gone()

    assert not run.pods()
    assert not [job for job in space.jobs() if job["metadata"]["name"] == "x"], "Its Job went with it."
    run.log.wait_end()
    saved = int(run.log.text.rsplit("saved checkpoint-", 1)[1].split()[0])
    final = run.commits()[-1]
    assert final.final, "The last commit was made after the training had ended."
    assert final.termination_id == f"stop-{run.uid}"
    assert final.checkpoint is not None
    assert final.checkpoint.step == saved, "It holds what the training saved on its way out."

    gone = eventually(
        lambda: [one.at for resource in ("pods", "jobs") for one in space.audit("delete", resource)],
        "the audit log says what was deleted",
    )
    assert seconds_of(final.written_at) <= min(gone) + 1, "Nothing was deleted before the commit was written."
    assert not [key for key in space.bucket.etags(run.layout.base) if ".partial" in key]
    assert space.bucket.files(run.layout.base), "The bucket still has it all."
    assert "deleted" in [event["message"].split(":")[0] for event in run.events("Stopping")]


def test_deleting_a_run_that_is_done_takes_its_job_and_leaves_the_bucket_untouched(space):
    run = space.run("x", "--epochs", "1", "--batch", "144", "--step-seconds", "0.05")
    run.wait_finished()
    before = space.bucket.etags(run.layout.base)
    space.shell(f"{DELETE} --cascade=foreground")
    space.api.wait(
        f"/apis/batch/v1/namespaces/{space.name}/jobs",
        lambda job: job is None,
        "its Job is gone",
        WAIT_SECONDS,
        name="x",
    )
    assert space.bucket.etags(run.layout.base) == before, "No object came, went or changed."


def test_a_run_deleted_before_it_was_accepted_goes_at_once(space):
    run = space.run("x", nodePool={"ref": "no-such-pool"})
    run.wait_condition("Accepted", "False")
    space.shell("kubectl delete trun x --timeout=20s")
    assert not space.jobs()


def test_the_operator_deletes_only_what_is_the_runs_own(space):
    bystander = {
        "metadata": {"name": "bystander", "labels": {"app.kubernetes.io/instance": "x"}},
        "spec": {
            "securityContext": {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [
                {
                    "name": "sleep",
                    "image": space.ground.training_image,
                    "command": ["sleep", "600"],
                    "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                }
            ],
        },
    }
    space.api.create(f"/api/v1/namespaces/{space.name}/pods", bystander)
    run = space.run("x", "--epochs", "1", "--batch", "144", "--step-seconds", "0.05")
    run.wait_finished()
    run.assert_ended_once()
    assert [
        one.name for one in space.audit("delete", "pods") if one.user == OPERATOR_USER and one.name == "bystander"
    ] == []
    (left,) = space.pods()
    assert left["metadata"]["name"] == "bystander"
    assert "deletionTimestamp" not in left["metadata"]
