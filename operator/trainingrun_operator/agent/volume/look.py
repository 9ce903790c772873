"""Repeated looks at the volume: scan, split into units, probe the changed files, judge the units."""

from __future__ import annotations

import os
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from trainingrun_operator.agent.stop import own_files
from trainingrun_operator.agent.volume import detect, formats, saved, units
from trainingrun_operator.agent.volume.layouts.pointers import TEXT_MAX_BYTES
from trainingrun_operator.agent.volume.pauses import Pauses
from trainingrun_operator.agent.volume.pointers import Pointers
from trainingrun_operator.agent.volume.scan import UNREADABLE_ADVICE, Entry, Filter, Kind, Scan, scan
from trainingrun_operator.agent.volume.units import Split
from trainingrun_operator.checkpoints.documents import WHOLE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from trainingrun_operator.agent.volume.detect import Seen
    from trainingrun_operator.agent.volume.formats import Probe
    from trainingrun_operator.agent.volume.saved import Word
    from trainingrun_operator.agent.volume.units import Unit
    from trainingrun_operator.api.exchange import AgentConfig

UNREADABLE = formats.Probe(formats.State.BROKEN, "cannot be read")


@dataclass(frozen=True)
class View:
    """The volume at one look."""

    scan: Scan = field(default_factory=Scan)
    seen: tuple[Seen, ...] = ()
    """The numbered units. Without any, the whole tree is one unit."""
    rest: Unit | None = None
    """Files that belong to no numbered unit; None without numbered units."""
    changed_at: float | None = None
    """`time.monotonic` of the last change; None if the volume has never held a file."""
    error: str = ""
    moments: frozenset[str] = frozenset()
    """Names of the units that are whole only now: their files are written anew more often than the quiet time."""
    changing: str = ""
    """A file that is written anew so often that nothing can be saved; empty: none."""
    texts: Mapping[str, str] = field(default_factory=dict)
    """What the small files and links of ``rest`` say, by path."""


@contextmanager
def open_inside(root: str, path: str) -> Iterator[int]:
    """Open a regular file below the root for reading. No component of the path may be a link.

    Raises:
        OSError: the file is missing, unreadable, or behind a link.
    """
    *folders, name = path.split("/")
    at = os.open(root, os.O_PATH | os.O_DIRECTORY)
    try:
        for folder in folders:
            inner = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=at)
            os.close(at)
            at = inner
        file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=at)
    finally:
        os.close(at)
    try:
        yield file
    finally:
        os.close(file)


def unreadable_in(unit: Unit, found: Scan) -> str | None:
    """Return a folder or file of a unit that this process may not read."""
    whole = unit.dir == WHOLE and unit.number is None
    inside = (path for path in found.unreadable if whole or path in unit.files or path.startswith(f"{unit.dir}/"))
    return next(inside, None)


class Watcher:
    """Looks at the volume. Keeps between looks since when each unit is unchanged, and the probe of each file."""

    def __init__(self, config: AgentConfig, stop_file: str, saved_file: Path | None = None) -> None:
        self._root = config.path
        self._pinned = config.format
        self._alone = config.world_size == 1
        self._saved_file = saved_file
        self._said: dict[tuple[str, int], Mapping[str, Entry]] = {}
        """The files of each word of the training when it was first read."""
        self._settle = config.quiet_seconds
        self._filter = Filter(config.include, config.exclude, own=(*own_files(stop_file), *config.marker_files))
        self._probes: dict[str, tuple[Entry, Probe]] = {}
        self._quiet: dict[str, tuple[Mapping[str, Entry], float]] = {}
        self._entries: Mapping[str, Entry] | None = None
        self._changed_at: float | None = None
        self._lock = threading.Lock()
        self._pauses = Pauses(self._settle)
        self._pointers = Pointers(self._root, self._settle, open_inside)

    def look(self, *, ended: bool = False) -> View:
        """Look once. ``ended``: no training process is left to write."""
        with self._lock:
            words = saved.read(self._saved_file, self._root)
            found = scan(self._root, self._filter)
            split = self._split(found, words)
            self._note_changes(found)
            candidates = split.numbered or ((split.rest,) if split.rest else ())
            probes, unreadable = self._probe(candidates)
            quiet = {unit.name: self._quiet_for(unit, found.at) for unit in candidates}
            self._quiet = {name: self._quiet[name] for name in quiet}
            compared, temporary = detect.compared(split.numbered), _temporary_in(candidates, found)
            seen = []
            moments = set()
            for unit in candidates:
                lacking, precedent = compared.get(unit.name, ("", False))
                about = detect.Circumstances(
                    quiet[unit.name],
                    self._settle,
                    ended,
                    temporary.get(unit.name, ""),
                    lacking,
                    alone=self._alone,
                    precedent=precedent,
                )
                verdict = detect.judge(unit, probes, about)
                if verdict.waits and (moment := self._pauses.moment(unit, probes, found.at)):
                    verdict = moment
                    moments.add(unit.name)
                if verdict.complete and (path := unreadable_in(unit, found)):
                    verdict = detect.Verdict(complete=False, evidence=f"{path} cannot be read")
                seen.append(detect.Seen(unit, verdict, quiet[unit.name]))
            self._entries = found.entries
            rest = split.rest if split.numbered else None
            self._pauses.keep({one.unit.name for one in seen if not one.complete} | moments)
            changing = "" if any(one.complete for one in seen) else self._pauses.never_quiet(found.at)
            return View(
                found,
                tuple(seen),
                rest,
                self._changed_at,
                found.error or self._unreadable(found) or unreadable,
                frozenset(moments),
                changing,
                self._pointers.look(rest, found.at),
            )

    def _unreadable(self, found: Scan) -> str:
        """Return the first file or folder that this process may not read, and what to do."""
        path, why = next(iter(found.unreadable.items()), ("", ""))
        return f"{self._root}/{path}: {why}; {UNREADABLE_ADVICE}" if path else ""

    def _split(self, found: Scan, words: Mapping[str, Word]) -> Split:
        """Split the files. A word of the training stands as long as the files are those of the look that read it first."""
        split = units.split(found.entries, found.temporary, text=self._text, pinned=self._pinned, words=words)
        if not words:
            return split
        by_dir = {unit.dir: unit for unit in split.numbered}
        known, self._said = self._said, {}
        checked = {}
        for path, word in words.items():
            if path in by_dir:
                now = by_dir[path].files
                first = self._said[path, word.line] = known.get((path, word.line), now)
                checked[path] = word._replace(stands=first == now)
        return Split(tuple(units.as_said(unit, checked.get(unit.dir)) for unit in split.numbered), split.rest)

    def _text(self, path: str) -> str:
        """Return the text of a small file; empty if it is missing, large or unreadable."""
        try:
            with open_inside(self._root, path) as file:
                body = os.pread(file, TEXT_MAX_BYTES + 1, 0)
        except OSError:
            return ""
        return body.decode("utf-8", "replace") if len(body) <= TEXT_MAX_BYTES else ""

    def _note_changes(self, found: Scan) -> None:
        if self._entries is None:
            if found.entries:
                age = time.time() - max(entry.mtime_ns for entry in found.entries.values()) / 1e9
                self._changed_at = found.at - max(age, 0.0)
        elif found.entries != self._entries:
            self._changed_at = found.at

    def _quiet_for(self, unit: Unit, now: float) -> float:
        """Return seconds since the unit's files changed. The first look goes by their modification times."""
        files = {path: entry for path, entry in unit.files.items() if not units.is_log(path)}
        known = self._quiet.get(unit.name)
        if known is None and self._entries is None:
            newest = max((entry.mtime_ns for entry in files.values()), default=0) / 1e9
            known = (files, now - max(time.time() - newest, 0.0))
        elif known is None or known[0] != files:
            known = (files, now)
        self._quiet[unit.name] = known
        return now - known[1]

    def _probe(self, candidates: tuple[Unit, ...]) -> tuple[dict[str, Probe], str]:
        fresh: dict[str, tuple[Entry, Probe]] = {}
        unreadable = ""
        for unit in candidates:
            for path, entry in unit.files.items():
                known = self._probes.get(path)
                if known and known[0] == entry:
                    fresh[path] = known
                    continue
                try:
                    fresh[path] = (entry, self._probe_one(path, entry))
                except FileNotFoundError:
                    fresh[path] = (entry, formats.Probe(formats.State.BROKEN, "was removed during the read"))
                except OSError as failure:
                    unreadable = unreadable or f"{self._root}/{path}: {failure.strerror}"
                    fresh[path] = (entry, UNREADABLE)
        self._probes = {path: one for path, one in fresh.items() if one[1] is not UNREADABLE}
        return {path: one[1] for path, one in fresh.items()}, unreadable

    def _probe_one(self, path: str, entry: Entry) -> Probe:
        if entry.kind is not Kind.FILE:
            return formats.PLAIN
        with open_inside(self._root, path) as file:
            return formats.probe(path, entry.size, lambda offset, length: os.pread(file, length, offset))


def _temporary_in(candidates: tuple[Unit, ...], found: Scan) -> dict[str, str]:
    """Return by name of each unit a file under a temporary name inside it that is as new as the unit."""
    folders = {unit.dir: unit for unit in candidates if not unit.single}
    inside: dict[str, str] = {}
    for path, entry in found.temporary.items():
        unit = folders.get(path.split("/", 1)[0])
        if unit is not None and "/" in path and entry.mtime_ns >= unit.mtime_ns:
            inside[unit.name] = path
    return inside
