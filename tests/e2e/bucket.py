"""The bucket as a person outside of the cluster sees it: boto3, the S3 server's own port, its CA."""

from __future__ import annotations

import contextlib
import hashlib
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import ConnectionError as UnreachableError
from botocore.exceptions import HTTPClientError

from trainingrun_operator.checkpoints.documents import Commit, Manifest
from trainingrun_operator.checkpoints.keys import order_of_commit

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from e2e.ground import Ground
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import ObjectTypeDef


T = TypeVar("T")
STORY = re.compile(r"/(run\.json|curve\.json|log(-\d+)?\.txt\.gz)\Z")
TRIES, PAUSE_SECONDS = 6, 2.0


def again(read: Callable[[], T]) -> T:
    """Read, and once more where the way to the server broke: on a busy machine the mapped port ends handshakes, at times for some seconds."""
    for _ in range(TRIES - 1):
        with contextlib.suppress(ConnectionError, UnreachableError, HTTPClientError):
            return read()
        time.sleep(PAUSE_SECONDS)
    return read()


@dataclass(frozen=True)
class Bucket:
    """Reads everything; writes nothing."""

    client: S3Client
    name: str

    @classmethod
    def of(cls, ground: Ground) -> Bucket:
        client = boto3.client(
            "s3",
            endpoint_url=ground["TRAININGRUN_S3_ENDPOINT"],
            verify=ground["TRAININGRUN_S3_CA"],
            region_name=ground["AWS_REGION"],
            aws_access_key_id=ground["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=ground["AWS_SECRET_ACCESS_KEY"],
            config=Config(
                s3={"addressing_style": "path"}, connect_timeout=5, read_timeout=20, retries={"mode": "standard"}
            ),
        )
        return cls(client, ground.bucket)

    def objects(self, prefix: str) -> list[ObjectTypeDef]:
        pages = self.client.get_paginator("list_objects_v2")
        return again(
            lambda: [
                one for page in pages.paginate(Bucket=self.name, Prefix=prefix) for one in page.get("Contents", [])
            ]
        )

    def etags(self, prefix: str) -> dict[str, str]:
        """Every object with what identifies its bytes, without a run's story, which comes some seconds after its end."""
        return {one["Key"]: one["ETag"] for one in self.objects(prefix) if not STORY.search(one["Key"])}

    def read(self, key: str) -> bytes:
        def whole() -> bytes:
            return self.client.get_object(Bucket=self.name, Key=key)["Body"].read()

        return again(whole)

    def commits(self, base: str) -> list[Commit]:
        """Of one run, oldest first."""
        keys = [one["Key"] for one in self.objects(f"{base}commits/")]
        ordered = sorted((order, key) for key in keys if (order := order_of_commit(key)) is not None)
        return [Commit.model_validate_json(self.read(key)) for _, key in ordered]

    def files(self, base: str) -> dict[str, str]:
        """Every file of any manifest of the run that a commit names: path to the SHA-256 of what the bucket holds. The newest wins."""
        found: dict[str, str] = {}
        for commit in self.commits(base):
            for rank in commit.ranks:
                manifest = Manifest.model_validate_json(self.read(rank.key))
                for file in manifest.files:
                    found[file.path] = hashlib.sha256(self.read(file.key)).hexdigest()
        return found

    def download(self, uri: str, folder: Path) -> list[Path]:
        """What `aws s3 sync` would do."""
        split = urlsplit(uri)
        prefix = split.path.lstrip("/")
        assert split.netloc == self.name, f"The checkpoint is said to be at {uri}, which is another bucket."
        written = []
        for one in self.objects(prefix):
            target = folder / one["Key"].removeprefix(prefix).lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(self.read(one["Key"]))
            written.append(target)
        return written
