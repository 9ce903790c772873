"""The exchange between operator and agent.

Operator to agent: annotations on the pod, read through the downward API, level-triggered. Agent to operator: one JSON page,
`GET /progress`, with the training's metrics page behind it where the operator asks for both. Times are ages or durations in seconds by one clock, never times of day, because operator and agent run on
different machines. The agent's report is advice; only what the operator reads from the bucket is proof.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import FailFast, Field

from trainingrun_operator.api.base import Model, Reported, Step
from trainingrun_operator.api.spoiled import Spoiled

AGENT_CONFIG_ENV = "TRAININGRUN_AGENT_CONFIG"
"""`AgentConfig` as JSON, in the environment of agent and restore."""

REPORT_MAX_BYTES = 64 * 1024
"""Of an agent's report; a longer one is refused. The longest that an agent writes has 16 markers of 255 characters and three paths."""
PAGE_HEADER = "Trainingrun-Page"
"""In a request for `/progress`: port and path of the metrics page that is asked for too, as ``8000/metrics``. An agent ignores any other page than
`AgentConfig.metrics_page`, and one of an older release ignores the header."""
REPORT_BYTES_HEADER = "Trainingrun-Report-Bytes"
"""In an answer that has both: the report's length. The rest of the body is the page as the training serves it, whole. Without it the body is the report alone."""
PAGE_MAX_BYTES = 1 << 20
"""Of a metrics page; a longer one is not read."""
PATH_MAX = 4096
"""Characters of a path in the report; the agent cuts longer ones."""
TROUBLE_MAX = 1024
"""Characters of a failure in the report; the agent cuts longer ones."""
LAGGING_MAX = 64
UPLOADS_MAX = 8
"""Uploads kept in the report. The operator reads it before more generations than these are committed."""
MARKERS_MAX = 16
MEASURED_MAX_BYTES = 256 * 1024
"""Of an agent's answer about the training's files; a longer one is refused."""
MEASURED_FILES_MAX = 8
MEASURED_VALUES_MAX = 64


class StopRequest(Model):
    """Annotation `trainingrun.dev/stop`: ask the training to save and exit."""

    id: str
    grace_seconds: int = 120


class SaveRequest(Model):
    """Annotation `trainingrun.dev/save`: ship what is missing, then commit with this id and attempt.

    With ``ended`` the training has exited: the volume's content is final, even if it is incomplete or empty. Without it the
    training still runs, and the agent waits for a complete checkpoint.
    """

    id: str
    attempt: int = 1
    ended: bool
    status: str | None = None
    """The run's ``terminationStatus``, kept in the commit. None: the run does not end."""
    spoiled: Spoiled | None = None
    """The values of the training were no longer finite: commit the newest checkpoint from before. None: they were, or it is not known."""


class RestoreSource(Model):
    """Another run's checkpoints, from which a run without a checkpoint of its own starts (`spec.checkpoint.restoreFrom`)."""

    destination: str
    """``s3://bucket/prefix``."""
    namespace: str
    run: str
    run_uid: str
    folder: str = ""
    """Key prefix of one generation's files, ending with a slash: only this checkpoint will do. Empty: the furthest one."""
    endpoint_url: str = ""
    region: str = ""
    expected_bucket_owner: str = ""
    requester_pays: bool = False


class AgentConfig(Model):
    """The configuration of agent and restore. The operator sets it when it creates the Job; it does not change."""

    namespace: str
    run: str
    run_uid: str
    path: str
    destination: str
    """``s3://bucket/prefix``."""
    endpoint_url: str = ""
    region: str = ""
    secret_dir: str = ""
    """Folder with one file per key of the run's Secret. Empty: use the pod's own identity, as the SDK finds it."""
    expected_bucket_owner: str = ""
    """AWS account that must own the bucket; empty: any."""
    requester_pays: bool = False
    """Say in every request that its sender pays."""
    include: tuple[str, ...] = ("**",)
    exclude: tuple[str, ...] = ()
    format: str = ""
    """The only layout of checkpoints to look for; empty: any."""
    quiet_seconds: float = 10
    """Seconds without a change after which a file of an unknown format counts as complete."""
    stop_file: str = "STOP_TRAINING"
    stop_signal: str = ""
    """Signal for the training if the stop file has no effect within half the grace period: ``SIGTERM``, ``SIGUSR1``, …"""
    marker_files: tuple[str, ...] = ()
    port: int = 18790
    rescues: bool = False
    """The pod only saves what a dead pod has left in the volume, which is mounted read-only."""
    rescues_since: str = ""
    """RFC 3339, start of the dead pod's training; empty: not known."""
    first_attempt: int = 1
    """The attempt of a save request that names files of earlier commits again. Later ones ship every file again: what was there did not verify."""
    world_size: int = 1
    """The workload's number of ranks."""
    metrics_page: str | None = None
    """The only metrics page that the agent reads for `PAGE_HEADER`, as that names it: any client that reaches the agent may send the header. None: none."""
    restore_from: RestoreSource | None = None


class CheckpointSeen(Model):
    """One checkpoint in the volume."""

    dir: str
    """Relative to the checkpoint path; ``.`` for the path itself."""
    step: Step | None = None
    complete: bool
    age_seconds: float
    """Seconds since the newest file was written."""
    written_us: Reported | None = None
    """Modification time of the newest file, in microseconds by the clock of the volume's server; None: an agent of an older release. Only agents
    compare it."""
    bytes: Reported = 0


class ManifestSeen(Model):
    """The newest manifest that this agent wrote."""

    key: str
    incarnation: Reported
    """This rank's incarnation."""
    generation: Reported
    dir: str | None = None
    """The checkpoint's directory; None: the checkpoint path was empty."""
    step: Step | None = None
    epoch: Step | None = None
    final: bool = False
    id: str | None = None
    """Id of the save request that the manifest answers."""
    attempt: Reported = 0


class CommitSeen(Model):
    """The newest commit that this agent wrote. Only rank 0 writes commits."""

    key: str
    incarnation: Reported
    """Rank 0's incarnation."""
    generation: Reported
    step: Step | None = None
    final: bool = False
    id: str | None = None
    """Id of the save request that the commit answers."""
    attempt: Reported = 0


class Upload(Model):
    """One generation that the agent has sent."""

    incarnation: Reported
    generation: Reported
    bytes: Reported = 0
    """Bytes sent, without those that the bucket already held."""
    seconds: float = 0
    """Duration from the first byte to the manifest or commit."""


class MarkerSeen(Model):
    """A completion marker written after the pod started."""

    name: str
    age_seconds: float


class AgentError(Model):
    """Why the agent fails now. It retries."""

    code: str
    """CamelCase: ``Unreadable``, ``NoSuchBucket``, ``AccessDenied``, ``InvalidAccessKeyId``, ``Unreachable``, ``Fenced``, …"""
    message: str
    since_seconds: float = 0


class AgentReport(Model):
    """``GET /progress`` of the agent."""

    pod_uid: str
    rank: Reported = 0
    world_size: Reported = 1
    incarnation: Reported | None = None
    """This rank's incarnation; None until its claim in the bucket has succeeded."""
    newest: CheckpointSeen | None = None
    """The newest complete checkpoint in the volume."""
    unfinished: CheckpointSeen | None = None
    """A newer checkpoint that is incomplete."""
    files: Reported | None = None
    """Files in the volume, without those under temporary names; None: the agent has not read the whole volume yet, or cannot."""
    bytes: Reported = 0
    temporary_files: Reported | None = None
    """Files under temporary names, such as those of a checkpoint that is being written; None: not known, as of `files`."""
    temporary_bytes: Reported = 0
    unsaved_bytes: Reported = 0
    """Bytes in the volume that no commit covers or, in a run of several ranks, no manifest of this rank."""
    uploaded_bytes: Reported = 0
    """Bytes of the generation that is being shipped, as far as they are in the bucket."""
    hashed_bytes: Reported = 0
    """Bytes that the last commit has read again so far, to compare the volume with the bucket."""
    last_change_seconds: Annotated[
        float | None,
        Field(description="Seconds since a file under the path changed; None if the path has never had one"),
    ] = None
    manifest: ManifestSeen | None = None
    commit: CommitSeen | None = None
    lagging: Annotated[tuple[Reported, ...], Field(max_length=LAGGING_MAX), FailFast()] = ()
    """On rank 0: the ranks that do not hold rank 0's checkpoint yet, the lowest ones. It is committed once they do."""
    uploads: Annotated[tuple[Upload, ...], Field(max_length=UPLOADS_MAX), FailFast()] = ()
    """The newest uploads since this agent started, oldest first."""
    upload_failures: Reported = 0
    """Failed tries to send or commit since this agent started."""
    working_on: str | None = None
    """Id of the save request that is not answered yet."""
    foreign_stop_file: bool = False
    """Someone else than the agent has written a stop file since the pod started."""
    markers: Annotated[tuple[MarkerSeen, ...], Field(max_length=MARKERS_MAX), FailFast()] = ()
    signal_trouble: str = ""
    """Why the due stop signal has not been sent to the training; empty if none is due."""
    error: AgentError | None = None


class MeasuredValue(Model):
    """The newest value of one name in a file."""

    name: Annotated[str, Field(max_length=256)]
    value: Annotated[str, Field(max_length=32)]
    """As text: it may be nan or inf."""
    step: float | None = None


class MeasuredFile(Model):
    """The newest numbers of one file of the training."""

    path: Annotated[str, Field(max_length=2048)]
    """Relative to the checkpoint path."""
    kind: Annotated[str, Field(max_length=32)]
    """TensorBoard, TrainerState, CSV, JSONLines or Push."""
    age_seconds: float
    behind: bool = False
    """Whether there is more in the file that was not read yet."""
    values: Annotated[tuple[MeasuredValue, ...], Field(max_length=MEASURED_VALUES_MAX), FailFast()] = ()
    """The newest last."""


class Measured(Model):
    """``GET /measured`` of the agent: the files under the checkpoint path into which the training writes numbers."""

    pod_uid: str
    files: Annotated[tuple[MeasuredFile, ...], Field(max_length=MEASURED_FILES_MAX), FailFast()] = ()
    """Those that this pod has written, the newest first."""
    pushed: MeasuredFile | None = None
    """What the training has posted to the agent; None: nothing."""
