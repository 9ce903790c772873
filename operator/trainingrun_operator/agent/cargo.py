"""Values of a shipment: the files to send, the files sent, the errors that stop it, its memory limit."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from trainingrun_operator.agent.volume.scan import Entry
    from trainingrun_operator.checkpoints.documents import FileEntry, Skipped


class ChangedError(Exception):
    """A file differs from what the scan saw."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__(f"{path}: {why}")
        self.path = path
        self.why = why


class UnreadableError(Exception):
    """A file cannot be read, such as one of another user: reading it again does not help."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__(f"{path}: {why}")
        self.path = path
        self.why = why


class LeftoverError(Exception):
    """The generation's folder holds an object of an earlier try, of a file that has changed or is gone."""

    def __init__(self, key: str) -> None:
        super().__init__(f"{key} is of an earlier try")
        self.key = key


class PreemptedError(Exception):
    """A more urgent request stops the shipment. Files sent so far stay in the bucket and are used again."""


class Sent(NamedTuple):
    """A file that the bucket already holds."""

    size: int
    mtime_ns: int
    key: str
    crc: str


@dataclass(frozen=True)
class Wanted:
    """One file to ship."""

    path: str
    entry: Entry
    optional: bool = False
    """Omitted without an entry in `Cargo.skipped` if it changes during the shipment."""
    earlier: Sent | None = None
    """The object in the bucket with the same bytes."""


@dataclass
class Cargo:
    """The files that were sent and those that were skipped."""

    files: list[FileEntry] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    unreadable: list[UnreadableError] = field(default_factory=list)
    """One for each skipped file that cannot be read."""


@dataclass
class Tally:
    """Counts what a shipment did, for the report and the log."""

    sent_bytes: int = 0
    kept_bytes: int = 0
    kept_parts: int = 0
    hashed_bytes: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def sent(self, size: int) -> None:
        """Count bytes that were sent to the bucket; negative: they have to be sent again."""
        with self.lock:
            self.sent_bytes += size

    def kept(self, size: int, parts: int = 0) -> None:
        """Count bytes that the bucket already held."""
        with self.lock:
            self.kept_bytes += size
            self.kept_parts += parts

    def hashed(self, size: int) -> None:
        """Count bytes that were read only to compare them."""
        with self.lock:
            self.hashed_bytes += size


class Budget:
    """Delays tasks until the bytes that they hold fit into the limit. A single task always fits."""

    def __init__(self, limit: int) -> None:
        self._free = limit
        self._limit = limit
        self._changed = threading.Condition()

    def take(self, size: int) -> None:
        """Wait until ``size`` bytes are free, and take them."""
        with self._changed:
            self._changed.wait_for(lambda: self._free >= size or self._free == self._limit)
            self._free -= size

    def give(self, size: int) -> None:
        """Return ``size`` bytes."""
        with self._changed:
            self._free += size
            self._changed.notify()
