"""What lies in a folder already where a download puts its files: what stays, and what gives way.

An entry stays if it is newer than the manifest's and whole. Anything else gives way: a file or a link is replaced, and an entry of
another kind (a folder in a file's place, or the reverse) is renamed, never removed.
"""

from __future__ import annotations

import codecs
import os
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto
from pathlib import Path
from typing import TYPE_CHECKING, Final

from trainingrun_operator.checkpoints import names
from trainingrun_operator.checkpoints.bucket import crc_of_file, encode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trainingrun_operator.checkpoints.documents import FileEntry

NAME_MAX_BYTES: Final = 255
ASIDE: Final = ".tmp-before-restore-"
"""Begins the new name of a renamed entry. The agent takes such a name for a temporary one, and no training takes it for a checkpoint."""
SAMPLE_BYTES: Final = 4096
_BINARY: Final = re.compile(
    r"\.(bin|ckpt|dat|data|distcp|gguf|h5|hdf5|keras|msgpack|np[yz]|onnx|pdparams|pickle|pkl|pth?|safetensors|tar|th|zip)\Z",
    re.IGNORECASE,
)
"""Suffixes of files that never are text."""

Judge = Callable[[Path], bool | None]
"""Whether a regular file is whole by its format; None: its format does not say."""


def unknown(_: Path) -> bool | None:
    """Judge no file."""
    return None


class Finding(Enum):
    """What to do about one path of a manifest."""

    GET = auto()
    """Nothing is there, or what is there gives way."""
    SAME = auto()
    """The manifest's file or link is there."""
    STAYS = auto()
    """What is there is newer and whole."""


@dataclass
class InPlace:
    """Compares a manifest's paths with a folder."""

    root: Path
    judge: Judge = unknown
    aside: set[str] = field(default_factory=set)
    """Paths of the entries to rename, because another kind of entry takes their place."""

    def findings(self, wanted: Sequence[tuple[FileEntry, str]]) -> list[Finding]:
        """Return the finding for each path, in order, and note what has to be renamed."""
        obstacles = [self._obstacle(path) for _, path in wanted]
        newest: dict[str, int] = {}
        for (file, _), obstacle in zip(wanted, obstacles, strict=True):
            if obstacle:
                newest[obstacle] = max(newest.get(obstacle, file.mtime_ns), file.mtime_ns)
        staying = {obstacle for obstacle, mtime_ns in newest.items() if self._is_newer(obstacle, mtime_ns)}
        self.aside |= newest.keys() - staying
        return [
            (Finding.STAYS if obstacle in staying else Finding.GET) if obstacle else self._finding(file, path)
            for (file, path), obstacle in zip(wanted, obstacles, strict=True)
        ]

    def rename(self) -> None:
        """Rename what is in the way.

        Raises:
            OSError: the folder is not writable.
        """
        for path in sorted(self.aside):
            place = self.root / path
            if os.path.lexists(place):
                place.rename(_free(place))

    def _obstacle(self, path: str) -> str:
        """Return the first parent of a path that is there and is no folder; empty: there is none."""
        at = path.find("/")
        while at >= 0:
            mode = _mode(self.root / path[:at])
            if mode is None:
                return ""
            if not stat.S_ISDIR(mode):
                return path[:at]
            at = path.find("/", at + 1)
        return ""

    def _finding(self, file: FileEntry, path: str) -> Finding:
        mode = _mode(self.root / path)
        if mode is None:
            return Finding.GET
        if _is_same(self.root / path, file):
            return Finding.SAME
        if self._is_newer(path, file.mtime_ns, file):
            return Finding.STAYS
        if stat.S_ISDIR(mode):
            self.aside.add(path)
        return Finding.GET

    def _is_newer(self, path: str, mtime_ns: int, file: FileEntry | None = None) -> bool:
        """Whether an entry is newer than the manifest's and whole."""
        place = self.root / path
        there = place.lstat()
        if stat.S_ISDIR(there.st_mode):
            return _newest_below(place) > mtime_ns
        if there.st_mtime_ns <= mtime_ns:
            return False
        if stat.S_ISLNK(there.st_mode):
            return self._leads_inside(place)
        return stat.S_ISREG(there.st_mode) and self._is_whole(place, there.st_size, file)

    def _leads_inside(self, link: Path) -> bool:
        return link.exists() and Path(os.path.realpath(link)).is_relative_to(os.path.realpath(self.root))

    def _is_whole(self, place: Path, size: int, file: FileEntry | None) -> bool:
        """Whether nothing says that a file was cut. A file that this process may not read counts as whole."""
        shorter = file is not None and file.link_target is None and size < file.size
        if shorter and not size:
            return False
        try:
            whole = self.judge(place)
            start, end = _ends(place, size) if whole is None else (b"", b"")
        except OSError:
            return True
        if whole is not None:
            return whole
        # A machine that dies leaves zeros where data was not written yet. Only text is rewritten shorter; another file was cut.
        zeros = bool(size) and not (start + end).strip(b"\0")
        return not zeros and not (shorter and not _is_text(place, start))


def _ends(place: Path, size: int) -> tuple[bytes, bytes]:
    """Return the first and the last bytes of a file."""
    with place.open("rb") as there:
        start = there.read(SAMPLE_BYTES)
        there.seek(max(0, size - SAMPLE_BYTES))
        return start, there.read(SAMPLE_BYTES)


def _is_text(place: Path, start: bytes) -> bool:
    if _BINARY.search(place.name) or b"\0" in start:
        return False
    try:
        codecs.getincrementaldecoder("utf-8")().decode(start)
    except UnicodeDecodeError:
        return False
    return True


def holds(path: Path, file: FileEntry) -> bool:
    """Whether a regular file has the size and checksum of the manifest."""
    try:
        there = path.lstat()
        if not stat.S_ISREG(there.st_mode) or there.st_size != file.size:
            return False
        with path.open("rb", buffering=0) as content:
            return encode(crc_of_file(content.fileno())) == file.crc64nvme
    except OSError:
        return False


def _is_same(place: Path, file: FileEntry) -> bool:
    if file.link_target is None:
        return holds(place, file)
    return place.is_symlink() and str(place.readlink()) == names.from_text(file.link_target)


def _mode(place: Path) -> int | None:
    """Return the mode of an entry, of a link itself; None: nothing is there."""
    try:
        return place.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None


def _newest_below(folder: Path) -> int:
    """Return the newest modification time of a file in a folder; -1: it has none."""
    newest = -1
    for above, _, found in os.walk(folder):
        for name in found:
            try:
                newest = max(newest, Path(above, name).lstat().st_mtime_ns)
            except FileNotFoundError:
                continue
    return newest


def _free(place: Path) -> Path:
    """Return a name for an entry that is to be renamed, in the same folder."""
    name = os.fsdecode(os.fsencode(ASIDE + place.name)[: NAME_MAX_BYTES - 8])
    free, number = place.with_name(name), 1
    while os.path.lexists(free):
        number += 1
        free = place.with_name(f"{name}-{number}")
    return free
