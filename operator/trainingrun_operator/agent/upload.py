"""Upload the files of one generation: in parallel, in bounded memory, resumable.

Bytes that the bucket holds are not sent again: objects of this generation are compared, uploaded parts of an unfinished
multipart upload are compared by hash and skipped, files of an earlier generation are copied inside the store.
"""

from __future__ import annotations

import errno
import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from trainingrun_operator.agent.cargo import (
    Budget,
    Cargo,
    ChangedError,
    PreemptedError,
    Sent,
    Tally,
    UnreadableError,
    Wanted,
)
from trainingrun_operator.agent.volume.look import open_inside
from trainingrun_operator.agent.volume.scan import Entry, Kind
from trainingrun_operator.checkpoints import names
from trainingrun_operator.checkpoints.bucket import Bucket, ConflictError, Part, Stored, crc64, crc_of_file, encode
from trainingrun_operator.checkpoints.documents import FileEntry, Skipped

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

T = TypeVar("T")

PART_BYTES = 16 << 20
PARTS_MAX = 10_000
THREADS = 16
MEMORY_BYTES = 224 << 20
"""Bytes read and not yet sent, of all threads."""
TASK_COST_BYTES = 256 << 10
"""Smallest cost of a task, so that the queue of small files is bounded."""


def part_size(size: int) -> int:
    """Return the part size in bytes: 16 MiB, or more if the file would exceed S3's limit of 10,000 parts."""
    needed = -(-size // PARTS_MAX)
    return max(PART_BYTES, -(-needed // (1 << 20)) << 20)


def _same(entry: Entry, now: os.stat_result) -> bool:
    return (entry.size, entry.mtime_ns, entry.inode) == (now.st_size, now.st_mtime_ns, now.st_ino)


@dataclass(frozen=True)
class _Pending:
    """A file in transit: its tasks, and the function that completes the object after them."""

    wanted: Wanted
    tasks: Sequence[Future[Any]]
    finish: Callable[[], Stored]
    closing: ExitStack = field(default_factory=ExitStack)

    @property
    def done(self) -> bool:
        return all(task.done() for task in self.tasks)


class Shipment:
    """Sends one generation's files. Use an instance once."""

    def __init__(self, bucket: Bucket, root: str, folder: str, tally: Tally, halted: Callable[[], bool]) -> None:
        self._bucket = bucket
        self._root = root
        self._folder = folder
        self._tally = tally
        self._halted = halted
        self._skip_changed = False
        self._failure: BaseException | None = None
        self._budget = Budget(MEMORY_BYTES)
        self._begun: dict[str, str] = {}
        self._there: set[str] = set()
        self._pending: deque[_Pending] = deque()
        self._cargo = Cargo()
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="upload")

    def send(self, wanted: Iterable[Wanted], *, skip_changed: bool = False) -> Cargo:
        """Send all files. Return once all are in the bucket and unchanged on disk.

        A file that cannot be read is recorded as skipped, after all others are sent.

        ``skip_changed``: record a file that changes as skipped, too.

        Raises:
            ChangedError: a file differs from what the scan saw.
            ConflictError: the generation's folder holds another object.
            PreemptedError: ``halted`` returned True.
            ClientError, BotoCoreError: a call to the bucket failed.
        """
        self._skip_changed = skip_changed
        listed = sorted(wanted, key=lambda one: one.optional)
        self._survey(listed)
        try:
            for one in self._copied(listed):
                self._start(one)
                while self._pending and self._pending[0].done:
                    self._record(self._pending.popleft())
            while self._pending:
                self._record(self._pending.popleft())
        except PreemptedError as preempted:
            raise self._failure or preempted from None
        finally:
            self._failure = self._failure or PreemptedError()
            self._pool.shutdown(wait=True, cancel_futures=True)
            for pending in self._pending:
                pending.closing.close()
        self._check_still(listed)
        return self._cargo

    # -- before anything is sent ---------------------------------------------------------------------------

    def _survey(self, listed: list[Wanted]) -> None:
        """List what an interrupted try left in the generation's folder. An object that is not planned is a conflict."""
        planned = {names.to_key(self._folder, one.path) for one in listed}
        self._there = {key for key, _ in self._bucket.keys(self._folder)}
        if foreign := self._there - planned:
            raise ConflictError(min(foreign))
        self._begun = self._bucket.uploads(self._folder)

    def _copied(self, listed: list[Wanted]) -> Iterator[Wanted]:
        """Copy inside the store the files of earlier generations. Yield the files that remain to be sent."""
        copies: dict[str, Future[Stored | None]] = {}
        for one in listed:
            key = names.to_key(self._folder, one.path)
            if one.earlier and one.entry.kind is Kind.FILE and key not in self._there and key not in self._begun:
                copies[one.path] = self._task(one, 0, partial(self._copy, one.earlier, key))
        for one in listed:
            stored = copies[one.path].result() if one.path in copies else None
            if stored is None:
                yield one
                continue
            self._tally.kept(stored.size)
            self._cargo.files.append(_entry(one, stored, names.to_key(self._folder, one.path)))

    def _copy(self, earlier: Sent, key: str) -> Stored | None:
        return self._bucket.copy(earlier.key, key, earlier.size, earlier.crc)

    # -- one file --------------------------------------------------------------------------------------------

    def _start(self, one: Wanted) -> None:
        """Submit a file to the threads. Blocks while the memory is in use."""
        self._go_on()
        key = names.to_key(self._folder, one.path)
        if one.entry.kind is Kind.OTHER:
            self._skip(one, "not a regular file, directory or symbolic link")
        elif one.entry.kind is Kind.LINK:
            self._link(one)
        elif key in self._there:
            self._small(one, 0, lambda: self._compare(one, key))
        elif one.entry.size <= PART_BYTES:
            self._small(one, one.entry.size, lambda: self._put(one, key))
        else:
            self._in_parts(one, key)

    def _small(self, one: Wanted, cost: int, work: Callable[[], Stored]) -> None:
        task = self._task(one, cost, work)
        self._pending.append(_Pending(one, [task], task.result))

    def _in_parts(self, one: Wanted, key: str) -> None:
        size, step = one.entry.size, part_size(one.entry.size)
        upload = self._begun.get(key)
        have = self._bucket.parts(key, upload) if upload else {}
        upload = upload or self._bucket.begin(key)
        closing = ExitStack()
        tasks: list[Future[Part]] = []

        def finish() -> Stored:
            parts = [task.result() for task in tasks]
            self._still(one, file)
            return self._bucket.complete(key, upload, parts)

        self._pending.append(_Pending(one, tasks, finish, closing))
        try:
            file = closing.enter_context(self._opened(one))
        except (ChangedError, UnreadableError) as failure:
            tasks.append(_failed(failure))
            return
        for number, offset in enumerate(range(0, size, step), 1):
            length = min(step, size - offset)

            def part(number: int = number, offset: int = offset, length: int = length) -> Part:
                data = _read(one, file, length, offset)
                if len(data) != length:
                    raise ChangedError(one.path, "the file shrank during the read")
                crc = crc64(data)
                known = have.get(number)
                if known and (known.size, known.crc) == (length, crc):
                    self._tally.kept(length, parts=1)
                    return known
                sent = self._bucket.put_part(key, upload, number, data, crc)
                self._tally.sent(length)
                return sent

            tasks.append(self._task(one, length, part))

    def _put(self, one: Wanted, key: str) -> Stored:
        with self._opened(one) as file:
            data = _read(one, file, one.entry.size + 1, 0)
            self._still(one, file)
        stored = self._bucket.put(key, data)
        self._tally.sent(len(data))
        return stored

    def _compare(self, one: Wanted, key: str) -> Stored:
        """Compare a file with the object that the generation already has for it."""
        with self._opened(one) as file:
            try:
                crc = encode(crc_of_file(file, counted=self._tally.hashed))
            except OSError as failure:
                raise _unreadable(one, failure) from failure
            self._still(one, file)
        size = one.entry.size
        stored = self._bucket.same(key, size, crc, part_size(size) if size > PART_BYTES else 0)
        self._tally.kept(size)
        return stored

    def _link(self, one: Wanted) -> None:
        try:
            target = str(Path(self._root, one.path).readlink())
        except OSError as failure:
            self._skip(one, f"the link's target cannot be read: {failure.strerror}")
            return
        self._cargo.files.append(
            FileEntry(path=names.to_text(one.path), mtime_ns=one.entry.mtime_ns, link_target=names.to_text(target))
        )

    # -- reading only what the scan saw ------------------------------------------------------------------------

    @contextmanager
    def _opened(self, one: Wanted) -> Iterator[int]:
        with ExitStack() as opened:
            try:
                file = opened.enter_context(open_inside(self._root, one.path))
            except OSError as failure:
                raise _unreadable(one, failure) from failure
            self._still(one, file)
            yield file

    def _still(self, one: Wanted, file: int) -> None:
        if not _same(one.entry, os.fstat(file)):
            raise ChangedError(one.path, "the file changed during the read")

    def _check_still(self, listed: list[Wanted]) -> None:
        """Check that no sent file has changed since the scan, so that all files are of one moment."""
        if self._skip_changed:
            return
        for one in listed:
            if one.optional:
                continue
            try:
                now = os.lstat(f"{self._root}/{one.path}")
            except OSError as failure:
                raise ChangedError(one.path, failure.strerror or "the file is gone") from failure
            if not _same(one.entry, now):
                raise ChangedError(one.path, "the file changed after the upload")

    # -- tasks and their results -------------------------------------------------------------------------------

    def _task(self, one: Wanted, cost: int, work: Callable[[], T]) -> Future[T]:
        cost = max(cost, TASK_COST_BYTES)
        self._budget.take(cost)
        return self._pool.submit(self._guarded, one, cost, work)

    def _guarded(self, one: Wanted, cost: int, work: Callable[[], T]) -> T:
        try:
            self._go_on()
            return work()
        except Exception as failure:
            if not isinstance(failure, PreemptedError) and not self._forgiven(one, failure):
                self._failure = self._failure or failure
            raise
        finally:
            self._budget.give(cost)

    def _go_on(self) -> None:
        if self._failure or self._halted():
            raise PreemptedError

    def _forgiven(self, one: Wanted, failure: Exception) -> bool:
        if isinstance(failure, UnreadableError):
            return True
        if isinstance(failure, ChangedError):
            return one.optional or self._skip_changed
        return isinstance(failure, ConflictError) and one.optional

    def _record(self, pending: _Pending) -> None:
        one = pending.wanted
        try:
            stored = pending.finish()
        except (ChangedError, ConflictError, UnreadableError) as failure:
            if not self._forgiven(one, failure):
                raise
            if isinstance(failure, UnreadableError) and not one.optional:
                self._cargo.unreadable.append(failure)
            if not one.optional:
                self._skip(one, str(failure))
        else:
            self._cargo.files.append(_entry(one, stored, names.to_key(self._folder, one.path)))
        finally:
            pending.closing.close()

    def _skip(self, one: Wanted, reason: str) -> None:
        regular = one.entry.kind is Kind.FILE
        self._cargo.skipped.append(Skipped(path=names.to_text(one.path), reason=reason, regular=regular))


_GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})
"""The file was removed or replaced, which is a change."""


def _unreadable(one: Wanted, failure: OSError) -> ChangedError | UnreadableError:
    """Return what a failure to open or to read a file means."""
    why = failure.strerror or "cannot be read"
    return ChangedError(one.path, why) if failure.errno in _GONE else UnreadableError(one.path, why)


def _read(one: Wanted, file: int, length: int, offset: int) -> bytes:
    try:
        return os.pread(file, length, offset)
    except OSError as failure:
        raise _unreadable(one, failure) from failure


def _failed(failure: Exception) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_exception(failure)
    return future


def _entry(one: Wanted, stored: Stored, key: str) -> FileEntry:
    return FileEntry(
        path=names.to_text(one.path),
        size=stored.size,
        mtime_ns=one.entry.mtime_ns,
        mode=one.entry.mode & 0o777,
        key=key,
        etag=stored.etag,
        version_id=stored.version_id,
        part_size=stored.part_size,
        crc64nvme=stored.crc,
    )
