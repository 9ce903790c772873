"""What the end of a crashed training's log says about CUDA, NCCL and memory, in words for people. No decision depends on it.

Only these words are shown, never the log itself: a training may print secrets. The texts are those of the libraries' own sources: torch's
`c10/cuda/CUDAException.cpp` and `CUDACachingAllocator.cpp`, `torch/csrc/distributed/c10d/NCCLUtils.cpp`, XLA's status codes, TensorFlow's
`errors_impl.py`, and NVIDIA's list of Xid messages.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trainingrun_operator.core.facts.rank import Rank

SEARCHED_MAX: Final = 8192
"""Characters of the end of a log that are searched."""
NAMED_MAX: Final = 3
"""Causes that are named, the first ones: what follows is often the consequence."""
KILLED: Final = 137
"""Exit code of a process that got SIGKILL."""

_CUDA_ERRORS: Final = (
    "an illegal memory access was encountered",
    "an illegal instruction was encountered",
    "CUDA driver version is insufficient for CUDA runtime version",
    "device-side assert triggered",
    "initialization error",
    "invalid device ordinal",
    "misaligned address",
    "no CUDA-capable device is detected",
    "no kernel image is available for execution on the device",
    "the launch timed out and was terminated",
    "uncorrectable ECC error encountered",
    "uncorrectable NVLink error detected during the execution",
    "unspecified launch failure",
)
"""Texts of `cudaGetErrorString` that are shown. Any other text after ``CUDA error:`` is not."""
_GPU_MEMORY: Final = r"torch\.cuda\.OutOfMemoryError|torch\.OutOfMemoryError|CUDA out of memory|CUDA error: out of memory|CUDA_ERROR_OUT_OF_MEMORY|HIP out of memory"
_XLA_MEMORY: Final = r"(?:XlaRuntimeError|JaxRuntimeError): RESOURCE_EXHAUSTED|RESOURCE_EXHAUSTED: (?:[^\n]{0,80}\b[Oo]ut of memory|Failed to allocate)"
_NCCL: Final = (
    r"NCCL [Ee]rror(?: in)?[ :]|ncclSystemError|ncclInternalError|ncclUnhandledCudaError|ncclRemoteError|ncclInvalidUsage"
    r"|Watchdog caught collective operation timeout"
)
_CAUSES: Final = tuple(
    (name, re.compile(pattern))
    for name, pattern in (
        ("CUDA out of memory", _GPU_MEMORY),
        *((f"CUDA error: {text}", rf"CUDA error: {re.escape(text)}") for text in _CUDA_ERRORS),
        (
            "CUDA error",
            rf"CUDA error: (?!out of memory|{'|'.join(map(re.escape, _CUDA_ERRORS))})|CUDNN_STATUS_|CUBLAS_STATUS_",
        ),
        ("out of memory in XLA (RESOURCE_EXHAUSTED)", _XLA_MEMORY),
        (
            "out of memory in TensorFlow (ResourceExhaustedError)",
            r"\bResourceExhaustedError\b|OOM when allocating tensor",
        ),
        ("NCCL error", _NCCL),
        ("out of shared memory (/dev/shm)", r"out of shared memory|insufficient shared memory \(shm\)"),
        ("a data loader's worker was killed", r"DataLoader worker \(pid[^\n]{0,40}\) is killed by signal: Killed"),
        (
            "out of host memory (MemoryError)",
            r"(?m)^(?:\[rank\d{1,6}\]: )?(?:[\w.]{0,60}\.)?_?\w{0,20}MemoryError\b(?<!OutOfMemoryError)",
        ),
    )
)
_XID: Final = re.compile(r"\bXid(?: \(PCI:[0-9A-Fa-f:.]{1,20}\))?:? (\d{1,3})\b")


def in_log(log: str) -> str:
    """Return the causes that the end of a log names, in the order of their first lines; empty: none."""
    text = log[-SEARCHED_MAX:]
    found = sorted((match.start(), name) for name, pattern in _CAUSES if (match := pattern.search(text)))
    found = sorted([*found, *((match.start(), f"Xid {match[1]}") for match in [_XID.search(text)] if match)])
    return ", then ".join(name for _, name in found[:NAMED_MAX])


def sentence(rank: Rank) -> str:
    """Return the sentences about the cause of a crash, with a space before them; empty: nothing is known of it."""
    return "".join(f" {one}" for one in _sentences(rank))


def _sentences(rank: Rank) -> Iterator[str]:
    if rank.crash_cause:
        yield f"The end of its log names: {rank.crash_cause}."
    pod = rank.pod
    if pod is None or pod.exit_code != KILLED:
        return
    if pod.exit_reason.startswith("OOMKilled"):
        yield "It used more host memory than its limit allows."
    elif not pod.exit_reason:
        yield "It was killed (SIGKILL), and the kubelet does not say OOMKilled: by another process, or by the node for want of memory."
