"""Operator's and plugin's access to a bucket: credentials, clients, and the codes of failed calls.

Text from a store is never quoted: a tenant may control the store, and others read the run's status.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
import tempfile
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import boto3
from botocore import exceptions
from botocore.config import Config

from trainingrun_operator.checkpoints.keys import Layout, Order, order_of_commit
from trainingrun_operator.checkpoints.metadata_guard import caused_by_guard, guarded
from trainingrun_operator.checkpoints.proof import Found

if TYPE_CHECKING:
    from collections.abc import Callable

    from botocore.hooks import BaseEventHooks
    from mypy_boto3_s3 import S3Client

CALLS_PER_ACCESS: Final = 8
"""Calls in flight with one set of credentials, so that a store that hangs does not occupy every thread."""

STORE_ERRORS: Final = (exceptions.ClientError, exceptions.BotoCoreError, OSError, ValueError)
"""The errors that a call to the bucket raises, a refused endpoint or certificate included."""

_MISSING: Final = frozenset({"404", "NoSuchKey", "NotFound"})
# A response to HEAD has no body: its only code is the HTTP status. XAdminUserNotFound is versitygw's code for an unknown key.
_CODES: Final = {
    "301": "PermanentRedirect",
    "400": "BadRequest",
    "403": "AccessDenied",
    "404": "NotFound",
    "429": "SlowDown",
    "500": "InternalError",
    "503": "SlowDown",
    "XAdminUserNotFound": "InvalidAccessKeyId",
}
_REGION: Final = "us-east-1"
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
    own_identity: bool = False
    """Use the process's own credentials, which boto3 finds. Never a fallback for a Secret without keys: the author of the Secret
    would gain the operator's rights."""

    @property
    def where(self) -> str:
        """The server's name in messages."""
        return self.endpoint_url or f"AWS S3 in {self.region or _REGION}"


@dataclass(frozen=True)
class Door:
    """A client, and the semaphore that limits its calls in flight."""

    client: S3Client
    calls: asyncio.Semaphore


class Clients:
    """Caches the most recently used clients, because creating one reads service models. Thread-safe."""

    def __init__(self, keep: int = 64, watch: Callable[[BaseEventHooks], None] | None = None) -> None:
        """``keep``: number of clients to cache. ``watch``: called with the events of each new client, to count its requests."""
        self._keep = keep
        self._watch = watch
        self._doors: OrderedDict[Access, Door] = OrderedDict()
        self._lock = threading.Lock()
        self._session: boto3.session.Session | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def door(self, access: Access) -> Door:
        """Return the client for these credentials. Blocks: do not call it on the event loop.

        Raises:
            ValueError: the endpoint is not an address.
            botocore.exceptions.NoCredentialsError: a key is missing.
        """
        with self._lock:
            door = self._doors.get(access) or Door(self._make(access), asyncio.Semaphore(CALLS_PER_ACCESS))
            self._doors[access] = door
            self._doors.move_to_end(access)
            if len(self._doors) > self._keep:
                # Not closed: a call may still be in flight.
                self._doors.popitem(last=False)
            return door

    def close(self) -> None:
        """Close every connection and remove the certificates."""
        with self._lock:
            for door in self._doors.values():
                door.client.close()
            self._doors.clear()
            if self._folder is not None:
                self._folder.cleanup()
                self._folder = None

    def _make(self, access: Access) -> S3Client:
        if not access.own_identity and not (access.access_key and access.secret_key):
            raise exceptions.NoCredentialsError
        # One session: its loader caches the parsed service models for all clients.
        self._session = self._session or boto3.session.Session()
        client = self._session.client(
            "s3",
            endpoint_url=access.endpoint_url or None,
            region_name=access.region or _REGION,
            aws_access_key_id=None if access.own_identity else access.access_key,
            aws_secret_access_key=None if access.own_identity else access.secret_key,
            aws_session_token=None if access.own_identity else access.session_token or None,
            verify=self._ca_file(access.ca_pem),
            config=Config(
                connect_timeout=3,
                read_timeout=10,
                retries={"mode": "standard", "total_max_attempts": 2},
                s3={"addressing_style": "path" if access.endpoint_url else "auto"},
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
                max_pool_connections=CALLS_PER_ACCESS,
            ),
        )
        if owner := access.expected_bucket_owner:
            client.meta.events.register("before-parameter-build.s3", partial(_expect, owner))
        if self._watch is not None:
            self._watch(client.meta.events)
        return guarded(client)

    def _ca_file(self, pem: str) -> str | None:
        """Write the certificates to a file, because botocore takes only a path. Return the path."""
        if not pem:
            return None
        self._folder = self._folder or tempfile.TemporaryDirectory(prefix="trainingrun-ca-")
        path = Path(self._folder.name) / f"{hashlib.sha256(pem.encode()).hexdigest()}.pem"
        path.write_text(pem, encoding="utf-8")
        return str(path)


def _expect(owner: str, params: dict[str, Any], **_: Any) -> None:
    params["ExpectedBucketOwner"] = owner


class TooLargeError(Exception):
    """An object is larger than its limit."""


def list_one(layout: Layout, client: S3Client) -> None:
    """Check that the run's prefix can be listed."""
    client.list_objects_v2(Bucket=layout.bucket, Prefix=layout.base, MaxKeys=1)


def list_commits(layout: Layout, client: S3Client) -> tuple[str, ...]:
    """Return the keys of all commits, newest first."""
    found: dict[str, Order] = {}
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=layout.bucket, Prefix=layout.commits):
        for item in page.get("Contents", ()):
            order = order_of_commit(item["Key"])
            # Only keys in the agent's form: `i01-g1` has the same order as `i1-g0001`, but the agent does not write it.
            if order is not None and item["Key"] == layout.commit(order):
                found[item["Key"]] = order
    return tuple(sorted(found, key=found.__getitem__, reverse=True))


def read_object(bucket: str, key: str, limit: int, client: S3Client) -> bytes | None:
    """Return an object's bytes; None if there is none.

    Raises:
        TooLargeError: it has more than `limit` bytes.
        TimeoutError: the read takes more than 60 s. botocore's own timeout restarts with every byte.
    """
    deadline = time.monotonic() + _BODY_SECONDS
    try:
        answer = client.get_object(Bucket=bucket, Key=key)
    except exceptions.ClientError as error:
        if _is_missing(error):
            return None
        raise
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
    """Return size and checksum of an object; None if there is none."""
    try:
        answer = client.head_object(Bucket=bucket, Key=key, ChecksumMode="ENABLED")
    except exceptions.ClientError as error:
        if _is_missing(error):
            return None
        raise
    return Found(answer["ContentLength"], answer.get("ChecksumCRC64NVME", ""))


def _is_missing(error: exceptions.ClientError) -> bool:
    return str(error.response.get("Error", {}).get("Code")) in _MISSING


def code_of(error: Exception) -> str:
    """Return the CamelCase code of a failed call: the store's own if it is one word, or the kind of failure."""
    if isinstance(error, exceptions.ClientError):
        code = str(error.response.get("Error", {}).get("Code", ""))
        code = _CODES.get(code, code)
        return code if re.fullmatch(r"[A-Z][A-Za-z0-9]{1,63}", code) else "StoreError"
    if isinstance(
        error, exceptions.NoCredentialsError | exceptions.PartialCredentialsError | exceptions.CredentialRetrievalError
    ):
        return "NoCredentials"
    if caused_by_guard(error):
        return "ForbiddenAddress"
    if isinstance(error, exceptions.SSLError):
        # OpenSSL reports a file without a certificate like this. The same class also reports an untrusted certificate.
        return (
            "BadCertificate"
            if "NO_CERTIFICATE_OR_CRL" in str(error) or "PEM" in str(error)
            else "CertificateNotTrusted"
        )
    if isinstance(error, exceptions.ConnectTimeoutError | exceptions.ReadTimeoutError | TimeoutError):
        return "Timeout"
    return "InvalidEndpoint" if isinstance(error, ValueError) else "Unreachable"
