"""`TrainingRun`: what a person who trains writes. What they read back is in `status`.

A field is here only once it works. Defaults that could end somebody's run are not schema defaults.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final

from pydantic import Field

from trainingrun_operator.api import names
from trainingrun_operator.api.base import (
    Cel,
    Column,
    Model,
    ObjectRef,
    PluginName,
    PreservedObject,
    Resource,
    Seconds,
    Text,
)
from trainingrun_operator.api.status import StopMode, TrainingRunStatus

MetricName = Annotated[str, Field(pattern=r"^[a-zA-Z_:][a-zA-Z0-9_:]*$", max_length=128)]
RelativePath = Annotated[str, Field(pattern=r"^[^/]", max_length=255)]
Glob = Annotated[str, Field(min_length=1, max_length=255)]
USER_MAX: Final = 512
"""Characters of `spec.stoppedBy`."""


class Shutdown(Model):
    """How the training is asked to leave, for every kind of stop."""

    grace_seconds: Annotated[int, Field(ge=0, le=86_400)] = 120
    """How long the training may take to save and leave after it was asked, in seconds. Default 120."""
    file: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$", max_length=63)] = "STOP_TRAINING"
    """Name of the file that asks it to: written under the checkpoint path and in $TRAININGRUN_CONTROL. Default STOP_TRAINING."""
    signal: Annotated[str, Field(pattern=r"^(SIG(TERM|INT|HUP|QUIT|USR1|USR2))?$", max_length=7)] = ""
    """For a training that saves on a signal: SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR1 or SIGUSR2. Sent once to its main process (behind a shell,
    to the one command that it runs), when half the grace has passed and the file had no effect, never while a checkpoint is being written. The pod's
    containers then share their processes, and the template must say runAsUser. Default empty: no signal. Cannot be changed."""


class Completion(Model):
    """What counts as complete besides exit code 0, which always does."""

    marker_files: Annotated[tuple[RelativePath, ...], Field(max_length=16)] = (
        "training_complete.txt",
        "COMPLETE",
        "done",
    )
    """Files under the checkpoint path that the training writes when it is complete; only those newer than the pod count. Default
    training_complete.txt, COMPLETE, done."""
    settle_seconds: Seconds = 300
    """After a completion that is only inferred (marker, final-epoch stall): how long the last writes may take to land, in seconds.
    Default 300."""


class MetricNames(Model):
    """Which metric speaks of what; of each list the first that is there is taken."""

    loss: Annotated[tuple[MetricName, ...], Field(min_length=1, max_length=8)] = ("training_loss", "train_loss", "loss")
    """The loss. Default training_loss, train_loss, loss."""
    step: Annotated[tuple[MetricName, ...], Field(min_length=1, max_length=8)] = (
        "training_step",
        "global_step",
        "step",
    )
    """The step, rising. Default training_step, global_step, step."""
    epoch: Annotated[tuple[MetricName, ...], Field(max_length=8)] = ("training_epoch", "epoch")
    """The epoch, whole or fractional. Default training_epoch, epoch."""
    total_epochs: Annotated[tuple[MetricName, ...], Field(max_length=8)] = ("training_total_epochs", "total_epochs")
    """How many epochs there will be. Default training_total_epochs, total_epochs."""


class Metrics(Model):
    """Where the run's numbers are read from."""

    source: PluginName = "Prometheus"
    """What reads them: Prometheus, the pod's endpoint, or a source that a package brings to the operator. Default Prometheus."""
    port: Annotated[int, Field(ge=1, le=65_535)] = 8000
    """Port of the endpoint on the pod. Default 8000."""
    path: Annotated[str, Field(pattern=r"^/[A-Za-z0-9._~/-]*$", max_length=255)] = "/metrics"
    """Path of the endpoint. Default /metrics."""
    names: MetricNames = Field(default_factory=MetricNames)
    """Names of the metrics."""
    container: Annotated[str, Field(max_length=63)] = ""
    """The container that trains: the one that mounts the checkpoint path and whose exit code counts. Default: the first."""


class S3(Model):
    """How the bucket is reached."""

    endpoint_url: Annotated[str, Field(alias="endpointURL", pattern=r"^(https?://[^\s]+)?$", max_length=512)] = ""
    """Address of an S3-compatible server; empty for AWS. The installation's allowedDestinations must name it. Default empty."""
    region: Annotated[str, Field(pattern=r"^[a-z0-9-]*$", max_length=63)] = ""
    """Region of the bucket. Default us-east-1."""
    credentials_secret_name: ObjectRef = ""
    """Secret in the run's namespace with AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and optionally AWS_SESSION_TOKEN and ca.crt. Only the
    agent and the operator read it, never the training."""


class CheckpointMode(StrEnum):
    """Whether checkpoints are saved at all."""

    UPLOAD = "Upload"
    DISABLED = "Disabled"


class OnFailure(StrEnum):
    """What happens when the checkpoint cannot be proven."""

    HOLD = "Hold"
    PROCEED = "Proceed"


class CheckpointSpec(Model):
    """Where checkpoints lie in the pod, and where they go."""

    mode: CheckpointMode = CheckpointMode.UPLOAD
    """Upload, or Disabled: nothing is saved, and the status says so. Default Upload."""
    path: Annotated[str, Field(pattern=r"^/[^:]+$", max_length=255)] = "/checkpoints"
    """Folder in the training container; the volume follows from its mounts, and without a mount an emptyDir is added. Default
    /checkpoints. Cannot be changed."""
    destination: Annotated[str | None, Field(pattern=r"^s3://[a-z0-9][a-z0-9.-]+[a-z0-9](/.*)?$", max_length=768)] = (
        None
    )
    """Where checkpoints go: s3://bucket/prefix. The run's namespace, name and uid are appended. Cannot be changed."""
    s3: S3 = Field(default_factory=S3)
    """How the bucket is reached."""
    include: Annotated[tuple[Glob, ...], Field(max_length=32)] = ("**",)
    """Globs, relative to path, of what is saved. Default everything."""
    exclude: Annotated[tuple[Glob, ...], Field(max_length=32)] = ()
    """Globs, relative to path, of what is not. Default nothing."""
    on_failure: OnFailure = OnFailure.HOLD
    """Hold: keep pod and bytes until the checkpoint is proven. Proceed: end the run though nothing could be proven. Default Hold."""


class NodePoolPolicy(StrEnum):
    """Whether the run's nodes are given back."""

    WHEN_EMPTY = "WhenEmpty"
    NEVER = "Never"


class NodePoolRef(Model):
    """Which nodes the run gives back, and whether."""

    ref: ObjectRef = ""
    """The GPUNodePool. Naming it needs the verb use on gpunodepools of this name, in the run's namespace. Default: the one that selects the node."""
    policy: NodePoolPolicy = NodePoolPolicy.WHEN_EMPTY
    """WhenEmpty: release the run's nodes once nothing else is on them. Never: keep them. Default WhenEmpty."""


class TrainingRunSpec(Model):
    """One run: what to run, when to stop, where its checkpoints go."""

    cel_rules = (
        Cel(
            "self.template == oldSelf.template",
            "template cannot be changed: create a new TrainingRun",
            field_path=".template",
        ),
        Cel(
            "!has(oldSelf.stop) || !oldSelf.stop || (has(self.stop) && self.stop)",
            "spec.stop is one way: a stopped run does not start again; create a new TrainingRun, its checkpoints are kept",
        ),
        Cel(
            "!has(self.stoppedBy) || (has(self.stop) && self.stop)",
            "spec.stoppedBy says who stops the run: write it together with spec.stop: true",
        ),
        Cel(
            "!has(oldSelf.stoppedBy) || (has(self.stoppedBy) && self.stoppedBy == oldSelf.stoppedBy)",
            "spec.stoppedBy never changes: the run was stopped by that person",
        ),
        Cel(
            "self.checkpoint.path == oldSelf.checkpoint.path"
            " && has(self.checkpoint.destination) == has(oldSelf.checkpoint.destination)"
            " && (!has(self.checkpoint.destination) || self.checkpoint.destination == oldSelf.checkpoint.destination)",
            "checkpoint.path and checkpoint.destination cannot be changed: a run's checkpoints stay in one place",
        ),
        Cel(
            "(has(self.shutdown.signal) ? self.shutdown.signal : '') == (has(oldSelf.shutdown.signal) ? oldSelf.shutdown.signal : '')",
            "shutdown.signal cannot be changed: the running pod shares its processes, or does not, because of it",
            field_path=".shutdown.signal",
        ),
        Cel(
            "self.checkpoint.mode == 'Disabled' || has(self.checkpoint.destination)",
            "checkpoint.destination is required (s3://bucket/prefix), or write checkpoint.mode: Disabled to save nothing",
        ),
    )

    template: PreservedObject
    """The pod to run, as in a Job. The operator makes a Job of it. Cannot be changed."""
    backoff_limit: Annotated[int, Field(ge=0, le=1000)] = 3
    """How many crashed pods are replaced before the run has failed. Default 3."""
    auto_stop_loss: float | None = None
    """End the run when its loss is below this. Written: enforced; negative: off. Absent: the installation's default, 0.5, in Shadow: the
    status says when it would have stopped."""
    stall_polls: Annotated[int, Field(ge=1, le=10_000)] = 3
    """In the final epoch: how many polls without a step mean that the run is complete. Default 3."""
    poll_interval_seconds: Annotated[int, Field(ge=1, le=3600)] = 10
    """How often the metrics are read, in seconds. Default 10."""
    stop: bool | None = None
    """true ends the run by hand, with its checkpoint saved and its node released. One way. Default absent."""
    stop_reason: Text | None = None
    """Why it was stopped by hand; shown in the status. Default absent."""
    stopped_by: Annotated[str, Field(min_length=1, max_length=USER_MAX)] | None = None
    """Who stops it by hand: your own user name, as `kubectl auth whoami` says it, written together with stop. The installation's admission policy
    refuses any other. Shown in the status. Default absent: the status names the program that wrote stop."""
    suspend: bool | None = None
    """true saves the checkpoint, proves it, ends the pod and gives its node back, as a stop does; false again goes on from that checkpoint. A suspension
    that has begun is carried through. On a suspended run, stop ends it with that checkpoint. Default absent."""
    stop_mode: StopMode = StopMode.AUTO
    """Which checkpoint a stop waits for. Auto: the training is asked to save and leave. NextCheckpoint: the same, but its next complete checkpoint is
    enough. LastCheckpoint: the last complete checkpoint is enough, nothing is waited for; while there is none, it is as Auto. May be changed for as long
    as the training is waited for. Default Auto."""
    shutdown: Shutdown = Field(default_factory=Shutdown)
    """How the training is asked to leave."""
    completion: Completion = Field(default_factory=Completion)
    """What counts as complete besides exit code 0."""
    metrics: Metrics = Field(default_factory=Metrics)
    """Where loss and step are read."""
    checkpoint: CheckpointSpec
    """Where checkpoints lie, and where they go."""
    node_pool: NodePoolRef = Field(default_factory=NodePoolRef)
    """Which nodes are given back."""
    ttl_seconds_after_finished: Seconds | None = None
    """Delete the TrainingRun, and its Job with it, so many seconds after it has finished; its checkpoints stay in the bucket. Default absent: it is
    kept."""


RESOURCE = Resource(
    kind=names.RUN_KIND,
    plural=names.RUN_PLURAL,
    spec=TrainingRunSpec,
    status=TrainingRunStatus,
    short_names=("trun",),
    categories=("training",),
    description=(
        "A GPU training run that ends at the right moment: when its loss is low enough, when it is complete, or when a person says so, with its"
        " checkpoint proven safe in S3 and its GPU node released."
    ),
    columns=(
        Column("Phase", ".status.phase"),
        Column("Loss", ".status.progress.loss"),
        Column("Target", ".status.effective.autoStopLoss", type="number"),
        Column("Step", ".status.progress.step", type="integer"),
        Column("Progress", ".status.progress.percent", type="integer"),
        Column("Reason", ".status.terminationStatus"),
        Column("Age", ".metadata.creationTimestamp", type="date"),
        Column("Best", ".status.progress.bestLoss", wide=True),
        Column("ETA", ".status.progress.etaSeconds", type="integer", wide=True),
        Column("Checkpoint", ".status.checkpoint.uri", wide=True),
        Column("Nodes", ".status.nodes[*].phase", wide=True),
    ),
    selectable_fields=(".status.phase", ".status.terminationStatus"),
    cel_rules=(
        Cel(
            f"self.metadata.name.size() <= {names.JOB_NAME_MAX} && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
            f"the name must be at most {names.JOB_NAME_MAX} characters of a-z, 0-9 and -, begin with a letter and not end with - (its Job and pods are named after it)",
        ),
    ),
)
