"""Which waiting pod keeps which empty node: every pod at most one, and all looks agree."""

from __future__ import annotations

import pytest
from builders import occupant

from trainingrun_operator.api.template import gpus_of
from trainingrun_operator.core.demand import kept

A, B, C = (occupant(name) for name in ("a", "b", "c"))


@pytest.mark.parametrize(
    ("fitting", "keeps"),
    [
        pytest.param({}, {}, id="no node"),
        pytest.param({"n1": ()}, {}, id="no pod"),
        pytest.param({"n1": (A,)}, {"n1": A}, id="one pod, one node"),
        pytest.param({"n1": (A, B)}, {"n1": A}, id="two pods, one node"),
        pytest.param({"n2": (A,), "n1": (A,)}, {"n1": A}, id="one pod, two nodes: the first by uid"),
        pytest.param({"n1": (A, B), "n2": (A, B), "n3": (A, B)}, {"n1": A, "n2": B}, id="two pods, three nodes"),
        pytest.param({"n1": (A, B), "n2": (A,)}, {"n1": B, "n2": A}, id="a pod that fits elsewhere makes room"),
        pytest.param({"n1": (A, B), "n2": (A, C), "n3": (A,)}, {"n1": B, "n2": C, "n3": A}, id="two make room"),
        pytest.param({"n1": (A, B), "n2": (B, C), "n3": (A,)}, {"n1": B, "n2": C, "n3": A}, id="one makes room for the next"),
        pytest.param({"n1": (A,), "n2": (A,), "n3": (B,)}, {"n1": A, "n3": B}, id="a node in between is not kept"),
    ],
)  # fmt: skip
def test_every_pod_keeps_at_most_one_node(fitting, keeps):
    assert kept(fitting) == keeps


def test_many_nodes_that_want_the_same_pods_are_told_without_recursion():
    pods = tuple(occupant(f"p{number:04}") for number in range(400))
    fitting = {f"n{number:04}": pods[: number + 1] for number in range(500)}
    assert len(kept(fitting)) == 400


def test_gpus_of_all_containers_are_added_up():
    pod = {
        "spec": {
            "containers": [
                {"resources": {"limits": {"nvidia.com/gpu": 2, "cpu": "4"}}},
                {"resources": None},
                {"resources": {"limits": {"amd.com/gpu": "1"}}},
            ]
        }
    }
    assert gpus_of(pod) == 3
