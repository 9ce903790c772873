"""The bucket: one client, writes that never overwrite, errors as codes."""

from __future__ import annotations

import base64
import os
import re
import struct
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import boto3
from awscrt import checksums
from botocore import exceptions
from botocore.config import Config

from trainingrun_operator.api import names
from trainingrun_operator.checkpoints.credentials import secret_session

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef

    from trainingrun_operator.api.exchange import AgentConfig

CONNECTIONS = 20
COPY_MAX_BYTES = 5 << 30
"""CopyObject's limit."""

StoreError = (exceptions.ClientError, exceptions.BotoCoreError)
"""Everything that a call to the bucket raises: worth another try, whatever it says."""

_UNREACHABLE = (
    exceptions.ConnectionError,
    exceptions.HTTPClientError,
)
_EXISTS = frozenset({"PreconditionFailed", "412"})
_MISSING = frozenset({"404", "NoSuchKey", "NotFound"})
_GONE = frozenset({"NoSuchUpload", "404", "NoSuchKey", "NotFound"})
_BY_STATUS = {"400": "BadRequest", "403": "AccessDenied", "404": "NotFound", "412": "PreconditionFailed"}


class ConflictError(Exception):
    """A key holds other bytes than those to be written; it is never written over."""

    def __init__(self, key: str) -> None:
        super().__init__(f"another object lies at {key}")


class CorruptedError(Exception):
    """The store says that it holds other bytes than those sent."""


class Stored(NamedTuple):
    """One object as it lies in the bucket."""

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


def encode(crc: int) -> str:
    """A CRC64NVME as S3 writes it."""
    return base64.b64encode(struct.pack(">Q", crc)).decode()


def crc64(data: bytes | memoryview, previous: int = 0) -> int:
    """CRC64NVME of some bytes, or of what follows them."""
    return int(checksums.crc64nvme(data, previous))


def combined(first: int, second: int, second_length: int) -> int:
    """CRC64NVME of two pieces, one after the other."""
    return int(checksums.combine_crc64nvme(first, second, second_length))


def code_of(failure: BaseException) -> str:
    """The CamelCase code of a failed call: the store's own, or what kept it from answering."""
    if isinstance(failure, exceptions.ClientError):
        code = str(failure.response.get("Error", {}).get("Code", ""))
        code = _BY_STATUS.get(code, code)
        return code if re.fullmatch(r"[A-Z][A-Za-z0-9]{1,63}", code) else "StoreError"
    if isinstance(failure, exceptions.SSLError):
        return "CertificateNotTrusted"
    if isinstance(failure, _UNREACHABLE):
        return "Unreachable"
    return re.sub(r"(Error)?$", "", type(failure).__name__, count=1)


def describe(failure: BaseException) -> str:
    """A failed call in words, without anything that the store wrote."""
    if isinstance(failure, exceptions.ClientError):
        status = failure.response.get("ResponseMetadata", {}).get("HTTPStatusCode", "no status")
        return f"{failure.operation_name} was answered {code_of(failure)} (HTTP {status})"
    if isinstance(failure, _UNREACHABLE):
        return f"no answer from the store ({type(failure).__name__})"
    return f"{type(failure).__name__}: {failure}"


def _is(failure: exceptions.ClientError, codes: frozenset[str]) -> bool:
    status = str(failure.response.get("ResponseMetadata", {}).get("HTTPStatusCode", ""))
    return str(failure.response.get("Error", {}).get("Code")) in codes or status in codes


def client(config: AgentConfig) -> S3Client:
    """One thread-safe client. Credentials are those of the run's Secret; where it has none, what boto3 finds."""
    endpoint = config.endpoint_url or None
    secret = Path(config.secret_dir) if config.secret_dir else None
    session = secret_session(secret) if secret else boto3.session.Session()
    region = config.region or session.region_name or ("us-east-1" if endpoint else None)
    secure = endpoint is None or endpoint.startswith("https:")
    return session.client(
        "s3",
        endpoint_url=endpoint,
        region_name=region,
        verify=str(secret / names.CA) if secret and (secret / names.CA).exists() else None,
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


class Bucket:
    """The calls that agent and restore need, on one bucket."""

    def __init__(self, client: S3Client, name: str) -> None:
        self._s3 = client
        self._name = name

    def keys(self, prefix: str, *, flat: bool = False) -> Iterator[tuple[str, int]]:
        """All keys that begin with a prefix, with sizes; ``flat``: without those in folders below it."""
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
        """A small object's bytes, at most ``limit`` and one of them; None if there is none."""
        try:
            answer = self._s3.get_object(Bucket=self._name, Key=key)
        except exceptions.ClientError as failure:
            if _is(failure, _MISSING):
                return None
            raise
        with answer["Body"] as body:
            return body.read(limit + 1)

    def get_range(self, key: str, offset: int, length: int, version_id: str | None = None) -> bytes:
        """Some bytes of an object."""
        span = f"bytes={offset}-{offset + length - 1}"
        if version_id:
            answer = self._s3.get_object(Bucket=self._name, Key=key, Range=span, VersionId=version_id)
        else:
            answer = self._s3.get_object(Bucket=self._name, Key=key, Range=span)
        with answer["Body"] as body:
            return body.read()

    def head(self, key: str) -> Stored | None:
        """Size and full-object checksum of an object; None if there is none."""
        try:
            found = self._s3.head_object(Bucket=self._name, Key=key, ChecksumMode="ENABLED")
        except exceptions.ClientError as failure:
            if _is(failure, _GONE):
                return None
            raise
        crc = found.get("ChecksumCRC64NVME", "")
        return Stored(found["ContentLength"], crc, found.get("ETag", ""), found.get("VersionId"))

    def put(self, key: str, body: bytes) -> Stored:
        """Write an object once. Its own bytes lying there already are a success: the answer was lost.

        Raises:
            ConflictError: other bytes lie there.
        """
        crc = encode(crc64(body))
        try:
            done = self._s3.put_object(Bucket=self._name, Key=key, Body=body, ChecksumCRC64NVME=crc, IfNoneMatch="*")
        except exceptions.ClientError as failure:
            if _is(failure, _EXISTS):
                return self.same(key, len(body), crc)
            raise
        _check(key, crc, done.get("ChecksumCRC64NVME"))
        return Stored(len(body), crc, done["ETag"], done.get("VersionId"))

    def same(self, key: str, size: int, crc: str, part_size: int = 0) -> Stored:
        """The object at a key, if it holds these bytes.

        Raises:
            ConflictError: it holds others, or the store cannot say.
        """
        there = self.head(key)
        if there is None or (there.size, there.crc) != (size, crc):
            raise ConflictError(key)
        return there._replace(part_size=part_size)

    def copy(self, source: str, key: str, size: int, crc: str) -> Stored | None:
        """Copy an object inside the store and prove the copy; None if the store would not, or not rightly."""
        if size > COPY_MAX_BYTES:
            return None
        try:
            self._s3.copy_object(
                Bucket=self._name,
                Key=key,
                CopySource={"Bucket": self._name, "Key": source},
                ChecksumAlgorithm="CRC64NVME",
            )
            return self.same(key, size, crc)
        except (*StoreError, ConflictError):
            return None

    def uploads(self, prefix: str) -> dict[str, str]:
        """Upload ids of the multipart uploads that were begun below a prefix, the newest of each key."""
        found: dict[str, str] = {}
        try:
            for page in self._s3.get_paginator("list_multipart_uploads").paginate(Bucket=self._name, Prefix=prefix):
                for item in page.get("Uploads", ()):
                    if item["Key"].startswith(prefix):
                        found[item["Key"]] = item["UploadId"]
        except exceptions.ClientError as failure:
            if not _is(failure, _GONE):  # some stores answer so when there is none
                raise
        return found

    def begin(self, key: str) -> str:
        """Begin a multipart upload and return its id."""
        return self._s3.create_multipart_upload(
            Bucket=self._name, Key=key, ChecksumAlgorithm="CRC64NVME", ChecksumType="FULL_OBJECT"
        )["UploadId"]

    def parts(self, key: str, upload: str) -> dict[int, Part]:
        """The parts that a begun upload holds already; those without a checksum do not count."""
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

    def put_part(self, key: str, upload: str, number: int, body: bytes, crc: int) -> Part:
        """Send one part."""
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
        """Make one object of the parts, once; lost answers are recognised like those of `put`."""
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
        _check(key, crc, done.get("ChecksumCRC64NVME"))
        return Stored(size, crc, done.get("ETag", ""), done.get("VersionId"), parts[0].size)

    def abort(self, key: str, upload: str) -> None:
        """Forget a begun upload; whether the store lets us does not matter."""
        try:
            self._s3.abort_multipart_upload(Bucket=self._name, Key=key, UploadId=upload)
        except StoreError:
            return


def crc_of_file(file: int, block: int = 1 << 20) -> int:
    """CRC64NVME of an open file, read from its start."""
    crc, offset = 0, 0
    while data := os.pread(file, block, offset):
        crc = crc64(data, crc)
        offset += len(data)
    return crc


def _check(what: str, sent: str, answered: str | None) -> None:
    if answered and answered != sent:
        raise CorruptedError(f"{what}: sent {sent}, the store holds {answered}")
