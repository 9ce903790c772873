"""What operator and agent say to each other.

Operator to agent: annotations on the pod, read through the downward API, level-triggered. Agent to operator: one JSON page,
`GET /progress`. Everything that measures time is an age or a duration in seconds taken on one clock, never a time of day, because
the two ends run on different machines. What the agent reports is advice; only what the operator reads back from the bucket is proof.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from trainingrun_operator.api.base import Model

AGENT_CONFIG_ENV = "TRAININGRUN_AGENT_CONFIG"
"""`AgentConfig` as JSON, in the environment of agent and restore."""


class StopRequest(Model):
    """Annotation `trainingrun.dev/stop`: ask the training to leave."""

    id: str
    grace_seconds: int = 120


class SaveRequest(Model):
    """Annotation `trainingrun.dev/save`: ship what is missing, then commit with this id and attempt.

    With ``ended`` the training has exited: whatever lies there is final, half-written or empty as it may be. Without it the
    training still runs, and the agent waits until at least one checkpoint is complete.
    """

    id: str
    attempt: int = 1
    ended: bool
    status: str | None = None
    """Why the run ends, in the words of ``terminationStatus``; kept in the commit. None: it goes on."""


class AgentConfig(Model):
    """All that agent and restore need to know, as the operator pinned it when it made the Job."""

    namespace: str
    run: str
    run_uid: str
    path: str
    destination: str
    """``s3://bucket/prefix``."""
    endpoint_url: str = ""
    region: str = ""
    secret_dir: str = ""
    """Has a file per key of the run's Secret. Empty: credentials are those that boto3 finds."""
    include: tuple[str, ...] = ("**",)
    exclude: tuple[str, ...] = ()
    quiet_seconds: float = 10
    """A file of no known format counts as complete once unchanged for this long."""
    stop_file: str = "STOP_TRAINING"
    stop_signal: str = ""
    """Sent to the training at half the grace, when the stop file had no effect: ``SIGTERM``, ``SIGUSR1``, …"""
    marker_files: tuple[str, ...] = ()
    port: int = 18790
    world_size: int = 1
    """Ranks that ship, as the workload has them."""


class CheckpointSeen(Model):
    """One checkpoint as it lies in the volume."""

    dir: str
    """Relative to the checkpoint path; ``.`` for the path itself."""
    step: int | None = None
    complete: bool
    age_seconds: float
    """Since its newest file was last written."""
    bytes: int = 0


class ManifestSeen(Model):
    """The newest manifest that this agent wrote: what its rank holds in the bucket."""

    key: str
    incarnation: int
    """Of this rank."""
    generation: int
    dir: str | None = None
    """Of the checkpoint; None: nothing lay under the path."""
    step: int | None = None
    epoch: int | None = None
    final: bool = False
    id: str | None = None
    """The save request that it answers, if any."""
    attempt: int = 0


class CommitSeen(Model):
    """The newest commit that this agent wrote. Only rank 0 writes any."""

    key: str
    incarnation: int
    """Of rank 0."""
    generation: int
    step: int | None = None
    final: bool = False
    id: str | None = None
    """The save request that it answers, if any."""
    attempt: int = 0


class Upload(Model):
    """One generation that the agent has sent and committed."""

    incarnation: int
    generation: int
    bytes: int = 0
    """Sent for it; what the bucket held already is not."""
    seconds: float = 0
    """From the first byte to the commit."""


class MarkerSeen(Model):
    """A completion marker that was written after the pod started."""

    name: str
    age_seconds: float


class AgentError(Model):
    """Why the agent cannot do its work now; it goes on trying."""

    code: str
    """CamelCase: ``Unreadable``, ``NoSuchBucket``, ``AccessDenied``, ``InvalidAccessKeyId``, ``Unreachable``, ``Fenced``, …"""
    message: str
    since_seconds: float = 0


class AgentReport(Model):
    """``GET /progress`` of the agent."""

    pod_uid: str
    rank: int = 0
    world_size: int = 1
    incarnation: int | None = None
    """Of this rank; None until the claim in the bucket succeeded."""
    newest: CheckpointSeen | None = None
    """The newest complete checkpoint in the volume."""
    unfinished: CheckpointSeen | None = None
    """A newer one that is still being written."""
    files: int = 0
    bytes: int = 0
    unsaved_bytes: int = 0
    """In the volume and not yet in any commit; of several ranks: not yet in any manifest of this one."""
    uploaded_bytes: int = 0
    """Of the generation that is being shipped now."""
    last_change_seconds: Annotated[
        float | None, Field(description="Since anything under the path changed; None if nothing was ever there")
    ] = None
    manifest: ManifestSeen | None = None
    commit: CommitSeen | None = None
    lagging: tuple[int, ...] = ()
    """Of rank 0: ranks that do not hold yet what this one holds, the lowest 64. Nothing is committed before they do."""
    uploads: tuple[Upload, ...] = ()
    """The newest few since this agent started, oldest first."""
    upload_failures: int = 0
    """Tries to send or commit that have failed since this agent started."""
    working_on: str | None = None
    """Id of the save request in hand."""
    foreign_stop_file: bool = False
    """A stop file lies there that is newer than the pod and that the agent did not write."""
    markers: tuple[MarkerSeen, ...] = ()
    signal_trouble: str = ""
    """Why the training was not, or not yet, sent the signal that it is due."""
    error: AgentError | None = None
