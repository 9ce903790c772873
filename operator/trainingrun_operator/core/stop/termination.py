"""The phases of a stop, and the evidence that ends each.

::

    Requested → Draining → Saving → Verifying → Deleting → Releasing → Done
                              └→ Held: not proven yet; pod and bytes are kept

Every phase is written before its effects, and every effect may be repeated. A run has one stop, with one id. A suspension uses the same phases
(`suspension`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final, assert_never

from trainingrun_operator.api import endings, names
from trainingrun_operator.api.exchange import StopRequest
from trainingrun_operator.api.status import Phase, Saved, StopMode, Termination
from trainingrun_operator.checkpoints.reached import Reached
from trainingrun_operator.core import release
from trainingrun_operator.core.bounds import MESSAGE_MAX, VERDICT_MAX, WORD_MAX, clipped
from trainingrun_operator.core.effects import (
    AdoptWorkload,
    Advance,
    Annotate,
    Begin,
    Decision,
    DeletePod,
    DeleteRun,
    DeleteWorkload,
    EndReplacements,
    RecordEvent,
    RemoveFinalizer,
    SuspendWorkload,
)
from trainingrun_operator.core.facts.bucket import Unreachable, Verified
from trainingrun_operator.core.facts.pod import Training
from trainingrun_operator.core.stop import ending, late_rescue, proving, rescue, transitions, waiting
from trainingrun_operator.core.stop.requests import rescues_late

if TYPE_CHECKING:
    from trainingrun_operator.api.spoiled import Spoiled
    from trainingrun_operator.core.facts.pod import Pod
    from trainingrun_operator.core.observed import Observed
    from trainingrun_operator.core.rules.finding import Finding

ACTOR_MAX: Final = 500
UNSAVED: Final = "The training exited late, and its last files could not be saved."
LOST: Final = "The machine was lost before its last files were saved."


def begin(seen: Observed, found: Finding, suspension: Termination | None = None) -> Decision:
    """Write that the run ends, and why, before any effect of it.

    Args:
        seen: everything known about the run now.
        found: a finding that fires.
        suspension: of a suspended run; its proven checkpoint is taken over.
    """
    termination = Termination(
        id=names.stop_id(seen.run.uid),
        status=found.status,
        rule=clipped(found.rule, WORD_MAX),
        reason=clipped(found.reason, WORD_MAX),
        message=clipped(found.message, VERDICT_MAX),
        actor=clipped(found.actor, ACTOR_MAX),
        mode=StopMode.LAST_CHECKPOINT if found.ending and found.ending.spoiled else seen.run.spec.stop_mode,
        phase=Phase.REQUESTED,
        inferred=found.inferred,
        requested_at=seen.wall,
        phase_at=seen.wall,
        evidence=found.evidence,
        spoiled=_spoiled_from(seen, found),
        last_log_lines=clipped(_last_log_lines(seen), MESSAGE_MAX) if found.ending is endings.FAILED else "",
        saved=suspension.saved if suspension else None,
        data_loss=suspension.data_loss if suspension else None,
    )
    events = [RecordEvent("Stopping", f"{termination.status}: {termination.message}")]
    if found.warning:
        events.append(RecordEvent("CompletedWithError", found.warning, warning=True))
    return Decision((Begin(termination), *events), again_seconds=0)


def _spoiled_from(seen: Observed, found: Finding) -> Spoiled | None:
    """Return from where on the checkpoints of a run are spoiled that ends because its values are not finite."""
    watch = seen.watches.get(found.rule)
    if found.ending is None or not found.ending.spoiled or watch is None:
        return None
    return watch.spoiled


def _last_log_lines(seen: Observed) -> str:
    """Return the end of a crashed training's log. It is in no message: people print secrets, and messages reach Events and the webhook."""
    return next((rank.log_tail for rank in seen.ranks if rank.log_tail), "")


def transition(seen: Observed, stop: Termination) -> Decision:
    """Return the next transition of a stop in progress."""
    match stop.phase:
        case Phase.REQUESTED:
            return transitions.advance(seen, stop, Phase.DRAINING)
        case Phase.DRAINING:
            return _drain(seen, stop)
        case Phase.SAVING | Phase.HELD:
            return proving.save(seen, stop)
        case Phase.VERIFYING:
            return proving.verify(seen, stop)
        case Phase.DELETING:
            return _delete(seen, stop)
        case Phase.RELEASING:
            return _release(seen, stop)
        case Phase.DONE:
            return _settle(seen)
        case _ as never:  # pragma: no cover - mypy proves that there is no other phase
            assert_never(never)


# -- Draining -------------------------------------------------------------------------------------------------


def _drain(seen: Observed, stop: Termination) -> Decision:
    """Ask every running training to exit; advance when none runs, the grace period is over, or the stop mode needs no more."""
    spoiled = endings.ending_of(stop.status).spoiled
    if stop.mode is not seen.run.spec.stop_mode and not spoiled:
        return _change_mode(stop, seen.run.spec.stop_mode)
    grace = seen.run.spec.shutdown.grace_seconds
    running = [pod for pod in seen.live_pods if pod.training is Training.RUNNING]
    over = seen.phase_seconds >= grace or stop.wait is not None
    if running and over and waiting.applies(seen, stop):
        if stop.wait is None:
            return _choose(seen, stop)
        if (left := waiting.left(seen, stop.wait)) > 0:
            waits = transitions.wait(seen, note="waiting for the training's next checkpoint")
            return replace(waits, again_seconds=min(waits.again_seconds or left, left))
    if not running or over or _mode_satisfied(seen, stop):
        return transitions.advance(
            seen,
            stop,
            Phase.DELETING if transitions.disabled(seen) else Phase.SAVING,
            saved=_not_saved(seen) if transitions.disabled(seen) else None,
        )
    ask = StopRequest(id=stop.id, grace_seconds=grace).model_dump_json(by_alias=True)
    asks = tuple(Annotate(pod.name, pod.uid, names.STOP_ANNOTATION, ask) for pod in running if pod.stop is None)
    return transitions.wait(seen, *asks, note="waiting for the training to exit")


def _choose(seen: Observed, stop: Termination) -> Decision:
    """Write whether the stop waits for the training's next checkpoint, before it does."""
    wait = waiting.choose(seen)
    chosen = stop.model_copy(update={"wait": wait})
    if wait.until is None:
        event = RecordEvent("TakesLastCheckpoint", wait.message)
        return transitions.advance(seen, chosen, Phase.SAVING, event=event)
    event = RecordEvent("WaitsForCheckpoint", wait.message)
    return Decision((Advance(chosen, stop.phase, stop.attempt), event), again_seconds=0)


def _mode_satisfied(seen: Observed, stop: Termination) -> bool:
    """Whether the stop mode is satisfied by the checkpoints there, while the training runs."""
    newest = [report.newest for report in seen.reports or () if report.newest is not None]
    everywhere = len(newest) == len(seen.ranks)
    match stop.mode:
        case StopMode.AUTO:
            return False
        case StopMode.NEXT_CHECKPOINT:
            return everywhere and all(one.age_seconds < seen.phase_seconds for one in newest)
        case StopMode.LAST_CHECKPOINT:
            # Without any checkpoint, the training is asked to exit, so that it can save one.
            return everywhere or transitions.disabled(seen)
        case _ as never:  # pragma: no cover - mypy proves that there is no other mode
            assert_never(never)


def _change_mode(stop: Termination, mode: StopMode) -> Decision:
    """Apply a changed `spec.stopMode`; nothing else of the stop changes."""
    event = RecordEvent("StopModeChanged", f"spec.stopMode is {mode.value} now; it was {stop.mode.value}.")
    changed = stop.model_copy(update={"mode": mode})
    return Decision((Advance(changed, stop.phase, stop.attempt), event), again_seconds=0)


def _not_saved(seen: Observed) -> Saved:
    return Saved(final=transitions.ended(seen), note="Nothing was saved: spec.checkpoint.mode is Disabled.")


# -- Deleting -------------------------------------------------------------------------------------------------


def _delete(seen: Observed, stop: Termination) -> Decision:
    """End the pods: by opening the gate if the training has exited and everything is proven, else within their grace period."""
    late = rescues_late(stop)
    if not late and (ends := rescue.end(seen)) is not None:
        return transitions.wait(seen, *ends, note="the rescue Job is deleted")
    workload = seen.workload
    standing = [pod for pod in seen.pods if not _out_of_reach(seen, pod)]
    if not standing and (workload is None or workload.finished or workload.suspended):
        if (rescued := late_rescue.step(seen, stop) or late_rescue.begin(seen, stop)) is not None:
            return rescued
        saved, loss = _at_last(seen, stop)
        return transitions.advance(seen, stop, Phase.RELEASING, saved=saved, data_loss=loss)
    terminal = tuple(DeletePod(pod.name, pod.uid) for pod in standing if pod.terminal and not pod.deleting)
    if workload is None or workload.finished:
        return transitions.wait(
            seen, *(ending.delete(seen, pod) for pod in standing if not pod.deleting), note="the pods are deleted"
        )
    saves = not workload.suspended and not late
    if saves and (written := _left_late(seen, stop) or _written_beside(seen, stop)) is not None:
        return written
    # A pod that never started does not end by an open gate: its training cannot exit.
    exited = bool(standing) and all(_over_but_for_gate(pod) for pod in seen.live_pods)
    through_gate = (
        stop.saved is not None and stop.saved.final and exited and not workload.suspended and not stop.suspends
    )
    if not through_gate or seen.phase_seconds >= seen.defaults.terminal_pod_seconds:
        # Suspended, the workload deletes its pods with their own grace: those that need less are deleted before that.
        return transitions.wait(
            seen,
            *(() if workload.suspended else ending.deletions(seen)),
            *(() if workload.suspended else (SuspendWorkload(workload.uid, workload.generation),)),
            *terminal,
            note="the pods end within their grace period",
        )
    if workload.replaces:
        return transitions.wait(seen, EndReplacements(workload.uid), note="pod replacement ends")
    opens = tuple(
        Annotate(pod.name, pod.uid, names.OPEN_GATE_ANNOTATION, stop.id) for pod in seen.live_pods if not pod.gate_open
    )
    return transitions.wait(seen, *opens, *ending.leftovers(seen), note="the gate is open, the Job finishes")


def _over_but_for_gate(pod: Pod) -> bool:
    """Whether an open gate ends the pod, and nothing writes to the volume of the checkpoints until then.

    An agent whose gate was opened saves no more. Where a container of the author's still writes, the pod is deleted instead: the agent then saves last.
    """
    return pod.training is Training.EXITED and not pod.starts_again and not pod.writers


def _at_last(seen: Observed, stop: Termination) -> tuple[Saved | None, str | None]:
    """Return what the run has saved now that its pods are gone, and the data loss, if any is not yet recorded."""
    saved = _improved(seen, stop)
    if saved is None or saved.final:
        return saved, None
    lost = ""
    if saved.commit and any(pod.lost for pod in seen.pods):
        lost = LOST
    elif saved.commit and not seen.pods and not proving.has_all(seen) and not isinstance(seen.answer, Unreachable):
        lost = late_rescue.ENDED
    why = UNSAVED if saved.gave_up else lost
    known = stop.data_loss or (stop.rescue is not None and stop.rescue.over) or not why
    settled = saved.model_copy(update={"note": "", "gave_up": False}) if saved.gave_up else saved
    if known:
        return settled, None
    return settled, proving.loss_after(seen, saved, f"{why} {late_rescue.obstacle(seen)}".rstrip())


def _out_of_reach(seen: Observed, pod: Pod) -> bool:
    """Whether nothing of the pod runs, or only the release of its machine can end it."""
    waited = seen.phase_seconds >= seen.defaults.node_removal_seconds
    return pod.lost or (pod.unreachable and pod.deleting and waited)


def _left_late(seen: Observed, stop: Termination) -> Decision | None:
    """Save what a training wrote that exited by itself after its last checkpoint was proven.

    None: there is nothing to save, or saving has failed for `hold_after_seconds` and that is recorded; the pod then ends within its grace period, in
    which the agent still tries.
    """
    behind_gate = bool(seen.live_pods) and all(pod.waits_behind_gate for pod in seen.live_pods)
    if stop.saved is None or stop.saved.final or stop.saved.gave_up or stop.data_loss is not None:
        return None
    if not behind_gate or transitions.disabled(seen):
        return None
    if isinstance(seen.answer, Verified):
        saved = proving.saved_from(seen.answer)
        event = RecordEvent("CheckpointSaved", proving.sentence_of(saved))
        return transitions.advance(seen, stop, Phase.DELETING, attempt=stop.attempt + 1, saved=saved, event=event)
    if seen.phase_seconds >= seen.defaults.hold_after_seconds:
        noted = stop.saved.model_copy(update={"note": UNSAVED, "gave_up": True})
        return transitions.advance(seen, stop, Phase.DELETING, saved=noted)
    again = transitions.asks(seen, stop, seen.live_pods, stop.attempt + 1)
    return transitions.wait(seen, *again, note="the last files of the training are saved")


def _written_beside(seen: Observed, stop: Termination) -> Decision | None:
    """Record once that a container beside the exited training could write after the proof. The agent's last commit takes the place of the record."""
    writers = sorted({name for pod in seen.live_pods for name in pod.writers})
    if not writers or stop.saved is None or not stop.saved.commit or stop.saved.note:
        return None
    if transitions.disabled(seen) or not all(pod.training is Training.EXITED for pod in seen.live_pods):
        return None
    note = clipped(
        f"After that, {', '.join(writers)} could still write: the agent saves it within the pod's grace.", VERDICT_MAX
    )
    return transitions.advance(seen, stop, Phase.DELETING, saved=stop.saved.model_copy(update={"note": note}))


def _improved(seen: Observed, stop: Termination) -> Saved | None:
    """Return the newest proven commit: one made on SIGTERM is newer than the one before deletion."""
    newer = seen.verified
    if endings.ending_of(stop.status).spoiled:
        return stop.saved
    if stop.saved is None or newer is None or newer.key == stop.saved.commit or newer.commit.checkpoint is None:
        return stop.saved
    further = Reached.of(newer.commit) > Reached.recorded(stop.saved)
    return proving.saved_from(newer) if newer.commit.checkpoint.complete and further else stop.saved


# -- Releasing, Done ------------------------------------------------------------------------------------------


def _release(seen: Observed, stop: Termination) -> Decision:
    """Release every node of the run; wait until its machine and Node are gone."""
    if not release.unsettled(seen.run.status.nodes):
        event = (
            RecordEvent("Suspended", stop.message)
            if stop.suspends
            else RecordEvent("Finished", f"{stop.status}: {stop.message}")
        )
        return transitions.advance(seen, stop, Phase.DONE, event=event)
    effects = release.next_effects(seen)
    decision = transitions.wait(seen, *effects, note="the nodes are released")
    # What a new phase allows needs no event.
    if release.advances(seen, effects):
        return replace(decision, again_seconds=0)
    patience = transitions.patience(seen, release.seconds_still(seen))
    return replace(decision, again_seconds=min(patience, release.until_settled(seen)))


def _settle(seen: Observed) -> Decision:
    """Remove the finalizer; the Job is garbage-collected with the run."""
    if (workload := seen.workload) is not None and not (workload.finished or workload.suspended or workload.deleting):
        # Created by an operator that was frozen before the end, or resumed by hand: nothing else would end it.
        return transitions.wait(
            seen, DeleteWorkload(workload.name, workload.uid), note="a Job created after the end is deleted"
        )
    if names.FINALIZER not in seen.run.finalizers:
        return _expire(seen)
    if seen.run.deleting and seen.workload is not None:
        return transitions.wait(
            seen,
            *(() if seen.workload.deleting else (DeleteWorkload(seen.workload.name, seen.workload.uid),)),
            note="the Job is deleted",
        )
    if seen.workload is not None and not seen.workload.owned:
        return Decision((AdoptWorkload(seen.workload.uid),), again_seconds=0)
    return Decision((RemoveFinalizer(),))


def _expire(seen: Observed) -> Decision:
    """Delete a run after `ttlSecondsAfterFinished`. Its checkpoints stay in the bucket."""
    ttl, done = seen.run.spec.ttl_seconds_after_finished, seen.run.status.completion_time
    if ttl is None or done is None or seen.run.deleting:
        return Decision()
    left = ttl - seen.seconds_since(done)
    if left > 0:
        return Decision(again_seconds=left, note="waiting for ttlSecondsAfterFinished")
    return Decision((DeleteRun(),))
