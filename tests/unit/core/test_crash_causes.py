"""What the end of a crashed training's log is said to name."""

from __future__ import annotations

import pytest
from builders import POD_UID, exited_pod, make_observed, make_rank, make_run, make_status

from trainingrun_operator.api.status import CrashRow
from trainingrun_operator.core import crash_causes
from trainingrun_operator.core.crash_causes import in_log, sentence
from trainingrun_operator.core.decide import decide
from trainingrun_operator.core.effects import RecordEvent
from trainingrun_operator.core.rules import exits

GPU = "CUDA out of memory"


@pytest.mark.parametrize(
    ("line", "named"),
    [
        pytest.param("torch.cuda.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB (GPU 0; 79.1 GiB total)", GPU, id="torch 1 and 2.0"),
        pytest.param("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB.", GPU, id="torch 2.5"),
        pytest.param("RuntimeError: CUDA error: out of memory", GPU, id="the driver's own"),
        pytest.param("[rank3]: torch.OutOfMemoryError: HIP out of memory. Tried to allocate", GPU, id="of a rank, on ROCm"),
        pytest.param("RuntimeError: CUDA error: device-side assert triggered", "CUDA error: device-side assert triggered", id="an assertion"),
        pytest.param("RuntimeError: CUDA error: uncorrectable ECC error encountered", "CUDA error: uncorrectable ECC error encountered", id="a broken GPU"),
        pytest.param("RuntimeError: CUDA error: hf_secret_token", "CUDA error", id="a text that is not the driver's is not shown"),
        pytest.param("RuntimeError: cuDNN error: CUDNN_STATUS_EXECUTION_FAILED", "CUDA error", id="cuDNN"),
        pytest.param("RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", "CUDA error", id="cuBLAS"),
        pytest.param("torch.distributed.DistBackendError: NCCL error in: ../torch/csrc/distributed/c10d/ProcessGroupNCCL.cpp:1333, unhandled cuda error", "NCCL error", id="NCCL"),
        pytest.param("ncclRemoteError: A call failed possibly due to a network error", "NCCL error", id="NCCL's own names"),
        pytest.param("[Rank 1] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=5)", "NCCL error", id="NCCL's watchdog"),
        pytest.param("NVRM: Xid (PCI:0000:3b:00): 79, pid=1234, GPU has fallen off the bus.", "Xid 79", id="the kernel's message"),
        pytest.param("GPU 3 reported Xid: 48", "Xid 48", id="an Xid by its number"),
        pytest.param("jaxlib.xla_extension.XlaRuntimeError: RESOURCE_EXHAUSTED: Out of memory while trying to allocate 17179869184 bytes.", "out of memory in XLA (RESOURCE_EXHAUSTED)", id="jax"),
        pytest.param("RESOURCE_EXHAUSTED: Failed to allocate request for 1.00GiB on device ordinal 0", "out of memory in XLA (RESOURCE_EXHAUSTED)", id="PJRT"),
        pytest.param("tensorflow.python.framework.errors_impl.ResourceExhaustedError: OOM when allocating tensor with shape[8192]", "out of memory in TensorFlow (ResourceExhaustedError)", id="TensorFlow"),
        pytest.param("RuntimeError: DataLoader worker (pid 4711) is killed by signal: Killed.", "a data loader's worker was killed", id="a worker"),
        pytest.param("ERROR: Unexpected bus error encountered in worker. This might be caused by insufficient shared memory (shm).", "out of shared memory (/dev/shm)", id="shm"),
        pytest.param("[rank12]: MemoryError", "out of host memory (MemoryError)", id="Python, of a rank"),
        pytest.param("MemoryError", "out of host memory (MemoryError)", id="Python"),
        pytest.param("numpy.core._exceptions._ArrayMemoryError: Unable to allocate 30.5 GiB", "out of host memory (MemoryError)", id="numpy"),
    ],
)  # fmt: skip
def test_the_libraries_own_words_are_named(line, named):
    assert in_log(f"Traceback (most recent call last):\n  File train.py\n{line}\n") == named


@pytest.mark.parametrize(
    "line",
    [
        "",
        "ValueError: shapes do not match",
        "NCCL_ASYNC_ERROR_HANDLING=1",
        "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True",
        "CUDA errors are checked: no",
        "NCCL INFO error handling enabled",
        "grpc: StatusCode.RESOURCE_EXHAUSTED: message larger than max",
        "Xidentity 12",
        "class OurMemoryErrors",
    ],
)
def test_what_only_looks_alike_is_not_named(line):
    assert in_log(line) == ""


def test_the_first_causes_are_named_in_their_order():
    log = "torch.OutOfMemoryError: CUDA out of memory\nNCCL error in: x\nNCCL error in: y\nXid 31\nMemoryError\n"
    assert in_log(log) == "CUDA out of memory, then NCCL error, then Xid 31"


def test_only_the_end_of_a_log_is_searched():
    far = "CUDA out of memory\n" + "x" * crash_causes.SEARCHED_MAX
    assert in_log(far) == ""
    assert len(in_log("CUDA out of memory\nNCCL error in: x\n" * 10_000)) < 100


OF_LIMIT = "It used more host memory than its limit allows."
BY_ANOTHER = "It was killed (SIGKILL), and the kubelet does not say OOMKilled: by another process, or by the node for want of memory."


@pytest.mark.parametrize(
    ("pod", "cause", "said"),
    [
        pytest.param(exited_pod(1), "", "", id="nothing is known"),
        pytest.param(exited_pod(1), GPU, " The end of its log names: CUDA out of memory.", id="by the log"),
        pytest.param(exited_pod(137, exit_reason="OOMKilled"), "", f" {OF_LIMIT}", id="137, OOMKilled"),
        pytest.param(exited_pod(137), "", f" {BY_ANOTHER}", id="137 without a reason"),
        pytest.param(exited_pod(137, exit_reason="ContainerStatusUnknown"), "", "", id="137 with another reason"),
        pytest.param(exited_pod(137, exit_reason="OOMKilled"), GPU, f" The end of its log names: CUDA out of memory. {OF_LIMIT}", id="both"),
        pytest.param(None, "", "", id="no pod"),
    ],
)  # fmt: skip
def test_a_crash_is_told_with_its_cause(pod, cause, said):
    assert sentence(make_rank(pod=pod, crash_cause=cause)) == said


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ({"backoffLimit": 0}, "BackoffLimitExceeded"),
        ({"backoffLimit": 9}, "RestartsLeft"),
        ({"crash": {"fatalExitCodes": [1]}}, "FatalExitCode"),
        ({"crash": {"fatalLogPatterns": ["memory"]}}, "FatalLogPattern"),
        ({"crash": {"sameStepLimit": 1}}, "NoStepForward"),
    ],
)
def test_every_message_of_a_crash_has_the_cause_and_no_decision_depends_on_it(spec, reason):
    fields = {"pods": (exited_pod(1),), "fatal_pattern": "memory" if reason == "FatalLogPattern" else ""}
    row = CrashRow(pod_uid=POD_UID, step=15, without_step=2)
    run = make_run(spec=spec, status=make_status(crashes=row if reason == "NoStepForward" else None))
    found, without = (exits.crashed(make_observed(run=run, crash_cause=cause, **fields)) for cause in (GPU, ""))
    assert found is not None
    assert without is not None
    assert found.reason == reason
    assert "The end of its log names: CUDA out of memory." in found.message
    assert (without.reason, without.ending) == (found.reason, found.ending)
    assert "names" not in without.message.replace("which spec.crash.fatalExitCodes names", "")


def test_a_restart_is_told_with_the_cause():
    run = make_run(spec={"checkpoint": {"mode": "Disabled"}})
    decision = decide(make_observed(run=run, pods=(exited_pod(1),), crash_cause=GPU))
    told = [one.message for one in decision.effects if isinstance(one, RecordEvent) and one.reason == "Restarting"]
    assert [GPU in message for message in told] == [True]
