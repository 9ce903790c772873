"""The checkpoint-gate: keeps the pod Running until the operator opens the gate or the pod is terminated.

It is a regular container of every training pod, so it is small and uses the standard library only.
"""

from __future__ import annotations

import signal
import time
from pathlib import Path

from trainingrun_operator.api import names

POLL_SECONDS = 0.2
SIGTERMED = names.GATE_SIGTERMED
"""Exit code after SIGTERM. A terminated pod must not succeed, even if its training exits with 0, so that the Job replaces it."""


def is_released(annotations: str) -> bool:
    """Whether a downward-API annotations file carries ``trainingrun.dev/released``."""
    return any(line.startswith(names.OPEN_GATE_ANNOTATION + "=") for line in annotations.splitlines())


def _leave(*_: object) -> None:
    raise SystemExit(SIGTERMED)


def run(podinfo: Path | None = None) -> int:
    """Wait until the operator opens the gate (exit code 0) or SIGTERM arrives (`SIGTERMED`)."""
    file = (podinfo or Path(names.PODINFO_PATH)) / "annotations"
    try:
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, _leave)
        while not _look(file):
            time.sleep(POLL_SECONDS)
    except SystemExit:
        # Raised during the sleep: the gate exits at once and leaves the whole grace period to the agent.
        return 0 if _look(file) else SIGTERMED
    return 0


def _look(file: Path) -> bool:
    try:
        return is_released(file.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return False  # not projected yet
