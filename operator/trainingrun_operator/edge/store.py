"""The bucket as the operator reads it: the proof that everything else rests on.

What the agent reports is advice. Here every commit, manifest and object is read back, and nothing outside the run's own prefix is ever
asked for, whatever a manifest says.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

from pydantic import ValidationError

from trainingrun_operator.api.manifest import (
    COMMIT_MAX_BYTES,
    FILES_MAX,
    MANIFEST_MAX_BYTES,
    SCHEMA,
    Commit,
    FileEntry,
    Layout,
    Manifest,
    RankManifest,
    order_of_commit,
)
from trainingrun_operator.core.observed import Mismatch, Unreachable, Verified
from trainingrun_operator.edge.s3 import CALLS_PER_ACCESS, STORE_ERRORS, Access, Clients, Door, MissingObjectError, is_missing, unreachable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mypy_boto3_s3 import S3Client

__all__ = ["Access", "Store"]

_THREADS: Final = 32
_BODY_SECONDS: Final = 60.0
_REMEMBERED: Final = 2048

T = TypeVar("T")
Document = TypeVar("Document", Commit, Manifest)


class _WrongError(Exception):
    """What was read does not add up; the text is the complaint."""


@dataclass(frozen=True)
class _Read:
    """One commit as it was read."""

    key: str
    digest: str
    commit: Commit


@dataclass(frozen=True)
class _Proof:
    verified: Verified
    at: float


class Store:
    """Reads any number of buckets through a bounded pool of threads."""

    def __init__(self, *, threads: int = _THREADS, clients: int = 64) -> None:
        self._clients = Clients(clients)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="store")
        # Commits are written once. By address, credentials and key: nobody is told what they could not read themselves.
        self._read: OrderedDict[tuple[Access, str, str], _Read] = OrderedDict()
        self._proven: OrderedDict[tuple[Access, str, str], _Proof] = OrderedDict()

    def close(self) -> None:
        """Let running calls end, drop the waiting ones, close all connections."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._clients.close()

    async def probe(self, access: Access, layout: Layout) -> Unreachable | None:
        """Whether the run's prefix can be listed; None if so."""
        try:
            await self._call(access, partial(_list_one, layout))
        except STORE_ERRORS as error:
            return unreachable(access, layout.bucket, error)
        return None

    async def commits(self, access: Access, layout: Layout) -> tuple[str, ...] | Unreachable:
        """Keys of the run's commits, newest first."""
        try:
            return await self._call(access, partial(_list_commits, layout))
        except STORE_ERRORS as error:
            return unreachable(access, layout.bucket, error)

    async def verify(self, access: Access, layout: Layout, commit_key: str) -> Verified | Mismatch | Unreachable:
        """Read a commit, its manifests, and size and checksum of every object, all of it now."""
        read: _Read | None = None
        try:
            read = await self._commit(access, layout, commit_key)
            verified = Verified(commit_key, read.digest, await self._prove(access, layout, read.commit), read.commit)
        except _WrongError as error:
            asked = (read.commit.termination_id, read.commit.attempt) if read else (None, 0)
            return Mismatch(commit_key, f"{layout.uri(commit_key)}: {error}", *asked)
        except STORE_ERRORS as error:
            return unreachable(access, layout.bucket, error)
        _keep(self._proven, (access, layout.bucket, commit_key), _Proof(verified, time.monotonic()))
        return verified

    async def find(
        self,
        access: Access,
        layout: Layout,
        wanted: Callable[[Commit], bool],
        *,
        depth: int = 8,
        max_age_seconds: float = 300,
    ) -> Verified | Mismatch | Unreachable | None:
        """The newest commit that satisfies `wanted` among the newest `depth`, verified; None if there is none.

        A proof younger than `max_age_seconds` is used again. A newest commit that cannot be read is a Mismatch unless an older one is
        wanted.
        """
        keys = await self.commits(access, layout)
        if isinstance(keys, Unreachable):
            return keys
        unreadable: Mismatch | None = None
        for key in keys[:depth]:
            try:
                read = await self._commit(access, layout, key)
            except _WrongError as error:
                if key == keys[0]:
                    unreadable = Mismatch(key, f"{layout.uri(key)}: {error}")
                continue
            except STORE_ERRORS as error:
                return unreachable(access, layout.bucket, error)
            if wanted(read.commit):
                proof = self._proven.get((access, layout.bucket, key))
                if proof is not None and time.monotonic() - proof.at < max_age_seconds:
                    return proof.verified
                return await self.verify(access, layout, key)
        return unreadable

    async def _call(self, access: Access, call: Callable[[S3Client], T]) -> T:
        door = await self._door(access)
        async with door.calls:
            return await asyncio.get_running_loop().run_in_executor(self._pool, call, door.client)

    async def _door(self, access: Access) -> Door:
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._clients.door, access)

    async def _get(self, access: Access, layout: Layout, key: str, limit: int) -> bytes:
        if not layout.owns(key):
            raise _WrongError(f"it names {_said(key)}, which is outside of this run's prefix {layout.uri(layout.base)}")
        try:
            return await self._call(access, partial(_read_object, layout.bucket, key, limit))
        except MissingObjectError:
            raise _WrongError(f"{_said(key)} is not in the bucket") from None

    async def _commit(self, access: Access, layout: Layout, key: str) -> _Read:
        known = self._read.get((access, layout.bucket, key))
        if known is not None:
            self._read.move_to_end((access, layout.bucket, key))
            return known
        body = await self._get(access, layout, key, COMMIT_MAX_BYTES)
        read = _Read(key, hashlib.sha256(body).hexdigest(), _parsed(Commit, body, "the commit"))
        _check_commit(layout, read)
        _keep(self._read, (access, layout.bucket, key), read)
        return read

    async def _prove(self, access: Access, layout: Layout, commit: Commit) -> str:
        """Return the checkpoint's address once everything matched; ranks one after the other, so that one manifest is in memory."""
        left, files, size, uri = FILES_MAX, 0, 0, ""
        for entry in sorted(commit.ranks, key=lambda rank: rank.rank):
            body = await self._get(access, layout, entry.key, MANIFEST_MAX_BYTES)
            manifest = await asyncio.get_running_loop().run_in_executor(self._pool, _checked_manifest, commit, entry, body)
            left -= len(manifest.files)
            if left < 0:
                raise _WrongError(f"it has more than {FILES_MAX} files: leave some out with spec.checkpoint.exclude")
            await self._prove_files(access, layout, [file for file in manifest.files if file.link_target is None])
            files, size = files + manifest.total_files, size + manifest.total_bytes
            uri = uri or _uri(layout, manifest)
        if (files, size) != (commit.total_files, commit.total_bytes):
            raise _WrongError(
                f"it speaks of {commit.total_files} files and {commit.total_bytes} bytes, its manifests of {files} and {size}"
            )
        return uri

    async def _prove_files(self, access: Access, layout: Layout, files: list[FileEntry]) -> None:
        for file in files:
            if not layout.owns(file.key):
                raise _WrongError(f"it names {_said(file.key)}, which is outside of this run's prefix {layout.uri(layout.base)}")
        remaining: Iterator[FileEntry] = iter(files)
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(CALLS_PER_ACCESS, len(files))):
                    group.create_task(self._prove_each(access, layout, remaining))
        except ExceptionGroup as errors:
            # The first to fail ended the others.
            raise errors.exceptions[0] from None

    async def _prove_each(self, access: Access, layout: Layout, files: Iterator[FileEntry]) -> None:
        for file in files:
            if complaint := await self._call(access, partial(_compare, layout.bucket, file)):
                raise _WrongError(complaint)


# -- what is checked without asking anybody -------------------------------------------------------------------


def _check_commit(layout: Layout, read: _Read) -> None:
    commit, run = read.commit, read.commit.run
    if commit.schema_ != SCHEMA:
        raise _WrongError(f"its schema is {commit.schema_}, this operator reads {SCHEMA}")
    if not layout.base.endswith(f"{run.namespace}/{run.name}/{run.uid}/") or "/" in run.name + run.uid:
        raise _WrongError(f"it belongs to the run {_said(f'{run.namespace}/{run.name}')} with uid {_said(run.uid)}, not to this one")
    if read.key != layout.commit(commit.order):
        raise _WrongError(f"its key does not say what it is: epoch {commit.epoch}, generation {commit.generation}")
    if sorted(entry.rank for entry in commit.ranks) != list(range(commit.world_size)) or not commit.ranks:
        raise _WrongError(f"it has the ranks {sorted(entry.rank for entry in commit.ranks)[:64]}, of {commit.world_size}")


def _checked_manifest(commit: Commit, entry: RankManifest, body: bytes) -> Manifest:
    if hashlib.sha256(body).hexdigest() != entry.sha256:
        raise _WrongError(f"the manifest {_said(entry.key)} is not the one that the commit names (SHA-256 differs)")
    manifest = _parsed(Manifest, body, f"the manifest {_said(entry.key)}")
    where = f"the manifest of rank {entry.rank}"
    if manifest.schema_ != SCHEMA:
        raise _WrongError(f"{where} has schema {manifest.schema_}, this operator reads {SCHEMA}")
    if manifest.run != commit.run:
        raise _WrongError(f"{where} belongs to another run, with uid {_said(manifest.run.uid)}")
    if (manifest.epoch, manifest.generation) != commit.order:
        raise _WrongError(f"{where} is of epoch {manifest.epoch}, generation {manifest.generation}")
    if manifest.pod.rank != entry.rank or manifest.pod.world_size != commit.world_size:
        raise _WrongError(f"{where} was written by rank {manifest.pod.rank} of {manifest.pod.world_size}, the commit has {commit.world_size}")
    mine, whole = manifest.checkpoint, commit.checkpoint
    if (mine and (mine.dir, mine.step, mine.complete)) != (whole and (whole.dir, whole.step, whole.complete)):
        raise _WrongError(f"{where} is about {_about(manifest)}, the commit about {_about(commit)}")
    if left_out := next((one for one in manifest.skipped if one.regular), None):
        raise _WrongError(f"the file {_said(left_out.path)} was left out: {_said(left_out.reason)}")
    if (manifest.total_files > 0) != bool(manifest.files):
        raise _WrongError(f"{where} speaks of {manifest.total_files} files and lists {len(manifest.files)}")
    return manifest


def _about(document: Commit | Manifest) -> str:
    checkpoint = document.checkpoint
    if checkpoint is None:
        return "nothing"
    return f"{'' if checkpoint.complete else 'the unfinished '}{_said(checkpoint.dir)} at step {checkpoint.step}"


def _parsed(model: type[Document], body: bytes, what: str) -> Document:
    try:
        return model.model_validate_json(body, by_alias=True, by_name=False)
    except ValidationError as error:
        # Where, not what: the body is not quoted.
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "its JSON"
        raise _WrongError(f"{what} cannot be read: {place} is wrong ({first['type']})") from None


def _uri(layout: Layout, manifest: Manifest) -> str:
    if manifest.checkpoint is None:
        return ""
    folder = layout.folder(manifest.pod.rank, commit_order(manifest), manifest.pod.name)
    return layout.uri(folder + ("" if manifest.checkpoint.dir == "." else f"{manifest.checkpoint.dir.rstrip('/')}/"))
