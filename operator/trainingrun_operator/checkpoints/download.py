"""Download one generation into the volume. Every file is verified before any file gets its final name."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from botocore import exceptions

from trainingrun_operator.checkpoints import names
from trainingrun_operator.checkpoints.bucket import code_of, combined, crc64, crc_of_file, encode
from trainingrun_operator.checkpoints.documents import WHOLE
from trainingrun_operator.checkpoints.links import check_links
from trainingrun_operator.checkpoints.proof import BadCommitError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from trainingrun_operator.checkpoints.bucket import Bucket
    from trainingrun_operator.checkpoints.documents import FileEntry, Manifest
    from trainingrun_operator.checkpoints.keys import Layout

RANGE_BYTES = 16 << 20
THREADS = 12
NAME_MAX_BYTES = 255
TRIES = 4
"""Tries for one range: botocore does not retry while it reads a body."""
SUFFIX = ".partial"
_GONE = frozenset({"NoSuchKey", "NotFound", "NoSuchVersion"})


def safe(path: str) -> str:
    """Return a manifest's path as a file name.

    Raises:
        BadCommitError: the path leads out of the volume.
    """
    name = names.from_text(path)
    parts = name.split("/")
    if not name or "\0" in name or any(part in {"", ".", ".."} for part in parts):
        raise BadCommitError(f"the manifest's path {path!r} does not stay below the checkpoint path")
    return name


class NoSpaceError(OSError):
    """The folder's file system has less free space than the files need."""

    def __init__(self, folder: Path, needed: int, free: int) -> None:
        said = f"the files need {needed} bytes, and {free} are free. Free some space, or use a larger volume"
        super().__init__(errno.ENOSPC, said, str(folder))


def belongs(path: str, folder: str) -> bool:
    """Whether a path is in the checkpoint's directory, or is the checkpoint's file."""
    return folder in {WHOLE, path} or path.startswith(f"{folder}/")


class Download:
    """Downloads one manifest's files. Use an instance once."""

    def __init__(self, bucket: Bucket, layout: Layout, root: Path) -> None:
        self._bucket = bucket
        self._layout = layout
        self._root = Path(os.path.abspath(root))  # noqa: PTH100  # Path.resolve would follow links
        self._made: list[tuple[FileEntry, str, Path]] = []
        self._folders: list[Path] = []

    def fetch(self, manifest: Manifest) -> int:
        """Download the missing files and return their size in bytes. Existing files outside the checkpoint's directory stay.

        Raises:
            BadCommitError: the bucket's objects differ from the manifest.
            ClientError, BotoCoreError: a call to the bucket failed.
            NoSpaceError: the volume has too little free space; nothing was downloaded.
            OSError: the volume is not writable.
        """
        if manifest.checkpoint is None or any(skipped.regular for skipped in manifest.skipped):
            raise BadCommitError("the manifest has no checkpoint, or one with skipped files")
        folder = names.from_text(manifest.checkpoint.dir)
        wanted = [(file, safe(file.path)) for file in manifest.files]
        for file, _ in wanted:
            if file.link_target is None and not self._layout.owns(file.key):
                raise BadCommitError(f"key {file.key!r} is outside this run's prefix")
        links = [(file, path) for file, path in wanted if file.link_target is not None]
        targets = {path: names.from_text(file.link_target or "") for file, path in links}
        if len(targets) < len(links):
            raise BadCommitError("the manifest names a symbolic link twice")
        check_links(self._root, targets, [path for file, path in wanted if file.link_target is None])
        missing = [
            (file, path)
            for file, path in wanted
            if file.link_target is None and not self._is_there(file, path, replaceable=belongs(path, folder))
        ]
        try:
            self._get_all(missing)
        except BadCommitError:
            self._clean_up()
            raise
        self._put_in_place()
        for file, path in links:
            self._link(file, path, targets[path])
        self._sync({Path(self._root, path).parent for _, path in wanted})
        return sum(file.size for file, _ in missing)

    # -- getting -----------------------------------------------------------------------------------------------

    def _is_there(self, file: FileEntry, path: str, *, replaceable: bool) -> bool:
        target = self._root / path
        if not replaceable:
            return os.path.lexists(target)
        return _holds(target, file)

    def _get_all(self, missing: list[tuple[FileEntry, str]]) -> None:
        for file, path in missing:
            self._made.append((file, path, self._partial(path)))
        self._check_space()
        with ThreadPoolExecutor(THREADS, thread_name_prefix="download") as pool:
            small = [one for one in self._made if one[0].size <= RANGE_BYTES]
            tasks: list[Future[None]] = [pool.submit(self._get_small, file, partial) for file, _, partial in small]
            try:
                for file, _, partial in self._made:
                    if file.size > RANGE_BYTES:
                        self._get_large(pool, file, partial)
                for task in tasks:
                    task.result()
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise

    def _check_space(self) -> None:
        """Compare free space with what is still to be written. A file system that tells no size is not judged."""
        if not self._made:
            return
        there = os.statvfs(self._root)
        free = there.f_bavail * there.f_frsize
        needed = sum(max(0, file.size - _allocated(partial)) for file, _, partial in self._made)
        if there.f_blocks and needed > free:
            self._clean_up()
            raise NoSpaceError(self._root, needed, free)

    def _partial(self, path: str) -> Path:
        """Return the temporary path of a file, in its final directory. Create that directory if needed."""
        folder = self._root
        folder.mkdir(parents=True, exist_ok=True)
        for part in Path(path).parts[:-1]:
            folder /= part
            if not os.path.lexists(folder):
                folder.mkdir()
                self._folders.append(folder)
            if folder.is_symlink():
                raise BadCommitError(f"{folder} is a symbolic link; files are not written through links")
        name = Path(path).name + SUFFIX
        if len(os.fsencode(name)) > NAME_MAX_BYTES:
            name = hashlib.sha256(os.fsencode(name)).hexdigest() + SUFFIX
        return folder / name

    def _get_small(self, file: FileEntry, partial: Path) -> None:
        if _holds(partial, file):
            return
        data = self._range(file, 0, file.size) if file.size else b""
        if (len(data), encode(crc64(data))) != (file.size, file.crc64nvme):
            raise BadCommitError(f"{file.key} differs from the manifest in size or checksum")
        handle = _create(partial)
        try:
            os.pwrite(handle, data, 0)
            os.fsync(handle)
        finally:
            os.close(handle)

    def _get_large(self, pool: ThreadPoolExecutor, file: FileEntry, partial: Path) -> None:
        if _holds(partial, file):
            return
        handle = _create(partial)
        try:
            crc = 0
            for length, piece in self._pieces(pool, file, handle):
                crc = combined(crc, piece, length)
            if encode(crc) != file.crc64nvme:
                raise BadCommitError(f"{file.key} differs from the manifest in its checksum")
            os.fsync(handle)
        finally:
            os.close(handle)

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
        data = self._range(file, offset, length)
        if len(data) != length:
            raise BadCommitError(f"{file.key} is shorter than in the manifest")
        os.pwrite(handle, data, offset)
        return crc64(data)

    def _range(self, file: FileEntry, offset: int, length: int) -> bytes:
        for left in range(TRIES - 1, -1, -1):
            try:
                return self._bucket.get_range(file.key, offset, length, file.version_id)
            except exceptions.ClientError as failure:
                if code_of(failure) in _GONE or code_of(failure) == "InvalidRange":
                    raise BadCommitError(f"{file.key} is not in the bucket, or is shorter") from failure
                raise
            except exceptions.BotoCoreError:
                if not left:
                    raise
        raise AssertionError  # the loop returns or raises

    def _clean_up(self) -> None:
        """Remove a partial generation: trainers resume from the folder with the highest number."""
        for _, _, partial in self._made:
            partial.unlink(missing_ok=True)
        for folder in reversed(self._folders):
            with contextlib.suppress(OSError):
                folder.rmdir()

    # -- putting in place ----------------------------------------------------------------------------------------

    def _put_in_place(self) -> None:
        for file, path, partial in self._made:
            partial.chmod(file.mode & 0o777)
            os.utime(partial, ns=(file.mtime_ns, file.mtime_ns))
            partial.replace(self._root / path)

    def _link(self, file: FileEntry, path: str, target: str) -> None:
        place = self._partial(path).with_name(Path(path).name)
        if not os.path.lexists(place):
            place.symlink_to(target)
            os.utime(place, ns=(file.mtime_ns, file.mtime_ns), follow_symlinks=False)

    @staticmethod
    def _sync(folders: Iterable[Path]) -> None:
        for folder in folders:
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)


def _create(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def _allocated(path: Path) -> int:
    """Return the bytes that a file has on disk already."""
    try:
        return path.lstat().st_blocks * 512
    except OSError:
        return 0


def _holds(path: Path, file: FileEntry) -> bool:
    """Whether a file on disk has the size and checksum of the manifest."""
    try:
        if path.is_symlink() or path.stat().st_size != file.size:
            return False
        with path.open("rb", buffering=0) as there:
            return encode(crc_of_file(there.fileno())) == file.crc64nvme
    except OSError:
        return False
