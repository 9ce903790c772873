"""The JSON documents in the bucket: manifests, commits and claims. The agent writes them, the operator reads and proves them."""

from __future__ import annotations

from typing import Annotated, Final, NamedTuple

from pydantic import FailFast, Field

from trainingrun_operator.api.base import Model, Reported, Step
from trainingrun_operator.checkpoints.keys import Order

SCHEMA: Final = 2
COMMIT_MAX_BYTES: Final = 64 * 1024
MANIFEST_MAX_BYTES: Final = 64 * 1024 * 1024
FILES_MAX: Final = 200_000
WHOLE: Final = "."
"""The directory of a checkpoint that is the checkpoint path itself."""


class RunRef(Model):
    """The run that a document belongs to."""

    namespace: str
    name: str
    uid: str


class PodRef(Model):
    """The pod that wrote a document."""

    name: str
    uid: str
    node: str = ""
    rank: Reported = 0
    world_size: Reported = 1


class FileEntry(Model):
    """One regular file in the bucket, or one symbolic link, which is recorded only."""

    path: str
    """POSIX path relative to the checkpoint path; bytes that are not UTF-8 are written as ``\\udcXX``."""
    size: Reported = 0
    mtime_ns: Reported = 0
    mode: Reported = 0o644
    key: str = ""
    etag: str = ""
    version_id: str | None = None
    part_size: Reported = 0
    """In bytes; 0: uploaded in one piece."""
    crc64nvme: str = ""
    """The full object's checksum in base64, as in S3."""
    link_target: str | None = None


class Skipped(Model):
    """A file that was not shipped, and why. A checkpoint with a skipped regular file cannot be proven."""

    path: str
    reason: str
    regular: bool


class Checkpoint(Model):
    """The checkpoint of a manifest or a commit."""

    dir: str
    file: bool = False
    """The checkpoint is one file, and `dir` is its path."""
    step: Step | None = None
    epoch: Step | None = None
    """The training's epoch, if the checkpoint's name has one."""
    format: str = ""
    """The layout that the agent has recognized, as in ``spec.checkpoint.format``, for display."""
    inherited: bool = False
    """An earlier run had left it in the volume: it counts less than all that this run has written."""
    finite: bool | None = None
    """Of a run that ends because its values are not finite: whether the checkpoint is from before the first such value. None: nothing was asked."""
    complete: bool
    evidence: str
    """Why it counts as complete or not, for display. It differs between ranks."""

    @property
    def identity(self) -> tuple[str, int | None, int | None, bool]:
        """The fields that must be equal if two ranks hold the same checkpoint."""
        return self.dir, self.step, self.epoch, self.complete

    @property
    def numbered(self) -> bool:
        """Whether step or epoch identify one moment of the training. Without them, all saves look the same."""
        return self.step is not None or self.epoch is not None


class Answer(NamedTuple):
    """The save request that a manifest or a commit answers."""

    id: str | None = None
    """The save request's id; None without a request."""
    attempt: int = 0
    final: bool = False
    """The training had ended before the volume was read."""


class ManifestHead(Model):
    """A manifest without its list of files, which may have 200,000 entries."""

    schema_: Reported = Field(default=SCHEMA, alias="schema")
    run: RunRef
    pod: PodRef
    incarnation: Reported
    """This rank's incarnation."""
    generation: Reported
    reason: str = "checkpoint"
    """See `Commit.reason`."""
    termination_id: str | None = None
    """The save request's id. A commit of several ranks answers a request only if every rank's manifest answers it."""
    attempt: Reported = 0
    final: bool = False
    previous: str | None = None
    format: str = "Files"
    checkpoint: Checkpoint | None = None
    """None: the checkpoint path was empty."""
    folder: str = ""
    """Key prefix of the files, ending with a slash. Below it, keys are the paths on disk."""
    skipped: Annotated[tuple[Skipped, ...], FailFast()] = ()
    total_files: Reported = 0
    total_bytes: Reported = 0
    agent_version: str = ""
    written_at: str = ""

    @property
    def answer(self) -> Answer:
        """The request that the manifest answers."""
        return Answer(self.termination_id, self.attempt, self.final)


class Manifest(ManifestHead):
    """The files of one rank in one generation."""

    files: Annotated[tuple[FileEntry, ...], FailFast()] = ()


class RankManifest(Model):
    """A commit's reference to one rank's manifest."""

    rank: Reported
    incarnation: Reported
    """The rank's incarnation that wrote the manifest."""
    key: str
    sha256: str
    """SHA-256 of the manifest's bytes, hex."""


class Commit(Model):
    """One checkpoint of the whole run. Rank 0 writes it once, after every rank has written its manifest."""

    schema_: Reported = Field(default=SCHEMA, alias="schema")
    run: RunRef
    incarnation: Reported
    """Rank 0's incarnation."""
    generation: Reported
    reason: str
    """``checkpoint`` (a new checkpoint is complete), ``save`` (save request) or ``sigterm`` (the pod is terminated)."""
    termination_id: str | None = None
    """The save request's id."""
    attempt: Reported = 0
    status: str | None = None
    """Why the run ended, from the save request. It stays readable after the run is deleted from the cluster."""
    final: bool = False
    """The training had ended before the volume was read: no commit follows this one."""
    checkpoint: Checkpoint | None = None
    ranks: Annotated[tuple[RankManifest, ...], FailFast()] = ()
    """One for each rank, from 0 to ``world_size`` - 1."""
    world_size: Reported = 1
    """The workload's number of ranks; never derived from the agents' claims."""
    pod_uid: str = ""
    """The UID of rank 0's pod."""
    total_files: Reported = 0
    total_bytes: Reported = 0
    agent_version: str = ""
    written_at: str = ""

    @property
    def order(self) -> Order:
        """The commit's place among the run's commits."""
        return Order(self.incarnation, self.generation)

    @property
    def answer(self) -> Answer:
        """The request that the commit answers."""
        return Answer(self.termination_id, self.attempt, self.final)

    def is_of(self, folder: str) -> bool:
        """Whether a rank's files lie in the folder of this key prefix; empty: any will do."""
        return not folder or any(ref.key == f"{folder.removesuffix('/')}.manifest.json" for ref in self.ranks)


class Claim(Model):
    """The pod that writes for a rank in one incarnation."""

    run: RunRef
    pod: PodRef
    claimed_at: str = ""
    left_ns: Reported = 0
    """Modification time of the newest file that was in the volume before the pod started; 0: there was none."""
