"""A machine dies under its pods: what they had not saved is lost and said, nothing waits for them, and what trains goes on elsewhere."""

from __future__ import annotations

import pytest
from e2e.audit import OPERATOR_USER
from e2e.faults import hold_node
from e2e.runs import condition_of
from waiting import eventually

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

LONG = ("--epochs", "200", "--step-seconds", "0.1")


def test_a_machine_that_dies_under_a_stop_and_a_training(gpu_nodes, space):
    trains = space.run("trains", *LONG, gpus=4)
    pod = trains.wait_training()
    first, node = pod["metadata"]["name"], pod["spec"]["nodeName"]
    stops = space.run(
        "stops", *LONG, "--deaf", gpus=4, pod={"nodeSelector": {"kubernetes.io/hostname": node}},
        shutdown={"graceSeconds": 600},
    )  # fmt: skip
    stops.wait_training()
    for run in (trains, stops):
        run.wait_condition("CheckpointSaved")
    machine = stops.wait(lambda s: s.get("nodes"), "its node is recorded")["nodes"][0]["providerID"].rpartition("/")[2]
    stops.merge({"spec": {"stop": True}})
    stops.wait(lambda s: s.get("termination", {}).get("phase") == "Draining", "waiting for the training to exit")

    let_go = hold_node(space, node)
    space.cloud.scaling.terminate_instance_in_auto_scaling_group(
        InstanceId=machine, ShouldDecrementDesiredCapacity=True
    )

    lost = stops.wait(
        lambda s: s.get("termination", {}).get("phase") == "Releasing", "the stop does not wait for dead pods"
    )
    assert "files written after it are not in the bucket" in lost["termination"]["dataLoss"]
    assert lost["termination"]["saved"]["uri"] in lost["termination"]["dataLoss"], "It says what is left."
    trains.wait_condition("MetricsAvailable", "Unknown", "NodeLost")
    assert all(pod["status"]["phase"] == "Running" for pod in stops.pods()), "Nobody has told Kubernetes that it died."
    eventually(
        lambda: [
            one for one in space.requests(node, '"delete"') if (one.user, one.resource) == (OPERATOR_USER, "nodes")
        ],
        "the operator removes the Node whose machine is gone",
    )
    let_go()
    status = stops.wait_finished()
    assert (status["phase"], status["terminationStatus"]) == ("Stopped", "user_stop")
    assert condition_of(status, "CheckpointSaved")["reason"] == "DataLoss"
    assert status["checkpoint"]["dataLoss"] == lost["termination"]["dataLoss"]
    assert [(one["name"], one["phase"]) for one in status["nodes"]] == [(node, "Released")]
    assert stops.events("DataLoss")

    moved = trains.wait_training(but=(first,))
    trains.log.wait("resumed from checkpoint-")
    assert moved["spec"]["nodeName"] != node
    trains.merge({"spec": {"stop": True}})
    status = trains.wait_finished()
    trains.assert_checkpoint_proven(status)
    assert [(one["name"], one["phase"]) for one in status["nodes"]] == [
        (node, "Released"),
        (moved["spec"]["nodeName"], "Released"),
    ]
