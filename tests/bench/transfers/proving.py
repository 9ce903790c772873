"""The operator's proof of one commit as a process. Usage: python -m bench.transfers.proving ENDPOINT SECRET-FOLDER MANIFEST

Commits what `bench.transfers.agent` has uploaded, and verifies the commit. Prints the seconds and the CPU seconds of the proof as JSON.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from bench.transfers.agent import POD, RUN

from trainingrun_operator.api import names
from trainingrun_operator.checkpoints.clients import Clients
from trainingrun_operator.checkpoints.documents import Commit, Manifest, RankManifest
from trainingrun_operator.checkpoints.keys import Layout, Order
from trainingrun_operator.checkpoints.s3 import Access
from trainingrun_operator.core.facts.bucket import Verified
from trainingrun_operator.edge.gather.store import Store

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

LAYOUT = Layout.of("s3://bench/ours", RUN.namespace, RUN.name, RUN.uid)
ORDER = Order(1, 1)


def put(key: str, body: bytes, client: S3Client) -> None:
    """Write an object."""
    client.put_object(Bucket=LAYOUT.bucket, Key=key, Body=body)


def commit(access: Access, manifest: Manifest) -> str:
    """Write manifest and commit, and return the commit's key."""
    totals = {"total_files": len(manifest.files), "total_bytes": sum(file.size for file in manifest.files)}
    body = manifest.model_copy(update=totals).model_dump_json(by_alias=True, exclude_none=True).encode()
    key = LAYOUT.manifest(POD.rank, ORDER, POD.name)
    made = Commit(
        run=RUN,
        incarnation=1,
        generation=1,
        reason="save",
        checkpoint=manifest.checkpoint,
        ranks=(RankManifest(rank=0, incarnation=1, key=key, sha256=hashlib.sha256(body).hexdigest()),),
        pod_uid=POD.uid,
    ).model_copy(update=totals)
    clients = Clients()
    door = clients.door(access)
    door.call(partial(put, key, body))
    door.call(partial(put, LAYOUT.commit(ORDER), made.model_dump_json(by_alias=True, exclude_none=True).encode()))
    clients.close()
    return LAYOUT.commit(ORDER)


async def prove(access: Access, key: str) -> dict[str, float]:
    """Verify the commit once."""
    store = Store()
    store.warm_up()
    began, used = time.perf_counter(), time.process_time()
    found = await store.verify(access, LAYOUT, key)
    took = {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - used}
    store.close()
    if not isinstance(found, Verified):
        raise RuntimeError(found)  # noqa: TRY004  # no type is wrong
    return took


def main() -> None:
    """Do the work once."""
    endpoint, secret, manifest = sys.argv[1:]
    folder = Path(secret)
    access = Access(
        endpoint_url=endpoint,
        region="us-east-1",
        access_key=(folder / names.ACCESS_KEY).read_text(encoding="utf-8"),
        secret_key=(folder / names.SECRET_KEY).read_text(encoding="utf-8"),
        ca_pem=(folder / names.CA).read_text(encoding="utf-8"),
    )
    key = commit(access, Manifest.model_validate_json(Path(manifest).read_bytes()))
    sys.stdout.write(json.dumps(asyncio.run(prove(access, key))) + "\n")


if __name__ == "__main__":
    main()
