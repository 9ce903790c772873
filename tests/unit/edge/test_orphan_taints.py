"""The taint of a run that does not exist any more is removed from its Node, and no other one is."""

from __future__ import annotations

import pytest
from builders import NODE_UID, RUN_UID
from fakes import NODE, ApiError, Plain, api_server, stored_node, stored_run

from trainingrun_operator.api import names
from trainingrun_operator.core.facts.nodes import NodeFacts
from trainingrun_operator.edge.background.taints import REMOVED, Taints
from trainingrun_operator.edge.cache import Cache
from trainingrun_operator.edge.clock import SystemClock
from trainingrun_operator.edge.gather.owners import Owners
from trainingrun_operator.edge.kube import Kube

RUNS = "GET /apis/trainingrun.dev/v1alpha1/trainingruns"
GPU = {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}


def of(owner):
    return {"key": names.RELEASING_TAINT, "value": owner, "effect": "NoSchedule"}


class Place:
    def __init__(self, api, kube):
        self.api, self.kube, self.cache, self.leads = api, kube, Cache(), True
        self.owners = Owners(kube, self.cache)
        self.taints = Taints(kube, self.owners, lambda: self.leads, SystemClock())

    async def sweep(self, *taints, name="gpu-1"):
        self.api.put(stored_node(spec={"taints": list(taints)}, name=name))
        await self.taints.sweep()
        return self.api.objects[f"/api/v1/nodes/{name}"]["spec"].get("taints")

    @property
    def events(self):
        return [sent.body for sent in self.api.sent if sent.method == "POST" and sent.line.endswith("/events")]


@pytest.fixture
async def place():
    async with api_server() as api, Kube(Plain(api.url)) as kube:
        yield Place(api, kube)


async def test_the_taint_of_a_run_that_is_gone_is_removed_and_told(place):
    assert await place.sweep(GPU, of("gone")) == [GPU]
    (event,) = place.events
    assert (event["reason"], event["type"]) == (REMOVED, "Warning")
    assert event["involvedObject"] == {"apiVersion": "v1", "kind": "Node", "name": "gpu-1", "uid": NODE_UID}
    assert "gone" in event["message"]


@pytest.mark.parametrize("cached", [True, False], ids=["of this operator", "of another operator"])
async def test_the_taint_of_a_run_that_exists_stays(place, cached):
    place.api.put(stored_run())
    if cached:
        place.cache.put_run(stored_run())
    assert await place.sweep(of(RUN_UID)) == [of(RUN_UID)]
    assert (RUNS in place.api.lines()) != cached
    assert place.events == []


@pytest.mark.parametrize("taints", [(), (GPU,)], ids=["none", "of others"])
async def test_other_taints_are_no_business_of_it(place, taints):
    assert await place.sweep(*taints) == list(taints)
    assert RUNS not in place.api.lines()


async def test_without_the_right_to_list_all_runs_a_taint_stays(place):
    place.api.refuse(RUNS, ApiError(403, "Forbidden"))
    assert await place.sweep(of("elsewhere")) == [of("elsewhere")]
    assert await place.sweep(of("elsewhere")) == [], "It is asked again."


async def test_only_the_leader_sweeps(place):
    place.leads = False
    assert await place.sweep(of("gone")) == [of("gone")]
    assert place.api.lines() == []


async def test_a_node_that_changed_meanwhile_is_left_for_the_next_sweep(place):
    place.api.refuse(f"PATCH {NODE}", ApiError(409, "Conflict"))
    assert await place.sweep(of("gone")) == [of("gone")]
    assert place.events == []
    assert await place.sweep(of("gone")) == []


async def test_it_is_written_with_the_version_that_was_read(place):
    await place.sweep(of("gone"))
    (patch,) = [sent for sent in place.api.sent if sent.method == "PATCH"]
    assert patch.body["metadata"] == {"uid": NODE_UID, "resourceVersion": "7"}


@pytest.mark.parametrize(
    ("owner", "orphaned"),
    [(None, False), (RUN_UID, False), ("other", False), ("gone", True)],
)
async def test_a_run_in_release_knows_a_taint_that_nobody_owns(place, owner, orphaned):
    place.api.put(stored_run(uid="other", name="other"))
    found = await place.owners.marked(RUN_UID, NodeFacts("gpu-1", NODE_UID, tainted_by=owner))
    assert found.taint_orphaned == orphaned


async def test_a_run_that_is_gone_never_comes_back(place):
    assert await place.owners.gone("gone")
    place.api.sent.clear()
    assert await place.owners.gone("gone")
    assert place.api.lines() == []
