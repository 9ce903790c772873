"""Two runs on one node: it stays until the second has ended, and counts as gone only when its Node is gone too."""

from __future__ import annotations

import re

import pytest
from e2e.api import JSON_PATCH
from e2e.audit import OPERATOR_USER
from e2e.runs import condition_of
from waiting import eventually

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

LONG = ("--epochs", "200", "--step-seconds", "0.1")
FINALIZER = "e2e.trainingrun.dev/look-again"


def test_a_node_stays_until_the_last_run_on_it_has_ended(gpu_nodes, space):
    first = space.run("first", *LONG, gpus=4)
    node = first.wait_training()["spec"]["nodeName"]
    second = space.run("second", *LONG, gpus=4, pod={"nodeSelector": {"kubernetes.io/hostname": node}})
    assert second.wait_training()["spec"]["nodeName"] == node
    second.wait_commits()
    first.wait_commits()
    instance = second.wait(lambda s: s.get("nodes"), "its node is recorded")["nodes"][0]["providerID"].rpartition("/")[
        2
    ]

    first.merge({"spec": {"stop": True}})
    status = first.wait_finished()
    (kept,) = status["nodes"]
    assert (kept["name"], kept["phase"]) == (node, "Retained")
    assert re.search(r"/second-\w+ still runs on it", kept["message"]), f"It says who keeps the node: {kept['message']}"
    assert condition_of(status, "NodesReleased")["reason"] == "Retained"
    assert instance in space.cloud.running()
    taints = [taint["key"] for taint in space.api.get(f"/api/v1/nodes/{node}")["spec"].get("taints") or ()]
    assert "trainingrun.dev/releasing" not in taints, "Nobody is kept from a node that stays."

    # The Node outlives its machine, as when a cloud controller is slow: the operator removes it in the end, and waits until it is gone.
    finalizers = [{"op": "add", "path": "/metadata/finalizers", "value": [FINALIZER]}]
    space.api.request("PATCH", f"/api/v1/nodes/{node}", finalizers, JSON_PATCH)

    def let_go():
        if space.api.get(f"/api/v1/nodes/{node}"):
            space.api.merge(f"/api/v1/nodes/{node}", {"metadata": {"finalizers": None}})

    space.undo.append(let_go)
    second.merge({"spec": {"stop": True}})
    second.wait(
        lambda s: (s.get("nodes") or [{}])[0].get("phase") == "Verifying",
        "the machine goes, its Node is waited for",
    )
    eventually(
        lambda: [r for r in space.requests(node, '"delete"') if (r.user, r.resource) == (OPERATOR_USER, "nodes")],
        "the operator removes the Node whose machine is gone",
    )
    assert condition_of(second.status, "NodesReleased")["status"] == "False", "The machine is gone, the Node is not."
    assert instance not in space.cloud.running()
    let_go()
    status = second.wait_finished()
    assert [(one["name"], one["phase"]) for one in status["nodes"]] == [(node, "Released")]
    assert condition_of(status, "NodesReleased")["reason"] == "Released"
    assert space.api.get(f"/api/v1/nodes/{node}") is None
