"""The checkpoint-gate: keeps the pod Running until the operator has released it, or the pod is being ended.

Rides as a regular container in every training pod, so it is the standard library only, and small.
"""

from __future__ import annotations

import signal
import time
from pathlib import Path

from trainingrun_operator.api import names

POLL_SECONDS = 0.2
SIGTERMED = names.GATE_SIGTERMED
"""A pod that is ended from outside must not count as succeeded, even if its training leaves with 0: the Job replaces it."""


def is_released(annotations: str) -> bool:
    """Whether a downward-API annotations file carries ``trainingrun.dev/released``."""
    return any(line.startswith(names.OPEN_GATE_ANNOTATION + "=") for line in annotations.splitlines())


def _leave(*_: object) -> None:
    raise SystemExit(SIGTERMED)


def run(podinfo: Path | None = None) -> int:
    """Wait for the release, which ends in 0, or for SIGTERM, which does not."""
    file = (podinfo or Path(names.PODINFO_PATH)) / "annotations"
    try:
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, _leave)
        while not _look(file):
            time.sleep(POLL_SECONDS)
    except SystemExit:
        # Raised out of the sleep, so that the gate costs the agent none of the pod's grace.
        return 0 if _look(file) else SIGTERMED
    return 0


def _look(file: Path) -> bool:
    try:
        return is_released(file.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return False  # not projected yet
