"""A commit as an agent would write it, put into a real bucket by hand: whole, or wrong in any way."""

from __future__ import annotations

import base64
import hashlib
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from awscrt import checksums

from trainingrun_operator.checkpoints.documents import (
    Checkpoint,
    Commit,
    FileEntry,
    Manifest,
    PodRef,
    RankManifest,
    RunRef,
)
from trainingrun_operator.checkpoints.keys import Layout, Order

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

RUN = RunRef(namespace="ml", name="llama", uid="1f0c")
FIRST = Order(2, 7)
FILES = {
    "checkpoint-1200/model.safetensors": b"weights" * 1000,
    "checkpoint-1200/empty": b"",
    "checkpoint-1200/trainer_state.json": b"{}",
}
CHECKPOINT = Checkpoint(dir="checkpoint-1200", step=1200, complete=True, evidence="trainer_state.json parses")


def crc(body: bytes) -> str:
    return base64.b64encode(struct.pack(">Q", checksums.crc64nvme(body))).decode()


@dataclass
class Shipment:
    """One commit as an agent would write it; every part can be changed before it is put."""

    client: S3Client
    layout: Layout
    order: Order = FIRST
    ranks: int = 1
    files: dict[str, bytes] = field(default_factory=lambda: dict(FILES))
    commit: dict[str, object] = field(default_factory=dict)
    manifest: dict[str, object] = field(default_factory=dict)
    manifest_of: dict[int, dict[str, object]] = field(default_factory=dict)
    entry: dict[str, object] = field(default_factory=dict)

    def put(self, key: str, body: bytes, **arguments: Any) -> None:
        self.client.put_object(
            Bucket=self.layout.bucket, Key=key, Body=body, **({"ChecksumCRC64NVME": crc(body)} | arguments)
        )

    def pod(self, rank: int) -> PodRef:
        return PodRef(name=f"llama-{rank}", uid=f"pod-{rank}", rank=rank, world_size=self.ranks)

    def key(self, path: str = "checkpoint-1200/model.safetensors", rank: int = 0) -> str:
        return self.layout.folder(rank, self.order, self.pod(rank).name) + path

    def manifest_key(self, rank: int = 0) -> str:
        return self.layout.manifest(rank, self.order, self.pod(rank).name)

    @property
    def commit_key(self) -> str:
        return self.layout.commit(self.order)

    def make_manifest(self, rank: int) -> Manifest:
        files = []
        for path, body in self.files.items():
            self.put(self.key(path, rank), body)
            entry = FileEntry(path=path, size=len(body), key=self.key(path, rank), crc64nvme=crc(body))
            files.append(entry.model_copy(update=self.entry) if path.endswith("safetensors") else entry)
        whole = Manifest(
            run=RUN,
            pod=self.pod(rank),
            incarnation=self.order.incarnation,
            generation=self.order.generation,
            termination_id="stop-1",
            attempt=3,
            folder=self.layout.folder(rank, self.order, self.pod(rank).name),
            checkpoint=CHECKPOINT,
            files=tuple(files),
            total_files=len(files),
            total_bytes=sum(file.size for file in files),
        )
        return whole.model_copy(update=self.manifest | self.manifest_of.get(rank, {}))

    def send(self) -> str:
        named, files, size = [], 0, 0
        for rank in range(self.ranks):
            manifest = self.make_manifest(rank)
            body = manifest.model_dump_json(by_alias=True).encode()
            self.put(self.manifest_key(rank), body)
            named.append(
                RankManifest(
                    rank=rank,
                    incarnation=self.order.incarnation,
                    key=self.manifest_key(rank),
                    sha256=hashlib.sha256(body).hexdigest(),
                )
            )
            files, size = files + manifest.total_files, size + manifest.total_bytes
        commit = Commit(
            run=RUN,
            incarnation=self.order.incarnation,
            generation=self.order.generation,
            reason="save",
            termination_id="stop-1",
            attempt=3,
            checkpoint=CHECKPOINT,
            ranks=tuple(named),
            world_size=self.ranks,
            total_files=files,
            total_bytes=size,
        )
        self.put(self.commit_key, commit.model_copy(update=self.commit).model_dump_json(by_alias=True).encode())
        return self.commit_key
