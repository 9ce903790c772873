"""What lies in the bucket beside the files: manifests, commits and claims. Written by the agent, read back and proven by the operator."""

from __future__ import annotations

from typing import Final

from pydantic import Field

from trainingrun_operator.api.base import Model
from trainingrun_operator.checkpoints.keys import Order

SCHEMA: Final = 1
COMMIT_MAX_BYTES: Final = 64 * 1024
MANIFEST_MAX_BYTES: Final = 64 * 1024 * 1024
FILES_MAX: Final = 200_000
WHOLE: Final = "."
"""The directory of a checkpoint that is the checkpoint path itself."""


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
