"""A namespace is deleted with all that is in it: what cannot be proven any more is told, the node goes back, and nothing hangs."""

from __future__ import annotations

import pytest
from e2e.faults import kill_container
from e2e.runs import WAIT_SECONDS
from waiting import eventually

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

LONG = ("--epochs", "200", "--step-seconds", "0.1")
NAMESPACES = "/api/v1/namespaces"


def delete_namespace(space):
    """Kubernetes begins with the pods, and goes on to what else is there once the last is gone."""
    space.api.delete(f"{NAMESPACES}/{space.name}")
    eventually(lambda: all("deletionTimestamp" in pod["metadata"] for pod in space.pods()), "all pods are told to go")


def wait_gone(space):
    space.api.wait(NAMESPACES, lambda one: one is None, "the namespace is gone", WAIT_SECONDS, name=space.name)


def told_of(space):
    """Events about the namespace itself: those in it went with it."""
    return space.api.list(
        f"{NAMESPACES}/default/events", fieldSelector=f"involvedObject.kind=Namespace,involvedObject.name={space.name}"
    )


def test_a_namespace_is_not_held_by_a_bucket_that_cannot_be_reached(gpu_nodes, space, s3_proxy):
    run = space.run("x", *LONG, gpus=8, checkpoint={"s3": {"endpointURL": s3_proxy.url}})
    node = run.wait_training()["spec"]["nodeName"]
    run.wait_condition("CheckpointSaved")
    machine = run.wait(lambda s: s.get("nodes"), "its node is recorded")["nodes"][0]["providerID"].rpartition("/")[2]
    s3_proxy.cut()
    delete_namespace(space)
    run.log.wait_end()
    # For minutes the agent would go on trying to reach the bucket; deleting the pod by force shortens nothing, for the Job keeps it until it has failed.
    kill_container(run, "checkpoint-agent")
    wait_gone(space)

    (told,) = [event for event in told_of(space) if event["reason"] == "DataLoss"]
    assert f"TrainingRun {space.name}/x: Ended without proof (the namespace is being deleted" in told["message"]
    assert space.api.get(f"/api/v1/nodes/{node}") is None, "Its node was released before the last of it was gone."
    assert machine not in space.cloud.running()


def test_what_the_agent_saves_in_a_namespace_that_goes_is_proven_although_its_secret_is_gone(space):
    run = space.run("x", *LONG)
    run.wait_training()
    run.wait_condition("CheckpointSaved")
    delete_namespace(space)
    wait_gone(space)
    assert run.commits()[-1].final, "The agent saved with its grace."
    assert not told_of(space), "Nothing was lost, and nothing is said to be."
