"""Keeps collections of garbage short: what has survived a full collection is left out of the next ones.

A collection holds the event loop. A full one visits every object, so with thousands of runs it takes a tenth of a second and more.
Reference counts still free objects that are left out. Garbage in a cycle that was left out, such as a connection in use at that moment, stays until
memory runs short: then one full collection visits everything.
"""

from __future__ import annotations

import gc
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

KEPT_MAX: Final = 10_000
"""Survivors that the next full collection may visit again. With fewer nothing is left out, so that what dies soon is collected."""
THRESHOLDS: Final = (700, 10, 3)
"""Of `gc.set_threshold`: the first two are Python's. At most 700 x 11 x 4 new objects wait for a full collection; a busy core takes 0.6 us for each."""
SHORT_OF_MEMORY: Final = 0.85
"""Share of the memory limit above which a full collection visits everything."""
GROWTH: Final = 0.05
"""Share of the memory limit by which memory has grown since the last of those: one that found little garbage is not repeated, as it takes a second."""
THAW_SECONDS: Final = 600
"""Between two of those without growth: freed memory is used again before the process grows."""
UNLIMITED_BYTES: Final = 2**30
"""Taken for the limit of a container that has none."""
LIMITS: Final[tuple[Path, ...]] = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
"""Of cgroup v2 and v1."""
_STATM: Final = Path("/proc/self/statm")


def resident_bytes() -> int:
    """Return the memory that this process takes; 0: the system does not tell."""
    try:
        return int(_STATM.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def limit_bytes() -> int:
    """Return the memory limit of this process's container."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for path in LIMITS:
        try:
            text = path.read_text(encoding="ascii").strip()
        except OSError:
            continue
        # Without a limit the file of cgroup v2 says "max", and that of v1 more than any machine has.
        if text.isdecimal() and int(text) < machine:
            return int(text)
    return min(UNLIMITED_BYTES, machine)


@dataclass
class Garbage:
    """Decides after each full collection what the next one visits."""

    limit: int = field(default_factory=limit_bytes)
    resident: Callable[[], int] = resident_bytes
    clock: Callable[[], float] = time.monotonic
    _thawed: float = float("-inf")
    _resident: int = 0
    """Memory when everything was last visited; 0: never."""

    def install(self) -> None:
        """Collect now, leave out everything that is in memory, and go on so after each full collection."""
        gc.collect()
        gc.freeze()
        gc.set_threshold(*THRESHOLDS)
        gc.callbacks.append(self._after)

    def _after(self, phase: str, info: dict[str, Any]) -> None:
        """Python calls this before and after each collection, in any thread; no other collection starts meanwhile."""
        if phase != "stop" or info["generation"] != 2:  # noqa: PLR2004 - the oldest
            return
        if self._is_short():
            gc.unfreeze()
        elif len(gc.get_objects(generation=2)) > KEPT_MAX:
            gc.freeze()

    def _is_short(self) -> bool:
        resident = self.resident()
        grown = resident >= self._resident + self.limit * GROWTH
        if resident <= self.limit * SHORT_OF_MEMORY or not (grown or self.clock() - self._thawed >= THAW_SECONDS):
            return False
        self._resident, self._thawed = resident, self.clock()
        return True
