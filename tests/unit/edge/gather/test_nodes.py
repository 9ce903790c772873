"""What is known of a node: whatever cannot be read counts against releasing it."""

from __future__ import annotations

from typing import Any

import pytest
from builders import EARLIER, NODE_UID, PROVIDER_ID, RUN_UID, make_node, make_pool, occupant
from fakes import ApiError, FakeProvider, Plain, api_server, stored_node, stored_pod

from trainingrun_operator.api import names
from trainingrun_operator.api.status import RefusalKind
from trainingrun_operator.core.facts.nodes import Instance, NodeFacts, Occupant, Refusal
from trainingrun_operator.edge.cache import Cache
from trainingrun_operator.edge.gather.nodes import gather, identity
from trainingrun_operator.edge.gather.waiting import WaitingPods
from trainingrun_operator.edge.kube import Kube, KubeError
from trainingrun_operator.edge.nodes.provider import Denied
from trainingrun_operator.edge.nodes.registry import Registry

OURS = {"key": names.RELEASING_TAINT, "value": RUN_UID, "effect": "NoSchedule"}
GPU = {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}
SILENT = stored_node(status={"conditions": [{"type": "Ready", "status": "Unknown"}]})
OF_NOBODY: dict[str, Any] = {"labels": {}, "ownerReferences": []}


@pytest.fixture
async def api():
    async with api_server(stored_node()) as api:
        yield api


@pytest.fixture
async def kube(api):
    async with Kube(Plain(api.url)) as kube:
        yield kube


@pytest.fixture
def provider():
    return FakeProvider()


@pytest.fixture
def waiting_pods(kube):
    return WaitingPods(kube, Cache())


@pytest.fixture
def look(kube, provider, waiting_pods):
    def look(*, node=None, pool=None):
        return gather(kube, lambda _: provider, waiting_pods, RUN_UID, node or make_node(), pool or make_pool())

    return look


async def test_who_a_node_is(api, kube):
    api.put(stored_node(spec={"taints": [GPU, OURS]}))
    assert await identity(kube, "gpu-1") == NodeFacts(
        name="gpu-1", uid=NODE_UID, provider_id=PROVIDER_ID, labels={"pool": "a100"}, gpus=8, tainted_by=RUN_UID
    )


@pytest.mark.parametrize(
    ("capacity", "gpus"),
    [({"amd.com/gpu": "4", "cpu": "8"}, 4), ({"cpu": "8"}, 0), ({"nvidia.com/gpu": "many"}, 0), (None, 0)],
    ids=["of another vendor", "none", "no number", "nothing is shown"],
)
async def test_how_many_gpus_a_node_has(api, kube, capacity, gpus):
    api.put(stored_node(status={"capacity": capacity}))
    found = await identity(kube, "gpu-1")
    assert found is not None
    assert found.gpus == gpus


async def test_a_node_that_is_not_there_is_nobody(kube):
    assert await identity(kube, "gpu-9") is None


async def test_an_empty_node_whose_machine_runs(look, provider):
    assert await look() == NodeFacts(
        name="gpu-1",
        uid=NODE_UID,
        provider_id=PROVIDER_ID,
        labels={"pool": "a100"},
        gpus=8,
        occupants=(),
        instance=Instance.RUNNING,
    )


@pytest.mark.parametrize("pool", [pytest.param("a100", id="deleted"), pytest.param("", id="never known")])
async def test_without_its_pool_the_node_is_read_all_the_same_and_no_provider_is_asked(api, kube, waiting_pods, pool):
    api.put(stored_node(spec={"taints": [GPU, OURS]}))
    found = await gather(kube, Registry({}), waiting_pods, RUN_UID, make_node(pool=pool), None)
    assert found == NodeFacts(
        name="gpu-1",
        uid=NODE_UID,
        provider_id=PROVIDER_ID,
        labels={"pool": "a100"},
        gpus=8,
        tainted_by=RUN_UID,
        pool_missing=pool != "",
    )


@pytest.mark.parametrize(
    "nodes",
    [
        pytest.param([], id="gone"),
        pytest.param([stored_node(uid="another", spec={"providerID": "aws:///x", "taints": [OURS]})], id="replaced"),
    ],
)
async def test_without_its_pool_another_node_of_the_name_is_not_taken_for_it(api, kube, waiting_pods, nodes):
    api.objects.clear()
    api.put(*nodes)
    found = await gather(kube, Registry({}), waiting_pods, RUN_UID, make_node(), None)
    assert found == NodeFacts(name="gpu-1", provider_id=PROVIDER_ID, pool_missing=True)


@pytest.mark.parametrize(
    ("node", "asked"),
    [
        pytest.param([], make_node(), id="gone"),
        pytest.param(
            [stored_node(uid="another", spec={"providerID": "aws:///us-east-1a/i-0fedcba9876543210"})],
            make_node(),
            id="replaced by another of its name",
        ),
    ],
)
async def test_a_node_that_is_not_the_one_recorded_has_no_uid(api, look, provider, node, asked):
    api.objects.clear()
    api.put(*node)
    provider.state = Instance.TERMINATING
    found = await look(node=asked)
    assert (found.uid, found.provider_id, found.instance) == (None, asked.provider_id, Instance.TERMINATING)
    assert not any(sent.query.get("fieldSelector", "").startswith("spec.nodeName=,") for sent in api.sent)


async def test_a_node_that_was_made_anew_for_the_same_machine_is_seen_under_its_new_uid(api, look, provider):
    api.put(stored_node(uid="anew"), stored_pod(**{"name": "notebook", "namespace": "team", **OF_NOBODY}))
    found = await look()
    assert (found.uid, [one.name for one in found.occupants]) == ("anew", ["notebook"])


# -- occupants ----------------------------------------------------------------------------------------------------

IGNORED: dict[str, Any] = {"ignorePods": [{"namespace": "kube-system", "labels": {"app": "dns"}}]}


@pytest.mark.parametrize(
    ("pod", "keeps"),
    [
        pytest.param({}, True, id="a running pod keeps its node"),
        pytest.param({"status": {"phase": "Pending"}}, True, id="one that starts keeps it"),
        pytest.param({"deletionTimestamp": "2026-01-01T00:00:00Z"}, True, id="one that is being deleted keeps it"),
        pytest.param({"status": {"phase": "Unknown"}}, True, id="one of which nobody knows keeps it"),
        pytest.param({"status": {"phase": "Succeeded"}}, False, id="a finished one does not"),
        pytest.param({"status": {"phase": "Failed"}}, False, id="a failed one does not"),
        pytest.param({"ownerReferences": [{"kind": "DaemonSet"}]}, False, id="a DaemonSet's does not"),
        pytest.param({"ownerReferences": [{"kind": "ReplicaSet"}]}, True, id="a ReplicaSet's does"),
        pytest.param({"annotations": {"kubernetes.io/config.mirror": "x"}}, False, id="a static one does not"),
        pytest.param(
            {"namespace": "kube-system", "labels": {"app": "dns", "more": "x"}}, False, id="an ignored one does not"
        ),
        pytest.param({"namespace": "team", "labels": {"app": "dns"}}, True, id="ignored is by namespace too"),
        pytest.param({"namespace": "kube-system", "labels": {"app": "web"}}, True, id="ignored is by label too"),
        pytest.param({"spec": {"nodeName": "gpu-2"}}, False, id="one on another node does not"),
    ],
)
async def test_who_keeps_a_node(api, look, provider, pod, keeps):
    api.put(stored_pod(**{"name": "notebook", "namespace": "team", **OF_NOBODY, **pod}))
    found = await look(pool=make_pool(**IGNORED))
    assert [one.name for one in found.occupants] == (["notebook"] if keeps else [])


@pytest.mark.parametrize(
    ("node", "pod", "keeps"),
    [
        pytest.param(SILENT, {"deletionTimestamp": EARLIER}, False, id="our own, Terminating on a node that has fallen silent"),
        pytest.param(SILENT, {}, True, id="our own, not told to go"),
        pytest.param(SILENT, {"deletionTimestamp": EARLIER, "labels": {names.RUN_UID_LABEL: "other"}}, True, id="another run's"),
        pytest.param(stored_node(), {"deletionTimestamp": EARLIER}, True, id="our own, Terminating on a node that answers"),
    ],
)  # fmt: skip
async def test_a_pod_that_only_its_nodes_end_can_end_does_not_keep_it(api, look, provider, node, pod, keeps):
    api.put(node, stored_pod(**pod))
    assert bool((await look()).occupants) is keeps


async def test_a_pod_of_another_run_is_known_as_such(api, look, provider):
    api.put(stored_pod(name="theirs", labels={names.RUN_UID_LABEL: "other"}))
    assert (await look()).occupants == (Occupant("ml", "theirs", "other"),)


async def test_pods_that_cannot_be_listed_count_as_occupied(api, look, provider):
    api.refuse("GET /api/v1/pods", ApiError(500, "InternalError"))
    assert (await look()).occupants is None


async def test_a_node_that_cannot_be_read_ends_the_look(api, look, provider):
    api.refuse("GET /api/v1/nodes/gpu-1", ApiError(500, "InternalError"))
    with pytest.raises(KubeError):
        await look()


# -- demand -------------------------------------------------------------------------------------------------------


def waiting(**meta):
    gpu = {"name": "train", "resources": {"limits": {"nvidia.com/gpu": "1"}, "requests": {"nvidia.com/gpu": "1"}}}
    said = {"name": "waits", "namespace": "team", "uid": "waits", **OF_NOBODY, **meta}
    unschedulable = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
    return stored_pod(
        spec={"nodeName": "", "containers": [gpu], "nodeSelector": {"pool": "a100"}},
        status={"phase": "Pending", "conditions": [unschedulable], "containerStatuses": []},
        **said,
    )


async def test_pods_that_wait_for_such_a_node_are_demand_though_it_carries_our_taint(api, look, provider):
    api.put(waiting(), stored_node(spec={"taints": [OURS]}))
    assert (await look()).demand == (occupant("waits"),)


async def test_a_taint_of_others_that_a_pod_does_not_tolerate_is_no_demand(api, look, provider):
    api.put(waiting(), stored_node(spec={"taints": [GPU]}))
    assert (await look()).demand == ()


async def test_our_own_pods_are_no_demand(api, look, provider):
    api.put(waiting(labels={names.RUN_UID_LABEL: RUN_UID}))
    assert (await look()).demand == ()


async def test_an_occupied_node_is_kept_by_no_waiting_pod(api, look, provider):
    api.put(waiting(), stored_pod(**{"name": "notebook", "namespace": "team", **OF_NOBODY}))
    assert (await look()).demand == ()


# -- the machine --------------------------------------------------------------------------------------------------


async def test_the_minimum_is_asked_for_a_machine_that_runs(look, provider):
    provider.minimum = True
    assert (await look()).at_minimum is True


@pytest.mark.parametrize("state", [Instance.GONE, Instance.TERMINATING, Instance.UNKNOWN])
async def test_the_minimum_is_not_asked_for_one_that_does_not(look, provider, state):
    provider.minimum, provider.state = True, state
    found = await look()
    assert (found.at_minimum, found.instance) == (False, state)


async def test_a_cloud_that_refuses_leaves_the_machine_unknown_with_its_words(look, provider):
    provider.trouble = Denied("The operator may not ask: allow autoscaling:Describe*.")
    found = await look()
    said = "The operator may not ask: allow autoscaling:Describe*."
    assert (found.instance, found.refusal) == (Instance.UNKNOWN, Refusal(RefusalKind.DENIED, said))
