"""Suspending a run and resuming it: all that a stop does, node released, and back from the checkpoint.

A suspension goes through the phases of a stop, as a `Termination` whose status is ``suspended``. It writes no ``terminationStatus``, and its last phase
is a rest: ``spec.suspend: false`` ends it, and so do ``spec.stop`` and `kubectl delete`, with the checkpoint that it was suspended with.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from trainingrun_operator.api import names
from trainingrun_operator.api.status import SUSPENDED, NodePhase, Phase, Termination
from trainingrun_operator.core.effects import Begin, Decision, RecordEvent, Resume, ResumeWorkload

if TYPE_CHECKING:
    from trainingrun_operator.core.observed import Observed

RULE: Final = "suspend"
MESSAGE: Final = "Suspended: spec.suspend is true."


def begin(seen: Observed) -> Decision:
    """Write down that the run is suspended, before anything is done about it."""
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
    """Wait to be resumed. A workload that somebody else has resumed is a run that goes on: it is suspended again, with its checkpoint saved."""
    workload = seen.workload
    asleep = workload is None or workload.suspended or workload.finished
    if asleep and seen.run.spec.suspend:
        return Decision(note="suspended")
    # What was kept may be used again, and is then this run's to release.
    released = tuple(node for node in seen.run.status.nodes if node.phase is NodePhase.RELEASED)
    wakes = (ResumeWorkload(workload.uid, workload.generation),) if workload is not None and workload.suspended else ()
    event = RecordEvent("Resumed", f"The training goes on{_from_where(suspension)}.")
    return Decision((*wakes, Resume(suspension.id, released), event), again_seconds=0)


def _from_where(suspension: Termination) -> str:
    saved = suspension.saved
    return f" from {saved.uri}" if saved is not None and saved.uri else ", from its beginning: nothing had been saved"
