"""Somebody wants the node: evictions are refused while they would cost bytes, and cost no more than steps when they are not."""

from __future__ import annotations

import pytest
from e2e.api import ApiError
from waiting import eventually

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

# A checkpoint every 20 s: in between, all of it is proven for a while.
SELDOM = ("--epochs", "200", "--step-seconds", "0.05", "--save-every", "400")


def budgets(space):
    return f"/apis/policy/v1/namespaces/{space.name}/poddisruptionbudgets"


def wait_guarded(run):
    """Until a budget stands and Kubernetes has counted the pod in it."""
    run.api.wait(
        budgets(run.space),
        lambda one: one is not None and one["status"].get("expectedPods") == 1,
        f"{run.name} is guarded",
        60,
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


def test_an_eviction_is_refused_while_bytes_are_unsaved_and_costs_only_steps_when_all_is_proven(space):
    run = space.run("x", *SELDOM, backoffLimit=0)
    first = run.wait_training()["metadata"]["name"]
    wait_guarded(run)
    refused = refusal_of_eviction(space, first)
    assert refused is not None, "Nothing was saved yet, and the eviction was granted."
    assert refused.status == 429
    assert "disruption budget" in refused.message
    assert "deletionTimestamp" not in run.pods()[0]["metadata"]

    run.wait_commits()
    eventually(lambda: refusal_of_eviction(space, first) is None, "an eviction is granted between two checkpoints", 60)
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
    run = space.run("x", *SELDOM, checkpoint={"mode": "Disabled", "destination": None, "s3": None})
    run.wait_training()
    run.wait_step(20)
    assert not run.api.list(budgets(space))


def test_a_drain_waits_for_the_checkpoint_and_the_training_goes_on_elsewhere(gpu_nodes, space):
    run = space.run("x", *SELDOM, gpus=8)
    pod = run.wait_training(timeout=180)
    first, node = pod["metadata"]["name"], pod["spec"]["nodeName"]
    wait_guarded(run)
    # As on any node, but for pods of others: no test drains those.
    drain = f"kubectl drain {node} --ignore-daemonsets --delete-emptydir-data --pod-selector={run.selector}"
    space.undo.append(lambda: space.shell(f"kubectl uncordon {node} || true"))
    said = space.shell(f"{drain} --timeout=2s", fails=True)
    assert "disruption budget" in said

    run.wait_commits()
    space.shell(f"{drain} --timeout=90s", seconds=100)
    moved = run.wait_training(but=(first,), timeout=180)
    assert moved["spec"]["nodeName"] != node
    run.log.wait("resumed from checkpoint-")

    run.merge({"spec": {"stop": True}})
    status = run.wait_finished(180)
    run.assert_checkpoint_proven(status)
    assert [(one["name"], one["phase"]) for one in status["nodes"]] == [
        (node, "Released"),
        (moved["spec"]["nodeName"], "Released"),
    ], "Both nodes are given back, the drained one too."
