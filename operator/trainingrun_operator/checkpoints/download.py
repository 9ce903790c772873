"""Download one generation into the volume. Every file is verified before any file gets its final name."""

from __future__ import annotations

import contextlib
import hashlib
import os
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from botocore import exceptions

from trainingrun_operator.checkpoints import names
from trainingrun_operator.checkpoints.bucket import code_of, combined, crc64, crc_of_file, encode
from trainingrun_operator.checkpoints.documents import WHOLE
from trainingrun_operator.checkpoints.proof import BadCommitError

if TYPE_CHECKING:
    from collections.abc import Iterable

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


def leads_inside(root: Path, path: str, target: str) -> bool:
    """Whether a link at a path points below the root, judged by its text only."""
    whole = os.path.normpath(root / Path(path).parent / target)
    return PurePosixPath(whole).is_relative_to(root)


def belongs(path: str, folder: str) -> bool:
    """Whether a path is in the checkpoint's directory, or is the checkpoint's file."""
    return folder in {WHOLE, path} or path.startswith(f"{folder}/")


class Download:
    """Downloads one manifest's files. Use an instance once."""

    def __init__(self, bucket: Bucket, layout: Layout, root: Path) -> None:
        self._bucket = bucket
        self._layout = layout
        self._root = Path(os.path.normpath(root))
        self._made: list[tuple[FileEntry, str, Path]] = []
        self._folders: list[Path] = []

    def fetch(self, manifest: Manifest) -> int:
        """Download the missing files and return their size in bytes. Existing files outside the checkpoint's directory stay.

        Raises:
            BadCommitError: the bucket's objects differ from the manifest.
            ClientError, BotoCoreError: a call to the bucket failed.
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
            self._link(file, path)
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
            spans = [(at, min(RANGE_BYTES, file.size - at)) for at in range(0, file.size, RANGE_BYTES)]
            crc = 0
            for (_, length), piece in zip(
                spans, pool.map(lambda span: self._piece(file, handle, *span), spans), strict=True
            ):
                crc = combined(crc, piece, length)
            if encode(crc) != file.crc64nvme:
                raise BadCommitError(f"{file.key} differs from the manifest in its checksum")
            os.fsync(handle)
        finally:
            os.close(handle)

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

    def _link(self, file: FileEntry, path: str) -> None:
        target = names.from_text(file.link_target or "")
        if not leads_inside(self._root, path, target):
            raise BadCommitError(f"link {file.path!r} points out of the checkpoint path")
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


def _holds(path: Path, file: FileEntry) -> bool:
    """Whether a file on disk has the size and checksum of the manifest."""
    try:
        if path.is_symlink() or path.stat().st_size != file.size:
            return False
        with path.open("rb", buffering=0) as there:
            return encode(crc_of_file(there.fileno())) == file.crc64nvme
    except OSError:
        return False
