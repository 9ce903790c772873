"""What is read of a rescue: the claim, the Node of its volume, the Job and its pod."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from builders import (
    EARLIER,
    NAME,
    NAMESPACE,
    NODE_UID,
    RUN_UID,
    STOP_ID,
    finished_pod,
    make_agent,
    make_node,
    make_run,
    make_status,
    make_stop,
    template,
)
from fakes import ApiError, ApiServer, Plain, api_server, stored_job, stored_node, stored_pod

from trainingrun_operator.api import names
from trainingrun_operator.api.status import PodStatus, Rescue
from trainingrun_operator.core.facts.pod import Training
from trainingrun_operator.core.facts.rescue import Claim, RescueJob
from trainingrun_operator.edge.gather.rescue import RescueReader
from trainingrun_operator.edge.kube import Kube, KubeError

CLAIM = {
    "apiVersion": "v1",
    "kind": "PersistentVolumeClaim",
    "metadata": {"name": "checkpoints", "namespace": NAMESPACE, "uid": "claim-uid", "creationTimestamp": EARLIER},
    "spec": {"accessModes": ["ReadWriteOnce"], "volumeName": "pv-1"},
    "status": {"phase": "Bound"},
}
ON_A_DISK = {"key": "kubernetes.io/hostname", "operator": "In", "values": ["gpu-1"]}
VOLUME = {
    "apiVersion": "v1",
    "kind": "PersistentVolume",
    "metadata": {"name": "pv-1", "uid": "pv-uid"},
    "spec": {"nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [ON_A_DISK]}]}}},
}
BEGUN = Rescue(claim="checkpoints")
DEAD = (finished_pod(137),)


def a_run(*, rescue=None, status=None):
    pod = template(volumes=[{"name": "data", "persistentVolumeClaim": {"claimName": "checkpoints"}}])
    pod["spec"]["containers"][0]["volumeMounts"] = [{"name": "data", "mountPath": "/checkpoints"}]
    return make_run(spec={"template": pod}, status=make_status(termination=make_stop(rescue=rescue), **(status or {})))


def rescue_job(stop_id=STOP_ID):
    return stored_job(name=f"{NAME}-rescue", uid="rescue-uid", labels={names.RESCUE_LABEL: stop_id})


def rescue_pod(name="a", *, owner="rescue-uid", label=STOP_ID, phase="Running", created=EARLIER):
    return stored_pod(
        name=f"{NAME}-rescue-{name}",
        uid=f"pod-{name}",
        creationTimestamp=created,
        labels=names.child_labels(NAME, RUN_UID) | {names.RESCUE_LABEL: label},
        ownerReferences=[{"apiVersion": "batch/v1", "kind": "Job", "name": f"{NAME}-rescue", "uid": owner}],
        spec={"containers": [{"name": names.AGENT_CONTAINER}]},
        status={"phase": phase, "podIP": "10.0.0.9", "containerStatuses": []},
    )


class Pages:
    """Agents that answer."""

    async def report(self, pod):
        return make_agent(pod_uid=pod.uid)

    async def poll(self, run, pod):
        raise AssertionError("nothing trains in a rescue pod")


@dataclass
class Look:
    """Reads with what is stored."""

    api: ApiServer
    kube: Kube

    async def __call__(self, *stored, run=None, pods=DEAD, reads_nodes=True):
        self.api.put(*stored)
        return await RescueReader(self.kube, Pages(), reads_nodes=reads_nodes).look(run or a_run(), pods)


@pytest.fixture
async def look():
    async with api_server(CLAIM, VOLUME, stored_node()) as api, Kube(Plain(api.url)) as kube:
        yield Look(api, kube)


async def test_the_claim_its_volume_and_the_node_of_the_last_pod(look):
    found = await look()
    assert found.claim == Claim("checkpoints", "claim-uid", "Bound", ("ReadWriteOnce",), "pv-1", EARLIER)
    assert (found.hosts, found.last_node, found.home) == (("gpu-1",), "gpu-1", "gpu-1")
    assert (found.job, found.pod, found.left) == (None, None, False)


async def test_nothing_is_asked_where_nothing_is_to_be_rescued(look):
    assert await look(run=make_run()) is None
    assert look.api.sent == []


async def test_a_claim_that_is_gone_is_said_so_and_an_error_is_not_taken_for_it(look):
    look.api.refuse("GET .*/persistentvolumeclaims/checkpoints", ApiError(500, "InternalError"))
    with pytest.raises(KubeError):
        await look()
    look.api.objects.pop(f"/api/v1/namespaces/{NAMESPACE}/persistentvolumeclaims/checkpoints")
    assert (await look()).claim == Claim("checkpoints")


async def test_without_rights_on_nodes_none_is_read(look):
    found = await look(reads_nodes=False)
    assert (found.hosts, found.last_node, found.home) == ((), "gpu-1", "")
    assert not [line for line in look.api.lines() if "/nodes/" in line or "/persistentvolumes/" in line]


@pytest.mark.parametrize(
    "node",
    [
        pytest.param(stored_node(status={"conditions": [{"type": "Ready", "status": "Unknown"}]}), id="it does not answer"),
        pytest.param(stored_node(spec={"unschedulable": True}), id="it is cordoned"),
        pytest.param(stored_node(uid="another"), id="it is another machine of the same name"),
    ],
)  # fmt: skip
async def test_a_node_that_takes_no_pods_is_no_home(look, node):
    found = await look(node, run=a_run(status={"nodes": (make_node(uid=NODE_UID),)}))
    assert (found.last_node, found.home) == ("gpu-1", "")


@pytest.mark.parametrize(
    "source", [{"nfs": {"server": "n", "path": "/"}}, {"hostPath": {"path": "/data"}}], ids=lambda one: next(iter(one))
)
async def test_a_volume_without_a_claim_needs_none(look, source):
    pod = template(volumes=[{"name": "data", **source}])
    pod["spec"]["containers"][0]["volumeMounts"] = [{"name": "data", "mountPath": "/checkpoints"}]
    run = a_run()
    found = await look(run=replace(run, spec=make_run(spec={"template": pod}).spec))
    assert (found.claim, found.volume.source) == (None, source)
    assert (found.hosts, found.last_node, found.home) == (("gpu-1",) if "hostPath" in source else (), "gpu-1", "gpu-1")
    assert not [line for line in look.api.lines() if "persistentvolume" in line]


async def test_another_machine_of_the_same_name_is_said_so(look):
    run = a_run(status={"nodes": (make_node(uid=NODE_UID),)})
    assert not (await look(run=run)).other_machine
    assert (await look(stored_node(uid="another"), run=run)).other_machine
    del look.api.objects["/api/v1/nodes/gpu-1"]
    assert not (await look(run=run)).other_machine, "It may only be registered again."


async def test_the_last_node_is_known_after_its_pods(look):
    run = a_run(status={"pods": (PodStatus(name="p", uid="u", node="gpu-1"),)})
    assert (await look(run=run, pods=())).home == "gpu-1"
    assert (await look(pods=())).last_node == ""


@pytest.mark.parametrize(
    ("rescue", "nodes", "last"),
    [
        pytest.param(Rescue(node="gpu-1"), (), "gpu-1", id="the rescue has named it"),
        pytest.param(
            Rescue(node="gpu-2"), (make_node(),), "gpu-2", id="the rescue knows better than the list of nodes"
        ),
        pytest.param(None, (make_node(),), "gpu-1", id="the run has used one node"),
        pytest.param(None, (make_node(), make_node(name="gpu-2", uid="n2")), "", id="the run has used two"),
    ],
)
async def test_the_last_node_is_known_once_the_status_has_forgotten_the_pod(look, rescue, nodes, last):
    assert (await look(run=a_run(rescue=rescue, status={"nodes": nodes}), pods=())).last_node == last


async def test_its_job_and_the_newest_of_its_own_pods(look):
    later = rescue_pod("b", created="2026-01-02T03:03:00Z")
    others = (
        rescue_pod("c", owner="another", created="2026-01-02T03:04:00Z"),
        rescue_pod("d", label="suspend-x", created="2026-01-02T03:04:00Z"),
        stored_pod(),
    )
    found = await look(rescue_job(), rescue_pod(phase="Failed"), later, *others, run=a_run(rescue=BEGUN))
    assert found.job == RescueJob(f"{NAME}-rescue", "rescue-uid", STOP_ID, generation=1)
    assert (found.pod.uid, found.pod.training, found.report.pod_uid) == ("pod-b", Training.EXITED, "pod-b")
    assert (found.left, found.saves) == (True, True)


@pytest.mark.parametrize("phase", ["Pending", "Failed"])
async def test_a_pod_that_does_not_run_saves_nothing(look, phase):
    found = await look(rescue_job(), rescue_pod(phase=phase), run=a_run(rescue=BEGUN))
    assert (found.saves, found.pod.training) == (False, Training.NOT_STARTED)


async def test_pods_that_outlive_their_job_are_seen(look):
    found = await look(rescue_pod(), run=a_run(rescue=BEGUN))
    assert (found.job, found.left) == (None, True)
