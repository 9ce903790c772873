"""Pods from which nothing is heard: what is asked about them, and when it is believed."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from builders import (
    EARLIER,
    NODE_UID,
    PROVIDER_ID,
    WALL,
    make_agent,
    make_node,
    make_pod,
    make_pool,
    make_run,
    make_status,
)
from fakes import NODE, FakeProvider, Plain, api_server, stored_node

from trainingrun_operator.core.facts.gathered import Facts, Source
from trainingrun_operator.core.facts.nodes import Instance, NodeFacts
from trainingrun_operator.core.facts.rank import by_rank
from trainingrun_operator.core.memory import Memory, remember
from trainingrun_operator.edge.gather import lost
from trainingrun_operator.edge.kube import Kube
from trainingrun_operator.edge.nodes.provider import Refused

SILENT_NODE = {"conditions": [{"type": "Ready", "status": "Unknown"}]}


@pytest.fixture
async def place():
    """A run whose only pod has fallen silent a while ago."""
    provider = FakeProvider(state=Instance.GONE)
    async with api_server(stored_node(status=SILENT_NODE)) as api, Kube(Plain(api.url)) as kube:
        run = make_run(status=make_status(nodes=(make_node(),)))
        place = SimpleNamespace(
            api=api, memory=Memory(), provider=provider, run=run, pods=(make_pod(),), now=1000.0, agent=None
        )

        async def look(seconds=lost.SILENT_SECONDS):
            place.now += seconds
            api.sent.clear()
            pools, reports = {"a100": make_pool()}, {0: place.agent} if place.agent is not None else {}
            ranks = by_rank(place.pods, 1)
            fates, asked = await lost.ask(
                kube, lambda _: provider, place.run, ranks, pools, place.memory, place.now, heard=reports
            )
            pods = lost.with_fates(place.pods, fates)
            read = frozenset({Source.FATES} if asked else ())
            facts = Facts(place.run, WALL, read=read, pods=pods, reports=reports, fates=fates)
            place.memory, seen = remember(place.memory, facts, place.now)
            return seen.pods

        await look()
        place.look = look
        yield place


async def test_a_silent_node_whose_machine_is_gone_has_lost_its_pod(place):
    (pod,) = await place.look()
    assert (pod.unreachable, pod.lost, pod.terminal) == (True, True, True)
    assert place.memory.fates[pod.uid].node == NodeFacts("gpu-1", NODE_UID, PROVIDER_ID, instance=Instance.GONE)


async def test_a_pod_that_is_heard_of_costs_nothing(place):
    place.agent = make_agent()
    (pod,) = await place.look()
    assert (pod.unreachable, pod.lost) == (False, False)
    assert place.api.sent == []


async def test_a_short_silence_costs_nothing(place):
    place.agent = make_agent()
    await place.look()
    place.agent = None
    for _ in range(lost.SILENT_SECONDS):
        await place.look(1)
        assert place.api.sent == []
    await place.look(1)
    assert place.api.lines() == [f"GET {NODE}"]


async def test_what_was_answered_is_believed_for_a_while(place):
    await place.look()
    (pod,) = await place.look(lost.LOOK_SECONDS - 1)
    assert pod.lost
    assert place.api.sent == []
    await place.look(1)
    assert place.api.lines() == [f"GET {NODE}"]


@pytest.mark.parametrize(
    ("node", "state", "fate"),
    [
        pytest.param(stored_node(), Instance.GONE, (False, False), id="its Node is Ready: whatever the provider says"),
        pytest.param(stored_node(status=SILENT_NODE), Instance.RUNNING, (True, False), id="its machine runs: only cut off"),
        pytest.param(stored_node(status=SILENT_NODE), Instance.TERMINATING, (True, False), id="its machine still goes"),
        pytest.param(stored_node(status=SILENT_NODE), Instance.UNKNOWN, (True, False), id="nobody knows its machine"),
        pytest.param(stored_node(deletionTimestamp=EARLIER), Instance.GONE, (True, True), id="its Node is being removed"),
        pytest.param(None, Instance.GONE, (True, True), id="its Node is gone"),
        pytest.param(stored_node(uid="another", status=SILENT_NODE), Instance.GONE, (True, False), id="a Node that was never recorded"),
    ],
)  # fmt: skip
async def test_what_a_pod_is_taken_for(place, node, state, fate):
    place.api.objects.clear()
    if node is not None:
        place.api.put(node)
    place.provider.state = state
    (pod,) = await place.look()
    assert (pod.unreachable, pod.lost) == fate


async def test_a_provider_that_refuses_proves_nothing(place):
    place.provider.trouble = Refused("is it the right account?")
    (pod,) = await place.look()
    assert (pod.unreachable, pod.lost) == (True, False)


async def test_without_a_pool_nobody_can_say_that_a_machine_is_gone(place):
    place.run = make_run(status=make_status(nodes=(make_node(pool=""),)))
    (pod,) = await place.look()
    assert (pod.unreachable, pod.lost) == (True, False)


async def test_an_older_pod_that_lingers_is_asked_about_although_the_newest_speaks(place):
    place.pods = (make_pod(name="old", uid="old", deleting=True), make_pod(node="gpu-2"))
    place.agent = make_agent()
    old, new = await place.look()
    assert (old.lost, new.lost) == (True, False)


@pytest.mark.parametrize(
    "pod",
    [pytest.param(make_pod(node=""), id="on no node yet"), pytest.param(make_pod(phase="Failed"), id="over already")],
)
async def test_a_pod_that_cannot_be_lost_costs_nothing(place, pod):
    place.pods = (pod,)
    await place.look()
    assert place.api.sent == []
