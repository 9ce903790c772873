"""The phases of a stop, and which evidence lets each end.

::

    Requested → Draining → Saving → Verifying → Deleting → Releasing → Done
                              └→ Held: not proven yet; pod and bytes are kept

Every phase is written before any effect of it happens, and every effect may happen again. A stop is known by one id for ever: a run ends once.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Final, assert_never

from trainingrun_operator.api import names
from trainingrun_operator.api.exchange import SaveRequest, StopRequest
from trainingrun_operator.api.run import CheckpointMode, OnFailure
from trainingrun_operator.api.status import Phase, Saved, StopMode, Termination
from trainingrun_operator.core import release
from trainingrun_operator.core.bounds import COUNT_MAX, FILES_MAX, TEXT_MAX, clipped, counted
from trainingrun_operator.core.effects import (
    AdoptJob,
    Advance,
    Annotate,
    Begin,
    Decision,
    DeleteJob,
    DeletePod,
    DeleteRun,
    Effect,
    EndReplacements,
    RemoveFinalizer,
    SuspendJob,
    Tell,
)
from trainingrun_operator.core.observed import Mismatch, Training, Unreachable, Verified

if TYPE_CHECKING:
    from trainingrun_operator.core.observed import Observed, Pod
    from trainingrun_operator.core.verdict import Verdict

VERDICT_MAX: Final = 2000
"""Characters of why a run ends; the sentences about checkpoint and nodes follow it."""
ACTOR_MAX: Final = 500
NUDGE_SECONDS: Final = 3
LOOK_MAX_SECONDS: Final = 60.0
NUDGES: Final = 5


def begin(seen: Observed, verdict: Verdict) -> Decision:
    """Write down that the run ends, and why, before anything is done about it."""
    termination = Termination(
        id=names.stop_id(seen.run.uid),
        status=verdict.status.value,
        message=clipped(verdict.message, VERDICT_MAX),
        actor=clipped(verdict.actor, ACTOR_MAX),
        mode=seen.run.spec.stop_mode,
        phase=Phase.REQUESTED,
        inferred=verdict.inferred,
        requested_at=seen.wall,
        phase_at=seen.wall,
        evidence=verdict.evidence,
    )
    told = [Tell("Stopping", f"{termination.status}: {termination.message}")]
    if verdict.warning:
        told.append(Tell("CompletedWithError", verdict.warning, warning=True))
    return Decision((Begin(termination), *told), again_seconds=0)


def step(seen: Observed, stop: Termination) -> Decision:
    """Take a stop in progress one look further."""
    match stop.phase:
        case Phase.REQUESTED:
            return _advance(seen, stop, Phase.DRAINING)
        case Phase.DRAINING:
            return _drain(seen, stop)
        case Phase.SAVING | Phase.HELD:
            return _save(seen, stop)
        case Phase.VERIFYING:
            return _verify(seen, stop)
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
    """Ask every pod whose training runs to leave; go on when none does any more, its grace is spent, or the mode is content."""
    if stop.mode is not seen.run.spec.stop_mode:
        return _change_mode(stop, seen.run.spec.stop_mode)
    grace = seen.run.spec.shutdown.grace_seconds
    running = [pod for pod in seen.live_pods if pod.training is Training.RUNNING]
    if not running or seen.phase_seconds >= grace or _content(seen, stop):
        return _advance(
            seen,
            stop,
            Phase.DELETING if _disabled(seen) else Phase.SAVING,
            saved=_not_saved(seen) if _disabled(seen) else None,
        )
    ask = StopRequest(id=stop.id, grace_seconds=grace).model_dump_json(by_alias=True)
    asks = tuple(Annotate(pod.name, pod.uid, names.STOP_ANNOTATION, ask) for pod in running if pod.stop is None)
    return _wait(seen, *asks, note="the training was asked to leave")


def _content(seen: Observed, stop: Termination) -> bool:
    """Whether the mode asks for no more than what lies there, although the training still runs."""
    newest = seen.agent.newest if seen.agent is not None else None
    match stop.mode:
        case StopMode.AUTO:
            return False
        case StopMode.NEXT_CHECKPOINT:
            return newest is not None and newest.age_seconds < seen.phase_seconds
        case StopMode.LAST_CHECKPOINT:
            # Without any, the training is asked like any other: stopping must not mean losing everything.
            return newest is not None or _disabled(seen)
        case _ as never:  # pragma: no cover - mypy proves that there is no other mode
            assert_never(never)


def _change_mode(stop: Termination, mode: StopMode) -> Decision:
    """Follow a person who has changed their mind about what to wait for; nothing else of the stop changes."""
    told = Tell("StopModeChanged", f"spec.stopMode is {mode.value} now; it was {stop.mode.value}.")
    changed = stop.model_copy(update={"mode": mode})
    return Decision((Advance(changed, stop.phase, stop.attempt), told), again_seconds=0)


def _disabled(seen: Observed) -> bool:
    return seen.run.spec.checkpoint.mode is CheckpointMode.DISABLED


def _not_saved(seen: Observed) -> Saved:
    return Saved(final=_ended(seen), note="Nothing was saved: spec.checkpoint.mode is Disabled.")


def _ended(seen: Observed) -> bool:
    """No training of the run runs any more, or ever did."""
    return all(pod.training is not Training.RUNNING for pod in seen.live_pods)


# -- Saving, Held ---------------------------------------------------------------------------------------------


def _save(seen: Observed, stop: Termination) -> Decision:
    """Have the agent ship what is missing. Ends with a commit of this id, or with certainty that there is nothing to commit."""
    if isinstance(seen.answer, Mismatch) and not seen.live_pods:
        return _hold(seen, stop, _bytes_gone(seen.answer), [])
    if isinstance(seen.answer, Verified | Mismatch):
        return _advance(seen, stop, Phase.VERIFYING)
    holders = [pod for pod in seen.live_pods if pod.training is not Training.NOT_STARTED]
    if not holders:
        return _without_holder(seen, stop)
    if _never_stepped(seen):
        return _advance(
            seen, stop, Phase.DELETING, saved=Saved(note="There was nothing to save: no step had been made.")
        )
    if why := _why_failing(seen):
        return _hold(seen, stop, why, holders)
    return _wait(seen, *_asks(seen, stop, holders), note="the agent saves")


def _asks(seen: Observed, stop: Termination, holders: list[Pod]) -> tuple[Annotate, ...]:
    return tuple(
        ask
        for pod in holders
        if (
            ask := ask_to_save(
                pod, SaveRequest(id=stop.id, attempt=stop.attempt, ended=_ended(seen), status=stop.status)
            )
        )
    )


def ask_to_save(pod: Pod, request: SaveRequest) -> Annotate | None:
    """Tell the agent, unless it was told already."""
    return (
        None
        if pod.save == request
        else Annotate(pod.name, pod.uid, names.SAVE_ANNOTATION, request.model_dump_json(by_alias=True))
    )


def _without_holder(seen: Observed, stop: Termination) -> Decision:
    """No pod holds bytes any more: what is in the bucket is all there will ever be."""
    if isinstance(seen.answer, Unreachable):
        return _hold(seen, stop, f"The bucket cannot be read: {seen.answer.message}", [])
    if seen.verified is not None:
        return _settle_for(seen, stop, seen.verified)
    if all(pod.training is Training.NOT_STARTED for pod in seen.pods) and not seen.run.status.start_time:
        return _advance(
            seen,
            stop,
            Phase.DELETING,
            saved=Saved(final=True, note="There was nothing to save: the training never started."),
        )
    lost = "The pod went before anything was saved: nothing of this run is in the bucket."
    return _advance(seen, stop, Phase.DELETING, saved=Saved(final=True, note=lost), data_loss=lost)


def _settle_for(seen: Observed, stop: Termination, proven: Verified) -> Decision:
    """Take the last commit that there will ever be, and say so where it is not all that there was."""
    saved = saved_from(proven)
    loss = (
        None
        if saved.final and not _trained_after(seen, proven)
        else f"The pod went before its last bytes were saved. The last commit is {saved.uri or saved.commit}; whatever was written after it is lost."
    )
    return _advance(seen, stop, Phase.DELETING, saved=saved, data_loss=loss)


def _trained_after(seen: Observed, proven: Verified) -> bool:
    """Whether another pod was seen to train on from this commit, and is gone: what it wrote is in no commit."""
    track, progress = seen.track, seen.run.status.progress
    last = track if track.advanced else progress
    if last is None or not last.pod_uid or last.pod_uid == proven.commit.pod_uid:
        return False
    saved = proven.commit.checkpoint.step if proven.commit.checkpoint else None
    return saved is None or last.step is None or last.step > saved


def _never_stepped(seen: Observed) -> bool:
    """The training runs, has made no step, and has written nothing: waiting for a checkpoint would be waiting for ever."""
    wrote_nothing = seen.agent is not None and seen.agent.files == 0
    return (
        not _ended(seen)
        and wrote_nothing
        and not seen.track.advanced
        and seen.run.status.progress is None
        and seen.verified is None
    )


def _why_failing(seen: Observed) -> str:
    """Why nothing is proven yet, once it has taken long enough to worry a person."""
    if seen.save_failing_seconds < seen.defaults.hold_after_seconds:
        return ""
    if isinstance(seen.answer, Unreachable):
        return f"The bucket cannot be read: {seen.answer.message}"
    if seen.agent is None:
        return "The agent in the pod does not answer."
    if seen.agent.error is not None:
        return f"The agent cannot save: {seen.agent.error.code}: {seen.agent.error.message}"
    if seen.agent.newest is None and not _ended(seen):
        return "The training still runs and has not written a complete checkpoint yet."
    return ""


def _hold(seen: Observed, stop: Termination, why: str, holders: list[Pod]) -> Decision:
    """Keep everything, say why, go on asking; or go on without proof where the spec says so."""
    why = clipped(why, VERDICT_MAX)
    if because := _cannot_hold(seen):
        last = saved_from(seen.verified) if seen.verified is not None else Saved()
        note = f"Ended without proof ({because}). {why}"
        return _advance(
            seen,
            stop,
            Phase.DELETING,
            saved=last.model_copy(update={"note": note, "final": _ended(seen)}),
            data_loss=note,
        )
    if stop.phase is not Phase.HELD:
        decision = _advance(seen, stop, Phase.HELD, hold_reason=why)
        return Decision(
            (*decision.effects, Tell("CheckpointHeld", f"Nothing is deleted. {why}", warning=True)),
            decision.again_seconds,
        )
    return _wait(seen, *_asks(seen, stop, holders), note=why)


def _cannot_hold(seen: Observed) -> str:
    """Why nothing is kept although nothing is proven; empty: it is."""
    if seen.run.spec.checkpoint.on_failure is OnFailure.PROCEED:
        return "spec.checkpoint.onFailure is Proceed"
    return "the namespace is being deleted, and the pods in it are gone" if seen.namespace_ends else ""


# -- Verifying ------------------------------------------------------------------------------------------------


def _verify(seen: Observed, stop: Termination) -> Decision:
    """Go on only with a commit of which every object was read back and matched."""
    match seen.answer:
        case Verified() as proven:
            if _ended(seen) and not proven.commit.final:
                # The training left while its last checkpoint was being proven: there may be a newer one, or there was.
                if seen.live_pods:
                    return _advance(seen, stop, Phase.SAVING, attempt=stop.attempt + 1)
                return _settle_for(seen, stop, proven)
            told = Tell("CheckpointSaved", sentence_of(saved_from(proven)))
            decision = _advance(seen, stop, Phase.DELETING, saved=saved_from(proven))
            return Decision((*decision.effects, told), decision.again_seconds)
        case Mismatch() as wrong:
            if not seen.live_pods:
                return _hold(seen, stop, _bytes_gone(wrong), [])
            again = _advance(seen, stop, Phase.SAVING, attempt=stop.attempt + 1)
            told = Tell(
                "CheckpointMismatch",
                f"Asked to be saved again (attempt {stop.attempt + 1}): {wrong.complaint}",
                warning=True,
            )
            return Decision((*again.effects, told), again_seconds=min(60.0, 2.0 ** min(stop.attempt, 6)))
        case _ if seen.save_failing_seconds < seen.defaults.hold_after_seconds:
            return _wait(seen, note="the bucket is read back")
        case Unreachable() as away:
            return _hold(seen, stop, f"The bucket cannot be read: {away.message}", [])
        case _:
            # The commit that answered is not in the bucket any more.
            return _advance(seen, stop, Phase.SAVING, attempt=stop.attempt + 1)


def _bytes_gone(wrong: Mismatch) -> str:
    return f"The commit does not verify, and no pod holds the bytes any more: {wrong.complaint}"


def saved_from(proven: Verified) -> Saved:
    """The record that deletion rests on."""
    commit = proven.commit
    files = min(max(commit.total_files, 0), FILES_MAX)
    return Saved(
        commit=proven.key,
        digest=proven.digest,
        uri=proven.uri if files else "",
        dir=clipped(commit.checkpoint.dir, TEXT_MAX) if commit.checkpoint else "",
        step=counted(commit.checkpoint.step) if commit.checkpoint else None,
        bytes=min(max(commit.total_bytes, 0), COUNT_MAX),
        files=files,
        complete=commit.checkpoint.complete if commit.checkpoint else True,
        final=commit.final,
        note="" if files else "Nothing lay under the checkpoint path.",
    )


def sentence_of(saved: Saved) -> str:
    """What became of the checkpoint."""
    if not saved.files:
        return saved.note
    what = "Files" if saved.dir in ("", ".") else f"Checkpoint {saved.dir}"
    half = "" if saved.complete else " (half-written, saved as it was)"
    return f"{what}{half} verified at {saved.uri}.{' ' + saved.note if saved.note else ''}"


# -- Deleting -------------------------------------------------------------------------------------------------


def _delete(seen: Observed, stop: Termination) -> Decision:
    """End the pods: through the gate where the training has ended and all of it is proven, else with their grace."""
    job = seen.job
    standing = [pod for pod in seen.pods if not _out_of_reach(seen, pod)]
    if not standing and (job is None or job.finished or job.suspended):
        saved = _improved(seen, stop)
        return _advance(seen, stop, Phase.RELEASING, saved=saved, data_loss=_lost_at_last(seen, stop, saved))
    terminal = tuple(DeletePod(pod.name, pod.uid) for pod in standing if pod.terminal and not pod.deleting)
    if job is None or job.finished:
        return _wait(
            seen, *(DeletePod(pod.name, pod.uid) for pod in standing if not pod.deleting), note="the pods are deleted"
        )
    if (late := _left_late(seen, stop)) is not None:
        return late
    # A pod that never started would wait behind an open gate for a training that cannot end.
    exited = bool(standing) and all(pod.training is Training.EXITED for pod in seen.live_pods)
    through_gate = stop.saved is not None and stop.saved.final and exited and not job.suspended
    if not through_gate or seen.phase_seconds >= seen.defaults.terminal_pod_seconds:
        return _wait(
            seen,
            *(() if job.suspended else (SuspendJob(job.uid),)),
            *terminal,
            note="the pods are ended with their grace",
        )
    if job.backoff_limit != 0:
        return _wait(seen, EndReplacements(job.uid), note="no exit code shall start another pod")
    opens = tuple(
        Annotate(pod.name, pod.uid, names.RELEASED_ANNOTATION, stop.id) for pod in seen.live_pods if not pod.released
    )
    return _wait(seen, *opens, note="the gate is open, the Job finishes")


def _lost_at_last(seen: Observed, stop: Termination, saved: Saved | None) -> str | None:
    """The machine went, with what the training wrote after its last checkpoint was proven; None if it did not, or a loss is told already."""
    if stop.data_loss or saved is None or saved.final or not saved.commit or not any(pod.lost for pod in seen.pods):
        return None
    return f"The machine went before the last bytes on it were saved. The last commit is {saved.uri or saved.commit}; whatever was written after it is lost."


def _out_of_reach(seen: Observed, pod: Pod) -> bool:
    """Nothing of the pod runs any more, or nothing that a longer wait would end: only its machine's release will."""
    waited = seen.phase_seconds >= seen.defaults.node_removal_seconds
    return pod.lost or (pod.unreachable and pod.deleting and waited)


def _left_late(seen: Observed, stop: Termination) -> Decision | None:
    """The training left after its last checkpoint was proven, and before it was made to: what it wrote since is saved behind its gate.

    None: it was not so, or has been tried for long enough; then the pod is ended with its grace, in which the agent tries on.
    """
    behind_gate = bool(seen.live_pods) and all(
        pod.training is Training.EXITED and not pod.released and not pod.deleting for pod in seen.live_pods
    )
    proven_before = stop.saved is not None and not stop.saved.final and stop.data_loss is None and not _disabled(seen)
    if seen.job is None or seen.job.suspended or not behind_gate or not proven_before:
        return None
    if isinstance(seen.answer, Verified):
        saved = saved_from(seen.answer)
        decision = _advance(seen, stop, Phase.DELETING, attempt=stop.attempt + 1, saved=saved)
        return Decision((*decision.effects, Tell("CheckpointSaved", sentence_of(saved))), decision.again_seconds)
    if seen.phase_seconds >= seen.defaults.hold_after_seconds:
        return None
    request = SaveRequest(id=stop.id, attempt=stop.attempt + 1, ended=True, status=stop.status)
    asks = tuple(ask for pod in seen.live_pods if (ask := ask_to_save(pod, request)))
    return _wait(seen, *asks, note="what the training wrote at last is saved")


def _improved(seen: Observed, stop: Termination) -> Saved | None:
    """A commit made on SIGTERM is newer than the one that deletion rested on."""
    newer = seen.verified
    if stop.saved is None or newer is None or newer.key == stop.saved.commit or newer.commit.checkpoint is None:
        return stop.saved
    further = (newer.commit.checkpoint.step or 0) >= (stop.saved.step or 0)
    return saved_from(newer) if newer.commit.checkpoint.complete and further else stop.saved


# -- Releasing, Done ------------------------------------------------------------------------------------------


def _release(seen: Observed, stop: Termination) -> Decision:
    """Give back every node of the run, and keep looking until machine and Node are both gone."""
    if release.settled(seen.run.status.nodes):
        decision = _advance(seen, stop, Phase.DONE)
        advance = decision.effects[0]
        if not isinstance(advance, Advance):  # pragma: no cover - _advance begins with its Advance
            raise TypeError(advance)
        told = Tell("Finished", f"{stop.status}: {stop.message}")
        return Decision(
            (Advance(advance.termination, advance.was_phase, advance.was_attempt, completion=True), told),
            again_seconds=0,
        )
    decision = _wait(seen, *release.next_effects(seen), note="the nodes are released")
    return replace(decision, again_seconds=patience(seen, release.seconds_still(seen)))


def _settle(seen: Observed) -> Decision:
    """Nothing is left to protect: whatever remains goes with the run."""
    if (job := seen.job) is not None and not (job.finished or job.suspended or job.deleting):
        # Made by an operator that had stood still since before the end, or set going again by hand: nobody would ever end it.
        return _wait(seen, DeleteJob(job.name, job.uid), note="a Job that came after the end is deleted")
    if names.FINALIZER not in seen.run.finalizers:
        return _expire(seen)
    if seen.run.deleting and seen.job is not None:
        return _wait(
            seen, *(() if seen.job.deleting else (DeleteJob(seen.job.name, seen.job.uid),)), note="the Job is deleted"
        )
    if seen.job is not None and not seen.job.owned:
        return Decision((AdoptJob(seen.job.uid),), again_seconds=0)
    return Decision((RemoveFinalizer(),))


def _expire(seen: Observed) -> Decision:
    """Delete a run that nobody wants to look at any more. The checkpoints are in the bucket, and stay."""
    ttl, done = seen.run.spec.ttl_seconds_after_finished, seen.run.status.completion_time
    if ttl is None or done is None or seen.run.deleting:
        return Decision()
    left = ttl - (datetime.fromisoformat(seen.wall) - datetime.fromisoformat(done)).total_seconds()
    if left > 0:
        return Decision(again_seconds=left, note="the run is kept until its time is over")
    return Decision((DeleteRun(),))


# -- common ---------------------------------------------------------------------------------------------------


def _advance(
    seen: Observed,
    stop: Termination,
    phase: Phase,
    *,
    attempt: int | None = None,
    saved: Saved | None = None,
    hold_reason: str | None = None,
    data_loss: str | None = None,
) -> Decision:
    changes = {
        "phase": phase,
        "phase_at": seen.wall,
        "attempt": attempt or stop.attempt,
        "saved": saved or stop.saved,
        "hold_reason": hold_reason,
        "data_loss": data_loss or stop.data_loss,
    }
    effects: list[Effect] = [Advance(stop.model_copy(update=changes), stop.phase, stop.attempt)]
    if data_loss:
        effects.append(Tell("DataLoss", data_loss, warning=True))
    return Decision(tuple(effects), again_seconds=0)


def _wait(seen: Observed, *effects: Effect, note: str) -> Decision:
    stop = seen.run.status.termination
    nudge = nudges(seen, stop.phase.value if stop else "", seen.phase_seconds)
    return Decision((*effects, *nudge), again_seconds=patience(seen, seen.phase_seconds), note=note)


def patience(seen: Observed, waited: float) -> float:
    """Seconds to the next look: a tenth of what was waited already, so that what takes hours costs a look a minute. Events come in between."""
    return min(LOOK_MAX_SECONDS, max(seen.defaults.termination_look_seconds, waited / 10))


def nudges(seen: Observed, what: str, seconds: float) -> tuple[Annotate, ...]:
    """Have the kubelet project again what was asked, after 3, 6, 12, 24 and 48 seconds without an effect.

    Seen on 1.34: one in thirty annotations that are written just when the training exits reaches the pod only with the kubelet's next sync of it,
    a minute later.
    """
    turn = int(seconds / NUDGE_SECONDS).bit_length()
    asked = [pod for pod in seen.live_pods if 0 < turn <= NUDGES and (pod.stop or pod.save or pod.released)]
    nudge = f"{what} {turn}"
    return tuple(Annotate(pod.name, pod.uid, names.NUDGE_ANNOTATION, nudge) for pod in asked if pod.nudge != nudge)
