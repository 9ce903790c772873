"""Send the stop signal: once, to the training's main process, after half the grace period, never during a write.

The pod's containers share a process namespace. The first process of each container has no parent there; only the training
container has the variable TRAINS_ENV. If the agent may not read the environment (of a training that runs as root), it takes
the only process whose environment is unreadable.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from trainingrun_operator.agent.volume import detect
from trainingrun_operator.agent.volume.scan import temporaries
from trainingrun_operator.api import names

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from trainingrun_operator.agent.config import PodMemory, Task
    from trainingrun_operator.agent.volume.look import View
    from trainingrun_operator.api.exchange import StopRequest

log = logging.getLogger(__name__)

PROC = Path("/proc")
PAUSE = 1
"""Process id of the pause container in a shared process namespace."""
SHELLS = frozenset({"sh", "bash", "dash", "ash", "zsh", "ksh"})
"""Shells do not forward signals: a shell exits, and its container with it. The signal goes to the shell's only child."""
_MARK = f"{names.TRAINS_ENV}=".encode()


class NotFoundError(Exception):
    """The training's process cannot be identified; the message says why."""


class Process(NamedTuple):
    """The fields of one process that identify the training."""

    pid: int
    parent: int
    name: str
    started: int
    """In clock ticks since boot."""


def processes(proc: Path) -> dict[int, Process]:
    """Return every visible process by its id."""
    found = {}
    for entry in proc.iterdir():
        if entry.name.isdecimal():
            try:
                text = (entry / "stat").read_text(errors="replace")
            except OSError:
                continue  # the process has exited
            # The name is in parentheses and may contain parentheses; state and parent follow it.
            head, _, rest = text.rpartition(")")
            fields = rest.split()
            found[int(entry.name)] = Process(int(entry.name), int(fields[1]), head.partition("(")[2], int(fields[19]))
    return found


def _marked(proc: Path, pid: int) -> bool | None:
    """Whether a process belongs to the training container; None if its environment is not readable."""
    try:
        environment = (proc / str(pid) / "environ").read_bytes()
    except PermissionError:
        return None
    except OSError:
        return False
    return any(variable.startswith(_MARK) for variable in environment.split(b"\0"))


def main_process(proc: Path, own: int) -> Process | None:
    """Return the training's main process; None if it has ended.

    Raises:
        NotFoundError: the containers do not share processes, several processes match, or a shell runs several commands.
    """
    found = processes(proc)
    if own == PAUSE:
        raise NotFoundError("the pod's containers do not share a process namespace")
    firsts = sorted((p for p in found.values() if not p.parent and p.pid not in (PAUSE, own)), key=lambda p: p.started)
    marks = {process: _marked(proc, process.pid) for process in firsts}
    # Processes of `kubectl exec` look the same but started later.
    training = next((process for process, marked in marks.items() if marked), None)
    hidden = [process for process, marked in marks.items() if marked is None]
    if training is None and len(hidden) > 1:
        raise NotFoundError(f"{len(hidden)} processes could be the training; none has a readable environment")
    training = training or next(iter(hidden), None)
    return _behind_shells(training, found) if training else None


def _behind_shells(process: Process, found: Mapping[int, Process]) -> Process:
    while process.name in SHELLS:
        children = [child for child in found.values() if child.parent == process.pid]
        if len(children) > 1:
            raise NotFoundError(f"the training's shell runs {len(children)} commands: start the training with exec")
        if not children:
            break
        process = children[0]
    return process


class Signaller:
    """Sends the signal. One thread calls `ask`, another calls `look`."""

    def __init__(self, task: Task, memory: PodMemory, proc: Path = PROC) -> None:
        self._number = signal.Signals[task.config.stop_signal] if task.config.stop_signal else None
        self._root = task.config.path
        self._settle = task.config.quiet_seconds
        self._since_ns = int(memory.started_at * 1e9)
        self._memory = memory
        self._proc = proc
        self._stop: StopRequest | None = None
        self._due = 0.0
        self._temporaries: tuple[Iterable[object], float] = ((), 0.0)

    def ask(self, stop: StopRequest) -> None:
        """Note that the stop file was written. The signal is due after half the grace period."""
        if self._stop is None or self._stop.id != stop.id:
            self._due = time.monotonic() + stop.grace_seconds / 2
            self._stop = stop

    def look(self, view: View) -> str:
        """Send the signal if it is due. Return why a due signal was not sent; empty otherwise."""
        stop = self._stop
        if self._number is None or stop is None or stop.id == self._memory.signalled or time.monotonic() < self._due:
            return ""
        try:
            process = main_process(self._proc, os.getpid())
        except NotFoundError as unknown:
            return str(unknown)
        # Walk the volume only while the training runs.
        return (self._writing(view) or self._send(process, stop, self._number)) if process else ""

    def _writing(self, view: View) -> str:
        """Return what is being written now; empty if nothing is."""
        now, temporary = time.monotonic(), temporaries(self._root)
        known, since = self._temporaries
        if temporary != known:
            since = now
        self._temporaries = (temporary, since)
        if temporary and now - since < self._settle:
            return "files with temporary names are being written"
        partial = detect.being_written(view.seen, self._since_ns)
        if partial is None or partial.unit.mtime_ns < self._since_ns:
            return ""
        return f"{partial.unit.name} is being written"

    def _send(self, process: Process, stop: StopRequest, number: signal.Signals) -> str:
        before = self._memory.signalled
        self._memory.remember_signal(stop.id)
        try:
            os.kill(process.pid, number)
        except ProcessLookupError:
            return ""
        except PermissionError:
            self._memory.remember_signal(before or "")
            return f"process {process.pid} ({process.name}) belongs to another user than the agent's ({os.getuid()})"
        log.info(
            "Stop %s: the stop file had no effect, sent %s to process %d (%s).",
            stop.id,
            number.name,
            process.pid,
            process.name,
        )
        return ""
