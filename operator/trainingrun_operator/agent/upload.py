"""Upload the files of one generation: in parallel, in bounded memory, resumable.

Bytes that the bucket holds are not sent again: objects of this generation are compared, uploaded parts of an unfinished
multipart upload are compared by hash and skipped, files of an earlier generation, of an abandoned one, and further names of the same
file are copied inside the store.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from trainingrun_operator.agent.cargo import (
    Budget,
    Cargo,
    ChangedError,
    LeftoverError,
    PreemptedError,
    Sent,
    Tally,
    UnreadableError,
    Wanted,
)
from trainingrun_operator.agent.hard_links import further_names
from trainingrun_operator.agent.reading import Files
from trainingrun_operator.agent.volume.scan import Kind
from trainingrun_operator.checkpoints import names
from trainingrun_operator.checkpoints.bucket import Bucket, ConflictError, Part, Stored, crc64, crc_of_file, encode
from trainingrun_operator.checkpoints.documents import FileEntry, Skipped
from trainingrun_operator.checkpoints.links import leading_out
from trainingrun_operator.checkpoints.pace import SMALL_BYTES, SMALL_THREADS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

T = TypeVar("T")

PART_BYTES = 16 << 20
PARTS_MAX = 10_000
THREADS = 16
MEMORY_BYTES = 224 << 20
"""Bytes read and not yet sent, of all threads."""
LINK_SAID_MAX = 200
TASK_COST_BYTES = 256 << 10
"""Smallest cost of a task, so that the queue of small files is bounded."""


def part_size(size: int) -> int:
    """Return the part size in bytes: 16 MiB, or more if the file would exceed S3's limit of 10,000 parts."""
    needed = -(-size // PARTS_MAX)
    return max(PART_BYTES, -(-needed // (1 << 20)) << 20)


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

    def __init__(  # where from, where to, and what is there
        self,
        bucket: Bucket,
        root: str,
        folder: str,
        tally: Tally,
        halted: Callable[[], bool],
        leftovers: Sequence[str] = (),
    ) -> None:
        """``leftovers``: folders of abandoned generations of this writer. Their objects are copied where they fit."""
        self._bucket = bucket
        self._root = root
        self._folder = folder
        self._tally = tally
        self._halted = halted
        self._leftovers = leftovers
        self.not_copied: list[str] = []
        """Files of earlier generations that could not be copied: their objects may be gone, or have other bytes."""
        self._skip_changed = False
        self._failure: BaseException | None = None
        self._budget = Budget(MEMORY_BYTES)
        self._begun: dict[str, str] = {}
        self._there: set[str] = set()
        self._left: dict[str, tuple[str, int]] = {}
        """Key and size of the objects of abandoned generations, by the key that they would have in this one."""
        self._links: dict[str, tuple[Wanted, str]] = {}
        self._pending: deque[_Pending] = deque()
        self._cargo = Cargo()
        self._files = Files(root)
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="upload")
        self._small_pool = ThreadPoolExecutor(SMALL_THREADS, thread_name_prefix="upload-small")

    def send(
        self, wanted: Iterable[Wanted], *, ended: bool = False, skip_changed: bool = False, moment: bool = False
    ) -> Cargo:
        """Send all files as they were at the scan. Return once all are in the bucket.

        A file that cannot be read is recorded as skipped, after all others are sent.

        Args:
            wanted: the files.
            ended: the training has ended: a file that has changed after it was read is sent again. Before, what was read is as good.
            skip_changed: record a file that changes as skipped, too.
            moment: the files will be written anew soon: copy them first, if there is room.

        Raises:
            ChangedError: a file differs from what the scan saw, or is gone before it was read.
            LeftoverError: the generation's folder holds an object of an earlier try that does not fit.
            ConflictError: the generation's folder holds an object of another writer.
            PreemptedError: ``halted`` returned True.
            ClientError, BotoCoreError: a call to the bucket failed.
        """
        self._skip_changed = skip_changed
        listed = sorted(wanted, key=lambda one: one.optional)
        self._survey(listed)
        others, twins = further_names(self._root, listed)
        unsent = [one for one in others if one.entry.kind is Kind.FILE and one.earlier is None]
        try:
            if not ended:
                self._files.hold(unsent, copied=moment)
            self._send(others)
            self._send(self._as_sent(twins))
        except PreemptedError as preempted:
            raise self._failure or preempted from None
        finally:
            self._failure = self._failure or PreemptedError()
            for pool in (self._pool, self._small_pool):
                pool.shutdown(wait=True, cancel_futures=True)
            for pending in self._pending:
                pending.closing.close()
            self._files.close()
        self._keep_links()
        if ended and not skip_changed:
            for one in listed:
                if not one.optional:
                    self._files.check_still(one)
        return self._cargo

    def _send(self, listed: list[Wanted]) -> None:
        for one in self._copied(listed):
            self._start(one)
            while self._pending and self._pending[0].done:
                self._record(self._pending.popleft())
        while self._pending:
            self._record(self._pending.popleft())

    def _as_sent(self, twins: list[tuple[Wanted, Wanted]]) -> list[Wanted]:
        """Return further names of files that were sent, to be copied."""
        sent = {file.path: file for file in self._cargo.files}
        found = []
        for one, first in twins:
            file = sent.get(names.to_text(first.path))
            same = Sent(file.size, file.mtime_ns, file.key, file.crc64nvme) if file else None
            found.append(replace(one, earlier=same))
        return found

    # -- before anything is sent ---------------------------------------------------------------------------

    def _survey(self, listed: list[Wanted]) -> None:
        """List what an interrupted try left in the generation's folder, and in those of abandoned generations."""
        planned = {names.to_key(self._folder, one.path) for one in listed}
        self._there = {key for key, _ in self._bucket.keys(self._folder)}
        if foreign := self._there - planned:
            raise LeftoverError(min(foreign))
        self._begun = self._bucket.uploads(self._folder)
        for folder in self._leftovers:
            for key, size in self._bucket.keys(folder):
                self._left[self._folder + key.removeprefix(folder)] = key, size
            for key, upload in self._bucket.uploads(folder).items():
                self._bucket.abort(key, upload)

    def _copied(self, listed: list[Wanted]) -> Iterator[Wanted]:
        """Copy inside the store the files that it has under other keys. Yield the files that remain to be sent."""
        copies: dict[str, Future[Stored | None]] = {}
        for one in listed:
            key = names.to_key(self._folder, one.path)
            if one.entry.kind is not Kind.FILE or key in self._there:
                continue
            if one.earlier:
                copies[one.path] = self._task(one, 0, partial(self._copy, one.earlier, key))
            elif self._left.get(key, ("", -1))[1] == one.entry.size and key not in self._begun:
                copies[one.path] = self._task(one, 0, partial(self._copy_left, one, self._left[key][0], key))
        for one in listed:
            stored = copies[one.path].result() if one.path in copies else None
            if stored is None:
                if one.path in copies and one.earlier:
                    self.not_copied.append(one.path)
                yield one
                continue
            self._cargo.files.append(_entry(one, stored, names.to_key(self._folder, one.path)))

    def _copying(self, size: int) -> None:
        """Count bytes that were copied. A copy in many parts stops between two of them."""
        self._tally.kept(size)
        if size > 0:
            self._go_on()

    def _copy(self, earlier: Sent, key: str) -> Stored | None:
        stored = self._bucket.copy(earlier.key, key, earlier.size, earlier.crc, self._copying)
        if stored is not None and (upload := self._begun.get(key)):
            self._bucket.abort(key, upload)
        return stored

    def _copy_left(self, one: Wanted, source: str, key: str) -> Stored | None:
        """Copy an object of an abandoned generation if it has the file's bytes."""
        there = self._bucket.head(source)
        try:
            with self._files.opened(one, keep=True) as file:
                crc = encode(crc_of_file(file, counted=self._tally.hashed))
                self._files.check(one, file)
        except (ChangedError, UnreadableError, OSError):
            return None  # to send it fails alike, with words
        same = there is not None and (there.size, there.crc) == (one.entry.size, crc)
        return self._bucket.copy(source, key, one.entry.size, crc, self._copying) if same else None

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
            self._files.check(one, file)
            return self._bucket.complete(key, upload, parts)

        self._pending.append(_Pending(one, tasks, finish, closing))
        try:
            file = closing.enter_context(self._files.opened(one))
        except (ChangedError, UnreadableError) as failure:
            tasks.append(_failed(failure))
            return
        for number, offset in enumerate(range(0, size, step), 1):
            length = min(step, size - offset)

            def part(number: int = number, offset: int = offset, length: int = length) -> Part:
                data = self._files.read(one, file, length, offset)
                if len(data) != length:
                    raise ChangedError(one.path, "the file shrank during the read")
                crc = crc64(data)
                known = have.get(number)
                if known and (known.size, known.crc) == (length, crc):
                    self._tally.kept(length, parts=1)
                    return known
                return self._bucket.put_part(key, upload, number, data, crc, self._tally.sent)

            tasks.append(self._task(one, length, part))

    def _put(self, one: Wanted, key: str) -> Stored:
        with self._files.opened(one) as file:
            data = self._files.read(one, file, one.entry.size + 1, 0)
            self._files.check(one, file)
        return self._bucket.put(key, data, self._tally.sent)

    def _compare(self, one: Wanted, key: str) -> Stored:
        """Compare a file with the object that the generation already has for it."""
        with self._files.opened(one) as file:
            try:
                crc = encode(crc_of_file(file, counted=self._tally.hashed))
            except OSError as failure:
                raise UnreadableError(one.path, failure.strerror or "cannot be read") from failure
            self._files.check(one, file)
        size = one.entry.size
        try:
            stored = self._bucket.same(key, size, crc, part_size(size) if size > PART_BYTES else 0)
        except ConflictError as conflict:
            raise LeftoverError(key) from conflict
        self._tally.kept(size)
        return stored

    # -- links -------------------------------------------------------------------------------------------------

    def _link(self, one: Wanted) -> None:
        try:
            target = str(Path(self._root, one.path).readlink())
        except OSError as failure:
            self._skip(one, f"the link's target cannot be read: {failure.strerror}")
            return
        self._links[one.path] = one, target

    def _keep_links(self) -> None:
        """Record the links, and as skipped those that lead out of the path, here or in the empty folder of a restore."""
        root, targets = Path(self._root), {path: target for path, (_, target) in self._links.items()}
        out = leading_out(root, targets).keys() | leading_out(root, targets, in_place=False).keys()
        for path, (one, target) in self._links.items():
            if path in out:
                self._skip(one, f"the link leads out of the checkpoint path: {names.to_text(target)[:LINK_SAID_MAX]}")
                continue
            self._cargo.files.append(
                FileEntry(path=names.to_text(path), mtime_ns=one.entry.mtime_ns, link_target=names.to_text(target))
            )

    # -- tasks and their results -------------------------------------------------------------------------------

    def _task(self, one: Wanted, cost: int, work: Callable[[], T]) -> Future[T]:
        cost = max(cost, TASK_COST_BYTES)
        self._budget.take(cost)
        pool = self._small_pool if one.entry.size <= SMALL_BYTES else self._pool
        return pool.submit(self._guarded, one, cost, work)

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
        return isinstance(failure, ConflictError | LeftoverError) and one.optional

    def _record(self, pending: _Pending) -> None:
        one = pending.wanted
        try:
            stored = pending.finish()
        except (ChangedError, ConflictError, LeftoverError, UnreadableError) as failure:
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
