"""Download one generation into the volume. Every file is verified before any file gets its final name."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from botocore import exceptions

from trainingrun_operator.checkpoints import names
from trainingrun_operator.checkpoints.bucket import DamagedError, code_of, combined, crc64, encode
from trainingrun_operator.checkpoints.in_place import Finding, InPlace, holds, unknown
from trainingrun_operator.checkpoints.links import folders_of, leading_out
from trainingrun_operator.checkpoints.pace import SMALL_BYTES, SMALL_THREADS
from trainingrun_operator.checkpoints.proof import (
    BadCommitError,
    Found,
    check_restorable,
    complaint_about,
    safe_path,
    said,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from trainingrun_operator.checkpoints.bucket import Stored
    from trainingrun_operator.checkpoints.documents import FileEntry, Manifest
    from trainingrun_operator.checkpoints.in_place import Judge
    from trainingrun_operator.checkpoints.keys import Layout

RANGE_BYTES = 16 << 20
THREADS = 12
TRIES = 4
"""Tries for one range: botocore does not retry while it reads a body."""
LARGE_TRIES = 2
"""Tries for a file of several ranges whose bytes arrive damaged."""
SUFFIX = ".partial"
_GONE = frozenset({"InvalidRange", "NoSuchKey", "NotFound"})
_NO_VERSION = frozenset({"BadRequest", "InvalidArgument", "MethodNotAllowed", "NoSuchKey", "NoSuchVersion", "NotFound"})


class NoSpaceError(OSError):
    """The folder's file system has less free space than the files need."""

    def __init__(self, folder: Path, needed: int, free: int) -> None:
        said = f"the files need {needed} bytes, and {free} are free. Free some space, or use a larger volume"
        super().__init__(errno.ENOSPC, said, str(folder))


class Objects(Protocol):
    """The part of a bucket that a download reads; see `Bucket`."""

    def get_range(
        self, key: str, offset: int, length: int, take: Callable[[int, memoryview], None], version_id: str | None = None
    ) -> int:
        """Hand over ``length`` bytes of an object from ``offset`` on. Return how many bytes have arrived."""

    def head(self, key: str) -> Stored | None:
        """Return size and full-object checksum of an object; None if there is none."""


class Fetched(NamedTuple):
    """The outcome of a download."""

    size: int
    """Bytes that were downloaded."""
    kept: tuple[str, ...] = ()
    """Paths whose entry on disk is newer and whole, and stays."""
    left_out: Mapping[str, str] = {}
    """Links that were not made, each with the reason."""


class Download:
    """Downloads one manifest's files. Use an instance once."""

    def __init__(
        self, bucket: Objects, layout: Layout, root: Path, judge: Judge = unknown, not_after_ns: int | None = None
    ) -> None:
        """Take the folder to download into.

        Args:
            bucket: of the run whose checkpoint it is.
            layout: keys of that run.
            root: the folder.
            judge: of the files that are there already.
            not_after_ns: latest modification time to set; None: those of the manifest.
        """
        self._bucket = bucket
        self._layout = layout
        self._root = Path(os.path.abspath(root))  # noqa: PTH100  # Path.resolve would follow links
        self._there = InPlace(self._root, judge)
        self._not_after_ns = not_after_ns
        self._rank = 0
        self._made: list[tuple[FileEntry, str, Path]] = []

    def fetch(self, manifest: Manifest) -> Fetched:
        """Download what is missing or gives way. What is on disk, newer and whole stays, and so does all that the manifest does not name.

        Raises:
            BadCommitError: the bucket's objects differ from the manifest. Nothing was put in place.
            ClientError, BotoCoreError: a call to the bucket failed. What was downloaded is kept for the next try.
            NoSpaceError: the volume has too little free space; nothing was downloaded.
            OSError: the volume is not writable.
        """
        if manifest.checkpoint is None or any(skipped.regular for skipped in manifest.skipped):
            raise BadCommitError("the manifest has no checkpoint, or one with skipped files")
        wanted = self._wanted(manifest)
        findings = self._there.findings(wanted)
        kept = tuple(path for (_, path), found in zip(wanted, findings, strict=True) if found is Finding.STAYS)
        coming = [one for one, found in zip(wanted, findings, strict=True) if found is Finding.GET]
        files = [(file, path) for file, path in coming if file.link_target is None]
        links = {path: file for file, path in coming if file.link_target is not None}
        targets = {path: names.from_text(file.link_target or "") for path, file in links.items()}
        others = [path for _, path in wanted if path not in links]
        left_out = leading_out(self._root, targets, others, self._there.aside)
        self._rank = manifest.pod.rank
        try:
            self._get_all(files)
        except BadCommitError:
            self._clean_up()
            raise
        self._put_in_place()
        for path in links.keys() - left_out.keys():
            self._link(links[path], path, targets[path])
        remove_staging(self._root, self._rank)
        self._sync({Path(self._root, path).parent for _, path in coming if path not in left_out})
        return Fetched(sum(file.size for file, _ in files), kept, left_out)

    def _wanted(self, manifest: Manifest) -> list[tuple[FileEntry, str]]:
        """Return the entries with their paths as file names. Of two entries with one path, the first counts; of a file and a folder, the folder."""
        wanted: dict[str, FileEntry] = {}
        for file in manifest.files:
            check_restorable(self._layout, file)
            wanted.setdefault(safe_path(file.path), file)
        above = {*folders_of(path for path, file in wanted.items() if file.link_target is None)}
        return [(file, path) for path, file in wanted.items() if file.link_target is not None or path not in above]

    # -- getting -----------------------------------------------------------------------------------------------

    def _get_all(self, missing: list[tuple[FileEntry, str]]) -> None:
        if not missing:
            return
        self._make_staging()
        self._made = [(file, path, self._partial(path)) for file, path in missing]
        self._remove_strays({partial for _, _, partial in self._made})
        self._check_space()
        with (
            ThreadPoolExecutor(THREADS, thread_name_prefix="download") as pool,
            ThreadPoolExecutor(SMALL_THREADS, thread_name_prefix="download-small") as small_pool,
        ):
            tasks: list[Future[None]] = [
                (small_pool if file.size <= SMALL_BYTES else pool).submit(self._get_small, file, partial)
                for file, _, partial in self._made
                if file.size <= RANGE_BYTES
            ]
            try:
                for file, _, partial in self._made:
                    if file.size > RANGE_BYTES:
                        self._get_large(pool, file, partial)
                for task in tasks:
                    task.result()
            except BaseException:
                for each in (small_pool, pool):
                    each.shutdown(wait=False, cancel_futures=True)
                raise

    def _make_staging(self) -> None:
        if self._staging.is_symlink() or self._staging.is_file():
            self._staging.unlink()
        self._staging.mkdir(parents=True, exist_ok=True)

    def _remove_strays(self, wanted: set[Path]) -> None:
        """Remove what an interrupted download of another generation has left."""
        for stray in self._staging.iterdir():
            if stray not in wanted:
                stray.unlink()

    def _check_space(self) -> None:
        """Compare free space with what is still to be written. A file system that tells no size is not judged."""
        there = os.statvfs(self._root)
        free = there.f_bavail * there.f_frsize
        needed = sum(max(0, file.size - _allocated(partial)) for file, _, partial in self._made)
        if there.f_blocks and needed > free:
            self._clean_up()
            raise NoSpaceError(self._root, needed, free)

    @property
    def _staging(self) -> Path:
        return staging(self._root, self._rank)

    def _partial(self, path: str) -> Path:
        """Return the temporary path of a file. It is the same at the next try."""
        return self._staging / f"{hashlib.sha256(os.fsencode(path)).hexdigest()[:32]}{SUFFIX}"

    def _get_small(self, file: FileEntry, partial: Path) -> None:
        if holds(partial, file):
            return
        handle = _create(partial)
        try:
            for _ in range(TRIES):
                if encode(self._piece(file, handle, 0, file.size)) == file.crc64nvme:
                    os.fsync(handle)
                    return
        finally:
            os.close(handle)
        raise self._differs(file)

    def _get_large(self, pool: ThreadPoolExecutor, file: FileEntry, partial: Path) -> None:
        if holds(partial, file):
            return
        for _ in range(LARGE_TRIES):
            handle = _create(partial)
            try:
                crc = 0
                for length, piece in self._pieces(pool, file, handle):
                    crc = combined(crc, piece, length)
                if encode(crc) == file.crc64nvme:
                    os.fsync(handle)
                    return
            finally:
                os.close(handle)
        raise self._differs(file)

    def _differs(self, file: FileEntry) -> Exception:
        """Return the error for bytes that are not the manifest's: of the object, or of its way here."""
        stored = self._bucket.head(file.key)
        complaint = complaint_about(file, None if stored is None else Found(stored.size, stored.crc))
        return BadCommitError(complaint) if complaint else DamagedError(key=file.key)

    def _pieces(self, pool: ThreadPoolExecutor, file: FileEntry, handle: int) -> Iterator[tuple[int, int]]:
        """Get a file's ranges, a few ahead. Yield length and checksum of each, in order: a manifest may claim any size."""
        ahead: deque[tuple[int, Future[int]]] = deque()
        for at in range(0, file.size, RANGE_BYTES):
            length = min(RANGE_BYTES, file.size - at)
            ahead.append((length, pool.submit(self._piece, file, handle, at, length)))
            if len(ahead) == 2 * THREADS:
                length, first = ahead.popleft()
                yield length, first.result()
        for length, each in ahead:
            yield length, each.result()

    def _piece(self, file: FileEntry, handle: int, offset: int, length: int) -> int:
        """Get a range and write it. Return its checksum."""
        if not length:
            return 0
        for _ in range(TRIES):
            written = _Written(handle, offset)
            if self._range(file, offset, length, written.take) == length:
                return written.crc
        raise self._differs(file)

    def _range(self, file: FileEntry, offset: int, length: int, take: Callable[[int, memoryview], None]) -> int:
        version = file.version_id
        for left in range(TRIES, -1, -1):
            try:
                return self._bucket.get_range(file.key, offset, length, take, version)
            except exceptions.ClientError as failure:
                code = code_of(failure)
                if version and code in _NO_VERSION:
                    # The version is gone, or the bucket is a copy. The checksum tells whether the present object is the same.
                    version = None
                elif code in _GONE:
                    raise BadCommitError(f"{said(file.key)} is not in the bucket, or is shorter") from failure
                else:
                    raise
            except exceptions.BotoCoreError:
                if not left:
                    raise
        raise AssertionError  # the loop returns or raises

    def _clean_up(self) -> None:
        """Remove what was downloaded: the next generation takes its place."""
        remove_staging(self._root, self._rank)

    # -- putting in place ----------------------------------------------------------------------------------------

    def _put_in_place(self) -> None:
        self._there.rename()
        for file, path, partial in self._made:
            place = self._root / path
            place.parent.mkdir(parents=True, exist_ok=True)
            partial.chmod(file.mode & 0o777)
            os.utime(partial, ns=self._times(file))
            partial.replace(place)

    def _link(self, file: FileEntry, path: str, target: str) -> None:
        place, temporary = self._root / path, self._partial(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        self._make_staging()
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(target)
        os.utime(temporary, ns=self._times(file), follow_symlinks=False)
        temporary.replace(place)

    def _times(self, file: FileEntry) -> tuple[int, int]:
        """Return the times of access and modification to set."""
        written = file.mtime_ns if self._not_after_ns is None else min(file.mtime_ns, self._not_after_ns)
        return written, written

    @staticmethod
    def _sync(folders: Iterable[Path]) -> None:
        for folder in folders:
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)


@dataclass
class _Written:
    """Writes and hashes the pieces of a range."""

    handle: int
    start: int
    """Of the range, in the file."""
    crc: int = 0

    def take(self, at: int, piece: memoryview) -> None:
        """Write a piece to its place; the first one may come again, and all others after it.

        Raises:
            OSError: the volume is full, or is not writable.
        """
        self.crc = crc64(piece, self.crc if at else 0)
        done = 0
        while done < len(piece):
            done += os.pwrite(self.handle, piece[done:], self.start + at + done)


def staging(root: Path, rank: int) -> Path:
    """Return the folder for a rank's downloads that are not whole yet. Its name is a temporary one: no training takes it for a checkpoint."""
    return root / f".tmp-restore-r{rank}"


def remove_staging(root: Path, rank: int) -> None:
    """Remove the downloads that an interrupted restore of a rank has left."""
    folder = staging(root, rank)
    if not folder.is_symlink():
        shutil.rmtree(folder, ignore_errors=True)


def _create(path: Path) -> int:
    path.unlink(missing_ok=True)
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def _allocated(path: Path) -> int:
    """Return the bytes that a file has on disk already."""
    try:
        return path.lstat().st_blocks * 512
    except OSError:
        return 0
