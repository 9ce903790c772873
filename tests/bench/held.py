"""Runs the operator, and measures how much CPU time each callback of its event loop takes: for so long the loop answers nothing else.

CPU time, not time by the clock: another process that takes the CPU holds no loop.
"""

from __future__ import annotations

import asyncio
import atexit
import gc
import heapq
import json
import re
import sys
import threading
import time
from pathlib import Path
from typing import Final

from trainingrun_operator.api import names
from trainingrun_operator.controller import garbage

WORST: Final = 20
"""Callbacks that are named."""


class Held:
    """The longest callbacks."""

    def __init__(self) -> None:
        self.callbacks = 0
        self.over = False
        """No run waits for the loop any more."""
        self.worst: list[tuple[float, int, str]] = []
        self._collecting = 0.0
        self._collected = 0.0
        """CPU time of the collections of the running callback."""

    def install(self) -> None:
        """Measure every callback of every loop from now on."""
        run = asyncio.Handle._run

        gc.callbacks.append(self._collects)

        def timed(handle: asyncio.Handle) -> None:
            self._collected = 0.0
            # A callback that cancels its own handle leaves no name there.
            callback = handle._callback  # type: ignore[attr-defined]
            began = time.thread_time()
            try:
                run(handle)
            finally:
                self.note(time.thread_time() - began, callback)

        asyncio.Handle._run = timed  # type: ignore[method-assign,assignment]

    def until_the_term_ends(self) -> None:
        """Measure no longer once the operator has stopped looking at runs and gives its Lease back."""
        from trainingrun_operator.controller.main import Term  # noqa: PLC0415 - after the loop is measured

        end = Term.end

        async def ended(term: Term) -> None:
            await end(term)
            self.over = True

        Term.end = ended  # type: ignore[method-assign,assignment]

    def note(self, seconds: float, callback: object) -> None:
        """Keep it if it is one of the longest."""
        self.callbacks += 1
        if self.callbacks == 1 or self.over:
            # It builds the operator, or takes it apart.
            return
        if len(self.worst) < WORST or seconds > self.worst[0][0]:
            kept = (
                seconds,
                self.callbacks,
                f"{_name(callback)}, {self._collected * 1e3:.0f} ms of it collecting garbage",
            )
            (heapq.heappush if len(self.worst) < WORST else heapq.heapreplace)(self.worst, kept)

    def _collects(self, phase: str, _: object) -> None:
        if threading.current_thread() is threading.main_thread():
            if phase == "start":
                self._collecting = time.thread_time()
            else:
                self._collected += time.thread_time() - self._collecting

    def dump(self, path: Path) -> None:
        """Write what was measured, and the peak of the process's memory."""
        status = Path("/proc/self/status").read_text(encoding="ascii")
        peak = float(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) / 1024
        worst = [{"ms": s * 1e3, "number": n, "what": what} for s, n, what in sorted(self.worst, reverse=True)]
        said = {"callbacks": self.callbacks, "worst": worst, "peak_mib": peak, "cpu_seconds": time.process_time()}
        path.write_text(json.dumps(said), encoding="utf-8")


def _name(callback: object) -> str:
    task = getattr(callback, "__self__", None)
    return f"{task.get_name()} {task.get_coro()}" if isinstance(task, asyncio.Task) else repr(callback)


def main() -> int:
    """Run the operator as the image does. Arguments: the file for the measures, empty to take none; the port of all agents; a file with the memory limit."""
    held, path = Held(), sys.argv[1]
    names.AGENT_PORT = int(sys.argv[2])  # type: ignore[misc]  # fixed in a cluster, where a pod has an address of its own
    garbage.LIMITS = (Path(sys.argv[3]),)  # type: ignore[misc]  # likewise: of the container
    if path:
        atexit.register(held.dump, Path(path))
        held.install()
        held.until_the_term_ends()
    sys.argv[1:] = ["operator"]
    from trainingrun_operator.__main__ import main as operator  # noqa: PLC0415 - after the loop is measured

    return operator()


if __name__ == "__main__":
    sys.exit(main())
