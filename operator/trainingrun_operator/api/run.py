"""`TrainingRun`: the spec, written by people who train. The status is in `status`.

A field is added only when it works. A default that could end a run is not a schema default.
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
from trainingrun_operator.api.limits import Budget, HangDetection, IdleDetection
from trainingrun_operator.api.rules import STOP_RULES_MAX, LossLimit, StopRule
from trainingrun_operator.api.status import StopMode, TrainingRunStatus

_LABEL: Final = r'[a-zA-Z_][a-zA-Z0-9_]*="[^"\\\n]*"'
MetricName = Annotated[
    str, Field(pattern=rf"^[a-zA-Z_:][a-zA-Z0-9_:]*(\{{{_LABEL}(, ?{_LABEL})*\}})?$", max_length=256)
]
"""The name of a metric, and the labels of the series that is meant: ``loss`` or ``loss{split="train"}``."""
RelativePath = Annotated[str, Field(pattern=r"^[^/]", max_length=255)]
Glob = Annotated[str, Field(min_length=1, max_length=255)]
USER_MAX: Final = 512
"""Maximum length of `spec.stoppedBy`."""


class Shutdown(Model):
    """How a training is asked to stop."""

    grace_seconds: Annotated[int, Field(ge=0, le=86_400)] = 120
    """Time that the training may take to save and exit after a stop request, in seconds. Default 120."""
    file: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$", max_length=63)] = "STOP_TRAINING"
    """Name of the stop file: written in the checkpoint path and in $TRAININGRUN_CONTROL to request the stop. Default STOP_TRAINING."""
    signal: Annotated[str, Field(pattern=r"^(SIG(TERM|INT|HUP|QUIT|USR1|USR2))?$", max_length=7)] = ""
    """For a training that saves on a signal: SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR1 or SIGUSR2. Sent once to its main process (behind a shell,
    to the only command it runs), after half the grace period if the stop file had no effect, and never while a checkpoint is being written. The
    pod's containers then share a process namespace, and the template must set runAsUser. Default empty: no signal. Immutable."""


class Crash(Model):
    """Which crashes are worth another attempt."""

    fatal_exit_codes: Annotated[tuple[Annotated[int, Field(ge=1, le=255)], ...], Field(max_length=64)] = ()
    """Exit codes of the training after which another attempt would fail as well: the first such crash ends the run as failed, whatever backoffLimit
    is. Default: none."""
    fatal_log_patterns: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=255)], ...], Field(max_length=16)
    ] = ()
    """RE2 patterns, searched in the last 100 lines (8 KiB) of a crashed training's log: the first crash whose log has one ends the run as failed,
    whatever backoffLimit is. ^ and $ match at every line. Default: none."""
    same_step_limit: Annotated[int, Field(ge=1, le=1000)] = 3
    """Number of crashes in a row without a step forward that end the run as failed, whatever backoffLimit is. A step forward is a higher step than
    any crashed attempt has reached. Crashes of which no step was read are not counted. Default 3."""


LogPattern = Annotated[str, Field(min_length=1, max_length=255)]
"""An RE2 pattern."""
Output = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_=!.'()@+, /*?-]*$", max_length=255)]
"""The key of an object below a run's folder in the bucket, with * and ?."""


class Completion(Model):
    """Conditions for completion besides exit code 0, which always counts."""

    marker_files: Annotated[tuple[RelativePath, ...], Field(max_length=16)] = (
        "training_complete.txt",
        "COMPLETE",
        "done",
    )
    """Files in the checkpoint path that the training writes when it is complete; only files newer than the pod count. Default
    training_complete.txt, COMPLETE, done."""
    final_step: Annotated[int, Field(ge=1, le=2**53 - 1)] | None = None
    """The step, as the metrics show it, with which the training is complete: the run ends although the training still runs, once every rank has a
    complete checkpoint of this step or a later one. Before it, a stall is no completion. Default absent."""
    total_epochs: Annotated[float, Field(gt=0, le=2**53 - 1, allow_inf_nan=False)] | None = None
    """Number of epochs, for a training whose metrics do not show it. If they show another one, a stall ends nothing. Default absent: read from the
    metrics."""
    outputs: Annotated[tuple[Output, ...], Field(max_length=8)] = ()
    """Objects that the training itself writes to the bucket when it is complete: keys below <checkpoint.destination>/<namespace>/<run>/, where * stands
    for anything but /, and ? for one character but /. The run is complete when each of them has an object that is newer than the pods; what the agent
    writes does not count. The key begins with literal text, by which the bucket is listed: at most 1,000 keys. Default none."""
    log_patterns: Annotated[tuple[LogPattern, ...], Field(max_length=16)] = ()
    """RE2 patterns, searched in each whole line that the training of rank 0 prints, as in ^Training (complete|finished). The run is complete when a line
    has one of them, the step stands still after it for clearly longer than in earlier pauses, and every rank has a complete checkpoint of that step. Steps
    that are made after the line take it back. The log is read at every poll. A pattern that is found in an empty line is refused. Default none."""
    settle_seconds: Seconds = 300
    """After an inferred completion (marker file, final step, outputs, line of the log, stall in the final epoch): time for the last writes to finish, in
    seconds. Default 300."""


class MetricNames(Model):
    """Metric names by meaning; the first existing metric of each list is used. A name may select labels: loss{split="train"}."""

    loss: Annotated[tuple[MetricName, ...], Field(min_length=1, max_length=8)] = ("training_loss", "train_loss", "loss")
    """Names of the loss. If several series have the name and disagree, none is used: select one, as loss{split="train"}. Default training_loss,
    train_loss, loss."""
    step: Annotated[tuple[MetricName, ...], Field(min_length=1, max_length=8)] = (
        "training_step",
        "global_step",
        "step",
    )
    """Names of the increasing step. Default training_step, global_step, step."""
    epoch: Annotated[tuple[MetricName, ...], Field(max_length=8)] = ("training_epoch", "epoch")
    """Names of the epoch, whole or fractional. Default training_epoch, epoch."""
    total_epochs: Annotated[tuple[MetricName, ...], Field(max_length=8)] = ("training_total_epochs", "total_epochs")
    """Names of the total number of epochs. Default training_total_epochs, total_epochs."""


class LogLines(Model):
    """How the source Logs reads the lines that the training prints."""

    patterns: Annotated[tuple[Annotated[str, Field(min_length=1, max_length=255)], ...], Field(max_length=16)] = ()
    """RE2 patterns with named groups loss, step, epoch, totalEpochs or any other name, as in step (?P<step>[0-9]+) loss (?P<loss>[0-9.]+). The first
    one that a line has gives its numbers; nothing else is read. Default: the formats of common trainers."""


class Metrics(Model):
    """Where the run's numbers are read from."""

    source: PluginName | None = None
    """What reads them: Prometheus, the pod's endpoint; Push, what the training posts to $TRAININGRUN_PUSH_URL; Files, TensorBoard's event files,
    trainer_state.json, metrics.csv or *.jsonl under the checkpoint path; Logs, the lines that the training prints; Auto, the first of these that has loss and step, for the whole run; or a source that a package
    brings to the operator. Default absent: Prometheus if port, path or names are set, or if an earlier release began the run; else as Auto, but without Push, and no other source is taken once something answers at the endpoint."""
    port: Annotated[int, Field(ge=1, le=65_535)] = 8000
    """Port of the endpoint. Default 8000."""
    path: Annotated[str, Field(pattern=r"^/[A-Za-z0-9._~/-]*$", max_length=255)] = "/metrics"
    """Path of the endpoint. Default /metrics."""
    names: MetricNames = Field(default_factory=MetricNames)
    """Names of the metrics."""
    logs: LogLines = Field(default_factory=LogLines)
    """How the source Logs reads lines."""
    container: Annotated[str, Field(max_length=63)] = ""
    """The training container: it mounts the checkpoint path, and its exit code counts. Default: the first container. Immutable."""


class S3(Model):
    """Access to the bucket."""

    endpoint_url: Annotated[str, Field(alias="endpointURL", pattern=r"^(https?://[^\s]+)?$", max_length=512)] = ""
    """URL of an S3-compatible server; empty for AWS. It must be in the installation's allowedDestinations. Default empty."""
    region: Annotated[str, Field(pattern=r"^[a-z0-9-]*$", max_length=63)] = ""
    """Region of the bucket. Default us-east-1."""
    requester_pays: bool = False
    """Say in every request that its sender pays, which a Requester Pays bucket demands: agent and operator, each with its own credentials. A change has
    no effect on the agent of a pod that exists. Default false."""
    credentials_secret_name: ObjectRef = ""
    """Secret in the run's namespace with AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and optionally AWS_SESSION_TOKEN and ca.crt. Only the
    agent and the operator read it, not the training."""


class CheckpointMode(StrEnum):
    """Whether checkpoints are saved."""

    UPLOAD = "Upload"
    DISABLED = "Disabled"


class OnFailure(StrEnum):
    """What happens if the checkpoint cannot be proven."""

    HOLD = "Hold"
    PROCEED = "Proceed"


class RestoreFrom(Model):
    """The checkpoint that a run starts from while it has none of its own."""

    cel_rules = (
        Cel(
            "has(self.run) != has(self.uri)",
            "set either run or uri: run names a TrainingRun, uri its folder in the bucket",
        ),
        Cel(
            "!has(self.__namespace__) || has(self.run)",
            "namespace is the namespace of run: set run, or remove namespace",
        ),
    )

    run: Annotated[ObjectRef, Field(min_length=1)] | None = None
    """Name of a TrainingRun: start from its furthest checkpoint. Default absent."""
    namespace: Annotated[ObjectRef, Field(min_length=1)] | None = None
    """Namespace of that TrainingRun. Another namespace than the run's own must be granted by the installation's allowedDestinations (restoreFrom).
    Default the run's own."""
    uri: Annotated[str, Field(pattern=r"^s3://[a-z0-9][a-z0-9.-]+[a-z0-9]/.+$", max_length=2048)] | None = None
    """Folder of a run in a bucket, s3://bucket/prefix/namespace/run/uid: start from its furthest checkpoint. Or an address as in
    status.checkpoint.uri: start from this checkpoint. It is read with this run's credentials. Default absent."""


class CheckpointFormat(StrEnum):
    """How the training arranges its checkpoints."""

    HF_TRAINER = "HFTrainer"
    ACCELERATE = "Accelerate"
    DEEPSPEED = "DeepSpeed"
    MEGATRON = "Megatron"
    NEMO = "NeMo"
    TORCH_DCP = "TorchDCP"
    ORBAX = "Orbax"
    LIGHTNING = "Lightning"
    KERAS = "Keras"
    TENSORFLOW = "TensorFlow"
    NUMBERED_FILES = "NumberedFiles"
    FILES = "Files"
    TREE = "Tree"


class CheckpointSpec(Model):
    """Where checkpoints are written in the pod, and where they are stored."""

    mode: CheckpointMode = CheckpointMode.UPLOAD
    """Upload, or Disabled: nothing is saved, which the status shows. Default Upload. Immutable."""
    path: Annotated[str, Field(pattern=r"^/[^:]+$", max_length=255)] = "/checkpoints"
    """Folder in the training container; its volume is found through the mounts, and without a mount an emptyDir is added. Not in or around
    /var/run/trainingrun, where the operator mounts its own volumes. Default /checkpoints. Immutable."""
    destination: Annotated[str | None, Field(pattern=r"^s3://[a-z0-9][a-z0-9.-]+[a-z0-9](/.*)?$", max_length=768)] = (
        None
    )
    """Where checkpoints are stored: s3://bucket/prefix. The run's namespace, name and UID are appended. Immutable."""
    s3: S3 = Field(default_factory=S3)
    """Access to the bucket."""
    include: Annotated[tuple[Glob, ...], Field(max_length=32)] = ("**",)
    """Globs, relative to path, of files to save. Default all files."""
    exclude: Annotated[tuple[Glob, ...], Field(max_length=32)] = ()
    """Globs, relative to path, of files not to save. Default none."""
    format: CheckpointFormat | None = None
    """The only layout of checkpoints to look for, such as HFTrainer or TorchDCP; Files: names of no known layout; Tree: everything under path is one
    checkpoint. Default: recognized by the names of the files. A change has no effect on a Job that exists."""
    on_failure: OnFailure = OnFailure.HOLD
    """Hold: keep the pod and its files until the checkpoint is proven. Proceed: end the run without a proven checkpoint. Default Hold."""
    restore_from: RestoreFrom | None = None
    """Another run's checkpoint that this run starts from. Once the run has a checkpoint of its own, it resumes from that. Immutable. Default absent."""
    keep_last: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """Number of complete checkpoints to keep in the bucket: the operator deletes older ones once they are 24 hours old, never the last proven one and
    never the furthest one. Its credentials need the right to delete. Default absent: all are kept."""


class NodePoolPolicy(StrEnum):
    """Whether the run's nodes are released."""

    WHEN_EMPTY = "WhenEmpty"
    NEVER = "Never"


class NodePoolRef(Model):
    """The pool of the run's nodes, and whether they are released."""

    ref: ObjectRef = ""
    """The GPUNodePool. Setting it requires the verb use on this gpunodepools name in the run's namespace. Default: the pool that selects the node."""
    policy: NodePoolPolicy = NodePoolPolicy.WHEN_EMPTY
    """WhenEmpty: release the run's nodes when no other pod uses them. Never: keep them. Default WhenEmpty."""


class TrainingRunSpec(Model):
    """A training run: its pod, its stop conditions, and where its checkpoints are stored."""

    cel_rules = (
        Cel(
            "self.template == oldSelf.template",
            "template cannot be changed: create a new TrainingRun",
            field_path=".template",
        ),
        Cel(
            "!has(oldSelf.stop) || !oldSelf.stop || (has(self.stop) && self.stop)",
            "spec.stop is final: a stopped run does not restart; create a new TrainingRun, the checkpoints are kept",
        ),
        Cel(
            "!has(self.stoppedBy) || (has(self.stop) && self.stop)",
            "spec.stoppedBy names who stops the run: set it together with spec.stop: true",
        ),
        Cel(
            "!has(oldSelf.stoppedBy) || (has(self.stoppedBy) && self.stoppedBy == oldSelf.stoppedBy)",
            "spec.stoppedBy cannot be changed: that person stopped the run",
        ),
        Cel(
            "self.checkpoint.path == oldSelf.checkpoint.path"
            " && has(self.checkpoint.destination) == has(oldSelf.checkpoint.destination)"
            " && (!has(self.checkpoint.destination) || self.checkpoint.destination == oldSelf.checkpoint.destination)",
            "checkpoint.path and checkpoint.destination cannot be changed: a run's checkpoints stay in one place",
        ),
        Cel(
            "self.checkpoint.mode == oldSelf.checkpoint.mode",
            "checkpoint.mode cannot be changed: the agent in the running pod was started for it; create a new TrainingRun",
            field_path=".checkpoint.mode",
        ),
        Cel(
            "(has(self.shutdown.signal) ? self.shutdown.signal : '') == (has(oldSelf.shutdown.signal) ? oldSelf.shutdown.signal : '')",
            "shutdown.signal cannot be changed: it decides whether the running pod's containers share a process namespace",
            field_path=".shutdown.signal",
        ),
        Cel(
            "(has(self.metrics.container) ? self.metrics.container : '') == (has(oldSelf.metrics.container) ? oldSelf.metrics.container : '')",
            "metrics.container cannot be changed: the checkpoint path of the running pod is mounted into that container",
            field_path=".metrics.container",
        ),
        Cel(
            "has(self.checkpoint.restoreFrom) == has(oldSelf.checkpoint.restoreFrom)"
            " && (!has(self.checkpoint.restoreFrom) || self.checkpoint.restoreFrom == oldSelf.checkpoint.restoreFrom)",
            "checkpoint.restoreFrom cannot be changed: the run has started from it; create a new TrainingRun",
            field_path=".checkpoint.restoreFrom",
        ),
        Cel(
            "self.checkpoint.mode == 'Upload' || !has(self.checkpoint.restoreFrom)",
            "checkpoint.restoreFrom needs checkpoint.mode: Upload, because a run that saves nothing has no access to a bucket",
            field_path=".checkpoint.restoreFrom",
        ),
        Cel(
            "self.checkpoint.mode == 'Disabled' || has(self.checkpoint.destination)",
            "checkpoint.destination is required (s3://bucket/prefix), or set checkpoint.mode: Disabled to save nothing",
        ),
    )

    template: PreservedObject
    """Pod template of the Job that the operator creates. Immutable."""
    backoff_limit: Annotated[int, Field(ge=0, le=1000)] = 3
    """Number of crashed pods that are replaced before the run fails. Default 3."""
    crash: Crash = Field(default_factory=Crash)
    """Which crashes are worth another attempt."""
    auto_stop_loss: float | None = None
    """End the run when its loss is below this value. A negative value disables the rule; for a threshold below zero write a stop rule. If absent, the
    installation's default applies, once the loss was at or above it: 0.5 in Shadow mode, in which the status only shows when the run would have stopped."""
    auto_stop_loss_schedule: Annotated[tuple[LossLimit, ...], Field(max_length=16)] = ()
    """A threshold of the loss that falls as the steps grow: from each step on, its loss takes the place of autoStopLoss. Before the first step,
    autoStopLoss applies if it is written, else no threshold. Default: none."""
    max_duration_seconds: Annotated[int, Field(ge=1, le=315_360_000)] | None = None
    """End the run when its training has run for this many seconds, summed over restarts and suspensions. It is stopped early enough to save:
    shutdown.graceSeconds and the longest upload so far before the limit, at most a quarter of it. Default absent: no limit."""
    budget: Budget | None = None
    """GPU hours and money that the run may use. Default absent: no limit."""
    hang_detection: HangDetection = Field(default_factory=HangDetection)
    """What to do about a training that runs and does nothing."""
    idle_detection: IdleDetection = Field(default_factory=IdleDetection)
    """What to do about a training whose GPUs do nothing. It applies where the installation names a DCGM exporter."""
    stop_rules: Annotated[tuple[StopRule, ...], Field(max_length=STOP_RULES_MAX)] = ()
    """Reasons to end the run by the values that the training shows, in this order; the first that fires decides. They may be changed while the run
    trains. Default: none."""
    stall_polls: Annotated[int, Field(ge=1, le=10_000)] = 3
    """At the end of the final epoch: number of polls without a new step after which the run is complete, if that is also clearly longer than its
    earlier pauses. Default 3."""
    poll_interval_seconds: Annotated[int, Field(ge=1, le=3600)] = 10
    """Interval between reads of the metrics, in seconds. Default 10."""
    stop: bool | None = None
    """true stops the run: its checkpoint is saved and its node released. Final. Default absent."""
    stop_reason: Text | None = None
    """Reason of the stop, shown in the status. Default absent."""
    stopped_by: Annotated[str, Field(min_length=1, max_length=USER_MAX)] | None = None
    """Who stops the run: your own user name as printed by `kubectl auth whoami`, set together with stop. The installation's admission policy refuses
    another name. Shown in the status. Default absent: the status names the program that wrote stop, as `field manager '…'`."""
    suspend: bool | None = None
    """true saves and proves the checkpoint, deletes the pod and releases its node, like a stop; false resumes from that checkpoint. A suspension that
    has begun is completed first. On a suspended run, stop ends it with that checkpoint. Default absent."""
    stop_mode: StopMode = StopMode.AUTO
    """Which checkpoint a stop waits for. Auto: the training is asked to save and exit; if it has not within its grace, its next checkpoint is waited
    for only if the predicted wait is shorter than the work that would be rolled back. NextCheckpoint: it is asked as well, but its next complete
    checkpoint is enough. LastCheckpoint: the last complete checkpoint is enough and the stop does not wait; if there is none, as Auto. May be changed while
    the stop waits for the training. Default Auto."""
    shutdown: Shutdown = Field(default_factory=Shutdown)
    """How the training is asked to stop."""
    completion: Completion = Field(default_factory=Completion)
    """Conditions for completion besides exit code 0."""
    metrics: Metrics = Field(default_factory=Metrics)
    """Source of loss and step."""
    checkpoint: CheckpointSpec
    """Where checkpoints are written in the pod, and where they are stored."""
    node_pool: NodePoolRef = Field(default_factory=NodePoolRef)
    """The pool of the run's nodes, and whether they are released."""
    ttl_seconds_after_finished: Seconds | None = None
    """Delete the TrainingRun and its Job this many seconds after it has finished; its checkpoints stay in the bucket. Default absent: it is
    kept."""

    @property
    def further_values(self) -> tuple[str, ...]:
        """The names of the values that stop rules look at."""
        return tuple(dict.fromkeys(rule.metric for rule in self.stop_rules))


RESOURCE = Resource(
    kind=names.RUN_KIND,
    plural=names.RUN_PLURAL,
    spec=TrainingRunSpec,
    status=TrainingRunStatus,
    short_names=("trun",),
    categories=("training",),
    description=(
        "A GPU training run that ends when its loss is low enough, when it is complete, or when a person stops it, with its"
        " checkpoint proven in S3 and its GPU node released."
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
        Column("Cost", ".status.trained.cost.shown", wide=True),
    ),
    selectable_fields=(".status.phase", ".status.terminationStatus"),
    cel_rules=(
        Cel(
            f"self.metadata.name.size() <= {names.JOB_NAME_MAX} && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
            f"the name must be at most {names.JOB_NAME_MAX} characters of a-z, 0-9 and -, start with a letter and not end with - (its Job and pods have this name)",
        ),
    ),
)
