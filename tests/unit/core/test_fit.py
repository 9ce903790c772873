"""Whether a pod waits for a node and fits on it when it is empty, as the scheduler sees it."""

from __future__ import annotations

import pytest

from trainingrun_operator.core.fit import Offer, fits, waits

GPU_TAINT = {"key": "nvidia.com/gpu", "value": "true", "effect": "NoSchedule"}
TOLERATES = {"tolerations": [{"key": "nvidia.com/gpu", "operator": "Equal", "value": "true", "effect": "NoSchedule"}]}
ALLOCATABLE = {"nvidia.com/gpu": "8", "cpu": "15800m", "memory": "64Gi", "ephemeral-storage": "100G", "broken": "many"}


def container(gpus=None, *, requests=None, limits=None, **fields):
    gpu = {"nvidia.com/gpu": gpus} if gpus is not None else {}
    return {"name": "c", "resources": {"limits": {**gpu, **(limits or {})}, "requests": requests or {}}, **fields}


def pod(gpus="1", *, meta=None, status=None, containers=None, **spec):
    made = containers or [container(gpus) if gpus else {"name": "c", "resources": None}]
    return {
        "metadata": {"name": "p", **(meta or {})},
        "spec": {"containers": made, **spec},
        "status": status or {"phase": "Pending"},
    }


def offer(*taints, **labels):
    return Offer("gpu-1", {"pool": "a100", "slots": "8", "zone": "a", **labels}, taints, ALLOCATABLE)


def affinity(*terms):
    return {
        "affinity": {
            "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [*terms]}}
        }
    }


def term(key, operator, *values, field="matchExpressions"):
    return {field: [{"key": key, "operator": operator, **({"values": [*values]} if values else {})}]}


@pytest.mark.parametrize(
    ("stored", "waiting"),
    [
        pytest.param(pod(), True, id="one that is pending"),
        pytest.param({"metadata": {}, "spec": pod()["spec"]}, True, id="one without a status yet"),
        pytest.param(pod(nodeName="gpu-2"), False, id="one that has a node"),
        pytest.param(pod(status={"phase": "Running"}), False, id="one that runs"),
        pytest.param(pod(status={"phase": "Failed"}), False, id="one that failed without a node"),
        pytest.param(pod(meta={"deletionTimestamp": "now"}), False, id="one that is being deleted"),
        pytest.param(pod(schedulingGates=[{"name": "kueue"}]), False, id="one that is gated"),
        pytest.param(pod(schedulingGates=[]), True, id="one whose gates are open"),
    ],
)
def test_waits(stored, waiting):
    assert waits(stored) is waiting


@pytest.mark.parametrize(
    ("stored", "fit"),
    [
        pytest.param(pod(), True, id="one GPU"),
        pytest.param({"metadata": {}}, False, id="without anything"),
        pytest.param(pod("8"), True, id="all GPUs"),
        pytest.param(pod("9"), False, id="more GPUs"),
        pytest.param(pod(None), False, id="no GPU"),
        pytest.param(pod("0"), False, id="zero GPUs"),
        pytest.param(pod("1k"), False, id="a thousand GPUs in its own way"),
        pytest.param(pod("some"), False, id="an amount that cannot be read"),
        pytest.param(pod(containers=[container(limits={"amd.com/gpu": "1"})]), False, id="GPUs of another maker"),
        pytest.param(pod(containers=[container("4"), container("5")]), False, id="too many over its containers"),
        pytest.param(pod(containers=[container("1", requests={"cpu": "15800m"})]), True, id="all CPUs"),
        pytest.param(pod(containers=[container("1", requests={"cpu": "15801m"})]), False, id="more CPUs"),
        pytest.param(pod(containers=[container("1", requests={"cpu": "1e3"})]), False, id="CPUs with an exponent"),
        pytest.param(pod(containers=[container("1", requests={"memory": "65536Mi"})]), True, id="all memory, in another unit"),
        pytest.param(pod(containers=[container("1", requests={"memory": "64.5Gi"})]), False, id="more memory"),
        pytest.param(pod(containers=[container("1", requests={"memory": "1E"})]), False, id="an exabyte"),
        pytest.param(pod(containers=[container("1", requests={"memory": "1"}, limits={"memory": "1Ti"})]), True, id="a limit beyond the node, a request within"),
        pytest.param(pod(containers=[container("1", limits={"memory": "1Ti"})]), False, id="a limit is the request where there is none"),
        pytest.param(pod(containers=[container("1", requests={"rdma/hca": "1"})]), False, id="a resource that the node does not have"),
        pytest.param(pod(containers=[container("1", requests={"rdma/hca": "0"})]), True, id="none of a resource that the node does not have"),
        pytest.param(pod(containers=[container("1", requests={"broken": "1"})]), False, id="a resource whose amount on the node cannot be read"),
        pytest.param(pod(initContainers=[container("9")]), False, id="an init container that needs more"),
        pytest.param(pod("8", initContainers=[container("8")]), True, id="an init container that needs all before the others start"),
        pytest.param(pod("8", initContainers=[container("1", restartPolicy="Always")]), False, id="a sidecar that needs one more"),
        pytest.param(pod("1", initContainers=[container("4", restartPolicy="Always"), container("5")]), False, id="an init container beside a sidecar"),
        pytest.param(pod("1", initContainers=[container("5"), container("4", restartPolicy="Always")]), True, id="an init container before a sidecar"),
        pytest.param(pod(overhead={"memory": "65Gi"}), False, id="an overhead beyond the node"),
        pytest.param(pod(resources={"requests": {"cpu": "99"}}), False, id="a request of the whole pod"),
    ],
)  # fmt: skip
def test_fits_by_its_requests(stored, fit):
    assert fits(stored, offer()) is fit


@pytest.mark.parametrize(
    ("spec", "fit"),
    [
        pytest.param({"nodeSelector": {"pool": "a100"}}, True, id="a selector of this pool"),
        pytest.param({"nodeSelector": {"pool": "h100"}}, False, id="a selector of another"),
        pytest.param({"affinity": {"nodeAffinity": {}}}, True, id="affinity without requirements"),
        pytest.param({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{}]}}}, True, id="affinity to pods is not evaluated"),
        pytest.param(affinity(), False, id="no term"),
        pytest.param(affinity({}), False, id="an empty term"),
        pytest.param(affinity(term("pool", "In", "a100", "h100")), True, id="in"),
        pytest.param(affinity(term("pool", "In", "h100")), False, id="not one of these"),
        pytest.param(affinity(term("no-such", "In", "x")), False, id="a label that the node does not have"),
        pytest.param(affinity(term("pool", "NotIn", "a100")), False, id="not in, and it is"),
        pytest.param(affinity(term("no-such", "NotIn", "x")), True, id="not in, and it does not have it"),
        pytest.param(affinity(term("pool", "Exists")), True, id="exists"),
        pytest.param(affinity(term("no-such", "Exists")), False, id="exists, and does not"),
        pytest.param(affinity(term("no-such", "DoesNotExist")), True, id="does not exist"),
        pytest.param(affinity(term("pool", "DoesNotExist")), False, id="does not exist, and does"),
        pytest.param(affinity(term("slots", "Gt", "7")), True, id="greater"),
        pytest.param(affinity(term("slots", "Gt", "8")), False, id="equal is not greater"),
        pytest.param(affinity(term("slots", "Lt", "9")), True, id="less"),
        pytest.param(affinity(term("slots", "Lt", "8")), False, id="equal is not less"),
        pytest.param(affinity(term("zone", "Gt", "7")), False, id="no number is not greater"),
        pytest.param(affinity(term("no-such", "Lt", "7")), False, id="nothing is not less"),
        pytest.param(affinity(term("slots", "Gt", "7", "8")), False, id="greater than two"),
        pytest.param(affinity(term("pool", "Like", "a*")), True, id="an operator of a later version"),
        pytest.param(affinity(term("metadata.name", "In", "gpu-1", field="matchFields")), True, id="this node by name"),
        pytest.param(affinity(term("metadata.name", "In", "gpu-2", field="matchFields")), False, id="another by name"),
        pytest.param(affinity(term("pool", "In", "h100"), term("zone", "In", "a")), True, id="one of two terms"),
        pytest.param(affinity({**term("pool", "In", "a100"), **term("metadata.name", "In", "x", field="matchFields")}), False, id="half a term"),
    ],
)  # fmt: skip
def test_fits_by_where_it_may_be(spec, fit):
    assert fits(pod(**spec), offer()) is fit


@pytest.mark.parametrize(
    ("spec", "taint", "fit"),
    [
        pytest.param({}, GPU_TAINT, False, id="not tolerated"),
        pytest.param(TOLERATES, GPU_TAINT, True, id="tolerated"),
        pytest.param({"tolerations": [{"operator": "Exists"}]}, GPU_TAINT, True, id="everything is tolerated"),
        pytest.param({"tolerations": [{"key": "nvidia.com/gpu", "value": "no"}]}, GPU_TAINT, False, id="another value"),
        pytest.param({"tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoExecute"}]}, GPU_TAINT, False, id="another effect"),
        pytest.param({"tolerations": [{"key": "dedicated", "operator": "Exists"}]}, GPU_TAINT, False, id="another taint"),
        pytest.param({}, {"key": "slow", "effect": "PreferNoSchedule"}, True, id="one that only prefers"),
    ],
)  # fmt: skip
def test_fits_by_taints(spec, taint, fit):
    assert fits(pod(**spec), offer(taint)) is fit


def test_a_pod_that_tolerates_everything_and_can_be_nowhere_fits_nowhere():
    parked = pod(tolerations=[{"operator": "Exists"}], **affinity(term("no-such", "Exists")))
    assert waits(parked)
    assert not fits(parked, offer(GPU_TAINT))


def test_what_a_node_offers_is_read_without_one_taint():
    ours = {"key": "ours", "effect": "NoSchedule"}
    node = {"metadata": {"name": "n", "labels": {"a": "b"}}, "spec": {"taints": [ours, GPU_TAINT]}, "status": {"allocatable": {"cpu": "1"}}}  # fmt: skip
    assert Offer.of(node, but="ours") == Offer("n", {"a": "b"}, (GPU_TAINT,), {"cpu": "1"})
    assert Offer.of({"metadata": {"name": "n"}}) == Offer("n")
