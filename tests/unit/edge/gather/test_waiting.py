"""Waiting pods and the empty nodes of several runs and pools: every pod keeps at most one node, if its namespace and its needs allow it."""

from __future__ import annotations

from typing import Any

import pytest
from builders import make_node, make_pool
from fakes import ApiError, Plain, api_server, stored_node, stored_pod, stored_run

from trainingrun_operator.api import names
from trainingrun_operator.api.status import NodePhase, Phase
from trainingrun_operator.edge.cache import Cache
from trainingrun_operator.edge.gather.waiting import WaitingPods
from trainingrun_operator.edge.kube import Kube, KubeError

POOL = make_pool()
FENCED = make_pool("fenced", namespaceSelector={"matchLabels": {"team": "ml"}})
IGNORING = make_pool(ignorePods=[{"namespace": "team", "labels": {"app": "dns"}}])
GPU = {"name": "train", "resources": {"requests": {"nvidia.com/gpu": "1"}, "limits": {"nvidia.com/gpu": "1"}}}


@pytest.fixture
async def api():
    async with api_server() as api:
        for name, labels in (("team", {"team": "ml"}), ("stranger", {})):
            api.put(
                {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "uid": name, "labels": labels}}
            )
        yield api


@pytest.fixture
async def kube(api):
    async with Kube(Plain(api.url)) as kube:
        yield kube


@pytest.fixture
def cache():
    return Cache()


@pytest.fixture
def waiting(kube, cache):
    return WaitingPods(kube, cache)


def pod(name, namespace="team", *, spec=None, **meta):
    said: dict[str, Any] = {"name": name, "namespace": namespace, "uid": f"{namespace}-{name}", "labels": {}, **meta}
    made = {"nodeName": "", "containers": [GPU], **(spec or {})}
    return stored_pod(spec=made, status={"phase": "Pending", "conditions": []}, **said)


def node(number, **spec):
    return stored_node(name=f"gpu-{number}", uid=f"n{number}", spec=spec)


def releases(cache, number, phase=NodePhase.WAIT_IDLE, stop=Phase.RELEASING, **fields):
    """A run whose stop releases a node."""
    record = make_node(phase, name=f"gpu-{number}", uid=f"n{number}", **fields)
    status = {"termination": {"phase": stop.value}, "nodes": [record.dump()]}
    cache.put_run(stored_run(name=f"run-{number}", uid=f"run-{number}", status=status))


def run_of(number):
    return f"run-{number}"


async def look(waiting, number, pool=POOL, *, empty=True, **spec):
    found = await waiting.keeping(node(number, **spec), pool, run_of(number), empty=empty)
    return [each.key for each in found]


# -- one node -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stored", "pool", "keeps"),
    [
        pytest.param(pod("a"), POOL, True, id="a pod that fits"),
        pytest.param(pod("a", "stranger"), POOL, True, id="of any namespace, without a selector"),
        pytest.param(pod("a"), FENCED, True, id="of a namespace that the pool allows"),
        pytest.param(pod("a", "stranger"), FENCED, False, id="of one that it does not allow"),
        pytest.param(pod("a", "gone"), FENCED, False, id="of one that is gone"),
        pytest.param(pod("a", spec={"schedulingGates": [{"name": "x"}]}), POOL, False, id="gated"),
        pytest.param(pod("a", spec={"nodeSelector": {"pool": "h100"}}), POOL, False, id="for other nodes"),
        pytest.param(pod("a", spec={"containers": [{"name": "c"}]}), POOL, False, id="without a GPU"),
        pytest.param(pod("a", ownerReferences=[{"kind": "DaemonSet"}]), POOL, False, id="of a DaemonSet"),
        pytest.param(pod("a", labels={"app": "dns"}), IGNORING, False, id="one that the pool ignores"),
        pytest.param(pod("a", labels={"app": "web"}), IGNORING, True, id="one that the pool does not ignore"),
        pytest.param(pod("a", labels={names.RUN_UID_LABEL: "run-1"}), POOL, False, id="of the run itself"),
        pytest.param(pod("a", labels={names.RUN_UID_LABEL: "run-2"}), POOL, True, id="of another run"),
    ],
)
async def test_a_waiting_pod_keeps_an_empty_node(api, waiting, stored, pool, keeps):
    api.put(stored)
    assert bool(await look(waiting, 1, pool)) is keeps


async def test_an_occupied_node_is_kept_by_none(api, waiting):
    api.put(pod("a"))
    assert await look(waiting, 1, empty=False) == []
    assert api.sent == []


async def test_namespaces_are_read_once_a_look_and_only_if_the_pool_selects_by_them(api, waiting):
    api.put(*(pod(f"p{number}") for number in range(5)), pod("x", "stranger"))
    await look(waiting, 1)
    assert not [sent for sent in api.sent if "/namespaces/" in sent.path]
    await look(waiting, 1, FENCED)
    assert sorted(sent.path for sent in api.sent if "/namespaces/" in sent.path) == [
        "/api/v1/namespaces/stranger",
        "/api/v1/namespaces/team",
    ]


async def test_a_namespace_that_may_not_be_read_is_not_allowed(api, waiting):
    api.put(pod("a", "stranger"), pod("b"))
    api.refuse("GET /api/v1/namespaces/stranger", ApiError(403, "Forbidden"))
    assert await look(waiting, 1, FENCED) == ["team/b"]


async def test_a_namespace_that_cannot_be_read_now_ends_the_look(api, waiting):
    api.put(pod("a"))
    api.refuse("GET /api/v1/namespaces/team", ApiError(500, "InternalError"))
    with pytest.raises(KubeError):
        await look(waiting, 1, FENCED)


# -- several nodes ------------------------------------------------------------------------------------------------


async def test_one_pod_keeps_one_of_the_nodes_of_three_runs_and_pools(api, waiting, cache):
    api.put(pod("a"))
    pools = {1: POOL, 2: FENCED, 3: make_pool("third")}
    for number in pools:
        releases(cache, number)
    seen = [{number: await look(waiting, number, pool) for number, pool in pools.items()} for _ in range(3)]
    assert seen == [{1: ["team/a"], 2: [], 3: []}] * 3


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 2, 1), (2, 3, 1)])
async def test_all_runs_agree_in_whatever_order_they_look(api, waiting, cache, order):
    api.put(pod("a"), pod("b"))
    for number in order:
        releases(cache, number)
    for number in order:
        await look(waiting, number)
    seen = {number: await look(waiting, number) for number in order}
    assert [seen[number] for number in (1, 2, 3)] == [["team/a"], ["team/b"], []]


async def test_a_pod_that_fits_on_one_node_only_gets_that_one(api, waiting, cache):
    taint = {"key": "big", "effect": "NoSchedule"}
    api.put(pod("a", spec={"tolerations": [{"key": "big", "operator": "Exists"}]}), pod("b"))
    for number in (1, 2):
        releases(cache, number)
    await look(waiting, 1)
    await look(waiting, 2, taints=[taint])
    assert await look(waiting, 1) == ["team/b"]
    assert await look(waiting, 2, taints=[taint]) == ["team/a"]


@pytest.mark.parametrize(
    "leave",
    [
        pytest.param({"phase": NodePhase.RELEASING}, id="it is being released"),
        pytest.param({"phase": NodePhase.RETAINED}, id="it is kept for good"),
        pytest.param({"phase": NodePhase.CORDONED, "waited_out": True}, id="the pod has kept it long enough"),
        pytest.param({"stop": Phase.DONE}, id="its run is over"),
    ],
)
async def test_a_node_that_no_pod_can_keep_any_more_leaves_the_pod_to_another(api, waiting, cache, leave):
    api.put(pod("a"))
    for number in (1, 2):
        releases(cache, number)
    assert (await look(waiting, 1), await look(waiting, 2)) == (["team/a"], [])
    releases(cache, 1, **leave)
    assert await look(waiting, 2) == ["team/a"]


async def test_a_run_that_is_forgotten_leaves_the_pod_to_another(api, waiting, cache):
    api.put(pod("a"))
    for number in (1, 2):
        releases(cache, number)
    await look(waiting, 1)
    cache.forget_run(run_of(1))
    assert await look(waiting, 2) == ["team/a"]


@pytest.mark.parametrize("lost", [pytest.param(False, id="occupied"), pytest.param(True, id="gone")])
async def test_a_node_on_which_the_pod_cannot_start_leaves_it_to_another(api, waiting, cache, lost):
    api.put(pod("a"))
    for number in (1, 2):
        releases(cache, number)
    await look(waiting, 1)
    if lost:
        waiting.forget("n1")
    else:
        await look(waiting, 1, empty=False)
    assert await look(waiting, 2) == ["team/a"]


async def test_a_pod_that_has_started_keeps_no_node(api, waiting, cache):
    api.put(pod("a"))
    releases(cache, 1)
    assert await look(waiting, 1) == ["team/a"]
    api.put(pod("a", spec={"nodeName": "gpu-9"}))
    assert await look(waiting, 1) == []


async def test_no_more_nodes_are_kept_than_pods_wait(api, waiting, cache):
    api.put(*(pod(f"p{number}") for number in range(3)))
    for number in range(8):
        releases(cache, number)
    seen = [[number for number in range(8) if await look(waiting, number)] for _ in range(2)]
    assert seen == [[0, 1, 2]] * 2
