"""Agent's and restore's access to the bucket: one client, writes that never overwrite, errors as codes."""

from __future__ import annotations

import base64
import contextlib
import os
import re
import struct
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

import boto3
from awscrt import checksums
from botocore import exceptions
from botocore.config import Config
from urllib3.exceptions import HTTPError

from trainingrun_operator.api import names
from trainingrun_operator.checkpoints import bucket_owner, certificates, regions, requester_pays, s3
from trainingrun_operator.checkpoints.answers import refuse_no_list
from trainingrun_operator.checkpoints.copies import PartCopies
from trainingrun_operator.checkpoints.credentials import secret_session
from trainingrun_operator.checkpoints.direct import EXISTS, Direct
from trainingrun_operator.checkpoints.meter import Meter
from trainingrun_operator.checkpoints.own_identity import own_session
from trainingrun_operator.checkpoints.proof import is_full_object
from trainingrun_operator.checkpoints.regions import other_region
from trainingrun_operator.checkpoints.whole_answers import whole

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef

    from trainingrun_operator.api.exchange import AgentConfig

CONNECTIONS = 64
COPY_MAX_BYTES = 5 << 30
"""CopyObject's size limit. A larger object is copied in parts."""

StoreError = (exceptions.ClientError, exceptions.BotoCoreError)
"""The errors that a call to the bucket raises. All of them are retried."""

_UNREACHABLE = (
    exceptions.ConnectionError,
    exceptions.HTTPClientError,
)
_NO_CREDENTIALS = (exceptions.NoCredentialsError, exceptions.CredentialRetrievalError)
_GIVE_IDENTITY = (
    "associate a role with its ServiceAccount (EKS Pod Identity, or the annotation eks.amazonaws.com/role-arn and the role's trust policy), or"
    " name a Secret in spec.checkpoint.s3.credentialsSecretName of a new run"
)
_CORRECT_REGION = "correct spec.checkpoint.s3.region, and endpointURL if it names one, of a new run"
_CA_FIELD = "ca.crt in the Secret of spec.checkpoint.s3.credentialsSecretName"
_TLS = certificates.OF_THE_SERVER | {
    certificates.NOT_TRUSTED: "the server's certificate is not signed by a CA that the pod trusts: put the certificate of that CA as"
    f" {_CA_FIELD}; a running agent reads it within two minutes. A run without a Secret has to name one in a new run",
    certificates.BAD_CA: f"{_CA_FIELD} is not a PEM certificate: correct it",
}
_EXISTS = frozenset({"PreconditionFailed", "412"})
_MISSING = frozenset({"404", "NoSuchKey", "NotFound"})
_GONE = frozenset({"NoSuchUpload", "404", "NoSuchKey", "NotFound"})


class ConflictError(Exception):
    """A key already holds other bytes than those to write. Objects are never overwritten."""

    def __init__(self, key: str) -> None:
        super().__init__(f"{key} holds another object")


class CorruptedError(Exception):
    """The store reports another checksum than that of the bytes sent."""


class DamagedError(exceptions.BotoCoreError):
    """An object arrives with other bytes than the store has of it. Like other failures of a call, it is retried."""

    fmt = "the bytes of {key} arrive damaged, though the store's own checksum of it is right"


class NoChecksumsError(Exception):
    """The store keeps no full-object CRC64NVME checksums, so nothing in it can be proven."""

    def __init__(self, key: str) -> None:
        super().__init__(
            f"the store keeps no full-object CRC64NVME checksum of {key}, so no checkpoint in it can be proven:"
            " use a store that keeps them, or a version of this one that does"
        )


class Stored(NamedTuple):
    """One object in the bucket."""

    size: int
    crc: str
    etag: str = ""
    version_id: str | None = None
    part_size: int = 0


class Part(NamedTuple):
    """One part of a multipart upload."""

    number: int
    size: int
    crc: int
    etag: str


@contextlib.contextmanager
def _as_store_error() -> Iterator[None]:
    """Raise a connection that breaks within a body as the SDK's error: within ``with``, a body is read by urllib3 itself."""
    try:
        yield
    except HTTPError as broken:
        raise exceptions.ResponseStreamingError(error=broken) from broken


def encode(crc: int) -> str:
    """Encode a CRC64NVME as S3 does: base64, big-endian."""
    return base64.b64encode(struct.pack(">Q", crc)).decode()


def crc64(data: bytes | memoryview, previous: int = 0) -> int:
    """Return the CRC64NVME of some bytes, continued from that of the bytes before them."""
    return int(checksums.crc64nvme(data, previous))


def combined(first: int, second: int, second_length: int) -> int:
    """Return the CRC64NVME of two consecutive pieces from those of each."""
    return int(checksums.combine_crc64nvme(first, second, second_length))


def code_of(failure: BaseException) -> str:
    """Return the CamelCase code of a failed call: the store's own, or the kind of failure."""
    if isinstance(failure, exceptions.ClientError):
        return s3.store_code(failure)
    if isinstance(failure, _NO_CREDENTIALS):
        return "NoCredentials"
    if isinstance(failure, exceptions.SSLError):
        return certificates.code_of(failure)
    if isinstance(failure, _UNREACHABLE):
        return "Unreachable"
    return re.sub(r"(Error)?$", "", type(failure).__name__, count=1)


def describe(failure: BaseException) -> str:
    """Describe a failed call without quoting the store."""
    if isinstance(failure, exceptions.ClientError):
        status = failure.response.get("ResponseMetadata", {}).get("HTTPStatusCode", "no status")
        code = code_of(failure)
        where = (
            f": the bucket is in another region{other_region(failure)}; {_CORRECT_REGION}"
            if code in regions.CODES
            else ""
        )
        return f"{failure.operation_name} failed with {code} (HTTP {status}){where}"
    if isinstance(failure, exceptions.CredentialRetrievalError):
        return f"the pod's own AWS identity gives no credentials ({dict(failure.kwargs).get('error_msg')}): {_GIVE_IDENTITY}"
    if isinstance(failure, exceptions.NoCredentialsError):
        return f"the pod has no AWS identity of its own: {_GIVE_IDENTITY}"
    if isinstance(failure, exceptions.SSLError):
        url = urlsplit(str(dict(failure.kwargs).get("endpoint_url")))
        return f"{url.scheme}://{url.netloc}: {_TLS[certificates.code_of(failure)]}"
    if isinstance(failure, _UNREACHABLE):
        return f"the store does not answer ({type(failure).__name__})"
    return f"{type(failure).__name__}: {failure}"


def _is(failure: exceptions.ClientError, codes: frozenset[str]) -> bool:
    status = str(failure.response.get("ResponseMetadata", {}).get("HTTPStatusCode", ""))
    return str(failure.response.get("Error", {}).get("Code")) in codes or status in codes


def client(config: AgentConfig) -> S3Client:
    """Return a thread-safe client. It uses the credentials of the run's Secret; without one, the pod's own identity."""
    endpoint = config.endpoint_url or None
    secret = Path(config.secret_dir) if config.secret_dir else None
    session = secret_session(secret) if secret else boto3.session.Session(botocore_session=own_session(config.region))
    region = config.region or session.region_name or ("us-east-1" if endpoint else None)
    secure = endpoint is None or endpoint.startswith("https:")
    made = session.client(
        "s3",
        endpoint_url=endpoint,
        region_name=region,
        config=Config(
            s3={"addressing_style": "path" if endpoint else "auto", "payload_signing_enabled": not secure},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            retries={"mode": "standard", "max_attempts": 3},
            connect_timeout=5,
            read_timeout=60,
            max_pool_connections=CONNECTIONS,
            tcp_keepalive=True,
        ),
    )
    if secret:
        certificates.trust(made, secret / names.CA)
    made.meta.events.register("before-parse.s3.ListObjectsV2", refuse_no_list)
    bucket_owner.expect(made.meta.events, config.expected_bucket_owner)
    requester_pays.accept(made.meta.events, pays=config.requester_pays)
    return whole(made)


class Bucket:
    """The calls to one bucket that agent and restore need."""

    def __init__(self, client: S3Client, name: str) -> None:
        self._s3 = client
        self._name = name
        self._meter = Meter(client.meta.events)
        self._copies = PartCopies(client, name)
        self._direct = Direct(client, name)

    def keys(self, prefix: str, *, flat: bool = False) -> Iterator[tuple[str, int]]:
        """List keys and sizes below a prefix; ``flat``: without those in folders below it."""
        pages = self._s3.get_paginator("list_objects_v2")
        listed = (
            pages.paginate(Bucket=self._name, Prefix=prefix, Delimiter="/")
            if flat
            else pages.paginate(Bucket=self._name, Prefix=prefix)
        )
        for page in listed:
            for item in page.get("Contents", ()):
                yield item["Key"], item["Size"]

    def get(self, key: str, limit: int) -> bytes | None:
        """Return the first ``limit`` + 1 bytes of an object; None if there is none.

        Raises:
            DamagedError: all of it arrived, and has another checksum than in the store.
        """
        try:
            answer = self._s3.get_object(Bucket=self._name, Key=key, ChecksumMode="ENABLED")
        except exceptions.ClientError as failure:
            if _is(failure, _MISSING):
                return None
            raise
        with answer["Body"] as stream, _as_store_error():
            body = stream.read(limit + 1)
        crc = answer.get("ChecksumCRC64NVME", "")
        if len(body) <= limit and is_full_object(crc) and encode(crc64(body)) != crc:
            raise DamagedError(key=key)
        return body

    def read_range(self, key: str, start: int) -> tuple[bytes, int] | None:
        """Return up to `s3.PIECE_BYTES` bytes of an object from `start` on, and its size; None if there is none.

        Raises:
            s3.TooLargeError: the store sends more than was asked for.
        """
        try:
            return s3.read_range(self._name, key, start, self._s3)
        except TimeoutError:
            raise exceptions.ReadTimeoutError(endpoint_url=self._s3.meta.endpoint_url) from None

    def get_range(
        self, key: str, offset: int, length: int, take: Callable[[int, memoryview], None], version_id: str | None = None
    ) -> int:
        """Hand over ``length`` bytes of an object from ``offset`` on. Return how many bytes have arrived; others than ``length`` are not handed over.

        ``take`` is called with pieces in order, each with its place in the range: again from 0 if the range had to be asked for again. It must not
        keep a piece. Its errors are passed on.
        """
        if self._direct.get_range(key, offset, length, version_id, take):
            return length
        span = f"bytes={offset}-{offset + length - 1}"
        if version_id:
            answer = self._s3.get_object(Bucket=self._name, Key=key, Range=span, VersionId=version_id)
        else:
            answer = self._s3.get_object(Bucket=self._name, Key=key, Range=span)
        with answer["Body"] as body, _as_store_error():
            received = body.read()
        if len(received) == length:
            take(0, memoryview(received))
        return len(received)

    def head(self, key: str) -> Stored | None:
        """Return size and full-object checksum of an object; None if there is none."""
        try:
            found = self._s3.head_object(Bucket=self._name, Key=key, ChecksumMode="ENABLED")
        except exceptions.ClientError as failure:
            if _is(failure, _GONE):
                return None
            raise
        crc = found.get("ChecksumCRC64NVME", "")
        return Stored(found["ContentLength"], crc, found.get("ETag", ""), found.get("VersionId"))

    def put(self, key: str, body: bytes, counted: Callable[[int], None] | None = None) -> Stored:
        """Write an object once. If the key already holds the same bytes, an earlier response was lost: that is a success.

        Args:
            key: the object's key.
            body: its bytes.
            counted: called with the number of bytes as they are sent; see `Meter.counting`.

        Raises:
            ConflictError: the key holds other bytes.
            CorruptedError: the store reports another checksum.
            NoChecksumsError: the store keeps no full-object checksum of the object, which it has written.
        """
        crc = encode(crc64(body))
        answer = self._direct.put(key, body, crc, counted)
        if answer is not None:
            if answer.status == EXISTS:
                return self.same(key, len(body), crc)
            self._check_kept(key, crc, answer.headers.get("x-amz-checksum-crc64nvme"))
            return Stored(len(body), crc, answer.headers.get("etag", ""), answer.headers.get("x-amz-version-id"))
        try:
            with self._meter.counting(counted):
                done = self._s3.put_object(
                    Bucket=self._name, Key=key, Body=body, ChecksumCRC64NVME=crc, IfNoneMatch="*"
                )
        except exceptions.ClientError as failure:
            if _is(failure, _EXISTS):
                return self.same(key, len(body), crc)
            raise
        self._check_kept(key, crc, done.get("ChecksumCRC64NVME"))
        return Stored(len(body), crc, done["ETag"], done.get("VersionId"))

    def same(self, key: str, size: int, crc: str, part_size: int = 0) -> Stored:
        """Return the object at a key if it has this size and checksum.

        Raises:
            ConflictError: it is missing, or has others.
            NoChecksumsError: the store keeps no full-object checksum of it.
        """
        there = self.head(key)
        if there is None or there.size != size:
            raise ConflictError(key)
        if not is_full_object(there.crc):
            raise NoChecksumsError(key)
        if there.crc != crc:
            raise ConflictError(key)
        return there._replace(part_size=part_size)

    def check_keeps_checksums(self, key: str) -> None:
        """Check that the store keeps a full-object checksum of an object that was written with one.

        Raises:
            NoChecksumsError: it does not.
        """
        there = self.head(key)
        if there is not None and not is_full_object(there.crc):
            raise NoChecksumsError(key)

    def _check_kept(self, key: str, crc: str, answered: str | None) -> None:
        """Check the checksum that the store has of an object just written. Ask for it if the response has none: some stores leave it out."""
        if not answered:
            there = self.head(key)
            answered = there.crc if there is not None else crc  # gone already: the proof will notice
        if not is_full_object(answered):
            raise NoChecksumsError(key)
        _check(key, crc, answered)

    def copy(
        self, source: str, key: str, size: int, crc: str, counted: Callable[[int], None] = lambda _: None
    ) -> Stored | None:
        """Copy an object inside the store and verify the copy. Return None if either fails.

        ``counted`` is called with the number of bytes as they are copied.
        """
        copied = 0

        def noted(part: int) -> None:
            nonlocal copied
            copied += part
            counted(part)

        part_size = 0
        try:
            if size > COPY_MAX_BYTES:
                part_size = self._copies.copy(source, key, size, crc, noted)
            else:
                self._s3.copy_object(
                    Bucket=self._name,
                    Key=key,
                    CopySource={"Bucket": self._name, "Key": source},
                    ChecksumAlgorithm="CRC64NVME",
                )
                noted(size)
            return self.same(key, size, crc, part_size)
        except (*StoreError, ConflictError, NoChecksumsError):
            counted(-copied)
            return None

    def uploads(self, prefix: str) -> dict[str, str]:
        """Return the ids of the unfinished multipart uploads below a prefix, by key; the newest of each key."""
        found: dict[str, str] = {}
        try:
            for page in self._s3.get_paginator("list_multipart_uploads").paginate(Bucket=self._name, Prefix=prefix):
                for item in page.get("Uploads", ()):
                    if item["Key"].startswith(prefix):
                        found[item["Key"]] = item["UploadId"]
        except exceptions.ClientError as failure:
            if not _is(failure, _GONE):  # some stores answer 404 if there are no uploads
                raise
        return found

    def begin(self, key: str) -> str:
        """Start a multipart upload and return its id."""
        return self._s3.create_multipart_upload(
            Bucket=self._name, Key=key, ChecksumAlgorithm="CRC64NVME", ChecksumType="FULL_OBJECT"
        )["UploadId"]

    def parts(self, key: str, upload: str) -> dict[int, Part]:
        """Return the parts of an unfinished upload by number, without those that have no checksum."""
        found: dict[int, Part] = {}
        try:
            pages = self._s3.get_paginator("list_parts").paginate(Bucket=self._name, Key=key, UploadId=upload)
            for page in pages:
                for item in page.get("Parts", ()):
                    if crc := item.get("ChecksumCRC64NVME"):
                        (value,) = struct.unpack(">Q", base64.b64decode(crc))
                        found[item["PartNumber"]] = Part(item["PartNumber"], item["Size"], value, item["ETag"])
        except exceptions.ClientError as failure:
            if not _is(failure, _GONE):
                raise
        return found

    def put_part(  # the parts of the request
        self,
        key: str,
        upload: str,
        number: int,
        body: bytes,
        crc: int,
        counted: Callable[[int], None] | None = None,
    ) -> Part:
        """Send one part. ``counted`` is called with the number of bytes as they are sent.

        Raises:
            CorruptedError: the store reports another checksum.
        """
        answer = self._direct.put_part(key, upload, number, body, encode(crc), counted)
        if answer is not None:
            _check(f"{key} part {number}", encode(crc), answer.headers.get("x-amz-checksum-crc64nvme"))
            return Part(number, len(body), crc, answer.headers.get("etag", ""))
        with self._meter.counting(counted):
            done = self._s3.upload_part(
                Bucket=self._name,
                Key=key,
                UploadId=upload,
                PartNumber=number,
                Body=body,
                ChecksumCRC64NVME=encode(crc),
            )
        _check(f"{key} part {number}", encode(crc), done.get("ChecksumCRC64NVME"))
        return Part(number, len(body), crc, done["ETag"])

    def complete(self, key: str, upload: str, parts: list[Part]) -> Stored:
        """Complete the upload to one object. Raises, and handles a lost response, as `put` does."""
        whole = 0
        for part in parts:
            whole = combined(whole, part.crc, part.size)
        size, crc = sum(part.size for part in parts), encode(whole)
        listed: list[CompletedPartTypeDef] = [
            {"PartNumber": part.number, "ETag": part.etag, "ChecksumCRC64NVME": encode(part.crc)} for part in parts
        ]
        try:
            done = self._s3.complete_multipart_upload(
                Bucket=self._name,
                Key=key,
                UploadId=upload,
                MultipartUpload={"Parts": listed},
                ChecksumCRC64NVME=crc,
                ChecksumType="FULL_OBJECT",
                IfNoneMatch="*",
            )
        except exceptions.ClientError as failure:
            if _is(failure, _EXISTS):
                return self.same(key, size, crc, parts[0].size)
            if _is(failure, _GONE) and self.head(key):
                return self.same(key, size, crc, parts[0].size)
            raise
        self._check_kept(key, crc, done.get("ChecksumCRC64NVME"))
        return Stored(size, crc, done.get("ETag", ""), done.get("VersionId"), parts[0].size)

    def abort(self, key: str, upload: str) -> None:
        """Abort an unfinished upload. A failure is ignored."""
        try:
            self._s3.abort_multipart_upload(Bucket=self._name, Key=key, UploadId=upload)
        except StoreError:
            return


def crc_of_file(file: int, block: int = 1 << 20, counted: Callable[[int], None] = lambda _: None) -> int:
    """Return the CRC64NVME of an open file, read from its start. ``counted`` is called with the size of each block."""
    crc, offset = 0, 0
    while data := os.pread(file, block, offset):
        crc = crc64(data, crc)
        offset += len(data)
        counted(len(data))
    return crc


def _check(what: str, sent: str, answered: str | None) -> None:
    if answered and answered != sent:
        raise CorruptedError(f"{what}: sent checksum {sent}, the store reports {answered}")
