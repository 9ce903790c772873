"""What lies in the bucket: keys, manifests, commits. Written by the agent, read back and proven by the operator.

::

    <prefix>/<namespace>/<run>/<uid>/r<rank>/e2-g0007-<pod>/checkpoint-1200/model.safetensors
    <prefix>/<namespace>/<run>/<uid>/r<rank>/e2-g0007-<pod>.manifest.json
    <prefix>/<namespace>/<run>/<uid>/commits/e2-g0007.json        written last, once
    <prefix>/<namespace>/<run>/<uid>/epochs/2.json                who writes now

An *epoch* is one writer (a pod's agent), claimed by a conditional put; a *generation* counts its commits. Order is
``(epoch, generation)``, compared as numbers. No key is ever written twice.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, NamedTuple

from pydantic import Field

from trainingrun_operator.api.base import Model

SCHEMA: Final = 1
COMMIT_MAX_BYTES: Final = 64 * 1024
MANIFEST_MAX_BYTES: Final = 64 * 1024 * 1024
FILES_MAX: Final = 200_000
KEY_MAX_BYTES: Final = 1024

_COMMIT = re.compile(r"commits/e(\d+)-g(\d+)\.json\Z")
_EPOCH = re.compile(r"epochs/(\d+)\.json\Z")
_DESTINATION = re.compile(r"s3://(?P<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(?P<prefix>[A-Za-z0-9!_.*'()/-]*))?\Z")


class Order(NamedTuple):
    """Which of two commits is the newer: the writer's epoch first, then its generation."""

    epoch: int
    generation: int


@dataclass(frozen=True)
class Layout:
    """Where one run's bytes lie. ``base`` ends with a slash; every key of the run starts with it."""

    bucket: str
    base: str

    @classmethod
    def of(cls, destination: str, namespace: str, run: str, run_uid: str) -> Layout:
        """Raises ValueError, quoting the destination, if it is not ``s3://bucket[/prefix]``."""
        match = _DESTINATION.match(destination)
        if match is None:
            message = f"destination {destination!r} is not of the form s3://bucket/prefix"
            raise ValueError(message)
        prefix = (match["prefix"] or "").strip("/")
        if any(part in ("", ".", "..") for part in prefix.split("/")) and prefix:
            message = f"destination {destination!r} has an empty, '.' or '..' segment"
            raise ValueError(message)
        return cls(bucket=match["bucket"], base="/".join(filter(None, (prefix, namespace, run, run_uid))) + "/")

    def folder(self, rank: int, order: Order, pod: str) -> str:
        """Key prefix, ending with a slash, of one rank's files of one generation."""
        return f"{self.base}r{rank}/e{order.epoch}-g{order.generation:04d}-{pod}/"

    def manifest(self, rank: int, order: Order, pod: str) -> str:
        """Key of one rank's manifest."""
        return self.folder(rank, order, pod).removesuffix("/") + ".manifest.json"

    @property
    def commits(self) -> str:
        """Key prefix of all commits."""
        return f"{self.base}commits/"

    def commit(self, order: Order) -> str:
        """Key of one commit."""
        return f"{self.commits}e{order.epoch}-g{order.generation:04d}.json"

    @property
    def epochs(self) -> str:
        """Key prefix of all claims."""
        return f"{self.base}epochs/"

    def epoch(self, number: int) -> str:
        """Key of one claim."""
        return f"{self.epochs}{number}.json"

    def uri(self, key: str) -> str:
        """What a person hands to ``aws s3 sync``."""
        return f"s3://{self.bucket}/{key}"

    def owns(self, key: str) -> bool:
        """Whether a key that came from the bucket may be asked for at all."""
        return key.startswith(self.base) and len(key.encode()) <= KEY_MAX_BYTES and ".." not in key.split("/")


def order_of_commit(key: str) -> Order | None:
    """The order that a commit's key speaks of; None for any other key."""
    match = _COMMIT.search(key)
    return Order(int(match[1]), int(match[2])) if match else None


def epoch_of_claim(key: str) -> int | None:
    """The epoch that a claim's key speaks of; None for any other key."""
    match = _EPOCH.search(key)
    return int(match[1]) if match else None


class RunRef(Model):
    """The run that an object belongs to."""

    namespace: str
    name: str
    uid: str


class PodRef(Model):
    """The pod that wrote an object."""

    name: str
    uid: str
    node: str = ""
    rank: int = 0
    world_size: int = 1


class FileEntry(Model):
    """One regular file, whole, in the bucket; or one symbolic link, recorded only."""

    path: str
    """Relative to the checkpoint path, POSIX, surrogate-escaped bytes written as ``\\udcXX``."""
    size: int = 0
    mtime_ns: int = 0
    mode: int = 0o644
    key: str = ""
    etag: str = ""
    version_id: str | None = None
    part_size: int = 0
    """0: put in one piece."""
    crc64nvme: str = ""
    """Base64 of the full object's checksum, as S3 gives it."""
    link_target: str | None = None


class Skipped(Model):
    """Something that was not shipped, and why. A regular file here means that nothing was proven."""

    path: str
    reason: str
    regular: bool


class Checkpoint(Model):
    """The checkpoint that a generation is about."""

    dir: str
    step: int | None = None
    complete: bool
    evidence: str
    """What made it count as complete, in words."""


class Manifest(Model):
    """Everything of one rank in one generation."""

    schema_: int = Field(default=SCHEMA, alias="schema")
    run: RunRef
    pod: PodRef
    epoch: int
    generation: int
    previous: str | None = None
    format: str = "Files"
    checkpoint: Checkpoint | None = None
    """None: nothing lay under the path."""
    files: tuple[FileEntry, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    total_files: int = 0
    total_bytes: int = 0
    agent_version: str = ""
    written_at: str = ""


class RankManifest(Model):
    """A manifest as a commit names it."""

    rank: int
    key: str
    sha256: str
    """Of the manifest's bytes, hex."""


class Commit(Model):
    """One generation of the whole run: written last, once, never again."""

    schema_: int = Field(default=SCHEMA, alias="schema")
    run: RunRef
    epoch: int
    generation: int
    reason: str
    """``checkpoint`` (a new one was complete), ``save`` (asked for), ``sigterm`` (the pod is being ended)."""
    termination_id: str | None = None
    """The save request's id."""
    attempt: int = 0
    status: str | None = None
    """Why the run ended, as the save request said: where the cluster has forgotten it, the bucket has not."""
    final: bool = False
    """The training had ended before this was read from the volume: there is nothing after it."""
    checkpoint: Checkpoint | None = None
    ranks: tuple[RankManifest, ...] = ()
    world_size: int = 1
    pod_uid: str = ""
    total_files: int = 0
    total_bytes: int = 0
    agent_version: str = ""
    written_at: str = ""

    @property
    def order(self) -> Order:
        """Its place among the run's commits."""
        return Order(self.epoch, self.generation)


class Claim(Model):
    """Who writes in an epoch."""

    run: RunRef
    pod: PodRef
    claimed_at: str = ""
