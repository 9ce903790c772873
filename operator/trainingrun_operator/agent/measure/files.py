"""Answers ``GET /measured``: the newest numbers of the training's files, read when the operator asks, in bounded time.

A file that did not change is not read again, and an event file is read on from where its last whole record ended. A file of another inode, or one that
has become shorter, is another file.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from trainingrun_operator.agent.measure import events, tables
from trainingrun_operator.agent.measure.push import Pushed
from trainingrun_operator.agent.measure.tables import Values
from trainingrun_operator.agent.volume.look import open_inside
from trainingrun_operator.agent.volume.scan import Kind
from trainingrun_operator.api.exchange import (
    MEASURED_FILES_MAX,
    MEASURED_VALUES_MAX,
    Measured,
    MeasuredFile,
    MeasuredValue,
)
from trainingrun_operator.checkpoints import names

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from trainingrun_operator.agent.volume.scan import Entry

log = logging.getLogger(__name__)

EVENTS, STATE, CSV, LINES, PUSH = "TensorBoard", "TrainerState", "CSV", "JSONLines", "Push"
WORK_SECONDS: Final = 1.0
"""Time of one answer in which event files are read; the rest is read at the next one."""
PIECE_BYTES: Final = 1 << 20
TAIL_BYTES: Final = 1 << 18
STATE_MAX: Final = 16 << 20
HEADER_MAX: Final = 1 << 14
NAME_MAX: Final = 128
PATH_MAX: Final = 1024


@dataclass
class _Read:
    """One file, as far as it was read."""

    entry: Entry
    values: Values = field(default_factory=Values)
    at: int = 0
    """Of an event file, the end of its last whole record."""
    damaged_at: int = -1
    """Of an event file, where it was found damaged."""
    behind: bool = False
    """Whether there is more that was not read yet."""


class Measures:
    """Reads the files that the last scan has found. Thread-safe."""

    def __init__(self, root: str, pod_uid: str, since_ns: int, pushed: Pushed | None = None) -> None:
        self._root, self._pod_uid, self._since_ns = root, pod_uid, since_ns
        self._pushed = pushed or Pushed()
        self._working = threading.Lock()
        self._there: Mapping[str, Entry] = {}
        self._known: dict[str, _Read] = {}
        self._answer = Measured(pod_uid=pod_uid).model_dump_json(by_alias=True)

    def looked(self, entries: Mapping[str, Entry]) -> None:
        """Take the files of a scan: of those that this pod has written, the newest few."""
        ours = {path: one for path, one in entries.items() if _kind(path) and one.kind is Kind.FILE}
        new = [path for path, one in ours.items() if one.mtime_ns >= self._since_ns]
        newest = sorted(new, key=lambda path: (-ours[path].mtime_ns, path))[:MEASURED_FILES_MAX]
        self._there = {path: ours[path] for path in newest}

    def page(self) -> str:
        """Return the body of the answer. While another thread reads, it is the last one: a volume may hang."""
        if not self._working.acquire(blocking=False):
            return self._answer
        try:
            self._answer = self._measured().model_dump_json(by_alias=True)
        finally:
            self._working.release()
        return self._answer

    def _measured(self) -> Measured:
        there, wall, deadline = self._there, time.time(), time.monotonic() + WORK_SECONDS
        self._known = {path: known for path, known in self._known.items() if path in there}
        files = []
        for path, entry in there.items():
            try:
                read = self._read(path, entry, deadline)
            except OSError:
                continue  # removed, or unreadable: the scan reports it
            except Exception:
                log.exception("%s cannot be read as %s.", path, _kind(path))
                continue
            files.append(_shown(path, read, wall))
        pushed = self._pushed.newest()
        told = MeasuredFile(path="", kind=PUSH, age_seconds=pushed[1], values=_named(pushed[0])) if pushed else None
        return Measured(pod_uid=self._pod_uid, files=tuple(files), pushed=told)

    def _read(self, path: str, entry: Entry, deadline: float) -> _Read:
        known = self._known.get(path)
        if known is not None and known.entry == entry and not known.behind:
            return known
        with open_inside(self._root, path) as file:
            if _kind(path) == EVENTS:
                replaced = known is None or known.entry.inode != entry.inode or entry.size < known.at
                read = _Read(entry) if known is None or replaced else known
                read.entry = entry
                _read_events(file, read, deadline)
            else:
                read = _Read(entry, _READERS[_kind(path)](file, entry.size))
        self._known[path] = read
        return read


def _kind(path: str) -> str:
    """Return how a file is read; empty: it has no numbers."""
    name = path.rsplit("/", 1)[-1]
    if name.startswith("events.out.tfevents."):
        return EVENTS
    if name == "trainer_state.json":
        return STATE
    if name == "metrics.csv":
        return CSV
    return LINES if name.endswith(".jsonl") else ""


def _read_events(file: int, read: _Read, deadline: float) -> None:
    read.behind = False
    while time.monotonic() < deadline:
        data = os.pread(file, PIECE_BYTES, read.at)
        if events.is_damaged(data) and read.at and read.at != read.damaged_at:
            # Rewritten in place, or damaged here: read it again up to this place, once.
            read.values, read.damaged_at, read.at = Values(), read.at, 0
            continue
        end = 0
        for last, record in events.records(data):
            end = last
            for tag, value, step in events.scalars(record) if record is not None else ():
                read.values.add(tag, value, float(step))
        # Of a large record that is being written, the end is ahead of the file's.
        if end == 0 or read.at + end > os.fstat(file).st_size:
            return
        read.at += end
    read.behind = True


def _tail(file: int, size: int) -> tuple[str, bool]:
    """Return the end of a file, and whether it begins with a whole line."""
    start = max(0, size - TAIL_BYTES)
    return os.pread(file, TAIL_BYTES, start).decode(errors="replace"), start == 0


def _json_lines(file: int, size: int) -> Values:
    text, whole = _tail(file, size)
    return tables.json_lines(text, whole=whole)


def _csv(file: int, size: int) -> Values:
    header = os.pread(file, HEADER_MAX, 0).decode(errors="replace")
    text, whole = _tail(file, size)
    if "\n" not in header:
        return Values()
    return tables.table(header.partition("\n")[0].rstrip("\r"), text.partition("\n")[2] if whole else text, whole=whole)


def _state(file: int, size: int) -> Values:
    if size > STATE_MAX:
        return Values()
    text = bytearray()
    while part := os.pread(file, PIECE_BYTES, len(text)):
        text += part
    return tables.trainer_state(text.decode(errors="replace"))


_READERS: Final[Mapping[str, Callable[[int, int], Values]]] = {LINES: _json_lines, CSV: _csv, STATE: _state}


def _shown(path: str, read: _Read, wall: float) -> MeasuredFile:
    return MeasuredFile(
        path=names.to_text(path)[:PATH_MAX],
        kind=_kind(path),
        age_seconds=max(0.0, wall - read.entry.mtime_ns / 1e9),
        behind=read.behind,
        values=_named(read.values.newest),
    )


def _named(newest: Mapping[str, tuple[float, float | None]]) -> tuple[MeasuredValue, ...]:
    usable = [(name, one) for name, one in newest.items() if 0 < len(name) <= NAME_MAX]
    kept = usable[-MEASURED_VALUES_MAX:]
    return tuple(MeasuredValue(name=names.to_text(name), value=repr(value), step=step) for name, (value, step) in kept)
