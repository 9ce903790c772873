"""`TrainingRun.status`: what the operator knows about a run, and the state of a stop in progress."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final, Literal

from pydantic import Field

from trainingrun_operator.api.base import (
    BigCount,
    Cel,
    Count,
    ListMap,
    ListSet,
    Message,
    Model,
    ObjectName,
    Seconds,
    Text,
    Timestamp,
    Uri,
    Word,
)
from trainingrun_operator.api.completion_line import CompletionLine
from trainingrun_operator.api.endings import ENDINGS
from trainingrun_operator.api.limits import COST_MAX, Cost, Idle, Quiet
from trainingrun_operator.api.nodes import NodePhase as NodePhase  # noqa: PLC0414 - a name of this module for others
from trainingrun_operator.api.nodes import NodeStatus as NodeStatus  # noqa: PLC0414 - a name of this module for others
from trainingrun_operator.api.nodes import RefusalKind as RefusalKind  # noqa: PLC0414 - a name of this module for others
from trainingrun_operator.api.pods import PodStatus as PodStatus  # noqa: PLC0414 - a name of this module for others
from trainingrun_operator.api.pods import WorkloadRef as WorkloadRef  # noqa: PLC0414 - a name of this module for others
from trainingrun_operator.api.restored import Restored
from trainingrun_operator.api.rules import STOP_RULES_MAX, RuleWindow
from trainingrun_operator.api.saves import SaveTimes, StopWait
from trainingrun_operator.api.spoiled import Spoiled

SUSPENDED: Final = "suspended"
"""``status.termination.status`` of a suspension: the run does not end and can be resumed."""


class Phase(StrEnum):
    """The phases of a stop; ``status.termination`` alone records them."""

    REQUESTED = "Requested"
    DRAINING = "Draining"
    SAVING = "Saving"
    VERIFYING = "Verifying"
    HELD = "Held"
    DELETING = "Deleting"
    RELEASING = "Releasing"
    DONE = "Done"


class StopMode(StrEnum):
    """Which checkpoint a stop waits for."""

    AUTO = "Auto"
    """Ask the training to save and exit; wait until it exits or the grace period ends. Then wait for its next complete checkpoint, if the predicted
    wait is shorter than the work that the last one lacks."""
    NEXT_CHECKPOINT = "NextCheckpoint"
    """Like Auto, but the next complete checkpoint ends the wait too."""
    LAST_CHECKPOINT = "LastCheckpoint"
    """Do not wait: use the last complete checkpoint. Without one, like Auto."""


ORDER: Final = {
    Phase.REQUESTED: 0,
    Phase.DRAINING: 1,
    Phase.SAVING: 2,
    Phase.VERIFYING: 2,
    Phase.HELD: 2,
    Phase.DELETING: 3,
    Phase.RELEASING: 4,
    Phase.DONE: 5,
}
"""The order of the phases; a stop never goes back."""
_ORDER: Final = str({phase.value: place for phase, place in ORDER.items()})


class Condition(Model):
    """One aspect of the run that is true, false or unknown."""

    type: Word
    """Type of the condition."""
    status: Literal["True", "False", "Unknown"]
    """True, False or Unknown."""
    reason: Word
    """One CamelCase word."""
    message: Message = ""
    """Explanation for people."""
    observed_generation: BigCount | None = None
    """The generation of the spec that the condition is about."""
    last_transition_time: Timestamp
    """When the status last changed."""


class Effective(Model):
    """The settings in force for this run, with the installation's defaults."""

    auto_stop_loss: float | None = None
    """The loss threshold; of a schedule, the one at the present step."""
    auto_stop_action: Word = "Stop"
    """Stop, Shadow or Off."""
    node_pool: ObjectName = ""
    """The GPUNodePool of the run's nodes, once known."""
    metrics_source: Word = "Prometheus"
    """The source of loss and step: of Auto, the one that was taken, or Auto as long as none was. A run whose spec names no source keeps it."""
    metrics_source_note: Text = ""
    """Why Auto has taken this source, and not a preferred one. Empty: Auto has not taken it."""


class Progress(Model):
    """The training's progress, as last observed."""

    loss: Word | None = None
    """The newest loss that counted: finite, not 0, not the first value of the metric."""
    best_loss: Word | None = None
    """The lowest loss that counted."""
    highest_loss: Word | None = None
    """The highest loss that counted. A threshold that spec.autoStopLoss does not set acts only below it."""
    step: BigCount | None = None
    """The newest step."""
    fell_from: BigCount | None = None
    """The step before it last fell in this pod, which began a new stage of the training. Absent: it has not fallen."""
    fell_to: BigCount | None = None
    """The first step of that stage."""
    epoch: Word | None = None
    """The newest epoch."""
    total_epochs: Annotated[float | None, Field(ge=0, le=2**53 - 1)] = None
    """The number of epochs, which may be a fraction."""
    percent: Annotated[int | None, Field(ge=0, le=100)] = None
    """Progress through all epochs, in percent."""
    eta_seconds: Seconds | None = None
    """Estimated seconds to the end of the last epoch."""
    stall_polls: Count | None = None
    """Polls without a new step in the final epoch."""
    last_observation_time: Timestamp | None = None
    """When the operator last saw the step advance."""
    step_interval: Word | None = None
    """Usual seconds between two polls that saw the step advance."""
    longest_pause: Word | None = None
    """Longest time between two steps, in seconds, in any pod of the run."""
    longest_epoch_pause: Word | None = None
    """The same of two steps between which an epoch ended. A stall in the final epoch must be longer."""
    epoch_base: Annotated[int | None, Field(ge=0, le=1)] = None
    """The number of the run's first epoch, 0 or 1; absent while unknown."""
    fractional_epochs: bool = False
    """Whether the run shows fractions of epochs."""
    epoch_interval: Word | None = None
    """The smallest advance of a fractional epoch between two steps that were seen."""
    pod_uid: Annotated[Word | None, Field(alias="podUID")] = None
    """UID of the observed pod. A restarted operator continues from this progress."""


class CrashRow(Model):
    """The run's crashes in a row without a step forward."""

    pod_uid: Annotated[Word, Field(alias="podUID")]
    """UID of the last crashed pod that was counted."""
    step: BigCount
    """The highest step that a crashed attempt has reached."""
    without_step: Count = 0
    """Crashes in a row whose attempt got no further than that step."""


class Lag(Model):
    """What would be lost if the pod were lost now."""

    bytes: BigCount = 0
    """Bytes in the volume that are not in the bucket."""


class Refuted(Model):
    """A checkpoint that was proven and does not verify any more: a proof of it has failed, or a restore had to take an older one."""

    commit: Uri = ""
    """Key of the commit object."""
    dir: Text = ""
    """The checkpoint's folder as the training wrote it."""
    step: BigCount | None = None
    """Step of the checkpoint."""
    why: Text = ""
    """What is wrong with it."""


class CheckpointStatus(Model):
    """The furthest checkpoint that the operator has verified in the bucket: a replaced pod resumes from it."""

    uri: Uri = ""
    """A folder that `aws s3 sync` and `from_pretrained` can read; of a checkpoint of one file, the object."""
    commit: Uri = ""
    """Key of the commit object."""
    generation: BigCount | None = None
    """Number of the commit among those of its writer."""
    dir: Text = ""
    """The checkpoint's folder as the training wrote it."""
    step: BigCount | None = None
    """Step of the checkpoint."""
    epoch: BigCount | None = None
    """The training's epoch in the checkpoint's name. Without steps, it orders the checkpoints."""
    format: Word = ""
    """The layout that the agent has recognized, or spec.checkpoint.format."""
    inherited: bool = False
    """An earlier run had left it in the volume: it counts less than all that this run has written."""
    finite: bool | None = None
    """Of a run that ended because its values were not finite: whether the checkpoint is from before the first such value. A restore takes it then,
    though a later one is in the bucket. Absent: the question did not arise, or the agent did not answer it."""
    digest: Word = ""
    """SHA-256 of the commit."""
    bytes: BigCount = 0
    """Total size."""
    files: Count = 0
    """Number of files."""
    complete: bool = True
    """False: the training left it incomplete."""
    verified_at: Timestamp | None = None
    """When the operator last verified every object."""
    lag: Lag | None = None
    """What is not saved yet."""
    refuted: Refuted | None = None
    """A checkpoint that this status has shown and that does not verify any more. It stays until it verifies again, or a newer one is proven."""
    data_loss: Message | None = None
    """What was lost, and why. After a suspension it stays until a checkpoint of the resumed training is proven; status.history keeps it."""


class Saved(Model):
    """The verified record that permits the deletion of the pods."""

    commit: Uri = ""
    """Key of the commit object; empty if there was nothing to save."""
    digest: Word = ""
    """SHA-256 of the commit."""
    uri: Uri = ""
    """Folder of the checkpoint, or its only object."""
    dir: Text = ""
    """The checkpoint's folder as the training wrote it."""
    step: BigCount | None = None
    """Step of the checkpoint."""
    epoch: BigCount | None = None
    """The training's epoch in the checkpoint's name. Without steps, it orders the checkpoints."""
    format: Word = ""
    """The layout that the agent has recognized, or spec.checkpoint.format."""
    inherited: bool = False
    """An earlier run had left it in the volume: it counts less than all that this run has written."""
    finite: bool | None = None
    """Of a run that ended because its values were not finite: whether the checkpoint is from before the first such value. A restore takes it then,
    though a later one is in the bucket. Absent: the question did not arise, or the agent did not answer it."""
    bytes: BigCount = 0
    """Total size."""
    files: Count = 0
    """Number of files; 0 if the checkpoint path was empty."""
    complete: bool = True
    """False: incomplete, saved as it was."""
    final: bool = False
    """The training had ended before the volume was read."""
    note: Message = ""
    """Why nothing had to be saved, or nothing could be saved; or which containers could still write after this was proven."""
    gave_up: bool = False
    """The training wrote more after this record was proven, and the stop no longer waits for it to be saved."""


class Rescue(Model):
    """The rescue of the files that dead pods left in a volume: a Job with the agent saves them."""

    claim: ObjectName = ""
    """Name of the PersistentVolumeClaim. Empty: the volume is written in the template itself."""
    volume: Text = ""
    """What the volume is, if it has no claim: its kind, its name in the template, and where it is."""
    node: ObjectName = ""
    """The Node that the Job has to run on, because the volume is there. Empty: any other; the run's own nodes are then released first."""
    since: Text = ""
    """When the training of the last pod started; empty: not known."""
    job: Word = ""
    """UID of the rescue Job. It is created suspended and starts once it is named here; empty: no Job has started."""
    attempt: Annotated[int, Field(ge=0, le=100_000)] = 0
    """The save request with which a rescue in the phase Deleting began: its pods wrote after the proof. 0: it began before that phase."""
    over: bool = False
    """A rescue in the phase Deleting has ended: with a proof, or with a data loss."""


class Evidence(Model):
    """One observation that decided."""

    what: Word
    """The metric or the fact."""
    value: Text
    """The observed value."""
    step: BigCount | None = None
    """The step of the observation."""


class Termination(Model):
    """The state of a stop. Written by compare-and-swap, intent before effect."""

    id: Word
    """Identifies this stop in every effect."""
    status: Word
    """Why the run ends, or ``suspended`` for a suspension; never changes."""
    message: Message
    """The same as a sentence; never changes."""
    rule: Word = ""
    """The rule that decided, as in status.findings; ``suspend`` for a suspension."""
    reason: Word = ""
    """The rule's reason: one CamelCase word."""
    actor: Text = ""
    """Who or what requested the stop: a user as in spec.stoppedBy, a rule, or the program that wrote the field, as ``field manager '…'``."""
    mode: StopMode = StopMode.AUTO
    """The checkpoint that the stop waits for: spec.stopMode as last applied."""
    wait: StopWait | None = None
    """Of stopMode Auto, once the training has not exited within its grace: whether the stop waits for its next checkpoint."""
    phase: Phase
    """Phase of the stop."""
    attempt: Annotated[int, Field(ge=1, le=100_000)] = 1
    """Number of save requests to the agent."""
    inferred: bool = False
    """The completion was inferred, without an exit code."""
    requested_at: Timestamp
    """When the stop was decided."""
    phase_at: Timestamp
    """When the phase began."""
    saved: Saved | None = None
    """What was proven before the deletion."""
    evidence: Annotated[tuple[Evidence, ...], Field(max_length=8)] = ()
    """The observations that decided."""
    spoiled: Spoiled | None = None
    """Of a run that ends because its values are not finite: from where on its checkpoints are spoiled."""
    last_log_lines: Message = ""
    """The last lines of the training's log, if it failed. Not part of any message, Event or notification: a training may print secrets."""
    rescue: Rescue | None = None
    """The rescue of the files of dead pods; absent: none was needed."""
    hold_reason: Message | None = None
    """Why the checkpoint is not proven yet."""
    data_loss: Message | None = None
    """What was lost, and why."""

    @property
    def suspends(self) -> bool:
        """Whether the stop is a suspension."""
        return self.status == SUSPENDED

    @property
    def over(self) -> bool:
        """Whether the run has ended and the stop is complete."""
        return self.phase is Phase.DONE and not self.suspends


class FindingStatus(Model):
    """One rule's finding: why it ends the run, or why not yet."""

    rule: Word
    """The rule: stop, exitCode, autoStopLoss, marker, finalEpochStall, …"""
    fires: bool = False
    """Whether the rule's condition holds. In a run that continues, only a rule that is not enforced can fire."""
    reason: Word
    """One CamelCase word."""
    message: Text
    """Explanation with the values at the time of the status."""


class Trained(Model):
    """How long the training has run."""

    seconds: Seconds
    """Seconds for which the training's container ran, summed over all pods of the run; the time between two pods does not count."""
    last_seconds: Seconds = 0
    """Those since it was started last."""
    pod_uid: Annotated[Word, Field(alias="podUID")] = ""
    """UID of the pod that is counted now."""
    started_at: Timestamp | None = None
    """When the training was started last in this pod."""
    warned_at: Timestamp | None = None
    """When an Event said that the training comes near to spec.maxDurationSeconds."""
    gpu_hours: Annotated[float | None, Field(ge=0, le=1e9)] = None
    """GPU hours that the training has used; only with spec.budget."""
    cost: Cost | None = None
    """What the training has cost. Absent: no GPUNodePool that it used has a price (spec.price)."""
    budget_told: Word = ""
    """What an Event has said about spec.budget: Near, Spent, or Unknown (what it costs); empty: nothing."""


class Shadow(Model):
    """A rule that is not enforced, and when it would have ended the run."""

    rule: Word
    """The rule."""
    would_stop_at: Timestamp
    """When the rule would have ended the run."""
    step: BigCount | None = None
    """The step at that time."""
    value: Word
    """The observed value."""
    trained_seconds: Seconds | None = None
    """For how long the training had run then."""
    saved_gpu_hours: Annotated[float | None, Field(ge=0, le=1e9)] = None
    """GPU hours that the training has used since: what the rule would have saved."""
    cost: Annotated[float | None, Field(ge=0, le=COST_MAX)] = None
    """What the training had cost then; absent if no price was known."""
    saved_cost: Word = ""
    """What it has cost since, with the currency."""


class PhaseChange(Model):
    """The start of a phase."""

    phase: Word
    """The phase."""
    at: Timestamp
    """When the phase began."""
    data_loss: Text | None = None
    """What the suspension or the stop that led to it has lost."""


class TrainingRunStatus(Model):
    """What the operator knows about the run."""

    cel_rules = (
        Cel(
            "!has(oldSelf.terminationStatus) || (has(self.terminationStatus) && self.terminationStatus == oldSelf.terminationStatus)",
            "terminationStatus never changes once written",
        ),
        Cel(
            "!has(oldSelf.termination) || (has(self.termination) && self.termination.id == oldSelf.termination.id"
            " && self.termination.status == oldSelf.termination.status && self.termination.message == oldSelf.termination.message)"
            f" || (oldSelf.termination.status == '{SUSPENDED}' && oldSelf.termination.phase == '{Phase.DONE}')",
            "termination.id, status and message never change once written, except after a completed suspension",
        ),
        Cel(
            "!has(oldSelf.termination) || !has(self.termination) || self.termination.id != oldSelf.termination.id ||"
            f" {_ORDER}[self.termination.phase] >= {_ORDER}[oldSelf.termination.phase]",
            "the phases of a stop only go forward",
        ),
    )

    conditions: Annotated[tuple[Condition, ...], ListMap("type"), Field(max_length=16)] = ()
    """Accepted, MetricsAvailable, RulesMeasured (with spec.stopRules), LossPlateaued (with a plateau rule), Hung (once the training has hung), Idle (once its GPUs were idle), CheckpointSaved, NodesReleased, Finished, Succeeded, Stalled."""
    observed_generation: BigCount | None = None
    """The generation of the spec that this status is about."""
    phase: Word | None = None
    """For display: Pending, Running, Stopping, Held, Suspended, Succeeded, Stopped or Failed."""
    termination_status: Annotated[
        Word | None, Field(description=f"Why the run ended: {', '.join(ENDINGS)}. Never changes. Open to new values.")
    ] = None
    termination_message: Message | None = None
    """The same as a sentence, with the outcome for checkpoint and nodes."""
    operator: Word | None = None
    """The operator that looks after the run, as namespace/name of its Lease: if the run's labels leave its selector, it keeps the run until its end."""
    signal_trouble: Message | None = None
    """Why the due spec.shutdown.signal was not sent to the training."""
    findings: Annotated[tuple[FindingStatus, ...], Field(max_length=32)] = ()
    """The finding of each rule that can end the run, in the order in which the rules decide; empty once a stop is decided."""
    effective: Effective | None = None
    """The settings in force."""
    start_time: Timestamp | None = None
    """When the training's first container started."""
    trained: Trained | None = None
    """How long the training has run."""
    quiet: Quiet | None = None
    """Since when nothing of the training has moved (hangDetection)."""
    idle: Idle | None = None
    """Since when all GPUs of the training have been idle (idleDetection)."""
    completion_line: CompletionLine | None = None
    """The line of the log by which the training may be complete (completion.logPatterns)."""
    completion_time: Timestamp | None = None
    """When the stop was complete."""
    progress: Progress | None = None
    """The training's progress."""
    crashes: CrashRow | None = None
    """Crashes in a row without a step forward (crash.sameStepLimit). Absent: no crash of which a step was read."""
    workload: WorkloadRef | None = None
    """The Job."""
    pods: Annotated[tuple[PodStatus, ...], Field(max_length=64)] = ()
    """The run's pods."""
    checkpoint: CheckpointStatus | None = None
    """The newest verified checkpoint."""
    save_times: SaveTimes | None = None
    """When the training has saved. Absent: no complete checkpoint was seen."""
    restored: Restored | None = None
    """What the training of the newest pod starts from."""
    termination: Termination | None = None
    """The stop in progress, or the stop that ended the run."""
    nodes: Annotated[tuple[NodeStatus, ...], Field(max_length=64)] = ()
    """The nodes that the run used."""
    rules: Annotated[tuple[RuleWindow, ...], Field(max_length=STOP_RULES_MAX)] = ()
    """What has been counted for each of spec.stopRules."""
    shadow: Annotated[tuple[Shadow, ...], Field(max_length=16)] = ()
    """Rules that are not enforced and would have ended the run."""
    history: Annotated[tuple[PhaseChange, ...], Field(max_length=20)] = ()
    """The last 20 phase changes."""
    notified: Annotated[tuple[Word, ...], ListSet(), Field(max_length=16)] = ()
    """Ids of this stop's events that the installation's webhook has accepted."""

    def condition(self, kind: str) -> Condition | None:
        """Return the condition of a type; None if it is missing."""
        return next((one for one in self.conditions if one.type == kind), None)
