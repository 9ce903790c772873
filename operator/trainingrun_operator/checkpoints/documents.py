"""What lies in the bucket beside the files: manifests, commits and claims. Written by the agent, read back and proven by the operator."""

from __future__ import annotations

from typing import Final, NamedTuple

from pydantic import Field

from trainingrun_operator.api.base import Model
from trainingrun_operator.checkpoints.keys import Order

SCHEMA: Final = 2
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
    """The checkpoint that a manifest or a commit is about."""

    dir: str
    step: int | None = None
    epoch: int | None = None
    """The training's, where the checkpoint's name has one."""
    complete: bool
    evidence: str
    """What made it count as complete, in words; each rank has its own."""

    @property
    def identity(self) -> tuple[str, int | None, int | None, bool]:
        """What two ranks must agree on to hold the same checkpoint."""
        return self.dir, self.step, self.epoch, self.complete

    @property
    def numbered(self) -> bool:
        """Whether its identity names one moment of the training. Without step and epoch every save looks the same."""
        return self.step is not None or self.epoch is not None


class Answer(NamedTuple):
    """What a manifest or a commit was made for."""

    id: str | None = None
    """The save request's; None: nobody asked."""
    attempt: int = 0
    final: bool = False
    """The training had ended before the volume was read."""


class ManifestHead(Model):
    """A manifest without its files, which may be 200,000: what a commit needs to know of it."""

    schema_: int = Field(default=SCHEMA, alias="schema")
    run: RunRef
    pod: PodRef
    incarnation: int
    """Of this rank."""
    generation: int
    reason: str = "checkpoint"
    """As in `Commit`."""
    termination_id: str | None = None
    """The save request's id. A commit of several ranks answers a request only if the manifest of every rank does."""
    attempt: int = 0
    final: bool = False
    previous: str | None = None
    format: str = "Files"
    checkpoint: Checkpoint | None = None
    """None: nothing lay under the path."""
    folder: str = ""
    """Key prefix below which the checkpoint lies as it lay on disk, ending with a slash."""
    skipped: tuple[Skipped, ...] = ()
    total_files: int = 0
    total_bytes: int = 0
    agent_version: str = ""
    written_at: str = ""

    @property
    def answer(self) -> Answer:
        """What it was made for."""
        return Answer(self.termination_id, self.attempt, self.final)


class Manifest(ManifestHead):
    """Everything of one rank in one generation."""

    files: tuple[FileEntry, ...] = ()


class RankManifest(Model):
    """A manifest as a commit names it."""

    rank: int
    incarnation: int
    """Of the rank, which wrote the manifest."""
    key: str
    sha256: str
    """Of the manifest's bytes, hex."""


class Commit(Model):
    """One checkpoint of the whole run: written by rank 0 once every rank's manifest is there, last, once, never again."""

    schema_: int = Field(default=SCHEMA, alias="schema")
    run: RunRef
    incarnation: int
    """Of rank 0."""
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
    """One of each rank, from 0 to ``world_size`` - 1."""
    world_size: int = 1
    """From the workload; never from what agents have claimed."""
    pod_uid: str = ""
    """Of rank 0."""
    total_files: int = 0
    total_bytes: int = 0
    agent_version: str = ""
    written_at: str = ""

    @property
    def order(self) -> Order:
        """Its place among the run's commits."""
        return Order(self.incarnation, self.generation)

    @property
    def answer(self) -> Answer:
        """What it was made for."""
        return Answer(self.termination_id, self.attempt, self.final)


class Claim(Model):
    """Who writes for a rank in an incarnation."""

    run: RunRef
    pod: PodRef
    claimed_at: str = ""
