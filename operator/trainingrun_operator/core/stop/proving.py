"""Saving, Held, Verifying: the evidence that allows deletion of the pods, and the record of it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from trainingrun_operator.api.run import OnFailure
from trainingrun_operator.api.status import Phase, Saved, Termination
from trainingrun_operator.checkpoints.keys import order_of_commit
from trainingrun_operator.core.bounds import (
    COUNT_MAX,
    FILES_MAX,
    TEXT_MAX,
    URI_MAX,
    VERDICT_MAX,
    WORD_MAX,
    clipped,
    counted,
)
from trainingrun_operator.core.effects import Decision, RecordEvent
from trainingrun_operator.core.facts.bucket import Mismatch, Unreachable, Verified
from trainingrun_operator.core.facts.pod import Training
from trainingrun_operator.core.manifests import AGENT_GRACE_SECONDS
from trainingrun_operator.core.past import UNNAMED
from trainingrun_operator.core.stop import failing, missing, nothing, rescue, transitions
from trainingrun_operator.core.track import Track

if TYPE_CHECKING:
    from trainingrun_operator.core.facts.pod import Pod
    from trainingrun_operator.core.observed import Observed

ATTENTIVE_SECONDS: Final = 5.0
"""Time after which a stop looks again at agents that make progress, however long they take."""
_STARTED: Final = (Training.RUNNING, Training.EXITED)
_TRAINED: Final = ("Running", "Exited")
"""Phases in ``status.pods`` of a pod whose training has started."""


def save(seen: Observed, stop: Termination) -> Decision:
    """Ask the agents to save. Ends with a commit of this stop, or when it is certain that there is nothing to commit."""
    if isinstance(seen.answer, Mismatch) and not _can_save(seen):
        return _rescued(seen, stop) or _hold(seen, stop, _bytes_gone(seen.answer), [])
    if isinstance(seen.answer, Mismatch) and stop.phase is Phase.HELD and failing.is_spent(stop.attempt, seen.answer):
        return _hold_spent(seen, stop, seen.answer)
    if isinstance(seen.answer, Verified | Mismatch):
        return transitions.advance(seen, stop, Phase.VERIFYING)
    holders = [pod for pod in seen.pods if pod.holds_files]
    if not holders:
        return _without_holder(seen, stop)
    if nothing.to_save(seen):
        return transitions.advance(
            seen,
            stop,
            Phase.DELETING,
            saved=Saved(note="Nothing to save: the training made no step and wrote no file."),
        )
    if why := failing.why(seen):
        return _hold(seen, stop, why, holders)
    saves = transitions.wait(seen, *transitions.asks(seen, stop, holders), note="the agent saves")
    return replace(saves, again_seconds=_patience(seen, stop))


def _patience(seen: Observed, stop: Termination) -> float:
    """Return the seconds to the next look. Only a look finds the commit, so it is never far away while the agents make progress."""
    patience = transitions.patience(seen, seen.phase_seconds)
    moves = stop.phase is Phase.SAVING and seen.no_progress_seconds < ATTENTIVE_SECONDS
    return min(patience, ATTENTIVE_SECONDS) if moves else patience


def _without_holder(seen: Observed, stop: Termination) -> Decision:
    """Rescue what dead pods have left in a claim; else decide with what the bucket has: no pod can save any more."""
    begun = stop.rescue is not None and stop.saved is None
    if not begun and (unread := _unread(seen)):
        return _hold(seen, stop, unread, [])
    if stop.saved is not None:
        return _settle_for_suspended(seen, stop, stop.saved)
    if (rescued := _rescued(seen, stop)) is not None:
        return rescued
    if unread := _unread(seen):
        return _hold(seen, stop, unread, [])
    if seen.verified is not None:
        return _settle_for(seen, stop, seen.verified)
    if _never_started(seen):
        # Not final: a waiting pod may start between two looks.
        nothing = Saved(note="Nothing to save: the training never started.")
        return transitions.advance(seen, stop, Phase.DELETING, saved=nothing)
    what = (
        f"The pod ended, and no checkpoint of this run verifies: {seen.refuted[max(seen.refuted)].rstrip('.')}."
        if seen.refuted
        else "The pod ended before anything was saved: the bucket has nothing of this run."
    )
    lost = _loss(seen, Saved(), what)
    return transitions.advance(seen, stop, Phase.DELETING, saved=Saved(final=True, note=lost), data_loss=lost)


def _never_started(seen: Observed) -> bool:
    """Whether no pod of the run has ever trained. A failed pod that was never observed may have."""
    workload = seen.workload
    unseen = workload is not None and workload.failed > sum(pod.terminal for pod in seen.pods)
    idle = not any(pod.ran for pod in seen.pods)
    return idle and not unseen and not seen.run.status.start_time


def _settle_for(seen: Observed, stop: Termination, proven: Verified) -> Decision:
    """Take the newest commit as the last one, and record a data loss if files were written after it."""
    saved = saved_from(proven)
    loss = (
        None
        if saved.final and not _trained_after(seen, proven)
        else _loss(seen, saved, f"The pod ended before its last files were saved. {_nothing_after(saved)}")
    )
    return transitions.advance(seen, stop, Phase.DELETING, saved=saved, data_loss=loss)


def _settle_for_suspended(seen: Observed, stop: Termination, saved: Saved) -> Decision:
    """Take the checkpoint of the suspension if the bucket still has it: nothing was written since."""
    order, found = order_of_commit(saved.commit), seen.verified
    there = order is not None and found is not None and found.commit.order >= order
    if there or not saved.commit:
        return transitions.advance(seen, stop, Phase.DELETING)
    gone = (
        f"The checkpoint of the suspension is no longer in the bucket, or does not verify: {saved.uri or saved.commit}."
    )
    gone = f"{gone} {rescue.whereabouts(seen)}".rstrip()
    left = saved_from(found) if found is not None else Saved(final=True, note=clipped(gone, VERDICT_MAX))
    return transitions.advance(seen, stop, Phase.DELETING, saved=left, data_loss=clipped(gone, VERDICT_MAX))


def _loss(seen: Observed, saved: Saved, sentence: str) -> str:
    """Add to the sentence about a data loss what is missing and where it may have been."""
    return clipped(
        " ".join(filter(None, (sentence, missing.after(seen, saved), rescue.whereabouts(seen)))), VERDICT_MAX
    )


def _unread(seen: Observed) -> str:
    """Return the sentence about a bucket that cannot be read; empty: it was read."""
    return f"The bucket cannot be read: {seen.answer.message}" if isinstance(seen.answer, Unreachable) else ""


def _can_save(seen: Observed) -> bool:
    """Whether an agent runs that can save the files: of a pod of the run, or of its rescue."""
    return bool(seen.live_pods) or rescue.saver(seen) is not None


def _rescued(seen: Observed, stop: Termination) -> Decision | None:
    """Save what dead pods have left in a claim; None: there is no such claim, or the bucket has everything."""
    volume = rescue.volume_to_read(seen.run, seen.pods)
    if volume is None or seen.rescue is None or rescue.gone(seen) or (stop.rescue is None and has_all(seen)):
        return None
    if why := rescue.impossible(seen, volume):
        return _hold(seen, stop, f"{rescue.where(seen)} No rescue Job can save them: {why}.", [])
    if (begun := rescue.intent(seen)) is not None:
        event = RecordEvent("Rescuing", f"{rescue.where(seen)} A rescue Job saves them.", warning=True)
        return transitions.advance(seen, stop, Phase.SAVING, attempt=stop.attempt + 1, rescue=begun, event=event)
    if (named := rescue.named(seen, stop)) is not None:
        return named
    pod = rescue.saver(seen)
    holders = [pod] if pod is not None else []
    waits = stop.phase is Phase.HELD and not cannot_hold(seen)
    if not waits and not rescue.patient(seen, stop, seen.defaults.hold_after_seconds):
        return _hold(seen, stop, _unread(seen) or rescue.trouble(seen, stop), holders)
    doing = (*rescue.effects(seen, stop), *transitions.asks(seen, stop, holders))
    return transitions.wait(seen, *doing, note=rescue.waits(seen, stop))


def has_all(seen: Observed) -> bool:
    """Whether there is nothing that the bucket lacks."""
    proven = seen.verified
    return _never_started(seen) or (proven is not None and proven.commit.final and not _trained_after(seen, proven))


def _trained_after(seen: Observed, proven: Verified) -> bool:
    """Whether a later pod trained after this commit and is gone: its files are in no commit."""
    there = {pod.uid for pod in seen.pods} | {proven.commit.pod_uid}
    if any(pod.uid not in there and pod.phase in _TRAINED for pod in seen.run.status.pods):
        return True
    newest = seen.ranks[0].pod
    if newest is not None and newest.lost and newest.uid != proven.commit.pod_uid and newest.training in _STARTED:
        # The machine is gone, and with it what the pod wrote. Its metrics may not have been read in time to know more.
        return True
    last = missing.last_known(seen)
    if last is None or not last.pod_uid or last.pod_uid == proven.commit.pod_uid:
        return False
    fell = last.fell if isinstance(last, Track) else last.fell_from
    saved = proven.commit.checkpoint.step if proven.commit.checkpoint else None
    # The steps of two stages of a training cannot be compared.
    return fell is not None or saved is None or last.step is None or last.step > saved


def loss_after(seen: Observed, saved: Saved, sentence: str) -> str:
    """Return the message about a data loss after the last commit: why, what is left, and where the rest is."""
    return clipped(" ".join(filter(None, (sentence, _nothing_after(saved), rescue.whereabouts(seen)))), VERDICT_MAX)


def _nothing_after(saved: Saved) -> str:
    """Return the sentence about what is left after a data loss."""
    if not saved.commit:
        return "The bucket has nothing of this run."
    return f"The last commit is {saved.uri or saved.commit}; files written after it are not in the bucket."


def _hold(seen: Observed, stop: Termination, why: str, holders: list[Pod]) -> Decision:
    """Hold the stop: keep everything and ask again; or proceed without proof if the spec allows it."""
    why = clipped(why, VERDICT_MAX)
    if because := cannot_hold(seen):
        last = saved_from(seen.verified) if seen.verified is not None else Saved()
        known = bool(seen.live_pods) or (seen.rescue is not None and rescue.where(seen) in why)
        where = "" if known else f" {rescue.whereabouts(seen)}"
        note = clipped(f"Ended without proof ({because}). {why}{where}".rstrip(), VERDICT_MAX)
        return transitions.advance(
            seen,
            stop,
            Phase.DELETING,
            saved=last.model_copy(update={"note": note, "final": transitions.ended(seen)}),
            data_loss=note,
        )
    if stop.phase is not Phase.HELD:
        event = RecordEvent("CheckpointHeld", f"Nothing is deleted. {why}", warning=True)
        return transitions.advance(seen, stop, Phase.HELD, hold_reason=why, event=event)
    return transitions.wait(seen, *transitions.asks(seen, stop, holders), note=why)


def _hold_spent(seen: Observed, stop: Termination, wrong: Mismatch) -> Decision:
    """Hold for a commit that does not verify and that no further upload is to replace.

    The commit is verified again at every look, so that the stop continues once it matches. If an upload may still help, one is requested an hour.
    """
    if wrong.curable and seen.phase_seconds >= failing.RETRY_SECONDS and not cannot_hold(seen):
        return transitions.advance(seen, stop, Phase.HELD, attempt=stop.attempt + 1, hold_reason=stop.hold_reason)
    return _hold(seen, stop, _unproven(stop, wrong), [])


def _unproven(stop: Termination, wrong: Mismatch) -> str:
    if not wrong.curable:
        return f"The commit does not verify, and another upload would not change that: {wrong.complaint}"
    return f"The commit does not verify, after {stop.attempt} attempts: {wrong.complaint}"


def cannot_hold(seen: Observed) -> str:
    """Return why the stop cannot be held; empty: it can."""
    if seen.run.spec.checkpoint.on_failure is OnFailure.PROCEED:
        return "spec.checkpoint.onFailure is Proceed"
    return "the namespace is being deleted, and the pods in it are gone" if seen.namespace_ends else ""


def verify(seen: Observed, stop: Termination) -> Decision:
    """Advance only with a commit whose every object was read back and matched."""
    match seen.answer:
        case Verified() as proven:
            if _has_to_end_first(seen, stop, proven):
                return transitions.wait(seen, note="a pod that started after the rescue began ends, and saves")
            if transitions.ended(seen) and not proven.commit.final:
                # The training exited while its last checkpoint was being verified: there may be a newer one.
                if seen.live_pods:
                    return transitions.advance(seen, stop, Phase.SAVING, attempt=stop.attempt + 1)
                return _rescued(seen, stop) or _settle_for(seen, stop, proven)
            saved = saved_from(proven)
            event = RecordEvent("CheckpointSaved", sentence_of(saved))
            return transitions.advance(seen, stop, Phase.DELETING, saved=saved, event=event)
        case Mismatch() as wrong:
            if not _can_save(seen):
                return _rescued(seen, stop) or _hold(seen, stop, _bytes_gone(wrong), [])
            if failing.is_spent(stop.attempt, wrong):
                return _hold_spent(seen, stop, wrong)
            why = f"Save requested again (attempt {stop.attempt + 1}): {wrong.complaint}"
            event = RecordEvent("CheckpointMismatch", why, warning=True)
            again = transitions.advance(seen, stop, Phase.SAVING, attempt=stop.attempt + 1, event=event)
            return replace(again, again_seconds=min(60.0, 2.0 ** min(stop.attempt, 6)))
        case _ if seen.save_failing_seconds < seen.defaults.hold_after_seconds:
            return transitions.wait(seen, note="the bucket is read back")
        case Unreachable() as away:
            return _hold(seen, stop, f"The bucket cannot be read: {away.message}", [])
        case _:
            # The commit is no longer in the bucket.
            return transitions.advance(seen, stop, Phase.SAVING, attempt=stop.attempt + 1)


def _has_to_end_first(seen: Observed, stop: Termination, proven: Verified) -> bool:
    """Whether a pod that started meanwhile is ended by the rescue: what it still writes is saved by its agent, or by the rescue."""
    grace = seen.run.spec.shutdown.grace_seconds + AGENT_GRACE_SECONDS
    ending = stop.rescue is not None and rescue.replaces_none(seen)
    ends = ending and bool(seen.live_pods) and seen.phase_seconds < grace
    return ends and not proven.commit.final


def _bytes_gone(wrong: Mismatch) -> str:
    return f"The commit does not verify, and no pod has the files any more: {wrong.complaint}"


def saved_from(proven: Verified) -> Saved:
    """Return the record of a verified commit, which allows deletion."""
    commit = proven.commit
    files = min(max(commit.total_files, 0), FILES_MAX)
    fits = len(proven.uri) <= URI_MAX
    return Saved(
        commit=proven.key,
        digest=proven.digest,
        uri=proven.uri if files and fits else "",
        dir=clipped(commit.checkpoint.dir, TEXT_MAX) if commit.checkpoint else "",
        step=counted(commit.checkpoint.step) if commit.checkpoint else None,
        epoch=counted(commit.checkpoint.epoch) if commit.checkpoint else None,
        format=clipped(commit.checkpoint.format, WORD_MAX) if commit.checkpoint else "",
        inherited=commit.checkpoint is not None and commit.checkpoint.inherited,
        finite=commit.checkpoint.finite if commit.checkpoint else None,
        bytes=min(max(commit.total_bytes, 0), COUNT_MAX),
        files=files,
        complete=commit.checkpoint.complete if commit.checkpoint else True,
        final=commit.final,
        note=_note(files=files, fits=fits),
    )


def _note(*, files: int, fits: bool) -> str:
    if not files:
        return "No file was under the checkpoint path."
    return "" if fits else f"Its address has more than {URI_MAX} characters: the manifests of the commit have it."


def sentence_of(saved: Saved) -> str:
    """Return the sentence about the saved checkpoint."""
    if not saved.files:
        return saved.note
    what = "Files" if saved.dir in UNNAMED else f"Checkpoint {saved.dir}"
    half = "" if saved.complete else " (incomplete, saved as it was)"
    return f"{what}{half} verified at {saved.uri or saved.commit}.{' ' + saved.note if saved.note else ''}"
