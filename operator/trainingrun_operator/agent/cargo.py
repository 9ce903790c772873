"""What a shipment takes and brings: the files wanted, what arrived, what stopped it, how much memory it may hold."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from trainingrun_operator.agent.volume.scan import Entry
    from trainingrun_operator.checkpoints.documents import FileEntry, Skipped


class ChangedError(Exception):
    """A file is no longer what the scan saw."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__(f"{path}: {why}")
        self.path = path
        self.why = why


class PreemptedError(Exception):
    """Something more urgent has come up; what was sent stays and counts."""


class Sent(NamedTuple):
    """A file that a commit names already."""

    size: int
    mtime_ns: int
    key: str
    crc: str


@dataclass(frozen=True)
class Wanted:
    """One file to be shipped."""

    path: str
    entry: Entry
    optional: bool = False
    """Left out without a word if it changes meanwhile."""
    earlier: Sent | None = None
    """Where the bucket holds the same bytes."""


@dataclass
class Cargo:
    """What has arrived."""

    files: list[FileEntry] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)


@dataclass
class Tally:
    """What a shipment did, for the report and the log."""

    sent_bytes: int = 0
    kept_bytes: int = 0
    kept_parts: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def sent(self, size: int) -> None:
        """Bytes that went over the wire."""
        with self.lock:
            self.sent_bytes += size

    def kept(self, size: int, parts: int = 0) -> None:
        """Bytes that were there already."""
        with self.lock:
            self.kept_bytes += size
            self.kept_parts += parts


class Budget:
    """Lets tasks start only while the bytes that they hold fit; one task alone always fits."""

    def __init__(self, limit: int) -> None:
        self._free = limit
        self._limit = limit
        self._changed = threading.Condition()

    def take(self, size: int) -> None:
        """Wait for that much memory."""
        with self._changed:
            self._changed.wait_for(lambda: self._free >= size or self._free == self._limit)
            self._free -= size

    def give(self, size: int) -> None:
        """Return it."""
        with self._changed:
            self._free += size
            self._changed.notify()
