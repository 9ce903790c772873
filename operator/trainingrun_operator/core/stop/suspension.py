"""Suspending and resuming a run.

A suspension uses the phases of a stop, node release included, as a `Termination` with status ``suspended``. It writes no ``terminationStatus``.
In its last phase it waits: ``spec.suspend: false`` resumes the run; ``spec.stop`` and `kubectl delete` end it with the suspension's checkpoint.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from trainingrun_operator.api import names
from trainingrun_operator.api.status import SUSPENDED, NodePhase, Phase, Termination
from trainingrun_operator.core.effects import Begin, Decision, RecordEvent, Resume, ResumeWorkload
from trainingrun_operator.core.stop.furthest import furthest

if TYPE_CHECKING:
    from trainingrun_operator.core.observed import Observed

RULE: Final = "suspend"
MESSAGE: Final = "Suspended: spec.suspend is true."


def begin(seen: Observed) -> Decision:
    """Write the suspension to the status before any effect of it."""
    suspension = Termination(
        id=names.suspension_id(seen.run.uid, seen.wall),
        status=SUSPENDED,
        rule=RULE,
        reason="Asked",
        message=MESSAGE,
        actor=seen.run.suspend_manager or "spec.suspend",
        mode=seen.run.spec.stop_mode,
        phase=Phase.REQUESTED,
        requested_at=seen.wall,
        phase_at=seen.wall,
    )
    return Decision((Begin(suspension), RecordEvent("Suspending", MESSAGE)), again_seconds=0)


def rest(seen: Observed, suspension: Termination) -> Decision:
    """Wait for `spec.suspend: false`. If another client resumed the workload, resume the run; it is then suspended again with its checkpoint saved."""
    workload = seen.workload
    asleep = workload is None or workload.suspended or workload.finished
    if asleep and seen.run.spec.suspend:
        return Decision(note="suspended")
    # A retained node may be used again; this run then releases it.
    released = tuple(node for node in seen.run.status.nodes if node.phase is NodePhase.RELEASED)
    wakes = (ResumeWorkload(workload.uid, workload.generation),) if workload is not None and workload.suspended else ()
    event = RecordEvent("Resumed", f"Training resumes from {_from_where(seen)}.")
    return Decision((*wakes, Resume(suspension.id, released), event), again_seconds=0)


def _from_where(seen: Observed) -> str:
    saved = furthest(seen)
    return saved.uri if saved is not None and saved.uri else "the beginning: nothing was saved"
