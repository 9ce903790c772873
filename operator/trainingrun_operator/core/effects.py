"""The closed union of effects that a decision may contain. `edge.execute` implements each of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainingrun_operator.api.status import NodeStatus, Phase, Termination


@dataclass(frozen=True)
class AddFinalizer:
    """Protect the run from removal before its checkpoint is settled."""


@dataclass(frozen=True)
class RemoveFinalizer:
    """Let the run be removed."""


@dataclass(frozen=True)
class DeleteRun:
    """Delete a run whose `ttlSecondsAfterFinished` has passed; refused if the run has changed."""


@dataclass(frozen=True)
class CreateWorkload:
    """Create the workload; the API server's refusal becomes a `Problem`."""

    manifest: dict[str, Any]


@dataclass(frozen=True)
class AdoptWorkload:
    """Make the run the workload's owner, so that the garbage collector deletes it with the run."""

    uid: str


@dataclass(frozen=True)
class Begin:
    """Write the intent to end or suspend the run; refused if the run has changed."""

    termination: Termination


@dataclass(frozen=True)
class Advance:
    """Write the next phase of a stop; refused if its id, phase or attempt has changed."""

    termination: Termination
    was_phase: Phase
    was_attempt: int
    completion: bool = False
    """Also write the completion time."""


@dataclass(frozen=True)
class RecordNodes:
    """Write ``status.nodes``; refused if the run has changed."""

    nodes: tuple[NodeStatus, ...]


@dataclass(frozen=True)
class Annotate:
    """Set an annotation that a pod's agent and gate read; refused for a pod with another uid."""

    pod: str
    pod_uid: str
    key: str
    value: str


@dataclass(frozen=True)
class EndReplacements:
    """Stop the workload from replacing failed pods, so that its gates may open."""

    uid: str


@dataclass(frozen=True)
class SuspendWorkload:
    """End the pods within their grace period; refused if the workload's spec has changed."""

    uid: str
    generation: int


@dataclass(frozen=True)
class ResumeWorkload:
    """Resume a suspended workload; refused if its spec has changed."""

    uid: str
    generation: int


@dataclass(frozen=True)
class Resume:
    """Remove a finished suspension from the status and write `nodes`; refused if it is another suspension."""

    id: str
    nodes: tuple[NodeStatus, ...]


@dataclass(frozen=True)
class DeletePod:
    """With its uid as precondition; already gone is success."""

    name: str
    uid: str
    grace_seconds: int | None = None
    """At least 1; None: the pod's own."""


@dataclass(frozen=True)
class DeleteWorkload:
    """With its uid as precondition; already gone is success."""

    name: str
    uid: str


@dataclass(frozen=True)
class CreateRescue:
    """Create the rescue Job of a stop, suspended; the API server's refusal holds the stop. It is deleted again if the stop does not wait for it any more."""

    manifest: dict[str, Any]
    termination_id: str


@dataclass(frozen=True)
class StartRescue:
    """Let the rescue Job make its pod; refused if it is another Job, or gone, or its spec has changed.

    The status of the stop names its uid before that (`Rescue.job`).
    """

    name: str
    uid: str
    generation: int


@dataclass(frozen=True)
class DeleteRescue:
    """Delete the rescue Job, with its uid as precondition; already gone is success."""

    name: str
    uid: str


@dataclass(frozen=True)
class CreateDisruptionBudget:
    """Protect the run's pods from eviction. A failure does not stop the other effects."""

    manifest: dict[str, Any]


@dataclass(frozen=True)
class DeleteDisruptionBudget:
    """With its uid as precondition; already gone is success."""

    name: str
    uid: str


@dataclass(frozen=True)
class TaintNode:
    """Keep new pods off a node; refused for a Node with another uid."""

    name: str
    uid: str


@dataclass(frozen=True)
class UntaintNode:
    """Remove the taint of `TaintNode`, and no other."""

    name: str
    uid: str
    orphan_of: str = ""
    """Uid of a run that does not exist any more, whose taint it is; empty: this run's."""


@dataclass(frozen=True)
class ReleaseMachine:
    """Ask the pool's provider to terminate exactly this machine."""

    pool: str
    provider_id: str
    node: str
    node_uid: str
    operation: str
    """The same for every attempt of this release, so that a provider acts once."""


@dataclass(frozen=True)
class DeleteNode:
    """Remove the Node of a terminated machine, with its uid as precondition."""

    name: str
    uid: str


@dataclass(frozen=True)
class RecordEvent:
    """Record an Event on the run."""

    reason: str
    message: str
    warning: bool = False


Effect = (
    AddFinalizer
    | RemoveFinalizer
    | DeleteRun
    | CreateWorkload
    | AdoptWorkload
    | Begin
    | Advance
    | RecordNodes
    | Annotate
    | EndReplacements
    | SuspendWorkload
    | ResumeWorkload
    | Resume
    | DeletePod
    | DeleteWorkload
    | CreateRescue
    | StartRescue
    | DeleteRescue
    | CreateDisruptionBudget
    | DeleteDisruptionBudget
    | TaintNode
    | UntaintNode
    | ReleaseMachine
    | DeleteNode
    | RecordEvent
)


@dataclass(frozen=True)
class Decision:
    """The effects to do now, in order, and the time of the next look."""

    effects: tuple[Effect, ...] = ()
    again_seconds: float | None = None
    """Seconds until the next look at the latest; None: at the next event."""
    note: str = ""
    """What the run waits for, for the log."""
