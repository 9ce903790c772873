"""Read the files of a shipment as the scan saw them, also those that are removed or replaced in the meantime."""

from __future__ import annotations

import errno
import os
import resource
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from trainingrun_operator.agent import scratch
from trainingrun_operator.agent.cargo import ChangedError, UnreadableError
from trainingrun_operator.agent.volume.look import open_inside
from trainingrun_operator.agent.volume.mounts import keeps_removed_files

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from trainingrun_operator.agent.cargo import Wanted
    from trainingrun_operator.agent.volume.scan import Entry

HELD_MAX = 4096
"""Files that are open at once before they are sent."""
SCRATCH_MAX_BYTES = 20 << 30
"""Bytes that are copied on the volume at most, and no more than half of what is free there."""
DELETED = "deleted while it was uploaded"
_REPLACED = frozenset({errno.ENOTDIR, errno.ELOOP})


def same(entry: Entry, now: os.stat_result) -> bool:
    """Whether a file is as the scan saw it."""
    return (entry.size, entry.mtime_ns, entry.inode) == (now.st_size, now.st_mtime_ns, now.st_ino)


class Files:
    """Opens files below the checkpoint path. Thread-safe, except for `hold` and `close`."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._held: dict[str, tuple[int, ExitStack]] = {}
        self._copies: dict[str, int] = {}
        self._bytes = 0

    def hold(self, files: Sequence[Wanted], *, copied: bool = False) -> None:
        """Open files before their turn, so that they can be read although a training removes old checkpoints.

        ``copied``: copy them first, so that they can be read although the training writes into them.

        Raises:
            ChangedError: a file changed while it was copied.
        """
        self._bytes = sum(one.entry.size for one in files)
        if not keeps_removed_files(self._root):
            return
        limit = min(HELD_MAX, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)
        # The last ones wait the longest.
        for one in files[-limit:]:
            stack = ExitStack()
            try:
                self._held[one.path] = stack.enter_context(open_inside(self._root, one.path)), stack
            except OSError:
                continue  # `opened` says why
        if copied and self._bytes <= min(SCRATCH_MAX_BYTES, _room_at(self._root) // 2):
            for one in files:
                self._copy(one)

    def _copy(self, one: Wanted) -> None:
        """Exchange a file that is open for a copy, which has no name and is gone once it is closed."""
        held = self._held.get(one.path)
        if held is None:
            return
        self.check(one, held[0])
        stack = ExitStack()
        try:
            copy = scratch.copy_of(held[0], self._root, one.entry.size)
        except OSError:
            return  # it is read as it is
        stack.callback(os.close, copy)
        self._held[one.path] = copy, stack
        self._copies[one.path] = copy
        try:
            self._check(one, held[0])
        finally:
            held[1].close()

    def close(self) -> None:
        """Close the files that were not read."""
        while self._held:
            _, (_, stack) = self._held.popitem()
            stack.close()

    @contextmanager
    def opened(self, one: Wanted, *, keep: bool = False) -> Iterator[int]:
        """Open a file that is as the scan saw it. ``keep``: a file that was opened before its turn stays open.

        Raises:
            ChangedError: it is not, or it is gone.
            UnreadableError: it cannot be read.
        """
        with ExitStack() as stack:
            held = self._held.get(one.path) if keep else self._held.pop(one.path, None)
            if held is not None:
                file = held[0]
                if not keep:
                    stack.enter_context(held[1])
                    stack.callback(self._copies.pop, one.path, None)
            else:
                try:
                    file = stack.enter_context(open_inside(self._root, one.path))
                except OSError as failure:
                    raise _unreadable(one, failure) from failure
            self.check(one, file)
            yield file

    def check(self, one: Wanted, file: int) -> None:
        """Check that an open file is as the scan saw it. A copy is.

        Raises:
            ChangedError: it is not.
        """
        if self._copies.get(one.path) != file:
            self._check(one, file)

    def _check(self, one: Wanted, file: int) -> None:
        if not same(one.entry, os.fstat(file)):
            raise ChangedError(one.path, "the file changed during the read")

    def read(self, one: Wanted, file: int, length: int, offset: int) -> bytes:
        """Read bytes of an open file. A removed file is read for as long as the volume has room for all files of the shipment once more.

        Raises:
            ChangedError: the file was removed, and the volume may need its space.
            UnreadableError: it cannot be read.
        """
        try:
            if one.path not in self._copies and os.fstat(file).st_nlink == 0 and self._bytes > _room_at(file):
                raise ChangedError(one.path, f"{DELETED}, and the volume may need its space")
            return os.pread(file, length, offset)
        except OSError as failure:
            raise _unreadable(one, failure) from failure

    def check_still(self, one: Wanted) -> None:
        """Check that a file that was read has not changed since. It may have been removed.

        Raises:
            ChangedError: it has changed.
        """
        try:
            now = os.lstat(f"{self._root}/{one.path}")
        except OSError:
            return
        if not same(one.entry, now):
            raise ChangedError(one.path, "the file changed after the upload")


def _room_at(place: int | str) -> int:
    volume = os.statvfs(place)
    return volume.f_bavail * volume.f_frsize


def _unreadable(one: Wanted, failure: OSError) -> ChangedError | UnreadableError:
    """Return what a failure to open or to read a file means."""
    if failure.errno == errno.ENOENT:
        return ChangedError(one.path, DELETED)
    why = failure.strerror or "cannot be read"
    return ChangedError(one.path, why) if failure.errno in _REPLACED else UnreadableError(one.path, why)
