"""Somebody wants the node: evictions are refused while they would cost bytes, and cost no more than steps when they are not."""

from __future__ import annotations

import contextlib
import subprocess

import pytest
from e2e.api import ApiError
from e2e.runs import WAIT_SECONDS
from waiting import eventually

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

# Nothing of it is proven before the test orders a save, and everything is proven after that.
TOLD = ("--epochs", "200", "--step-seconds", "0.05", "--save-when-told")


def budgets(space):
    return f"/apis/policy/v1/namespaces/{space.name}/poddisruptionbudgets"


def wait_guarded(run):
    """Until a budget stands and Kubernetes has counted the pod in it."""
    run.api.wait(
        budgets(run.space),
        lambda one: one is not None and one["status"].get("expectedPods") == 1,
        f"{run.name} is guarded",
        WAIT_SECONDS,
        name=f"{run.name}-checkpoint",
    )


def refusal_of_eviction(space, pod):
    """Ask for an eviction as `kubectl drain` does; None if it was granted."""
    body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": space.name}}
    try:
        space.api.create(f"/api/v1/namespaces/{space.name}/pods/{pod}/eviction", body)
    except ApiError as error:
        return error
    return None


@contextlib.contextmanager
def begun(space, command):
    """Let a command run beside what follows; gives the lines that it prints, to both streams, as they come."""
    process = subprocess.Popen(
        ["bash", "-c", f"exec {command}"],
        env=space.environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process.stdout
        assert process.wait(WAIT_SECONDS) == 0
    finally:
        process.kill()
        process.communicate()


def test_an_eviction_is_refused_while_bytes_are_unsaved_and_costs_only_steps_when_all_is_proven(space):
    run = space.run("x", *TOLD, backoffLimit=0)
    first = run.wait_training()["metadata"]["name"]
    wait_guarded(run)
    refused = refusal_of_eviction(space, first)
    assert refused is not None, "Nothing was saved yet, and the eviction was granted."
    assert refused.status == 429
    assert "disruption budget" in refused.message
    assert "deletionTimestamp" not in run.pods()[0]["metadata"]

    run.order("save", first)
    run.wait_commits()
    granted = "an eviction is granted between two checkpoints"
    eventually(lambda: refusal_of_eviction(space, first) is None, granted, WAIT_SECONDS)
    second = run.wait_training(but=(first,))["metadata"]["name"]
    run.log.wait("resumed from checkpoint-")
    wait_guarded(run)
    refused = refusal_of_eviction(space, second)
    assert refused is not None, "A pod that has not saved anything of its own yet was evicted."
    assert refused.status == 429

    run.merge({"spec": {"stop": True}})
    status = run.wait_finished()
    assert status["terminationStatus"] == "user_stop", "An eviction is no crash: it costs none of the attempts."
    run.assert_checkpoint_proven(status)
    assert not run.api.list(budgets(space)), "Nothing is guarded any more."
    run.assert_ended_once()


def test_a_run_without_checkpoints_is_guarded_by_nobody(space):
    run = space.run("x", *TOLD, checkpoint={"mode": "Disabled", "destination": None, "s3": None})
    run.wait_training()
    run.wait_step(20)
    assert not run.api.list(budgets(space))


def test_a_drain_waits_for_the_checkpoint_and_the_training_goes_on_elsewhere(gpu_nodes, space):
    run = space.run("x", *TOLD, gpus=8)
    pod = run.wait_training()
    first, node = pod["metadata"]["name"], pod["spec"]["nodeName"]
    wait_guarded(run)
    # As on any node, but for pods of others: no test drains those.
    drain = f"kubectl drain {node} --ignore-daemonsets --delete-emptydir-data --pod-selector={run.selector}"
    space.undo.append(lambda: space.shell(f"kubectl uncordon {node} || true"))
    with begun(space, f"{drain} --timeout={WAIT_SECONDS}s") as drains:
        assert any("disruption budget" in line for line in drains), "It is refused, and tries again."
        run.order("save", first)
        assert f"{first} evicted" in "".join(drains), "It is granted."
    moved = run.wait_training(but=(first,))
    assert moved["spec"]["nodeName"] != node
    run.log.wait("resumed from checkpoint-")

    run.merge({"spec": {"stop": True}})
    status = run.wait_finished()
    run.assert_checkpoint_proven(status)
    assert [(one["name"], one["phase"]) for one in status["nodes"]] == [
        (node, "Released"),
        (moved["spec"]["nodeName"], "Released"),
    ], "Both nodes are given back, the drained one too."
