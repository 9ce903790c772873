"""The signal for a training that saves on one: sent once to its main process, at half the grace, never while it writes.

The pod's containers share their processes then. The first process of a container has no parent here; the training's carries a variable that no other
container has. Where it cannot be read (a training that runs as root has more rights than the agent), the only one that hides it is taken.
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
"""What the pod's own, idle container is among shared processes."""
SHELLS = frozenset({"sh", "bash", "dash", "ash", "zsh", "ksh"})
"""A shell dies of a signal instead of passing it on, and its container with it: the one command that it waits for is meant."""
_MARK = f"{names.TRAINS_ENV}=".encode()


class NotFoundError(Exception):
    """It cannot be told which process trains; the text says why."""


class Process(NamedTuple):
    """One process, as far as it matters here."""

    pid: int
    parent: int
    name: str
    started: int
    """In clock ticks since boot."""


def processes(proc: Path) -> dict[int, Process]:
    """Every process that is visible now, by its number."""
    found = {}
    for entry in proc.iterdir():
        if entry.name.isdecimal():
            try:
                text = (entry / "stat").read_text(errors="replace")
            except OSError:
                continue  # ended meanwhile
            # The name is in parentheses and may itself contain any; after it come state and parent.
            head, _, rest = text.rpartition(")")
            fields = rest.split()
            found[int(entry.name)] = Process(int(entry.name), int(fields[1]), head.partition("(")[2], int(fields[19]))
    return found


def _marked(proc: Path, pid: int) -> bool | None:
    """Whether a process belongs to the container that trains; None if it may not be read."""
    try:
        environment = (proc / str(pid) / "environ").read_bytes()
    except PermissionError:
        return None
    except OSError:
        return False
    return any(variable.startswith(_MARK) for variable in environment.split(b"\0"))


def main_process(proc: Path, own: int) -> Process | None:
    """The process that trains; None if it has ended.

    Raises:
        NotFoundError: the pod's processes are not shared, several could be it, or a shell would die instead of it.
    """
    found = processes(proc)
    if own == PAUSE:
        raise NotFoundError("the pod's containers do not share their processes")
    firsts = sorted((p for p in found.values() if not p.parent and p.pid not in (PAUSE, own)), key=lambda p: p.started)
    marks = {process: _marked(proc, process.pid) for process in firsts}
    # `kubectl exec` brings processes that look the same, and are younger.
    training = next((process for process, marked in marks.items() if marked), None)
    hidden = [process for process, marked in marks.items() if marked is None]
    if training is None and len(hidden) > 1:
        raise NotFoundError(f"{len(hidden)} processes could be the training, and none lets its environment be read")
    training = training or next(iter(hidden), None)
    return _behind_shells(training, found) if training else None


def _behind_shells(process: Process, found: Mapping[int, Process]) -> Process:
    while process.name in SHELLS:
        children = [child for child in found.values() if child.parent == process.pid]
        if len(children) > 1:
            raise NotFoundError(f"the shell that trains runs {len(children)} commands: start the training with exec")
        if not children:
            break
        process = children[0]
    return process


class Signaller:
    """Asked by one thread, looks in another."""

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
        """The training was asked to leave by the stop file; from now on half the grace runs."""
        if self._stop is None or self._stop.id != stop.id:
            self._due = time.monotonic() + stop.grace_seconds / 2
            self._stop = stop

    def look(self, view: View) -> str:
        """Send the signal if it is due; returns why it was not sent although it is, in words."""
        stop = self._stop
        if self._number is None or stop is None or stop.id == self._memory.signalled or time.monotonic() < self._due:
            return ""
        try:
            process = main_process(self._proc, os.getpid())
        except NotFoundError as unknown:
            return str(unknown)
        # The volume is walked only for a training that is still there.
        return (self._writing(view) or self._send(process, stop, self._number)) if process else ""

    def _writing(self, view: View) -> str:
        """What is being written now; empty if nothing is."""
        now, temporary = time.monotonic(), temporaries(self._root)
        known, since = self._temporaries
        if temporary != known:
            since = now
        self._temporaries = (temporary, since)
        if temporary and now - since < self._settle:
            return "files are being written under temporary names"
        whole = detect.newest(view.seen, self._since_ns)
        partial = detect.newest(view.seen, self._since_ns, complete=False)
        if partial is None or partial.unit.mtime_ns < (whole.unit.mtime_ns if whole else self._since_ns):
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
            return f"process {process.pid} ({process.name}) belongs to another user than {os.getuid()}, as which the agent runs"
        log.info(
            "Stop %s: the file had no effect, sent %s to %d (%s).", stop.id, number.name, process.pid, process.name
        )
        return ""
