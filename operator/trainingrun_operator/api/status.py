"""`TrainingRun.status`: what the operator knows about a run, and the truth about a stop in progress."""

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
from trainingrun_operator.api.endings import ENDINGS

SUSPENDED: Final = "suspended"
"""What ``status.termination.status`` says of a run that does not end: it may be resumed."""


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


class StopMode(StrEnum):
    """Which checkpoint a stop waits for."""

    AUTO = "Auto"
    """Ask; the training saves and leaves, or its grace is spent."""
    NEXT_CHECKPOINT = "NextCheckpoint"
    """Ask, and be content with the next complete checkpoint too."""
    LAST_CHECKPOINT = "LastCheckpoint"
    """Do not wait: the last complete checkpoint is enough. While there is none, as Auto."""


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
"""How far a stop is in each phase; it never goes back."""
_ORDER: Final = str({phase.value: place for phase, place in ORDER.items()})


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
    step_interval: Word | None = None
    """Usual seconds between two looks that saw the step advance."""
    epoch_base: Annotated[int | None, Field(ge=0, le=1)] = None
    """What the first epoch is called, 0 or 1; absent while it is unknown."""
    pod_uid: Annotated[Word | None, Field(alias="podUID")] = None
    """Of the pod that all of this was read from: an operator that starts goes on from here."""


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
    rank: Annotated[int, Field(ge=0, le=65_535)] = 0
    """Which rank of the training it is, from 0."""
    node: ObjectName = ""
    """Where it runs."""
    phase: Word = ""
    """Pending, Running, Exited (training ended, the pod is kept until its checkpoint is proven), Succeeded or Failed."""
    exit_code: Annotated[int | None, Field(ge=-(2**31), le=2**31 - 1)] = None
    """Of the training, once it ended."""
    waiting: Word = ""
    """What keeps it from starting, in one word of Kubernetes: ImagePullBackOff, Unschedulable, …"""
    waiting_message: Text = ""
    """The same as a sentence of Kubernetes."""


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
    gave_up: bool = False
    """The training wrote more after this was proven, and saving that is not waited for any more."""


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
    """Why the run ends, or ``suspended``, of which it may be resumed; never changes."""
    message: Message
    """Why, as a sentence; never changes."""
    rule: Word = ""
    """The rule that decided, as status.findings names it; ``suspend`` of a suspension."""
    reason: Word = ""
    """The rule's reason: one CamelCase word."""
    actor: Text = ""
    """Who or what asked for it."""
    mode: StopMode = StopMode.AUTO
    """Which checkpoint it waits for: spec.stopMode as it was last followed."""
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

    @property
    def suspends(self) -> bool:
        """Whether the run does not end with it."""
        return self.status == SUSPENDED

    @property
    def over(self) -> bool:
        """Whether the run has ended with it, and everything is settled."""
        return self.phase is Phase.DONE and not self.suspends


class RefusalKind(StrEnum):
    """What a provider's refusal asks for."""

    RETRYABLE = "Retryable"
    """Patience: throttling, an activity in progress, an outage."""
    REFUSED = "Refused"
    """A correction: the minimum is reached, or the machine is none of the pool's."""
    DENIED = "Denied"
    """A permission: an administrator has to act."""


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
    refusal: RefusalKind | None = None
    """What the provider last refused with, while the node is on its way back: Retryable (it may pass by itself), Refused (the pool or the machine is
    not as it should be) or Denied (the operator lacks a permission). Absent: nothing was refused."""
    waited_out: bool = False
    """It was kept for waiting pods for as long as its pool allows."""
    released_at: Timestamp | None = None
    """When both machine and Node were found gone."""


class FindingStatus(Model):
    """What one rule says: why it ends the run, or why it does not yet."""

    rule: Word
    """The rule: stop, exitCode, autoStopLoss, marker, finalEpochStall, …"""
    fires: bool = False
    """Whether what it looks for is so. In a run that goes on, only a rule that is not enforced can fire."""
    reason: Word
    """One CamelCase word."""
    message: Text
    """A sentence or two with the values, as they were when the status was written."""


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
            " && self.termination.status == oldSelf.termination.status && self.termination.message == oldSelf.termination.message)"
            f" || (oldSelf.termination.status == '{SUSPENDED}' && oldSelf.termination.phase == '{Phase.DONE}')",
            "termination.id, status and message never change once written, but for a suspension that is over",
        ),
        Cel(
            "!has(oldSelf.termination) || !has(self.termination) || self.termination.id != oldSelf.termination.id ||"
            f" {_ORDER}[self.termination.phase] >= {_ORDER}[oldSelf.termination.phase]",
            "the phases of a stop only go forward",
        ),
    )

    conditions: Annotated[tuple[Condition, ...], ListMap("type"), Field(max_length=16)] = ()
    """Accepted, MetricsAvailable, CheckpointSaved, NodesReleased, Finished, Succeeded, Stalled."""
    observed_generation: BigCount | None = None
    """The generation of the spec that this status speaks of."""
    phase: Word | None = None
    """For display: Pending, Running, Stopping, Held, Suspended, Succeeded, Stopped or Failed."""
    termination_status: Annotated[
        Word | None, Field(description=f"Why the run ended: {', '.join(ENDINGS)}. Never changes. Open to new values.")
    ] = None
    termination_message: Message | None = None
    """The same as a sentence, with what became of checkpoint and node."""
    signal_trouble: Message | None = None
    """Why spec.shutdown.signal was not sent to the training that is asked to leave, if it was not."""
    findings: Annotated[tuple[FindingStatus, ...], Field(max_length=32)] = ()
    """What each rule that could end the run says, in the order in which they decide; empty once a stop is decided."""
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
    notified: Annotated[tuple[Word, ...], ListSet(), Field(max_length=16)] = ()
    """Ids of the events of this stop that the installation's webhook has taken."""

    def condition(self, kind: str) -> Condition | None:
        """The condition of a type; None if it has not been written yet."""
        return next((one for one in self.conditions if one.type == kind), None)
