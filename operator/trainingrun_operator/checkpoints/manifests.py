"""Reads manifests from a bucket, in pieces, for the agent, the restore and the plugin.

The operator reads them beside other work (`edge/gather/store.py`), with the same reader.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, NamedTuple, Protocol

from trainingrun_operator.checkpoints import s3
from trainingrun_operator.checkpoints.bucket import DamagedError, crc64, encode
from trainingrun_operator.checkpoints.documents import MANIFEST_MAX_BYTES, SCHEMA, Manifest
from trainingrun_operator.checkpoints.manifest_reader import ManifestReader, Piece
from trainingrun_operator.checkpoints.proof import BadCommitError, check_manifest, check_owned, is_full_object, said

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from trainingrun_operator.checkpoints.bucket import Stored
    from trainingrun_operator.checkpoints.documents import Commit, FileEntry, ManifestHead, RankManifest, Skipped
    from trainingrun_operator.checkpoints.keys import Layout


class Ranges(Protocol):
    """A bucket to read an object from, piece by piece."""

    def read_range(self, key: str, start: int) -> tuple[bytes, int] | None:
        """Return the next bytes of an object from `start` on, and its size; None if there is none."""

    def head(self, key: str) -> Stored | None:
        """Return size and full-object checksum of an object; None if there is none."""


class ReadHead(NamedTuple):
    """A manifest without its files."""

    head: ManifestHead
    digest: str
    """SHA-256 of the manifest's bytes, hex."""
    listed: int
    """The number of its files and links."""
    skipped: tuple[Skipped, ...]


class ReadManifest(NamedTuple):
    """A manifest with all its files."""

    manifest: Manifest
    digest: str
    """SHA-256 of its bytes, hex."""


def pieces(read: Callable[[int], tuple[bytes, int] | None], key: str) -> Iterator[Piece]:
    """Yield a manifest, each piece when it is needed. `read` returns the bytes from an offset on, and the size of the object.

    Raises:
        BadCommitError: it is missing or too large.
    """
    start, last = 0, False
    while not last:
        try:
            found = read(start)
        except s3.TooLargeError:
            raise BadCommitError(f"the store sends more of {said(key)} than was asked for") from None
        if found is None:
            raise BadCommitError(f"{said(key)} is not in the bucket")
        body, size = found
        if size > MANIFEST_MAX_BYTES:
            raise BadCommitError(f"{said(key)} is larger than {MANIFEST_MAX_BYTES} bytes")
        start += len(body)
        last = not body or start >= size
        yield Piece(body, last)


def read_head(
    bucket: Ranges,
    key: str,
    entry: RankManifest | None = None,
    each: Callable[[list[FileEntry]], object] = lambda _: None,
) -> ReadHead:
    """Read a manifest, and call `each` with some of its files at a time.

    Args:
        bucket: holds it.
        key: of the manifest.
        entry: how a commit names it; its digest is compared.
        each: takes files before the digest of all bytes is known.

    Raises:
        BadCommitError: it is missing, too large, has another digest or another schema, or does not parse.
        DamagedError: so did what arrived, and the object is another.
        ClientError, BotoCoreError: a call to the bucket failed.
    """
    reader = ManifestReader(entry, keeps_skipped=True)
    try:
        return _read_head(bucket, key, reader, each)
    except BadCommitError:
        if entry is not None and damaged_on_its_way(bucket, key, entry, reader):
            raise DamagedError(key=key) from None
        raise


def damaged_on_its_way(bucket: Ranges, key: str, entry: RankManifest, reader: ManifestReader) -> bool:
    """Read a manifest again after a complaint about it. Return whether its bytes were damaged on their way, now or before.

    They were if others arrive now, which are those that the commit names, or if what arrives is not what the store holds.

    Args:
        bucket: holds it.
        key: of the manifest.
        entry: how the commit names it.
        reader: has read it, as far as the complaint.

    Raises:
        BadCommitError: it is missing or too large.
        ClientError, BotoCoreError: a call to the bucket failed.
    """
    digest, before, crc, size = hashlib.sha256(), hashlib.sha256(), 0, 0
    for piece in pieces(lambda start: bucket.read_range(key, start), key):
        digest.update(piece.body)
        before.update(piece.body[: max(0, reader.bytes_read - size)])
        crc, size = crc64(piece.body, crc), size + len(piece.body)
    if digest.hexdigest() == entry.sha256:
        return before.hexdigest() != reader.digest
    stored = bucket.head(key)
    if stored is None or not is_full_object(stored.crc):
        return False
    return (stored.size, stored.crc) != (size, encode(crc))


def _read_head(bucket: Ranges, key: str, reader: ManifestReader, each: Callable[[list[FileEntry]], object]) -> ReadHead:
    coming = pieces(lambda start: bucket.read_range(key, start), key)
    while reader.head is None:
        if reader.wants:
            reader.feed(next(coming))
        if files := reader.files():
            each(files)
    if reader.head.schema_ != SCHEMA:
        raise BadCommitError(f"{reader.where} has schema {reader.head.schema_}, this version reads {SCHEMA}")
    return ReadHead(reader.head, reader.digest, reader.listed, tuple(reader.all_skipped))


def read_manifest(bucket: Ranges, key: str, entry: RankManifest | None = None) -> ReadManifest:
    """Read a manifest with all its files. Arguments and errors are those of `read_head`."""
    files: list[FileEntry] = []
    read = read_head(bucket, key, entry, files.extend)
    fields = {name: getattr(read.head, name) for name in type(read.head).model_fields}
    manifest = Manifest.model_construct(**fields | {"skipped": read.skipped, "files": tuple(files)})
    return ReadManifest(manifest, read.digest)


def load_head(bucket: Ranges, layout: Layout, commit: Commit, entry: RankManifest) -> ManifestHead:
    """Read and check one rank's manifest. Return it without its files.

    Raises:
        BadCommitError: as `read_head`; or its run, rank, incarnation, key, checkpoint or answer differs from the commit.
        ClientError, BotoCoreError: a call to the bucket failed.
    """
    check_owned(layout, entry.key)
    read = read_head(bucket, entry.key, entry)
    check_manifest(layout, commit, entry, read.head, read.listed)
    return read.head


def load_manifest(bucket: Ranges, layout: Layout, commit: Commit, entry: RankManifest) -> Manifest:
    """Read and check one rank's manifest. Errors are those of `load_head`."""
    check_owned(layout, entry.key)
    manifest = read_manifest(bucket, entry.key, entry).manifest
    check_manifest(layout, commit, entry, manifest, len(manifest.files))
    return manifest
