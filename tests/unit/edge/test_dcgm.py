"""What a page of NVIDIA's DCGM exporter shows of the GPUs of each pod.

The pages are as the exporter renders them: the template ``gpuMetricsFormat`` in ``internal/pkg/rendermetrics/render_metrics.go`` of NVIDIA/dcgm-exporter,
with the labels of ``internal/pkg/transformation`` last, and with the names and help texts of ``etc/default-counters.csv``.
"""

from __future__ import annotations

import pytest

from trainingrun_operator.core.facts.gpus import Gpu
from trainingrun_operator.edge.metrics.dcgm import merge, parse

NOW = 1_790_000_000.0
UUIDS = ("GPU-604ac76c-d9cf-fef3-62e9-d92044ab6e52", "GPU-8f1f4d06-07fd-27a7-52d5-e58aa060d256")
PAGE = """\
# HELP DCGM_FI_DEV_SM_CLOCK SM clock frequency (in MHz).
# TYPE DCGM_FI_DEV_SM_CLOCK gauge
DCGM_FI_DEV_SM_CLOCK{{gpu="0",UUID="{0}",pci_bus_id="00000000:1B:00.0",device="nvidia0",modelName="NVIDIA H100 80GB HBM3",Hostname="gpu-1",DCGM_FI_DRIVER_VERSION="535.129.03",container="train",namespace="ml",pod="bert-0-x7k2p"}} 345
# HELP DCGM_FI_DEV_POWER_USAGE Power draw (in W).
# TYPE DCGM_FI_DEV_POWER_USAGE gauge
DCGM_FI_DEV_POWER_USAGE{{gpu="0",UUID="{0}",pci_bus_id="00000000:1B:00.0",device="nvidia0",modelName="NVIDIA H100 80GB HBM3",Hostname="gpu-1",DCGM_FI_DRIVER_VERSION="535.129.03",container="train",namespace="ml",pod="bert-0-x7k2p"}} 69.183000
DCGM_FI_DEV_POWER_USAGE{{gpu="1",UUID="{1}",pci_bus_id="00000000:43:00.0",device="nvidia1",modelName="NVIDIA H100 80GB HBM3",Hostname="gpu-1",DCGM_FI_DRIVER_VERSION="535.129.03",container="train",namespace="ml",pod="bert-0-x7k2p"}} 641.530000
DCGM_FI_DEV_POWER_USAGE{{gpu="2",UUID="GPU-f3a2185e",pci_bus_id="00000000:52:00.0",device="nvidia2",modelName="NVIDIA H100 80GB HBM3",Hostname="gpu-1",DCGM_FI_DRIVER_VERSION="535.129.03"}} 70.100000
# HELP DCGM_FI_DEV_GPU_UTIL GPU utilization (in %).
# TYPE DCGM_FI_DEV_GPU_UTIL gauge
DCGM_FI_DEV_GPU_UTIL{{gpu="0",UUID="{0}",pci_bus_id="00000000:1B:00.0",device="nvidia0",modelName="NVIDIA H100 80GB HBM3",Hostname="gpu-1",DCGM_FI_DRIVER_VERSION="535.129.03",container="train",namespace="ml",pod="bert-0-x7k2p"}} 0
DCGM_FI_DEV_GPU_UTIL{{gpu="1",UUID="{1}",pci_bus_id="00000000:43:00.0",device="nvidia1",modelName="NVIDIA H100 80GB HBM3",Hostname="gpu-1",DCGM_FI_DRIVER_VERSION="535.129.03",container="train",namespace="ml",pod="bert-0-x7k2p"}} 97
DCGM_FI_DEV_GPU_UTIL{{gpu="2",UUID="GPU-f3a2185e",pci_bus_id="00000000:52:00.0",device="nvidia2",modelName="NVIDIA H100 80GB HBM3",Hostname="gpu-1",DCGM_FI_DRIVER_VERSION="535.129.03"}} 0
""".format(*UUIDS)  # fmt: skip
OF_POD = 'namespace="ml",pod="bert-0"'


def read(page, *, federated=False):
    found = parse(page.encode(), now=NOW, federated=federated)
    return {pod: [shown.gpu for shown in devices.values()] for pod, devices in found.items()}


def one(labels=OF_POD, util="0", power="61.5", uuid="GPU-1"):
    """A page with one GPU."""
    return (
        f'DCGM_FI_DEV_GPU_UTIL{{gpu="0",UUID="{uuid}",{labels}}} {util}\n'
        f'DCGM_FI_DEV_POWER_USAGE{{gpu="0",UUID="{uuid}",{labels}}} {power}\n'
    )


def test_the_gpus_of_a_pod_and_no_others():
    assert read(PAGE) == {("ml", "bert-0-x7k2p"): [Gpu(0.0, 69.183), Gpu(97.0, 641.53)]}


def test_the_page_of_an_exporter_without_kubernetes_has_no_pod():
    assert read('DCGM_FI_DEV_GPU_UTIL{gpu="0", UUID="GPU-1"} 0\n') == {}
    assert read(one(labels='container="",namespace="",pod=""')) == {}
    assert read("") == {}


@pytest.mark.parametrize(
    ("util", "expected"),
    [
        pytest.param("9223372036854775794", None, id="DCGM's number for no value, 64 bits"),
        pytest.param("2147483632", None, id="DCGM's number for no value, 32 bits"),
        pytest.param("140737488355328.000000", None, id="DCGM's number for no value, floating point"),
        pytest.param("ERROR - FAILED TO CONVERT TO STRING", None, id="the exporter's words for no value"),
        pytest.param("NaN", None, id="not a number"),
        pytest.param("+Inf", None, id="infinite"),
        pytest.param("-1", None, id="negative"),
        pytest.param("101", None, id="more than all"),
        pytest.param("", None, id="nothing"),
        pytest.param("idle", None, id="a word"),
        pytest.param("3.5e0", 3.5, id="a number with an exponent"),
        pytest.param("3\r", 3.0, id="a line that ends as on Windows"),
    ],
)
def test_a_value_that_cannot_be_right_is_not_shown(util, expected):
    assert read(one(util=util)) == {("ml", "bert-0"): [Gpu(expected, 61.5)]}


@pytest.mark.parametrize("power", ["-3", "NaN", "9223372036854775794", "1e300"])
def test_a_power_that_cannot_be_right_is_not_shown(power):
    assert read(one(power=power)) == {("ml", "bert-0"): [Gpu(0.0, None)]}


def test_a_value_that_cannot_be_right_hides_no_gpu_behind_one_that_can():
    page = one(util="NaN") + one(util="0")
    assert read(page) == {("ml", "bert-0"): [Gpu(None, 61.5)]}
    assert read(one(util="0") + one(util="80")) == {("ml", "bert-0"): [Gpu(80.0, 61.5)]}


def test_slices_of_a_gpu_are_told_apart_and_measured_by_their_activity():
    page = "".join(
        f'DCGM_FI_PROF_GR_ENGINE_ACTIVE{{gpu="0",UUID="GPU-1",device="nvidia0",GPU_I_PROFILE="1g.10gb",GPU_I_ID="{number}",Hostname="gpu-1",{OF_POD}}} {value}\n'
        for number, value in ((7, "0.000000"), (8, "0.914000"))
    )
    assert read(page) == {("ml", "bert-0"): [Gpu(0.0, None), Gpu(91.4, None)]}
    assert read(page.replace("0.914000", "1.5")) == {("ml", "bert-0"): [Gpu(0.0, None), Gpu(None, None)]}


def test_the_higher_of_both_measures_of_utilization_counts():
    active = f'DCGM_FI_PROF_GR_ENGINE_ACTIVE{{gpu="0",UUID="GPU-1",{OF_POD}}} 0.5\n'
    assert read(one() + active) == {("ml", "bert-0"): [Gpu(50.0, 61.5)]}


def test_shares_of_a_gpu_are_told_apart():
    page = one(labels=f'vgpu="0",{OF_POD}') + one(labels=f'vgpu="1",{OF_POD}')
    assert len(read(page)[("ml", "bert-0")]) == 2


def test_gpus_without_an_id_are_told_apart_by_node_and_number():
    page = "".join(
        f'DCGM_FI_DEV_GPU_UTIL{{gpu="{gpu}",Hostname="{host}",{OF_POD}}} 0\n' for host in "ab" for gpu in "01"
    )
    assert len(read(page)[("ml", "bert-0")]) == 4


def test_a_prometheus_has_renamed_the_labels():
    exported = 'instance="10.0.0.9:9400",namespace="gpu-operator",pod="nvidia-dcgm-exporter-j2p5m",exported_namespace="ml",exported_pod="bert-0"'
    assert list(read(one(labels=exported), federated=True)) == [("ml", "bert-0")]
    unused = 'instance="10.0.0.9:9400",namespace="gpu-operator",pod="nvidia-dcgm-exporter-j2p5m"'
    assert list(read(one(labels=unused), federated=True)) == [("gpu-operator", "nvidia-dcgm-exporter-j2p5m")]
    assert list(read(one(), federated=True)) == [("ml", "bert-0")], "honorLabels"


def test_labels_of_a_pod_do_not_make_a_gpu_that_of_another_pod():
    """An exporter may show labels of pods, and Prometheus renames once more what is there already."""
    forged = f'exported_namespace="vision",exported_pod="victim",{OF_POD}'
    assert list(read(one(labels=forged))) == [("ml", "bert-0")]
    renamed = 'namespace="gpu-operator",pod="x",exported_namespace="vision",exported_pod="victim",exported_exported_pod="bert-0"'
    assert read(one(labels=renamed), federated=True) == {}


@pytest.mark.parametrize(
    ("age", "expected"), [(0, 0.0), (119, 0.0), (121, None), (-121, None)], ids=["now", "recent", "old", "to come"]
)
def test_a_value_with_a_time_counts_while_it_is_fresh(age, expected):
    page = one(util=f"0 {int((NOW - age) * 1000)}")
    assert read(page, federated=True) == {("ml", "bert-0"): [Gpu(expected, 61.5)]}


@pytest.mark.parametrize(
    "labels",
    [
        pytest.param('modelName="a \\"quoted\\" name, with } and {",' + OF_POD, id="quotes and braces in a label"),
        pytest.param('namespace = "ml" , pod = "bert-0" ,', id="spaces, and a comma at the end"),
    ],
)
def test_labels_as_the_format_allows_them(labels):
    assert read(one(labels=labels)) == {("ml", "bert-0"): [Gpu(0.0, 61.5)]}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        pytest.param(
            f'DCGM_FI_DEV_GPU_UTIL{{{OF_POD},broken="', {("ml", "bert-0"): [Gpu()]}, id="a label that does not end"
        ),
        pytest.param(f"DCGM_FI_DEV_GPU_UTIL{{{OF_POD}", {}, id="a page that was cut off in a label"),
        pytest.param(f'DCGM_FI_DEV_GPU_UTIL{{{OF_POD},x="{"y" * 9000}"}} 0', {}, id="a line that is too long"),
        pytest.param(f"# DCGM_FI_DEV_GPU_UTIL{{{OF_POD}}} 0", {}, id="a comment"),
        pytest.param(f"DCGM_FI_DEV_GPU_UTIL_MAX{{{OF_POD}}} 0", {}, id="another name"),
        pytest.param("DCGM_FI_DEV_GPU_UTIL 0", {}, id="no labels"),
    ],
)
def test_lines_that_say_nothing(line, expected):
    assert read(line) == expected


def test_a_hostile_page_costs_one_pass():
    hostile = [
        "DCGM_FI_DEV_GPU_UTIL{" * 200_000,
        'DCGM_FI_DEV_GPU_UTIL{a="' + '\\"' * 1_500_000,
        "DCGM_FI_DEV_GPU_UTIL{\n" * 150_000,
        ('DCGM_FI_DEV_GPU_UTIL{x="' + "y" * 8000 + "\n") * 500,
    ]
    for page in hostile:
        assert read(page) == {}


def test_the_busier_page_counts():
    page, other = (parse(one(util=util).encode(), now=NOW, federated=False) for util in ("0", "80"))
    more = parse(one(uuid="GPU-2").encode(), now=NOW, federated=False)
    merge(page, other)
    merge(page, more)
    assert [shown.gpu for shown in page[("ml", "bert-0")].values()] == [Gpu(80.0, 61.5), Gpu(0.0, 61.5)]
