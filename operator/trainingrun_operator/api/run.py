"""`TrainingRun`: what a person who trains writes, and what they read back.

A field is here only once it works. Defaults that could end somebody's run are not schema defaults.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from trainingrun_operator.api import names
from trainingrun_operator.api.base import (
    BigCount,
    Cel,
    Column,
    Count,
    ListMap,
    Message,
    Model,
    ObjectName,
    PreservedObject,
    Resource,
    Seconds,
    Text,
    Timestamp,
    Uri,
    Word,
)

MetricName = Annotated[str, Field(pattern=r"^[a-zA-Z_:][a-zA-Z0-9_:]*$", max_length=128)]
RelativePath = Annotated[str, Field(pattern=r"^[^/]", max_length=255)]
Glob = Annotated[str, Field(min_length=1, max_length=255)]


class TerminationStatus(StrEnum):
    """Why a run ended. Open to new values: readers must not choke on one that they do not know."""

    AUTO_LOW_LOSS = "auto_low_loss"
    AUTO_COMPLETE = "auto_complete"
    USER_STOP = "user_stop"
    FAILED = "failed"
    DELETED = "deleted"


class Phase(StrEnum):
    """Where a stop stands; the only truth about it is ``status.termination``."""

    REQUESTED = "Requested"
    DRAINING = "Draining"
    SAVING = "Saving"
    VERIFYING = "Verifying"
    HELD = "Held"
    DELETING = "Deleting"
    RELEASING = "Releasing"
    DONE = "Done"


class NodePhase(StrEnum):
    """Where the release of one node stands."""

    IN_USE = "InUse"
    """The run's pod is, or was until just now, on it."""
    WAIT_IDLE = "WaitIdle"
    CORDONED = "Cordoned"
    RELEASING = "Releasing"
    VERIFYING = "Verifying"
    RELEASED = "Released"
    RETAINED = "Retained"


# -- spec -----------------------------------------------------------------------------------------------------


class Shutdown(Model):
    """How the training is asked to leave, for every kind of stop."""

    grace_seconds: Annotated[int, Field(ge=0, le=86_400)] = 120
    """How long the training may take to save and leave after it was asked, in seconds. Default 120."""
    file: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$", max_length=63)] = "STOP_TRAINING"
    """Name of the file that asks it to: written under the checkpoint path and in $TRAININGRUN_CONTROL. Default STOP_TRAINING."""


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
    """Where the run's numbers are read from: the pod's Prometheus endpoint."""

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
    """Address of an S3-compatible server; empty for AWS. Default empty."""
    region: Annotated[str, Field(pattern=r"^[a-z0-9-]*$", max_length=63)] = ""
    """Region of the bucket. Default us-east-1."""
    credentials_secret_name: ObjectName = ""
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

    ref: ObjectName = ""
    """The GPUNodePool. Default: the one that selects the node."""
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
            "self.checkpoint.path == oldSelf.checkpoint.path"
            " && has(self.checkpoint.destination) == has(oldSelf.checkpoint.destination)"
            " && (!has(self.checkpoint.destination) || self.checkpoint.destination == oldSelf.checkpoint.destination)",
            "checkpoint.path and checkpoint.destination cannot be changed: a run's checkpoints stay in one place",
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


# -- status ---------------------------------------------------------------------------------------------------


class Condition(Model):
    """One aspect of the run that is true, false or unknown."""

    type: Word
    """Its name."""
    status: Literal["True", "False", "Unknown"]
    """True, False or Unknown."""
    reason: Word
    """One CamelCase word."""
    message: Message = ""
    """A sentence for a person."""
    observed_generation: BigCount | None = None
    """The generation of the spec that this was concluded from."""
    last_transition_time: Timestamp
    """When the status last changed."""


class Effective(Model):
    """What is in force for this run, defaults of the installation included."""

    auto_stop_loss: float | None = None
    """The threshold, if any."""
    auto_stop_action: Word = "Stop"
    """Stop, Shadow or Off."""
    node_pool: ObjectName = ""
    """The pool that the run's nodes belong to, once known."""
    metrics_source: Word = "Prometheus"
    """Where loss and step come from."""


class Progress(Model):
    """How far the training has come, as last observed."""

    loss: Word | None = None
    """The newest finite loss."""
    best_loss: Word | None = None
    """The lowest loss seen."""
    step: BigCount | None = None
    """The newest step."""
    epoch: Word | None = None
    """The newest epoch."""
    total_epochs: BigCount | None = None
    """How many epochs there will be."""
    percent: Annotated[int | None, Field(ge=0, le=100)] = None
    """Of all epochs, in percent."""
    eta_seconds: Seconds | None = None
    """Estimated seconds to the end of the last epoch."""
    stall_polls: Count | None = None
    """Polls without a step in the final epoch."""
    last_observation_time: Timestamp | None = None
    """When the step was last seen to advance."""


class WorkloadRef(Model):
    """The object that runs the pods."""

    api_version: Word
    """Of the object: batch/v1."""
    kind: Word
    """Of the object: Job."""
    name: ObjectName
    """Of the object."""
    uid: Word
    """Of the object."""


class PodStatus(Model):
    """One pod of the run."""

    name: ObjectName
    """Of the pod."""
    uid: Word
    """Of the pod."""
    node: ObjectName = ""
    """Where it runs."""
    phase: Word = ""
    """Pending, Running, Exited (training ended, the pod is kept until its checkpoint is proven), Succeeded or Failed."""
    exit_code: Annotated[int | None, Field(ge=-(2**31), le=2**31 - 1)] = None
    """Of the training, once it ended."""


class Lag(Model):
    """What would be lost if the pod vanished now."""

    bytes: BigCount = 0
    """In the volume and not in the bucket."""


class CheckpointStatus(Model):
    """The newest checkpoint that the operator itself verified in the bucket."""

    uri: Uri = ""
    """A folder that `aws s3 sync` and `from_pretrained` can read."""
    commit: Uri = ""
    """Key of the commit object."""
    generation: BigCount | None = None
    """Its number among the commits of its writer."""
    dir: Text = ""
    """The checkpoint's folder as the training wrote it."""
    step: BigCount | None = None
    """The step that it was saved at."""
    digest: Word = ""
    """SHA-256 of the commit."""
    bytes: BigCount = 0
    """Total size."""
    files: Count = 0
    """Number of files."""
    complete: bool = True
    """False: the training left it half-written."""
    verified_at: Timestamp | None = None
    """When every object of it was last found to match."""
    lag: Lag | None = None
    """What is not saved yet."""
    data_loss: Message | None = None
    """What was lost and why, if anything was."""


class Saved(Model):
    """The verified record that deletion rests on."""

    commit: Uri = ""
    """Key of the commit object; empty if there was nothing to save."""
    digest: Word = ""
    """SHA-256 of the commit."""
    uri: Uri = ""
    """Folder of the checkpoint."""
    dir: Text = ""
    """The checkpoint's folder as the training wrote it."""
    step: BigCount | None = None
    """The step that it was saved at."""
    bytes: BigCount = 0
    """Total size."""
    files: Count = 0
    """Number of files; 0 if nothing lay under the path."""
    complete: bool = True
    """False: half-written, saved as it was."""
    final: bool = False
    """The training had ended before this was read from the volume."""
    note: Message = ""
    """Why nothing had to be, or could be, saved."""


class Evidence(Model):
    """One observation that decided."""

    what: Word
    """The metric or the fact."""
    value: Text
    """As it was read."""
    step: BigCount | None = None
    """At which step."""


class Termination(Model):
    """A stop in progress: the only truth about it. Written by compare-and-swap, intent before effect."""

    id: Word
    """Names this stop in every effect."""
    status: Word
    """Why the run ends; never changes."""
    message: Message
    """Why, as a sentence; never changes."""
    actor: Text = ""
    """Who or what asked for it."""
    phase: Phase
    """How far it is."""
    attempt: Annotated[int, Field(ge=1, le=100_000)] = 1
    """How often the agent was asked to save."""
    inferred: bool = False
    """The completion was inferred, not told by an exit code."""
    requested_at: Timestamp
    """When it was decided."""
    phase_at: Timestamp
    """When the phase began."""
    saved: Saved | None = None
    """What was proven before anything was deleted."""
    evidence: Annotated[tuple[Evidence, ...], Field(max_length=8)] = ()
    """What decided."""
    hold_reason: Message | None = None
    """Why nothing could be proven yet."""
    data_loss: Message | None = None
    """What was lost and why, if anything was."""


class NodeStatus(Model):
    """One node that the run used, and its way back to the pool."""

    name: ObjectName
    """Of the Node."""
    uid: Word
    """Of the Node; a new Node of the same name is another machine."""
    provider_id: Annotated[Text, Field(alias="providerID")] = ""
    """Of the machine, as the cloud names it."""
    pool: ObjectName = ""
    """The GPUNodePool that selects it."""
    phase: NodePhase = NodePhase.IN_USE
    """InUse, WaitIdle, Cordoned, Releasing, Verifying, Released or Retained."""
    phase_at: Timestamp | None = None
    """When the phase began."""
    message: Message = ""
    """Why it is where it is: who still uses it, why it is kept, what the cloud answered."""
    waited_out: bool = False
    """It was kept for waiting pods for as long as its pool allows."""
    released_at: Timestamp | None = None
    """When both machine and Node were found gone."""


class Shadow(Model):
    """A rule that is not enforced, and when it would have ended the run."""

    rule: Word
    """The rule."""
    would_stop_at: Timestamp
    """When."""
    step: BigCount | None = None
    """At which step."""
    value: Word
    """What it saw."""


class PhaseChange(Model):
    """When a phase began."""

    phase: Word
    """The phase."""
    at: Timestamp
    """When it began."""


class TrainingRunStatus(Model):
    """What the operator knows about the run."""

    cel_rules = (
        Cel(
            "!has(oldSelf.terminationStatus) || (has(self.terminationStatus) && self.terminationStatus == oldSelf.terminationStatus)",
            "terminationStatus never changes once written",
        ),
        Cel(
            "!has(oldSelf.termination) || (has(self.termination) && self.termination.id == oldSelf.termination.id"
            " && self.termination.status == oldSelf.termination.status && self.termination.message == oldSelf.termination.message)",
            "termination.id, status and message never change once written",
        ),
        Cel(
            "!has(oldSelf.termination) || !has(self.termination) ||"
            " {'Requested': 0, 'Draining': 1, 'Saving': 2, 'Verifying': 2, 'Held': 2, 'Deleting': 3, 'Releasing': 4, 'Done': 5}[self.termination.phase]"
            " >= {'Requested': 0, 'Draining': 1, 'Saving': 2, 'Verifying': 2, 'Held': 2, 'Deleting': 3, 'Releasing': 4, 'Done': 5}[oldSelf.termination.phase]",
            "the phases of a stop only go forward",
        ),
    )

    conditions: Annotated[tuple[Condition, ...], ListMap("type"), Field(max_length=16)] = ()
    """Accepted, MetricsAvailable, CheckpointSaved, NodesReleased, Finished, Succeeded, Stalled."""
    observed_generation: BigCount | None = None
    """The generation of the spec that this status speaks of."""
    phase: Word | None = None
    """For display: Pending, Running, Stopping, Held, Succeeded, Stopped or Failed."""
    termination_status: Word | None = None
    """Why the run ended: auto_low_loss, auto_complete, user_stop, failed, deleted. Never changes."""
    termination_message: Message | None = None
    """The same as a sentence, with what became of checkpoint and node."""
    effective: Effective | None = None
    """What is in force."""
    start_time: Timestamp | None = None
    """When the training's first container started."""
    completion_time: Timestamp | None = None
    """When everything was done."""
    progress: Progress | None = None
    """How far it has come."""
    workload: WorkloadRef | None = None
    """The Job."""
    pods: Annotated[tuple[PodStatus, ...], Field(max_length=64)] = ()
    """The run's pods."""
    checkpoint: CheckpointStatus | None = None
    """The newest verified checkpoint."""
    termination: Termination | None = None
    """A stop in progress, or the one that ended the run."""
    nodes: Annotated[tuple[NodeStatus, ...], Field(max_length=64)] = ()
    """The nodes that the run used."""
    shadow: Annotated[tuple[Shadow, ...], Field(max_length=8)] = ()
    """Rules that only watch."""
    history: Annotated[tuple[PhaseChange, ...], Field(max_length=20)] = ()
    """The last 20 changes of phase."""


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
