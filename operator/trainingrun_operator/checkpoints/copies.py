"""Copy an object inside the store that is too large for one copy: in parts."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from botocore import exceptions

if TYPE_CHECKING:
    from collections.abc import Callable

    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef

PART_BYTES = 512 << 20
"""Size of the parts, or more if the object would exceed S3's limit of 10,000."""
PARTS_MAX = 10_000


class PartCopies:
    """Copies within one bucket. Remembers which form of the request the store accepts.

    versitygw (1.8) answers the source's whole checksum for each part that it copies, and then refuses their sum. Without an algorithm at
    the start, S3 and versitygw compute the same checksum of the object themselves.
    """

    def __init__(self, client: S3Client, bucket: str) -> None:
        self._s3 = client
        self._bucket = bucket
        self._names_algorithm = True

    def copy(self, source: str, key: str, size: int, crc: str, counted: Callable[[int], None]) -> int:
        """Copy an object and return the size of the parts. The caller verifies the copy.

        Args:
            source: key of the object.
            key: key of the copy; must not exist.
            size: bytes of the object.
            crc: its CRC64NVME.
            counted: called with the number of bytes as they are copied; negative if the copy fails.

        Raises:
            ClientError, BotoCoreError: a call to the bucket failed. The upload is aborted.
        """
        if self._names_algorithm:
            try:
                return self._copy(source, key, size, crc, counted)
            except exceptions.ClientError as failure:
                if failure.response.get("Error", {}).get("Code") != "BadDigest":
                    raise
                self._names_algorithm = False
        return self._copy(source, key, size, crc, counted)

    def _copy(self, source: str, key: str, size: int, crc: str, counted: Callable[[int], None]) -> int:
        form: Any = {"ChecksumAlgorithm": "CRC64NVME", "ChecksumType": "FULL_OBJECT"} if self._names_algorithm else {}
        upload = self._s3.create_multipart_upload(Bucket=self._bucket, Key=key, **form)["UploadId"]
        step, copied = max(PART_BYTES, -(-size // PARTS_MAX)), 0
        listed: list[CompletedPartTypeDef] = []
        try:
            for number, offset in enumerate(range(0, size, step), 1):
                end = min(offset + step, size)
                listed.append(self._copy_part(source, key, upload, number, f"bytes={offset}-{end - 1}"))
                copied = end
                counted(end - offset)
            form.pop("ChecksumAlgorithm", None)
            self._s3.complete_multipart_upload(
                Bucket=self._bucket,
                Key=key,
                UploadId=upload,
                MultipartUpload={"Parts": listed},
                ChecksumCRC64NVME=crc,
                IfNoneMatch="*",
                **form,
            )
        except BaseException:
            counted(-copied)
            with contextlib.suppress(exceptions.ClientError, exceptions.BotoCoreError):
                self._s3.abort_multipart_upload(Bucket=self._bucket, Key=key, UploadId=upload)
            raise
        return step

    def _copy_part(self, source: str, key: str, upload: str, number: int, span: str) -> CompletedPartTypeDef:
        done = self._s3.upload_part_copy(
            Bucket=self._bucket,
            Key=key,
            UploadId=upload,
            PartNumber=number,
            CopySource={"Bucket": self._bucket, "Key": source},
            CopySourceRange=span,
        )["CopyPartResult"]
        part: CompletedPartTypeDef = {"PartNumber": number, "ETag": done["ETag"]}
        if self._names_algorithm and (crc := done.get("ChecksumCRC64NVME")):
            part["ChecksumCRC64NVME"] = crc
        return part
