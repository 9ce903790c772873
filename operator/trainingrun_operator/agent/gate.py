"""The checkpoint-gate: keeps the pod Running until the operator has released it, or the pod is being ended.

Rides as a regular container in every training pod, so it is the standard library only, and small.
"""

from __future__ import annotations

import signal
import threading
from pathlib import Path

from trainingrun_operator.api import names

POLL_SECONDS = 0.2


def is_released(annotations: str) -> bool:
    """Whether a downward-API annotations file carries ``trainingrun.dev/released``."""
    return any(line.startswith(names.RELEASED_ANNOTATION + "=") for line in annotations.splitlines())


def run(podinfo: Path | None = None) -> int:
    """Wait for the release or for SIGTERM; both end in 0, because the gate never has an opinion of its own."""
    ended = threading.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: ended.set())
    file = (podinfo or Path(names.PODINFO_PATH)) / "annotations"
    while not ended.wait(POLL_SECONDS):
        try:
            text = file.read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue  # not projected yet
        if is_released(text):
            break
    return 0
