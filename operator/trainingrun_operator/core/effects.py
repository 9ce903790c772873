"""The closed set of things that a decision may ask for. `edge.execute` knows how to do each of them, and nothing else is ever done."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainingrun_operator.api.status import NodeStatus, Phase, Termination


@dataclass(frozen=True)
class AddFinalizer:
    """From now on the run cannot vanish before its checkpoint is settled."""


@dataclass(frozen=True)
class RemoveFinalizer:
    """Nothing of the run is left to protect."""


@dataclass(frozen=True)
class DeleteRun:
    """Its time after the end is over; refused by the API server if the run has changed meanwhile."""


@dataclass(frozen=True)
class CreateWorkload:
    """Dry-run first; the API server's complaint becomes a `Problem`."""

    manifest: dict[str, Any]


@dataclass(frozen=True)
class AdoptWorkload:
    """Hand the workload to the garbage collector, which deletes it with the run."""

    uid: str


@dataclass(frozen=True)
class Begin:
    """Write the intent to end the run; refused by the API server if the run has changed meanwhile."""

    termination: Termination


@dataclass(frozen=True)
class Advance:
    """Write the next phase of a stop; refused unless id, phase and attempt are still what they were."""

    termination: Termination
    was_phase: Phase
    was_attempt: int
    completion: bool = False
    """Also write the completion time."""


@dataclass(frozen=True)
class RecordNodes:
    """Write ``status.nodes``; refused if the run has changed meanwhile."""

    nodes: tuple[NodeStatus, ...]


@dataclass(frozen=True)
class Annotate:
    """Tell agent and gate of one pod something; refused for a pod of another uid."""

    pod: str
    pod_uid: str
    key: str
    value: str


@dataclass(frozen=True)
class EndReplacements:
    """Let the workload start no pod for one that has failed. Its gates may open then."""

    uid: str


@dataclass(frozen=True)
class SuspendWorkload:
    """End pods whose training still runs, with their grace; refused unless the workload's spec is the one that was looked at."""

    uid: str
    generation: int


@dataclass(frozen=True)
class ResumeWorkload:
    """Let a suspended workload start its pods again; refused unless its spec is the one that was looked at."""

    uid: str
    generation: int


@dataclass(frozen=True)
class Resume:
    """Forget a suspension that is over; refused unless it is the one that was looked at. With the nodes that are to be remembered."""

    id: str
    nodes: tuple[NodeStatus, ...]


@dataclass(frozen=True)
class DeletePod:
    """With its uid as precondition; already gone is success."""

    name: str
    uid: str


@dataclass(frozen=True)
class DeleteWorkload:
    """With its uid as precondition; already gone is success."""

    name: str
    uid: str


@dataclass(frozen=True)
class CreateDisruptionBudget:
    """Keep the run's pods from being evicted. Not being able to is no reason to do nothing else."""

    manifest: dict[str, Any]


@dataclass(frozen=True)
class DeleteDisruptionBudget:
    """With its uid as precondition; already gone is success."""

    name: str
    uid: str


@dataclass(frozen=True)
class TaintNode:
    """Keep new pods off; refused for a node of another uid."""

    name: str
    uid: str


@dataclass(frozen=True)
class UntaintNode:
    """Take back what `TaintNode` did, and nothing else."""

    name: str
    uid: str


@dataclass(frozen=True)
class ReleaseMachine:
    """Ask the pool's provider to terminate exactly this machine."""

    pool: str
    provider_id: str
    node: str
    node_uid: str
    operation: str
    """The same for every attempt of this release, by whichever operator: a provider that is asked twice does it once."""


@dataclass(frozen=True)
class DeleteNode:
    """Remove the Node of a machine that is gone, with its uid as precondition."""

    name: str
    uid: str


@dataclass(frozen=True)
class RecordEvent:
    """An Event on the run."""

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
    """What to do now, in order, and when to look again at the latest."""

    effects: tuple[Effect, ...] = ()
    again_seconds: float | None = None
    """None: at the next event."""
    note: str = ""
    """What the run waits for, for logs."""
