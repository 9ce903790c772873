"""List, prove and download a run's checkpoints in its bucket, with the user's own credentials."""

from __future__ import annotations

import asyncio
import contextlib
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from trainingrun_operator.api.run import CheckpointMode
from trainingrun_operator.checkpoints import bucket_names, certificates, names, regions, s3, story
from trainingrun_operator.checkpoints.bucket import Bucket, DamagedError, crc_of_file, encode
from trainingrun_operator.checkpoints.clients import Clients
from trainingrun_operator.checkpoints.documents import COMMIT_MAX_BYTES, Commit
from trainingrun_operator.checkpoints.download import Download, NoSpaceError
from trainingrun_operator.checkpoints.keys import Layout, Order, order_of_name
from trainingrun_operator.checkpoints.manifests import load_manifest
from trainingrun_operator.checkpoints.proof import (
    BadCommitError,
    check_whole,
    checked_commit,
    safe_path,
)
from trainingrun_operator.checkpoints.reached import Reached
from trainingrun_operator.checkpoints.s3 import STORE_ERRORS, Access
from trainingrun_operator.cli import identity, words
from trainingrun_operator.cli.trouble import Exit, TroubleError
from trainingrun_operator.core.destinations import layout_of
from trainingrun_operator.core.facts.bucket import Unreachable, Verified
from trainingrun_operator.edge import calls
from trainingrun_operator.edge.calls import Api
from trainingrun_operator.edge.gather.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from mypy_boto3_s3 import S3Client

    from trainingrun_operator.checkpoints.documents import FileEntry, Manifest
    from trainingrun_operator.cli.server import Server
    from trainingrun_operator.core.facts.bucket import Mismatch
    from trainingrun_operator.core.facts.run import Run

READERS: Final = 8
LISTED_MAX: Final = 1000
NAMED: Final = 10
"""Generations to name in the error if one is not found."""
_URI: Final = re.compile(r"s3://(?P<destination>[^/]+(?:/.*)?)/(?P<namespace>[^/]+)/(?P<run>[^/]+)/(?P<uid>[^/]+)/?\Z")
_YOURS: Final = (
    "boto3 finds them in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, in AWS_PROFILE, or takes the machine's own"
)
_ADVICE: Final = {
    "NoSuchBucket": "the bucket does not exist",
    "AccessDenied": f"your credentials may not read it: ask for s3:ListBucket and s3:GetObject on it ({_YOURS}); a Requester Pays bucket needs --requester-pays",
    "InvalidAccessKeyId": f"the store does not know your access key ({_YOURS})",
    "SignatureDoesNotMatch": f"your secret key does not match your access key ({_YOURS})",
    "ExpiredToken": f"your session has expired: log in again ({_YOURS})",
    "InvalidToken": f"the store does not accept your session token: log in again ({_YOURS})",
    "NoCredentials": f"you have no AWS credentials: {_YOURS}",
    **dict.fromkeys(regions.CODES, "the bucket is in another region: set --region, and --endpoint-url if it names one"),
    "RequestTimeTooSkewed": "your clock and the store's differ",
    **certificates.OF_THE_SERVER,
    "CertificateNotTrusted": "the server's certificate is not signed by a CA that this machine trusts: set AWS_CA_BUNDLE to a file with the certificate of"
    " that CA (ca.crt in the run's credentials Secret)",
    "BadCertificate": "the file in AWS_CA_BUNDLE has no PEM certificate",
    "Timeout": "the store does not answer in time. If the address is internal to the cluster, set --endpoint-url to one that you can reach",
    "Unreachable": "the store does not answer. If the address is internal to the cluster, set --endpoint-url to one that you can reach",
    "InvalidEndpoint": "the address is not valid: correct --endpoint-url",
    "AnswerTooLarge": "the server sends more than an S3 server does: is the address right?",
    "BadAnswer": "what the server sends is damaged, or no answer of S3: try again, or correct the address",
    "TooManyCommits": "there are more than 100,000 objects below commits/: remove those that are no commits",
}
_CLOSED: Final = frozenset(
    {"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "NoCredentials"}
)


@dataclass(frozen=True)
class Place:
    """One run's keys in the bucket, and the access to them."""

    access: Access
    layout: Layout
    proven: str = ""
    """Key of the commit that the status names as proven."""


@dataclass(frozen=True)
class Listed:
    """One commit, or the complaint if it is not readable."""

    key: str
    commit: Commit | None
    complaint: str = ""


def order_of(name: str) -> Order:
    """Parse the name of a generation, as `words.generation` writes it.

    Raises:
        TroubleError: the name has another form.
    """
    if (order := order_of_name(name)) is None:
        raise TroubleError(
            f"{name!r} is not a generation: use a name such as i1-g0003. `checkpoints list` shows them.", Exit.USAGE
        )
    return order


def place_of(run: Run, server: Server) -> Place:
    """Return the place of a run's checkpoints. What ``server`` says overrides the spec.

    Raises:
        TroubleError: the run saves no checkpoints, its destination is invalid, or its spec names a server that is not AWS and ``server``
            does not override it.
    """
    if run.spec.checkpoint.mode is CheckpointMode.DISABLED:
        raise TroubleError(f"{run.name} saves no checkpoints: spec.checkpoint.mode is Disabled.", Exit.NO_SUCH_RUN)
    try:
        layout = layout_of(run)
    except ValueError as error:
        raise TroubleError(f"spec.checkpoint of {run.name}: {error}.") from error
    if not server.endpoint_url:
        identity.check_named_by_spec(run)
    wanted = run.spec.checkpoint.s3
    access = Access(
        endpoint_url=server.endpoint_url or wanted.endpoint_url,
        region=server.region or wanted.region,
        requester_pays=server.requester_pays or wanted.requester_pays,
        own_identity=True,
    )
    return Place(access, layout, run.status.checkpoint.commit if run.status.checkpoint else "")


def access_to(server: Server) -> Access:
    """Return the access with the user's own credentials."""
    return Access(
        endpoint_url=server.endpoint_url, region=server.region, requester_pays=server.requester_pays, own_identity=True
    )


def place_of_uri(uri: str, server: Server) -> Place:
    """Return the place of a run that is no longer in the cluster, from `s3://bucket/prefix/namespace/run/uid`.

    Raises:
        TroubleError: the address has another form.
    """
    match = _URI.match(uri)
    try:
        if match is None:
            raise ValueError  # noqa: TRY301 - reported below
        layout = Layout.of(f"s3://{match['destination']}", match["namespace"], match["run"], match["uid"])
    except ValueError:
        if what := bucket_names.complaint(uri.removeprefix("s3://").partition("/")[0]):
            raise TroubleError(f"{what}.", Exit.USAGE) from None
        raise TroubleError(f"{uri} does not have the form s3://bucket/prefix/namespace/run/uid.", Exit.USAGE) from None
    return Place(access_to(server), layout)


class Checkpoints:
    """Reads one run's checkpoints. Its methods block. Close it after use."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self._clients = Clients(1, partial(calls.count_all, api=Api.S3))

    def close(self) -> None:
        """Close all connections."""
        self._clients.close()

    @property
    def where(self) -> str:
        """The URI of the run's prefix."""
        return self.place.layout.uri(self.place.layout.base)

    @property
    def nothing(self) -> str:
        """The message for a run without a commit."""
        return f"There is no checkpoint at {self.where} yet."

    def keys(self) -> tuple[str, ...]:
        """Return the keys of all commits, newest first. Reads no commit.

        Raises:
            TroubleError: there is no commit, or the bucket cannot be read.
        """
        if keys := self._keys():
            return keys
        raise TroubleError(self.nothing, Exit.NO_SUCH_RUN)

    def listed(self) -> list[Listed]:
        """Read the newest commits, newest first.

        Raises:
            TroubleError: the bucket cannot be read.
        """
        keys = self._keys()[:LISTED_MAX]
        with self._readable(), ThreadPoolExecutor(READERS) as pool:
            return list(pool.map(self._read, keys))

    def key(self, name: str) -> str:
        """Return the key of a generation's commit. Without a name: of the one that the operator has proven, else the furthest.

        Raises:
            TroubleError: there is none, or the bucket cannot be read.
        """
        keys = self.keys()
        key = self.place.layout.commit(order_of(name)) if name else self.place.proven or self._furthest(keys)
        if key in keys:
            return key
        if not name:
            raise TroubleError(
                f"The commit that the status names as proven is no longer in the bucket: {self.place.layout.uri(key)}",
                Exit.NOT_PROVEN,
            )
        known = ", ".join(words.generation(one) for one in keys[:NAMED])
        raise TroubleError(f"There is no generation {name} at {self.where}; there is {known}.", Exit.NO_SUCH_RUN)

    def _furthest(self, keys: tuple[str, ...]) -> str:
        """Return the key of the commit that a replaced pod resumes from; of the newest one, if none is readable."""
        with self._readable(), ThreadPoolExecutor(READERS) as pool:
            read = [one for one in pool.map(self._read, keys[:LISTED_MAX]) if one.commit is not None]
        places = {one.key: Reached.of(one.commit) for one in read if one.commit is not None}
        return max(places, key=places.__getitem__, default=keys[0])

    def find(self, name: str) -> Listed:
        """Read the commit whose key is `key(name)`.

        Raises:
            TroubleError: there is none, or the bucket cannot be read.
        """
        key = self.key(name)
        with self._readable():
            return self._read(key)

    def verify(self, key: str) -> Verified | Mismatch:
        """Prove one commit as the operator does: its manifests, and size and checksum of every object.

        Raises:
            TroubleError: the bucket cannot be read.
        """
        answer = asyncio.run(self._verify(key))
        if isinstance(answer, Unreachable):
            raise self._unreadable(answer.code)
        return answer

    async def _verify(self, key: str) -> Verified | Mismatch | Unreachable:
        store = Store(threads=READERS + 1, clients=1)
        try:
            return await store.verify(self.place.access, self.place.layout, key)
        finally:
            store.close()

    def document(self, key: str, most_bytes: int) -> bytes | None:
        """Return a small object beside the commits; None: there is none. Empty: it is larger.

        Raises:
            TroubleError: the bucket cannot be read.
        """
        with self._readable():
            try:
                return s3.read_object(self.place.layout.bucket, key, most_bytes, self._client)
            except s3.TooLargeError:
                return b""

    def logs(self) -> tuple[int, ...]:
        """Return the ranks of which the end of the log is kept.

        Raises:
            TroubleError: the bucket cannot be read.
        """
        with self._readable():
            return story.logs(self.place.layout, self._client)

    def manifests(self, commit: Commit) -> list[Manifest]:
        """Read the manifest of every rank of a commit.

        Raises:
            TroubleError: a manifest differs from the commit, has skipped files, or cannot be read.
        """
        try:
            bucket = Bucket(self._client, self.place.layout.bucket)
            found = [load_manifest(bucket, self.place.layout, commit, entry) for entry in commit.ranks]
            for manifest in found:
                check_whole(manifest)
        except BadCommitError as wrong:
            raise TroubleError(f"The checkpoint is not proven: {wrong}.", Exit.NOT_PROVEN) from wrong
        except STORE_ERRORS as error:
            raise self._unreadable(s3.code_of(error)) from error
        return found

    def fetch(self, manifest: Manifest, folder: Path, told: Callable[[int], None]) -> Mapping[str, str]:
        """Download a manifest's files. Check every file's checksum before it gets its name, and again at the end.

        Returns the symbolic links that were left out, because they lead out of the folder, each with the reason.

        Args:
            manifest: of one rank.
            folder: takes the place of the checkpoint path.
            told: called with the number of bytes of every downloaded piece.

        Raises:
            TroubleError: the objects differ from the manifest, another file exists, or a read or write fails.
        """
        if manifest.checkpoint is None or not manifest.files:
            raise TroubleError(
                "There is nothing to download: the checkpoint path was empty when this generation was saved.",
                Exit.NO_SUCH_RUN,
            )
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if other := next((file for file in manifest.files if _in_the_way(folder, file)), None):
                raise TroubleError(
                    f"{folder / safe_path(other.path)} exists with other content: name another folder with --to, or remove the file."
                )
            bucket = _Counting(self._client, self.place.layout.bucket, told)
            left_out = Download(bucket, self.place.layout, folder).fetch(manifest).left_out
            there = (file for file in manifest.files if safe_path(file.path) not in left_out)
            wrong = next((file for file in there if not _same(folder, file)), None)
        except BadCommitError as bad:
            raise TroubleError(
                f"The checkpoint differs from its manifest: {bad}. No file was written.", Exit.NOT_PROVEN
            ) from bad
        except DamagedError as damaged:
            raise TroubleError(
                f"The checkpoint is in the bucket, but {damaged}. Try again.", Exit.NOT_PROVEN
            ) from damaged
        except NoSpaceError as full:
            raise TroubleError(f"{folder} is too small: {full.strerror}, or name another folder with --to.") from full
        except STORE_ERRORS as error:
            if isinstance(error, OSError) and error.filename is not None:
                raise TroubleError(f"{folder} is not writable: {error}.") from error
            raise self._unreadable(s3.code_of(error)) from error
        if wrong is not None:
            raise TroubleError(f"{folder / safe_path(wrong.path)} differs from the manifest.", Exit.NOT_PROVEN)
        return left_out

    @property
    def _client(self) -> S3Client:
        client = self._clients.door(self.place.access).client
        # The address in use: without an argument, boto3 may take one from the user's configuration.
        identity.check_encrypted(client.meta.endpoint_url)
        return client

    def _keys(self) -> tuple[str, ...]:
        with self._readable():
            return s3.list_commits(self.place.layout, self._client)

    @contextlib.contextmanager
    def _readable(self) -> Iterator[None]:
        """Turn a failed call into a `TroubleError`."""
        try:
            yield
        except STORE_ERRORS as error:
            raise self._unreadable(s3.code_of(error)) from error

    def _read(self, key: str) -> Listed:
        layout = self.place.layout
        try:
            body = s3.read_object(layout.bucket, key, COMMIT_MAX_BYTES, self._client)
            if body is None:
                return Listed(key, None, "it is no longer in the bucket")
            read = checked_commit(layout, key, body)
        except s3.TooLargeError:
            return Listed(key, None, f"it is larger than {COMMIT_MAX_BYTES} bytes")
        except BadCommitError as error:
            return Listed(key, None, str(error))
        return Listed(key, read.commit)

    def _unreadable(self, code: str) -> TroubleError:
        return unreadable(self.place.layout.bucket, self.place.access, code)


def unreadable(bucket: str, access: Access, code: str) -> TroubleError:
    """Return the meaning of a failed call, with what to do."""
    advice = _ADVICE.get(code, "see the store's documentation for this code")
    exit_code = Exit.FORBIDDEN if code in _CLOSED else Exit.NO_CLUSTER
    return TroubleError(f"Bucket {bucket} at {access.where} cannot be read ({code}): {advice}.", exit_code)


class _Counting(Bucket):
    """A bucket that reports the bytes of every downloaded piece."""

    def __init__(self, client: S3Client, name: str, told: Callable[[int], None]) -> None:
        super().__init__(client, name)
        self._told = told

    def get_range(
        self, key: str, offset: int, length: int, take: Callable[[int, memoryview], None], version_id: str | None = None
    ) -> int:
        """Hand over ``length`` bytes of an object, and report them."""
        size = super().get_range(key, offset, length, take, version_id)
        self._told(size)
        return size


def _in_the_way(folder: Path, file: FileEntry) -> bool:
    """Whether the file's path exists with other content."""
    place = folder / safe_path(file.path)
    return (place.exists() or place.is_symlink()) and not _same(folder, file)


def _same(folder: Path, file: FileEntry) -> bool:
    place = folder / safe_path(file.path)
    if file.link_target is not None:
        return place.is_symlink() and str(place.readlink()) == names.from_text(file.link_target)
    if place.is_symlink() or not place.is_file() or place.stat().st_size != file.size:
        return False
    with place.open("rb", buffering=0) as there:
        return encode(crc_of_file(there.fileno())) == file.crc64nvme
