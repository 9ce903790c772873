"""List the files under the checkpoint path in one bounded walk that follows no link."""

from __future__ import annotations

import os
import re
import stat
import time
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

from trainingrun_operator.checkpoints.documents import FILES_MAX
from trainingrun_operator.checkpoints.names import is_temporary

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


class Kind(Enum):
    """What a directory entry is."""

    FILE = "file"
    LINK = "link"
    OTHER = "other"


class Entry(NamedTuple):
    """One file's ``lstat`` result. Equal entries mean equal bytes."""

    size: int
    mtime_ns: int
    inode: int
    mode: int
    kind: Kind = Kind.FILE


@dataclass(frozen=True)
class Scan:
    """The selected files under the path, by relative path."""

    entries: Mapping[str, Entry] = field(default_factory=dict)
    """Without those under temporary names."""
    temporary: Mapping[str, Entry] = field(default_factory=dict)
    """Those under temporary names: shipped only once the training has ended, and never a checkpoint."""
    at: float = 0.0
    """`time.monotonic` at the end of the walk."""
    seconds: float = 0.0
    """Duration of the walk."""
    error: str = ""
    """What could not be read, and why."""
    unread: tuple[str, str] | None = None
    """A folder under a temporary name that could not be read, and why. It does not matter before the training has ended."""
    too_many: bool = False

    @property
    def known(self) -> bool:
        """Whether the whole volume was read."""
        return bool(self.at) and not (self.error or self.unread or self.too_many)

    @property
    def everything(self) -> dict[str, Entry]:
        """All selected files."""
        return {**self.entries, **self.temporary}


def _glob(pattern: str) -> str:
    """Translate a glob: ``**`` matches slashes, ``*`` and ``?`` do not. A match of a directory covers all files in it."""
    text = pattern.strip("/")
    out = []
    for token in re.findall(r"\*\*/|\*\*|\*|\?|\[[^\]]+\]|.", text, re.DOTALL):
        match token:
            case "**/":
                out.append("(?:.*/)?")
            case "**":
                out.append(".*")
            case "*":
                out.append("[^/]*")
            case "?":
                out.append("[^/]")
            case _ if len(token) > 1:
                out.append(token.replace("[!", "[^"))
            case _:
                out.append(re.escape(token))
    anywhere = "" if "/" in text else "(?:.*/)?"
    return f"(?:{anywhere}{''.join(out)}(?:/.*)?)"


class Filter:
    """Selects the run's files: the configured globs, without the stop file and the marker files."""

    def __init__(self, include: Iterable[str] = ("**",), exclude: Iterable[str] = (), own: Iterable[str] = ()) -> None:
        included = list(include)
        self._all = "**" in included or not included
        self._include = re.compile("|".join(map(_glob, included)) or ".*", re.DOTALL)
        patterns = [_glob(p) for p in exclude]
        self._exclude = re.compile("|".join(patterns), re.DOTALL) if patterns else None
        self._own = frozenset(own)

    def keeps(self, path: str) -> bool:
        """Whether a relative path is selected."""
        if path in self._own or (self._exclude and self._exclude.fullmatch(path)):
            return False
        return self._all or self._include.fullmatch(path) is not None


def temporaries(root: str, limit: int = FILES_MAX) -> frozenset[tuple[str, int, int]]:
    """Return name, size and modification time of every file with a temporary name. A change means a write in progress."""
    found: set[tuple[str, int, int]] = set()
    pending, seen = [("", False)], 0
    while pending and seen <= limit:
        folder, unfinished = pending.pop()
        try:
            with os.scandir(f"{root}/{folder}") as listing:
                for item in listing:
                    seen += 1
                    path = f"{folder}/{item.name}"
                    temporary = unfinished or is_temporary(item.name)
                    if item.is_dir(follow_symlinks=False):
                        pending.append((path, temporary))
                    if temporary:
                        stat_now = item.stat(follow_symlinks=False)
                        found.add((path, stat_now.st_size, stat_now.st_mtime_ns))
        except OSError:
            continue  # renamed during the walk: the next walk sees the new name
    return frozenset(found)


def _kind(mode: int) -> Kind:
    if stat.S_ISREG(mode):
        return Kind.FILE
    return Kind.LINK if stat.S_ISLNK(mode) else Kind.OTHER


def scan(root: str, wanted: Filter, limit: int = FILES_MAX) -> Scan:
    """Walk the path once. A missing path is empty; an unreadable path is an error."""
    started = time.monotonic()
    entries: dict[str, Entry] = {}
    temporary: dict[str, Entry] = {}
    error, unread = "", None
    seen = 0
    pending = [("", False)]
    while pending and seen <= limit:
        folder, unfinished = pending.pop()
        try:
            with os.scandir(f"{root}/{folder}") as listing:
                for item in listing:
                    seen += 1
                    if seen > limit:
                        break
                    below = unfinished or is_temporary(item.name)
                    path = f"{folder}/{item.name}" if folder else item.name
                    if item.is_dir(follow_symlinks=False):
                        pending.append((path, below))
                    elif wanted.keeps(path):
                        seen_now = item.stat(follow_symlinks=False)
                        kind = _kind(seen_now.st_mode)
                        (temporary if below else entries)[path] = Entry(
                            seen_now.st_size, seen_now.st_mtime_ns, seen_now.st_ino, seen_now.st_mode & 0o7777, kind
                        )
        except FileNotFoundError:
            continue  # not created yet, or removed during the walk
        except OSError as failure:
            if unfinished:
                unread = unread or (folder, failure.strerror or "cannot be read")
            else:
                error = error or f"{root}/{folder}: {failure.strerror}"
    now = time.monotonic()
    return Scan(entries, temporary, now, now - started, error, unread, too_many=seen > limit)
