"""Verification of commits in the bucket.

An agent's report is no proof. Every commit, manifest and object is read back here, and only keys under the run's own prefix are requested.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple, Self, TypeVar
from weakref import WeakValueDictionary

from trainingrun_operator.checkpoints import certificates, heads, regions, s3
from trainingrun_operator.checkpoints.bucket import Stored
from trainingrun_operator.checkpoints.clients import SERVERS, Clients
from trainingrun_operator.checkpoints.documents import (
    COMMIT_MAX_BYTES,
    FILES_MAX,
    Commit,
    FileEntry,
    ManifestHead,
    RankManifest,
)
from trainingrun_operator.checkpoints.fair_cache import FairCache
from trainingrun_operator.checkpoints.manifest_reader import ManifestReader
from trainingrun_operator.checkpoints.manifests import damaged_on_its_way, pieces
from trainingrun_operator.checkpoints.proof import (
    BadCommitError,
    IncurableError,
    ReadCommit,
    check_manifest,
    check_not_skipped,
    check_object,
    check_owned,
    check_restorable,
    checked_commit,
    complaint_about,
    said,
    uri_of,
)
from trainingrun_operator.checkpoints.s3 import STORE_ERRORS, Access
from trainingrun_operator.core.facts.bucket import Mismatch, Unreachable, Verified
from trainingrun_operator.edge import calls, waits
from trainingrun_operator.edge.calls import Api

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from mypy_boto3_s3 import S3Client

    from trainingrun_operator.checkpoints.clients import Door
    from trainingrun_operator.checkpoints.keys import Layout

__all__ = ["Access", "Store"]

THREADS: Final = 512
"""Threads for all looks. A dead bucket blocks a thread for 20 s; with fewer threads, dead buckets would delay all proofs. Threads start on demand."""
REMEMBERED_BYTES: Final = 4 * 2**20
"""Limit of the commits kept, in bytes of their JSON: some 4,000 of one rank. Parsed, they take about six times as much."""
AT_ONCE: Final = 2
"""Proofs that compute at once: each of them may keep the event loop waiting for the interpreter's lock, 5 ms."""
REFUSED: Final = frozenset({"TooManyCommits", "AnswerTooLarge"})
"""Codes of a list that would be the same again."""
REFUSED_SECONDS: Final = 300
"""Time after which such a list is requested again: it takes seconds of CPU."""
REFUSED_MAX: Final = 4096
SHORT_PAGES: Final = 3
"""Pages of a list that is not long: some 3,000 commits."""
NEWEST: Final = 64
"""Commits of a run that are considered."""

_ADVICE: Final = {
    "NoSuchBucket": "there is no such bucket: create it, or correct spec.checkpoint.destination",
    "AccessDenied": "these credentials may not read it: allow s3:ListBucket and s3:GetObject on the destination, and set"
    " spec.checkpoint.s3.requesterPays if it is a Requester Pays bucket",
    "InvalidAccessKeyId": "there is no such access key: correct AWS_ACCESS_KEY_ID in the credentials Secret",
    "SignatureDoesNotMatch": "the secret key does not match the access key: correct AWS_SECRET_ACCESS_KEY in the credentials Secret",
    "ExpiredToken": "the session token has expired: renew the credentials Secret",
    "InvalidToken": "the session token is not accepted: correct AWS_SESSION_TOKEN in the credentials Secret",
    "RequestTimeTooSkewed": "the clocks of operator and store differ: correct the one that is wrong",
    "NoCredentials": "there are no credentials: write AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the credentials Secret",
    **certificates.OF_THE_SERVER,
    "CertificateNotTrusted": "the server's certificate is not signed by a CA that the operator trusts: put the certificate of that CA as ca.crt in the"
    " credentials Secret (spec.checkpoint.s3.credentialsSecretName)",
    "BadCertificate": "ca.crt in the credentials Secret is not a PEM certificate: correct it",
    "Timeout": "the server does not answer in time: is it up, and does a NetworkPolicy block the operator?",
    "Unreachable": "nothing answers there: is spec.checkpoint.s3.endpointURL right, and does a NetworkPolicy block the operator?",
    "ForbiddenAddress": "its name resolves to an address at which the cloud serves credentials: no request was made; correct spec.checkpoint.s3.endpointURL",
    "InvalidEndpoint": "it is not the address of a server: correct spec.checkpoint.s3.endpointURL",
    "TooManyCommits": "there are more than 100,000 objects below commits/ of this run: remove those that are no commits",
    "AnswerTooLarge": "the server sends more than an S3 server does: is spec.checkpoint.s3.endpointURL right?",
    "BadAnswer": "what the server sends is damaged, or no answer of S3: it is requested again; is spec.checkpoint.s3.endpointURL right?",
    "SlowDown": "the store throttles requests: they are retried",
    "InternalError": "the store reports an internal error: the request is retried",
}
_OWN_ADVICE: Final = {
    "AccessDenied": "the operator's own role may not read it: allow what kubectl trainingrun policy s3://BUCKET/PREFIX --for operator prints,"
    " and set spec.checkpoint.s3.requesterPays if it is a Requester Pays bucket",
    "InvalidAccessKeyId": "the store does not know the operator's own credentials: correct them, or name a Secret in spec.checkpoint.s3.credentialsSecretName",
    "SignatureDoesNotMatch": "the store does not accept the operator's own credentials: correct them",
    "ExpiredToken": "the operator's own session has expired: its role is asked again",
    "InvalidToken": "the store does not accept the operator's own session: does it know the operator's account?",
    "NoCredentials": "the operator has no AWS identity of its own: associate a role with its ServiceAccount, or name a Secret in"
    " spec.checkpoint.s3.credentialsSecretName",
    "CertificateNotTrusted": "the server's certificate is not signed by a CA that the operator trusts: name a Secret with the certificate of that CA as"
    " ca.crt in spec.checkpoint.s3.credentialsSecretName, or have the administrator set AWS_CA_BUNDLE",
}
"""Where the operator reads with its own identity, and not with a Secret."""

T = TypeVar("T")


class _Place(NamedTuple):
    """Key of the memory of commits. It includes the credentials, so that a run gets no proof that it could not read itself."""

    access: bytes
    """Digest of the access: its texts may be long."""
    bucket: str
    key: str

    @classmethod
    def of(cls, access: Access, layout: Layout, key: str) -> Self:
        return cls(access.digest, layout.bucket, key)


@dataclass
class _Known:
    """A commit, and its latest proof."""

    read: ReadCommit
    verified: Verified | None = None
    at: float = 0


@dataclass(frozen=True)
class _Ranges:
    """A bucket to read manifests from, piece by piece. Blocks."""

    door: Door
    bucket: str

    def read_range(self, key: str, start: int) -> tuple[bytes, int] | None:
        return self.door.call(partial(s3.read_range, self.bucket, key, start))

    def head(self, key: str) -> Stored | None:
        found = self.door.call(partial(s3.head_object, self.bucket, key))
        return Stored(found.size, found.crc64nvme) if found is not None else None


class Store:
    """Reads buckets in a bounded thread pool."""

    def __init__(
        self, *, threads: int = THREADS, clients: int = SERVERS, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._monotonic = monotonic
        self._clients = Clients(clients, partial(calls.count_all, api=Api.S3), partial(calls.count, Api.S3))
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="store")
        self._turn = threading.BoundedSemaphore(AT_ONCE)
        self._known: FairCache[_Place, _Known] = FairCache(REMEMBERED_BYTES)
        self._refused: FairCache[_Place, tuple[float, Unreachable]] = FairCache(REFUSED_MAX)
        """Lists that were refused, and when."""
        self._long_lists: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        """By namespace."""

    def warm_up(self) -> None:
        """Load what all clients share. Blocks."""
        self._clients.warm_up()

    def close(self) -> None:
        """Finish running calls, drop waiting ones, close all connections."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._clients.close()

    async def probe(self, access: Access, layout: Layout) -> Unreachable | None:
        """List the run's prefix; None: it can be listed."""
        try:
            await self._call(access, partial(s3.list_one, layout))
        except STORE_ERRORS as error:
            return unreachable(access, layout.bucket, error)
        return None

    async def ages(self, access: Access, layout: Layout, prefix: str) -> s3.Listed | Unreachable:
        """Return the first page of the keys with a prefix in the run's folder, and the age of each object."""
        try:
            return await self._call(access, partial(s3.list_ages, layout.bucket, prefix))
        except STORE_ERRORS as error:
            return unreachable(access, layout.bucket, error)

    async def commits(self, access: Access, layout: Layout) -> tuple[str, ...] | Unreachable:
        """Return the keys of the run's newest commits, newest first."""
        place = _Place.of(access, layout, layout.commits)
        refused = self._refused.get(place, access.owner)
        if refused is not None and self._monotonic() - refused[0] < REFUSED_SECONDS:
            return refused[1]
        try:
            return await self._list(access, s3.CommitList(layout, NEWEST))
        except STORE_ERRORS as error:
            failed = unreachable(access, layout.bucket, error)
            if failed.code in REFUSED:
                self._refused.put(place, access.owner, (self._monotonic(), failed))
            return failed

    async def verify(self, access: Access, layout: Layout, commit_key: str) -> Verified | Mismatch | Unreachable:
        """Verify a commit now: read it, its manifests, and size and checksum of every object."""
        read: ReadCommit | None = None
        try:
            read = await self._commit(access, layout, commit_key)
            verified = Verified(commit_key, read.digest, await self._prove(access, layout, read.commit), read.commit)
        except BadCommitError as error:
            asked = (read.commit.termination_id, read.commit.attempt) if read else (None, 0)
            curable = not isinstance(error, IncurableError)
            return Mismatch(commit_key, f"{layout.uri(commit_key)}: {error}", *asked, curable=curable)
        except STORE_ERRORS as error:
            return unreachable(access, layout.bucket, error)
        self._keep(access, layout, _Known(read, verified, self._monotonic()))
        return verified

    async def find(
        self,
        access: Access,
        layout: Layout,
        wanted: Callable[[Commit], bool],
        *,
        depth: int = 8,
        max_age_seconds: float = 300,
        fall_back: bool = False,
    ) -> Verified | Mismatch | Unreachable | None:
        """Verify and return the newest commit that satisfies `wanted` among the newest `depth`; None: there is none.

        Args:
            access: server and credentials.
            layout: keys of the run.
            wanted: which commits count.
            depth: number of newest commits to read.
            max_age_seconds: a proof younger than this is used again.
            fall_back: try older commits if the newest does not verify; return the Mismatch only if none does.

        An unreadable newest commit is a Mismatch, unless an older one satisfies `wanted`.
        """
        keys = await self.commits(access, layout)
        if isinstance(keys, Unreachable):
            return keys
        complaint: Mismatch | None = None
        over: list[Mismatch] = []
        for key in keys[:depth]:
            found = await self._prove_if(access, layout, key, wanted, max_age_seconds)
            if found is None:
                continue
            # An unreadable commit is skipped, and reported only if it is the newest.
            read = _Place.of(access, layout, key) in self._known
            if not isinstance(found, Mismatch) or (read and not fall_back):
                return replace(found, passed_over=tuple(over)) if over and isinstance(found, Verified) else found
            over.append(found)
            complaint = complaint or (found if read or key == keys[0] else None)
        return complaint

    async def _prove_if(
        self, access: Access, layout: Layout, key: str, wanted: Callable[[Commit], bool], max_age_seconds: float
    ) -> Verified | Mismatch | Unreachable | None:
        try:
            read = await self._commit(access, layout, key)
        except BadCommitError as error:
            return Mismatch(key, f"{layout.uri(key)}: {error}")
        except STORE_ERRORS as error:
            return unreachable(access, layout.bucket, error)
        if not wanted(read.commit):
            return None
        proof = self._known.get(_Place.of(access, layout, key), access.owner)
        if proof is not None and proof.verified is not None and self._monotonic() - proof.at < max_age_seconds:
            return proof.verified
        return await self.verify(access, layout, key)

    async def call(self, access: Access, made: Callable[[S3Client], T]) -> T:
        """Make calls in a thread, with the run's share of threads and calls in flight."""
        return await self._call(access, made)

    async def read_commit(self, access: Access, layout: Layout, key: str) -> Commit:
        """Read and check a commit.

        Raises:
            BadCommitError: it is missing or invalid.
            STORE_ERRORS: the bucket cannot be read.
        """
        return (await self._commit(access, layout, key)).commit

    async def keys_of(self, access: Access, layout: Layout, manifest: str) -> AsyncIterator[list[str]]:
        """Yield the keys of the objects that a manifest lists, some at a time, whatever commit names it.

        Raises:
            BadCommitError: it is missing or invalid.
            STORE_ERRORS: the bucket cannot be read.
        """
        check_owned(layout, manifest)
        loop = asyncio.get_running_loop()
        door = await loop.run_in_executor(self._pool, self._clients.door, access)
        coming = self._files(door, layout, manifest, ManifestReader(None))
        while (files := await loop.run_in_executor(self._pool, next, coming, None)) is not None:
            yield [file.key for file in files if file.link_target is None]

    async def _list(self, access: Access, found: s3.CommitList) -> tuple[str, ...]:
        """Read a list. A page takes up to 20 ms of CPU, so a namespace reads one long list at a time."""
        if not await self._call(access, partial(found.read, pages=SHORT_PAGES)):
            lock = self._long_lists.setdefault(access.owner, asyncio.Lock())
            async with lock:
                await self._call(access, found.read)
        return found.keys

    async def _call(self, access: Access, call: Callable[[S3Client], T]) -> T:
        loop = asyncio.get_running_loop()
        door = await loop.run_in_executor(self._pool, self._clients.door, access)
        with waits.for_tenant():
            async with door.calls:
                return await loop.run_in_executor(self._pool, door.call, call)

    async def _get(self, access: Access, layout: Layout, key: str, limit: int) -> bytes:
        check_owned(layout, key)
        try:
            body = await self._call(access, partial(s3.read_object, layout.bucket, key, limit))
        except s3.TooLargeError:
            raise BadCommitError(f"{said(key)} is larger than {limit} bytes") from None
        if body is None:
            raise BadCommitError(f"{said(key)} is not in the bucket")
        return body

    async def _commit(self, access: Access, layout: Layout, key: str) -> ReadCommit:
        known = self._known.get(_Place.of(access, layout, key), access.owner)
        if known is not None:
            # Commits are immutable, so the memory stays valid.
            return known.read
        read = checked_commit(layout, key, await self._get(access, layout, key, COMMIT_MAX_BYTES))
        self._keep(access, layout, _Known(read))
        return read

    def _keep(self, access: Access, layout: Layout, known: _Known) -> None:
        self._known.put(_Place.of(access, layout, known.read.key), access.owner, known, known.read.size)

    async def _prove(self, access: Access, layout: Layout, commit: Commit) -> str:
        """Verify all manifests and objects, and return the checkpoint's address. Ranks are read in turn."""
        listed, files, size, uri = 0, 0, 0, ""
        for entry in sorted(commit.ranks, key=lambda rank: rank.rank):
            manifest, more = await self._prove_manifest(access, layout, commit, entry, FILES_MAX - listed)
            listed += more
            files, size, uri = (
                files + manifest.total_files,
                size + manifest.total_bytes,
                uri or uri_of(layout, manifest),
            )
        if (files, size) != (commit.total_files, commit.total_bytes):
            said_and_listed = (
                f"{commit.total_files} files and {commit.total_bytes} bytes, its manifests list {files} and {size}"
            )
            raise BadCommitError(f"it lists {said_and_listed}")
        return uri

    async def _prove_manifest(
        self, access: Access, layout: Layout, commit: Commit, entry: RankManifest, files_max: int
    ) -> tuple[ManifestHead, int]:
        """Verify one rank's manifest and its objects, in a thread. Returns it without its files, and how many it lists."""
        check_owned(layout, entry.key)
        loop = asyncio.get_running_loop()
        door = await loop.run_in_executor(self._pool, self._clients.door, access)
        reader, cancelled = ManifestReader(entry, files_max), threading.Event()
        try:
            with waits.for_tenant():
                await loop.run_in_executor(self._pool, self._prove_files, door, layout, entry.key, reader, cancelled)
        except BadCommitError:
            # Bytes that were damaged on their way are no reason for another upload.
            again = partial(damaged_on_its_way, _Ranges(door, layout.bucket), entry.key, entry, reader)
            if not reader.matches and await loop.run_in_executor(self._pool, again):
                raise s3.BadAnswerError(f"the bytes of {entry.key} arrive damaged") from None
            raise
        finally:
            cancelled.set()
        if reader.head is None:
            raise BadCommitError(f"the manifest of rank {entry.rank} has no end")
        check_manifest(layout, commit, entry, reader.head, reader.listed)
        check_not_skipped(reader.skipped)
        return reader.head, reader.listed

    def _prove_files(
        self, door: Door, layout: Layout, key: str, reader: ManifestReader, cancelled: threading.Event
    ) -> None:
        """Read a manifest to its end, and verify its objects meanwhile, until cancelled. Blocks."""
        asked, answered = 0, 0

        def objects() -> Iterator[list[FileEntry]]:
            nonlocal asked
            for files in self._objects(door, layout, key, reader):
                asked += len(files)
                yield files

        with contextlib.closing(heads.found_of(door, layout.bucket, objects(), self._turn)) as results:
            for file, found in results:
                if complaint_about(file, found):
                    # An answer has no checksum of its own.
                    check_object(file, door.call(partial(s3.head_object, layout.bucket, file.key)))
                answered += 1
                if cancelled.is_set():
                    return
        if answered != asked:
            raise RuntimeError(f"{answered} of {asked} objects of {key} were verified: this is a bug")

    def _objects(self, door: Door, layout: Layout, key: str, reader: ManifestReader) -> Iterator[list[FileEntry]]:
        """Yield the files of a manifest that are objects, as they are parsed. Blocks."""
        for files in self._files(door, layout, key, reader):
            for file in files:
                check_restorable(layout, file)
            yield [file for file in files if file.link_target is None]

    def _files(self, door: Door, layout: Layout, key: str, reader: ManifestReader) -> Iterator[list[FileEntry]]:
        """Read a manifest to its end, and yield its files as they are parsed. Blocks."""
        ranges = _Ranges(door, layout.bucket)
        coming = pieces(partial(ranges.read_range, key), key)
        while reader.head is None:
            if reader.wants:
                reader.feed(next(coming))
            with self._turn:
                files = reader.files()
            yield files


def unreachable(access: Access, bucket: str, error: Exception) -> Unreachable:
    """Return the meaning of a failed call, with what to do."""
    code = s3.code_of(error)
    known = _ADVICE | _OWN_ADVICE if access.own_identity else _ADVICE
    advice = known.get(code, "the store refuses: see the code in its documentation")
    if code in regions.CODES:
        advice = f"it is in another region{regions.other_region(error)}: correct spec.checkpoint.s3.region, and endpointURL if it names one"
    return Unreachable(code, f"Bucket {bucket} at {access.where} cannot be read ({code}): {advice}.")
