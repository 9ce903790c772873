"""List the files under the checkpoint path in one bounded walk that follows no link."""

from __future__ import annotations

import os
import re
import stat
import time
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

from trainingrun_operator.agent.volume import root
from trainingrun_operator.checkpoints.documents import FILES_MAX
from trainingrun_operator.checkpoints.names import is_temporary

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


OWN_FOLDERS = frozenset({"lost+found", ".snapshot", ".snapshots", "~snapshot", ".zfs"})
"""Folders that file systems make: for what a repair has found, and views of earlier states of all files."""
_REMOVED = re.compile(r"\.(?:nfs|fuse_hidden)[0-9a-fA-F]{8,}|\.smbdelete[0-9A-Za-z]+")
"""Files that network file systems keep of a removed file for as long as a process has it open."""
LEFT_OUT_MAX = 1000
"""Entries of `Scan.left_out`, and of `Scan.unreadable`."""
LISTED_MAX = 20 * FILES_MAX
"""Directory entries of one walk, those that are not selected included: a limit of time."""
UNREADABLE_ADVICE = "make it readable for the agent (fsGroup), or leave it out with spec.checkpoint.exclude"


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
    """Why the checkpoint path itself could not be read."""
    unread: tuple[str, str] | None = None
    """The first folder below the path that could not be read, and why. What can be read is shipped before the training has ended."""
    unreadable: Mapping[str, str] = field(default_factory=dict)
    """Folders and files that this process may not read, and why, without those under temporary names."""
    left_out: Mapping[str, str] = field(default_factory=dict)
    """What the file system has made for itself, and what it is. It is not the training's."""
    too_many: bool = False

    @property
    def known(self) -> bool:
        """Whether the whole volume was read."""
        return bool(self.at) and not (self.error or self.unread or self.too_many)

    @property
    def everything(self) -> dict[str, Entry]:
        """All selected files."""
        return {**self.entries, **self.temporary}


def _segment(text: str) -> str:
    """Translate one glob, or a part of one between slashes: ``**`` matches slashes, ``*`` and ``?`` do not."""
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
    return "".join(out)


def _glob(pattern: str) -> str:
    """Translate a glob. A match of a directory covers all files in it."""
    text = pattern.strip("/")
    anywhere = "" if "/" in text else "(?:.*/)?"
    return f"(?:{anywhere}{_segment(text)}(?:/.*)?)"


def _all_in(pattern: str) -> str:
    """Return the pattern of the folders of which a pattern covers every file: ``cache`` for ``cache/**``."""
    text = pattern.strip("/")
    while text.endswith(("/**", "/*")):
        text = text.rpartition("/")[0]
    # A pattern without a slash matches at any depth, but what is left of one that had a slash does not.
    return f"/{text}" if "/" in pattern.strip("/") else text


def _folders(pattern: str) -> str | None:
    """Translate the folders above a glob's matches, such as ``a`` and ``a/b`` for ``a/b/*.pt``; None: any folder."""
    text = pattern.strip("/")
    if "/" not in text:
        return None
    above = text.rpartition("/")[0].split("/")
    depth = next((number for number, part in enumerate(above) if "**" in part or "[" in part), len(above))
    paths = ["/".join(above[: number + 1]) for number in range(depth)]
    below = [f"{_segment('/'.join(above[:depth]))}/.*"] if depth and depth < len(above) else []
    if depth == 0:
        return None
    return "|".join([*map(_segment, paths), *below])


class Filter:
    """Selects the run's files: the configured globs, without the stop file and the marker files."""

    def __init__(self, include: Iterable[str] = ("**",), exclude: Iterable[str] = (), own: Iterable[str] = ()) -> None:
        included, excluded = list(include), list(exclude)
        self._all = "**" in included or not included
        self._include = re.compile("|".join(map(_glob, included)) or ".*", re.DOTALL)
        above = [_folders(pattern) for pattern in included]
        self._above = None if self._all or None in above else re.compile("|".join(filter(None, above)), re.DOTALL)
        self._exclude = re.compile("|".join(map(_glob, excluded)), re.DOTALL) if excluded else None
        covers = "|".join(_anchored(_all_in(pattern)) for pattern in excluded)
        self._covers = re.compile(covers, re.DOTALL) if excluded else None
        self._own = frozenset(own)

    def keeps(self, path: str) -> bool:
        """Whether a relative path is selected."""
        if path in self._own or (self._exclude and self._exclude.fullmatch(path)):
            return False
        return self._all or self._include.fullmatch(path) is not None

    def enters(self, folder: str) -> bool:
        """Whether a file below a folder may be selected."""
        if self._covers and self._covers.fullmatch(folder):
            return False
        return self._above is None or bool(self._above.fullmatch(folder) or self._include.fullmatch(folder))


def _anchored(pattern: str) -> str:
    """Translate a pattern that begins with a slash if it only matches from the checkpoint path on."""
    if pattern.startswith("/"):
        return f"(?:{_segment(pattern[1:])}(?:/.*)?)"
    return _glob(pattern)


def temporaries(path: str, limit: int = FILES_MAX) -> frozenset[tuple[str, int, int]]:
    """Return name, size and modification time of every file with a temporary name. A change means a write in progress."""
    found: set[tuple[str, int, int]] = set()
    pending, seen = [("", False)], 0
    while pending and seen <= limit:
        folder, unfinished = pending.pop()
        try:
            with os.scandir(f"{path}/{folder}") as listing:
                for item in listing:
                    seen += 1
                    inside = f"{folder}/{item.name}"
                    temporary = unfinished or is_temporary(item.name)
                    if item.is_dir(follow_symlinks=False) and item.name not in OWN_FOLDERS:
                        pending.append((inside, temporary))
                    if temporary:
                        stat_now = item.stat(follow_symlinks=False)
                        found.add((inside, stat_now.st_size, stat_now.st_mtime_ns))
        except OSError:
            continue  # renamed during the walk: the next walk sees the new name
    return frozenset(found)


def _kind(mode: int) -> Kind:
    if stat.S_ISREG(mode):
        return Kind.FILE
    return Kind.LINK if stat.S_ISLNK(mode) else Kind.OTHER


def _may_read(at: str, now: os.stat_result, user: int) -> bool:
    """Whether this process may read a file. The mode bits say it of nearly all files without a call."""
    bits = now.st_mode
    if bits & 0o444 == 0o444 or (now.st_uid == user and bits & 0o400):  # noqa: PLR2004
        return True
    return os.access(at, os.R_OK, effective_ids=True)


class _Walk:
    """One walk over the path."""

    def __init__(self, path: str, wanted: Filter, limit: int) -> None:
        self._root = path
        self._wanted = wanted
        self._limit = limit
        self._user = os.geteuid()
        self._pending = [("", False)]
        self._listed = 0
        self._selected = 0
        self.entries: dict[str, Entry] = {}
        self.temporary: dict[str, Entry] = {}
        self.error = ""
        self.unread: tuple[str, str] | None = None
        self.unreadable: dict[str, str] = {}
        self.left_out: dict[str, str] = {}

    @property
    def too_many(self) -> bool:
        """Whether more files and folders are selected, or listed, than the limits allow."""
        return self._selected > self._limit or self._listed > max(LISTED_MAX, self._limit)

    def run(self) -> None:
        """Read every folder that may have a selected file."""
        while self._pending and not self.too_many:
            folder, unfinished = self._pending.pop()
            try:
                self._read(folder, unfinished=unfinished)
            except FileNotFoundError:
                continue  # not created yet, or removed during the walk
            except OSError as failure:
                why = (failure.strerror or "cannot be read") if folder else root.complaint(failure)
                self._not_read(folder, why, unfinished=unfinished)

    def _not_read(self, folder: str, why: str, *, unfinished: bool) -> None:
        if not folder:
            self.error = f"{self._root}/: {why}"
            return
        self.unread = self.unread or (folder, why)
        if not unfinished and len(self.unreadable) < LEFT_OUT_MAX:
            self.unreadable[folder] = why

    def _read(self, folder: str, *, unfinished: bool) -> None:
        with os.scandir(f"{self._root}/{folder}") as listing:
            for item in listing:
                self._listed += 1
                path = f"{folder}/{item.name}" if folder else item.name
                below = unfinished or is_temporary(item.name)
                if item.is_dir(follow_symlinks=False):
                    self._folder(item.name, path, unfinished=below)
                elif self._wanted.keeps(path):
                    self._file(item, path, unfinished=below)
                if self.too_many:
                    return

    def _folder(self, name: str, path: str, *, unfinished: bool) -> None:
        if not self._wanted.enters(path):
            return
        if name in OWN_FOLDERS:
            self._leave_out(path, "a folder of the file system")
            return
        self._selected += 1
        self._pending.append((path, unfinished))

    def _leave_out(self, path: str, why: str) -> None:
        if len(self.left_out) < LEFT_OUT_MAX:
            self.left_out[path] = why

    def _file(self, item: os.DirEntry[str], path: str, *, unfinished: bool) -> None:
        now = item.stat(follow_symlinks=False)
        kind = _kind(now.st_mode)
        if kind is Kind.FILE and _REMOVED.fullmatch(item.name):
            self._leave_out(path, "the file system's remainder of a removed file")
            return
        self._selected += 1
        entry = Entry(now.st_size, now.st_mtime_ns, now.st_ino, now.st_mode & 0o7777, kind)
        (self.temporary if unfinished else self.entries)[path] = entry
        may_read = unfinished or kind is not Kind.FILE or _may_read(item.path, now, self._user)
        if not may_read and len(self.unreadable) < LEFT_OUT_MAX:
            self.unreadable[path] = "Permission denied"


def scan(path: str, wanted: Filter, limit: int = FILES_MAX) -> Scan:
    """Walk the path once. A missing path is empty; an unreadable path is an error."""
    started = time.monotonic()
    walk = _Walk(path, wanted, limit)
    walk.run()
    now = time.monotonic()
    return Scan(
        walk.entries,
        walk.temporary,
        now,
        now - started,
        walk.error,
        walk.unread,
        walk.unreadable,
        walk.left_out,
        too_many=walk.too_many,
    )
