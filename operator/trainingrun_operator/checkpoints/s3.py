"""Operator's and plugin's access to a bucket: credentials, clients, and the codes of failed calls.

Text from a store is never quoted: a tenant may control the store, and others read the run's status.
"""

from __future__ import annotations

import contextlib
import hashlib
import heapq
import re
import time
from dataclasses import astuple, dataclass, field
from email.utils import parsedate_to_datetime
from functools import cached_property
from typing import TYPE_CHECKING, Final, NamedTuple

from botocore import exceptions

from trainingrun_operator.checkpoints import certificates, regions
from trainingrun_operator.checkpoints.answers import TooMuchError, caused_by
from trainingrun_operator.checkpoints.keys import LISTED_MAX, Layout, Order, order_of_commit
from trainingrun_operator.checkpoints.metadata_guard import ForbiddenAddressError
from trainingrun_operator.checkpoints.proof import Found

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import GetObjectOutputTypeDef

STORE_ERRORS: Final = (exceptions.ClientError, exceptions.BotoCoreError, OSError, ValueError)
"""The errors that a call to the bucket raises, a refused endpoint or certificate included."""

_NO_RANGE: Final = frozenset({"416", "InvalidRange"})
"""Codes of a range that begins after the object's last byte."""
_MISSING: Final = frozenset({"404", "NoSuchKey", "NotFound"})
# A response to HEAD has no body: its only code is the HTTP status. XAdminUserNotFound is versitygw's code for an unknown key.
_CODES: Final = {
    "301": "PermanentRedirect",
    "400": "BadRequest",
    "403": "AccessDenied",
    "404": "NotFound",
    "412": "PreconditionFailed",
    "429": "SlowDown",
    "500": "InternalError",
    "503": "SlowDown",
    "XAdminUserNotFound": "InvalidAccessKeyId",
}
DEFAULT_REGION: Final = "us-east-1"
PIECE_BYTES: Final = 256 * 1024
"""Of a manifest, read at once."""
LIST_PAGES_MAX: Final = 100
"""Pages of 1,000 keys of one list."""
_LIST_SECONDS: Final = 60.0
_BODY_SECONDS: Final = 60.0
_CHUNK_BYTES: Final = 1 << 16


@dataclass(frozen=True)
class Access:
    """Endpoint and credentials of one bucket."""

    endpoint_url: str = ""
    """Empty for AWS."""
    region: str = ""
    access_key: str = ""
    secret_key: str = field(default="", repr=False)
    session_token: str = field(default="", repr=False)
    ca_pem: str = field(default="", repr=False)
    expected_bucket_owner: str = ""
    """AWS account that must own the bucket; empty: any. S3 refuses every call to a bucket of another account."""
    requester_pays: bool = False
    """Say in every request that its sender pays."""
    owner: str = ""
    """Namespace of the run, whose share of the kept clients it uses."""
    own_identity: bool = False
    """Use the process's own credentials, which boto3 finds. Never a fallback for a Secret without keys: the author of the Secret
    would gain the operator's rights."""

    @property
    def where(self) -> str:
        """The server's name in messages."""
        return self.endpoint_url or f"AWS S3 in {self.region or DEFAULT_REGION}"

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of all fields: it identifies the access without keeping its secrets and certificates."""
        return hashlib.sha256(repr(astuple(self)).encode()).digest()


class BadAnswerError(ValueError):
    """An answer of the server is damaged, or no answer of S3."""


class TooLargeError(Exception):
    """An object is larger than its limit."""


def list_one(layout: Layout, client: S3Client) -> None:
    """Check that the run's prefix can be listed."""
    client.list_objects_v2(Bucket=layout.bucket, Prefix=layout.base, MaxKeys=1)


class TooManyError(ValueError):
    """A list has more keys than are read."""


class Listed(NamedTuple):
    """One page of a list."""

    ages: tuple[tuple[str, float], ...]
    """Keys, and how many seconds ago each object was written, by the server's own clock where it shows one."""
    more: bool
    """Whether there are keys that were not listed."""


def list_ages(bucket: str, prefix: str, client: S3Client) -> Listed:
    """Return the first page of the keys with a prefix, by one request."""
    answer = client.list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=LISTED_MAX)
    now = _server_time(answer["ResponseMetadata"]["HTTPHeaders"].get("date", ""))
    items = answer.get("Contents", [])[:LISTED_MAX]
    ages = tuple((item["Key"], now - item["LastModified"].timestamp()) for item in items if "LastModified" in item)
    return Listed(ages, more=bool(answer.get("IsTruncated")))


def _server_time(date: str) -> float:
    """Return the time of an answer's Date header, or of this process where it has none that can be read."""
    try:
        return parsedate_to_datetime(date).timestamp()
    except (ValueError, TypeError, OverflowError):
        return time.time()


class CommitList:
    """The keys of a run's commits, read page by page."""

    def __init__(self, layout: Layout, newest: int | None = None) -> None:
        """Nothing is read yet. With `newest`, only so many keys are kept."""
        self._layout, self._newest = layout, newest
        self._kept: list[tuple[Order, str]] = []
        self._pages, self._token = 0, ""

    @property
    def keys(self) -> tuple[str, ...]:
        """Those of the pages read so far, newest first."""
        return tuple(key for _, key in sorted(self._kept, reverse=True))

    def read(self, client: S3Client, pages: int | None = None) -> bool:
        """Read the next pages, all that are left if `pages` is None. Returns whether the list is at its end.

        Raises:
            TooManyError: there are more than `LIST_PAGES_MAX` pages.
            BadAnswerError: a page has keys that were not asked for.
            TimeoutError: these pages take more than 60 s.
        """
        deadline, stop_at = time.monotonic() + _LIST_SECONDS, None if pages is None else self._pages + pages
        while self._pages != stop_at:
            after: dict[str, str] = {"ContinuationToken": self._token} if self._token else {}
            page = client.list_objects_v2(Bucket=self._layout.bucket, Prefix=self._layout.commits, **after)  # type: ignore[arg-type]
            self._add(item["Key"] for item in page.get("Contents", ()))
            self._pages, self._token = self._pages + 1, page.get("NextContinuationToken", "")
            if not (page.get("IsTruncated") and self._token):
                return True
            if self._pages >= LIST_PAGES_MAX:
                raise TooManyError
            if time.monotonic() > deadline:
                raise TimeoutError(self._layout.commits)
        return False

    def _add(self, keys: Iterable[str]) -> None:
        found = [(order_of_commit(key), key) for key in keys]
        if any(not key.startswith(self._layout.commits) for _, key in found):
            raise BadAnswerError("the list has keys that were not asked for")
        # Only keys in the agent's form: `i01-g1` has the same order as `i1-g0001`, but the agent does not write it.
        self._kept += [(order, key) for order, key in found if order is not None and key == self._layout.commit(order)]
        if self._newest is not None:
            self._kept = heapq.nlargest(self._newest, self._kept)


def list_commits(layout: Layout, client: S3Client) -> tuple[str, ...]:
    """Return the keys of all commits, newest first. Raises what `CommitList.read` raises."""
    found = CommitList(layout)
    found.read(client)
    return found.keys


def read_object(bucket: str, key: str, limit: int, client: S3Client) -> bytes | None:
    """Return an object's bytes; None if there is none.

    Raises:
        TooLargeError: it has more than `limit` bytes.
        TimeoutError: the read takes more than 60 s. botocore's own timeout restarts with every byte.
        botocore.exceptions.FlexibleChecksumError: it arrives with other bytes than the store has, if the store keeps a checksum of it.
    """
    try:
        answer = client.get_object(Bucket=bucket, Key=key, ChecksumMode="ENABLED")
    except exceptions.ClientError as error:
        if _is_missing(error):
            return None
        raise
    return _body(answer, key, limit)


def read_range(bucket: str, key: str, start: int, client: S3Client) -> tuple[bytes, int] | None:
    """Return up to `PIECE_BYTES` bytes of an object, and its size; None if there is none.

    Raises:
        TooLargeError: the server sends more than was asked for.
        TimeoutError: the read takes more than 60 s.
    """
    span = f"bytes={start}-{start + PIECE_BYTES - 1}"
    try:
        answer = client.get_object(Bucket=bucket, Key=key, Range=span)
    except exceptions.ClientError as error:
        if _is_missing(error):
            return None
        if str(error.response.get("Error", {}).get("Code")) in _NO_RANGE:
            return b"", 0
        raise
    body = _body(answer, key, PIECE_BYTES)
    _, _, size = answer.get("ContentRange", "").rpartition("/")
    return body, int(size) if size.isdecimal() else start + len(body)


def _body(answer: GetObjectOutputTypeDef, key: str, limit: int) -> bytes:
    deadline = time.monotonic() + _BODY_SECONDS
    body = bytearray()
    with contextlib.closing(answer["Body"]) as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            body += chunk
            if len(body) > limit:
                raise TooLargeError
            if time.monotonic() > deadline:
                raise TimeoutError(key)
    return bytes(body)


def head_object(bucket: str, key: str, client: S3Client) -> Found | None:
    """Return size and checksum of an object; None if there is none.

    Raises:
        BadAnswerError: the answer says no size.
    """
    try:
        answer = client.head_object(Bucket=bucket, Key=key, ChecksumMode="ENABLED")
    except exceptions.ClientError as error:
        if _is_missing(error):
            return None
        raise
    if "ContentLength" not in answer:
        raise BadAnswerError("the answer says no size")
    return Found(answer["ContentLength"], answer.get("ChecksumCRC64NVME", ""))


def _is_missing(error: exceptions.ClientError) -> bool:
    return str(error.response.get("Error", {}).get("Code")) in _MISSING


def store_code(error: exceptions.ClientError) -> str:
    """Return the store's own code if it is one word in CamelCase."""
    code = str(error.response.get("Error", {}).get("Code", ""))
    code = regions.code_of_head(error) or _CODES.get(code, code)
    return code if re.fullmatch(r"[A-Z][A-Za-z0-9]{1,63}", code) else "StoreError"


def code_of(error: Exception) -> str:
    """Return the CamelCase code of a failed call: the store's own if it is one word, or the kind of failure."""
    if isinstance(error, exceptions.ClientError):
        return store_code(error)
    if isinstance(
        error, exceptions.NoCredentialsError | exceptions.PartialCredentialsError | exceptions.CredentialRetrievalError
    ):
        return "NoCredentials"
    if caused_by(error, ForbiddenAddressError):
        return "ForbiddenAddress"
    if caused_by(error, TooMuchError):
        return "AnswerTooLarge"
    if isinstance(error, TooManyError):
        return "TooManyCommits"
    if isinstance(error, BadAnswerError | exceptions.FlexibleChecksumError):
        return "BadAnswer"
    if isinstance(error, exceptions.SSLError):
        return certificates.code_of(error)
    if isinstance(error, exceptions.ConnectTimeoutError | exceptions.ReadTimeoutError | TimeoutError):
        return "Timeout"
    return "InvalidEndpoint" if isinstance(error, ValueError) else "Unreachable"
