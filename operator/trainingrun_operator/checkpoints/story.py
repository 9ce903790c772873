"""Objects beside a run's commits that tell its story. Each is created once and never overwritten."""

from __future__ import annotations

import base64
import struct
from typing import TYPE_CHECKING, Final

from awscrt import checksums
from botocore import exceptions

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

    from trainingrun_operator.checkpoints.keys import Layout

LOGS_MAX: Final = 2000
"""Objects of one list of logs: more than a run has ranks."""
_EXISTS: Final = frozenset({"PreconditionFailed", "ConditionalRequestConflict", "412", "409"})
_MISSING: Final = frozenset({"404", "NoSuchKey", "NotFound"})


def exists(layout: Layout, key: str, client: S3Client) -> bool:
    """Whether an object is there."""
    try:
        client.head_object(Bucket=layout.bucket, Key=key)
    except exceptions.ClientError as error:
        if str(error.response.get("Error", {}).get("Code")) in _MISSING:
            return False
        raise
    return True


def create(layout: Layout, key: str, body: bytes, kind: str, client: S3Client) -> bool:
    """Create an object. Return whether it was created now; False: the key has one already, which stays as it is.

    Args:
        layout: keys of the run.
        key: `layout.story`, `layout.curve`, or `layout.log` of a rank.
        body: its bytes.
        kind: its content type.
        client: with the right to put.
    """
    crc = base64.b64encode(struct.pack(">Q", checksums.crc64nvme(body))).decode()
    try:
        client.put_object(
            Bucket=layout.bucket, Key=key, Body=body, ContentType=kind, ChecksumCRC64NVME=crc, IfNoneMatch="*"
        )
    except exceptions.ClientError as error:
        if str(error.response.get("Error", {}).get("Code")) in _EXISTS:
            return False
        raise
    return True


def logs(layout: Layout, client: S3Client) -> tuple[int, ...]:
    """Return the ranks whose logs are there, in order. Other objects that begin like a log are left out."""
    pages = client.get_paginator("list_objects_v2").paginate(
        Bucket=layout.bucket, Prefix=layout.logs, PaginationConfig={"MaxItems": LOGS_MAX}
    )
    ranks = (layout.rank_of_log(item["Key"]) for page in pages for item in page.get("Contents", ()))
    return tuple(sorted(rank for rank in ranks if rank is not None))
