"""The peers that are Python libraries, as a process of their own environment. Usage: python_peers.py upload|restore|verify NAME ENDPOINT BUCKET PREFIX FOLDER

Prints the seconds and the CPU seconds of the work as JSON. The certificate to trust is named by AWS_CA_BUNDLE and SSL_CERT_FILE.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import botocore.session
import obstore
from boto3.s3.transfer import TransferConfig, create_transfer_manager
from botocore.config import Config
from obstore.store import S3Store
from s3transfer.crt import (
    BotocoreCRTCredentialsWrapper,
    BotocoreCRTRequestSerializer,
    CRTTransferManager,
    create_s3_crt_client,
)

REGION = "us-east-1"
PART_BYTES = 16 << 20
IN_FLIGHT = 16
MANY = 1000
SMALL_IN_FLIGHT = 64
CRT_BYTES_PER_SECOND = 10e9 / 8


@dataclass(frozen=True)
class Move:
    """What to move, and between which places."""

    endpoint: str
    bucket: str
    prefix: str
    folder: Path

    @property
    def files(self) -> list[tuple[Path, str]]:
        """Files on disk, with their keys."""
        return [(path, self.prefix + path.name) for path in sorted(self.folder.iterdir())]

    def client(self):
        """A client of botocore for as many connections as requests are in flight."""
        settings = Config(s3={"addressing_style": "path"}, max_pool_connections=2 * IN_FLIGHT)
        session = botocore.session.get_session()
        return session.create_client("s3", endpoint_url=self.endpoint, region_name=REGION, config=settings)

    def objects(self) -> list[tuple[Path, str]]:
        """Objects in the bucket, with the files that they become."""
        pages = self.client().get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=self.prefix)
        keys = [item["Key"] for page in pages for item in page.get("Contents", ())]
        return [(self.folder / key.removeprefix(self.prefix), key) for key in keys]


def boto3(move: Move):
    """s3transfer on botocore, which boto3's `upload_file` uses."""
    settings = TransferConfig(
        multipart_threshold=PART_BYTES,
        multipart_chunksize=PART_BYTES,
        max_concurrency=IN_FLIGHT,
        preferred_transfer_client="classic",
    )
    return create_transfer_manager(move.client(), settings)


def crt(move: Move):
    """s3transfer on the AWS common runtime: boto3's `preferred_transfer_client="crt"`, which boto3 itself takes only for AWS."""
    session = botocore.session.get_session()
    credentials = BotocoreCRTCredentialsWrapper(session.get_credentials()).to_crt_credentials_provider()
    made = create_s3_crt_client(
        REGION,
        credentials,
        part_size=PART_BYTES,
        target_throughput=CRT_BYTES_PER_SECOND,
        verify=os.environ["AWS_CA_BUNDLE"],
    )
    settings = Config(s3={"addressing_style": "path"})
    asked = {"region_name": REGION, "endpoint_url": move.endpoint, "config": settings}
    return CRTTransferManager(made, BotocoreCRTRequestSerializer(session, asked))


def by_manager(manager, way: str, move: Move) -> None:
    """Move by one of the transfer managers of s3transfer."""
    with manager as moving:
        if way == "upload":
            begun = [moving.upload(str(path), move.bucket, key) for path, key in move.files]
        else:
            begun = [moving.download(move.bucket, key, str(path)) for path, key in move.objects()]
        for one in begun:
            one.result()


def _store(move: Move) -> S3Store:
    return S3Store(
        move.bucket,
        endpoint=move.endpoint,
        region=REGION,
        virtual_hosted_style_request=False,
        client_options={"http1_only": True, "pool_max_idle_per_host": str(SMALL_IN_FLIGHT)},
    )


async def by_obstore(move: Move) -> None:
    """Upload by obstore."""
    store = _store(move)
    files = move.files
    free = asyncio.Semaphore(SMALL_IN_FLIGHT if len(files) >= MANY else IN_FLIGHT)

    async def put(path: Path, key: str) -> None:
        async with free:
            if path.stat().st_size <= PART_BYTES:  # noqa: ASYNC240  # in memory, or nearly
                await obstore.put_async(store, key, path.read_bytes(), use_multipart=False)  # noqa: ASYNC240
            else:
                await obstore.put_async(store, key, path, chunk_size=PART_BYTES, max_concurrency=IN_FLIGHT)

    await asyncio.gather(*(put(*one) for one in files))


async def heads_by_obstore(move: Move) -> None:
    """Ask for the size of each object by obstore, which does not tell checksums."""
    store = _store(move)
    free = asyncio.Semaphore(SMALL_IN_FLIGHT)

    async def head(key: str) -> None:
        async with free:
            await obstore.head_async(store, key)

    await asyncio.gather(*(head(key) for _, key in move.files))


def heads_by_boto3(move: Move) -> None:
    """Ask for size and checksum of each object by botocore."""
    client = move.client()
    with ThreadPoolExecutor(IN_FLIGHT) as pool:
        asked = [
            pool.submit(client.head_object, Bucket=move.bucket, Key=key, ChecksumMode="ENABLED")
            for _, key in move.files
        ]
        for one in asked:
            one.result()


def main() -> None:
    """Do the work once."""
    way, name, endpoint, bucket, prefix, folder = sys.argv[1:]
    move = Move(endpoint, bucket, prefix, Path(folder))
    began, used = time.perf_counter(), time.process_time()
    if way == "verify" and name == "obstore":
        asyncio.run(heads_by_obstore(move))
    elif way == "verify":
        heads_by_boto3(move)
    elif name == "obstore":
        asyncio.run(by_obstore(move))
    else:
        by_manager({"boto3": boto3, "crt": crt}[name](move), way, move)
    took = {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - used}
    sys.stdout.write(json.dumps(took) + "\n")
    sys.stdout.flush()
    os._exit(0)  # obstore's threads may abort the process while the interpreter ends


if __name__ == "__main__":
    main()
