"""The rescue of what pods wrote after the proof: they are gone, and the record that their deletion rests on is not of everything.

::

    Deleting: no pod is left → intent → the nodes are released → the rescue Job, its uid, its start, its agent (`rescue`)
              → the proof, or a data loss → the Job is deleted → Releasing

The phase cannot go back, and cannot be held: the record stays a proof all the time. So a rescue that makes no progress for `PATIENCE_SECONDS`, or
whose commits do not verify, is given up, and that is a data loss.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from trainingrun_operator.api import endings
from trainingrun_operator.api.status import Phase, Saved
from trainingrun_operator.checkpoints.reached import Reached
from trainingrun_operator.core.bounds import VERDICT_MAX, clipped
from trainingrun_operator.core.effects import RecordEvent
from trainingrun_operator.core.facts.bucket import Mismatch, Unreachable, Verified
from trainingrun_operator.core.stop import failing, proving, rescue, transitions
from trainingrun_operator.core.stop.requests import rescues_late

if TYPE_CHECKING:
    from trainingrun_operator.api.status import Rescue, Termination
    from trainingrun_operator.core.effects import Decision
    from trainingrun_operator.core.observed import Observed

PATIENCE_SECONDS: Final = 1800.0
"""Time without progress after which a rescue is given up. A disk of a dead Node is attached to another after 6 minutes or more."""
ENDED: Final = "The pod ended before its last files were saved."


def begin(seen: Observed, stop: Termination) -> Decision | None:
    """Write the intent to rescue what the pods left; None: the bucket has everything, or nothing can be rescued."""
    volume = rescue.volume_to_read(seen.run, seen.pods)
    if volume is None or seen.rescue is None or not rescue.may_lack(seen.run) or proving.has_all(seen):
        return None
    if rescue.gone(seen) or rescue.impossible(seen, volume):
        return None
    attempt = stop.attempt + 1
    begun = rescue.plan(seen, seen.rescue).model_copy(update={"attempt": attempt})
    why = f"{rescue.where(seen)} A rescue Job saves what it wrote after the proof."
    event = RecordEvent("Rescuing", why, warning=True)
    return transitions.advance(seen, stop, Phase.DELETING, attempt=attempt, rescue=begun, event=event)


def obstacle(seen: Observed) -> str:
    """Return the sentence about what keeps a rescue from beginning although the files are there; empty: nothing does."""
    volume = rescue.volume_to_read(seen.run, seen.pods)
    if volume is None or seen.rescue is None or rescue.gone(seen):
        return ""
    why = rescue.impossible(seen, volume)
    return f"No rescue Job can save them: {why}." if why else ""


def step(seen: Observed, stop: Termination) -> Decision | None:
    """Return the next step of a rescue that began in Deleting, once no pod can be ended any more; None: none is in progress."""
    begun = stop.rescue
    if begun is None or not rescues_late(stop):
        return None
    if isinstance(seen.answer, Verified) and seen.answer.commit.final:
        return _proven(seen, stop, begun, seen.answer)
    if (why := _fails(seen, stop, begun)) is not None:
        return _give_up(seen, stop, begun, why)
    if isinstance(seen.answer, Mismatch):
        return _ask_again(seen, stop, seen.answer)
    if (named := rescue.named(seen, stop)) is not None:
        return named
    pod = rescue.saver(seen)
    asks = transitions.asks(seen, stop, [pod] if pod is not None else [])
    return transitions.wait(seen, *rescue.effects(seen, stop), *asks, note=rescue.waits(seen, stop))


def _proven(seen: Observed, stop: Termination, begun: Rescue, proven: Verified) -> Decision:
    """End the rescue with its proof. The record stays what it is if that is further."""
    saved = proving.saved_from(proven)
    event = RecordEvent("CheckpointSaved", proving.sentence_of(saved))
    taken = saved if _is_as_far(stop, proven) else stop.saved
    over = begun.model_copy(update={"over": True})
    return transitions.advance(
        seen, stop, Phase.DELETING, attempt=stop.attempt + 1, saved=taken, rescue=over, event=event
    )


def _is_as_far(stop: Termination, proven: Verified) -> bool:
    """Whether the newest checkpoint of the volume may take the place of the recorded one. A save that was cut off may have left less."""
    if endings.ending_of(stop.status).spoiled:
        return False
    return stop.saved is None or Reached.of(proven.commit) > Reached.recorded(stop.saved)


def _ask_again(seen: Observed, stop: Termination, wrong: Mismatch) -> Decision:
    why = f"Save requested again (attempt {stop.attempt + 1}): {wrong.complaint}"
    event = RecordEvent("CheckpointMismatch", why, warning=True)
    again = transitions.advance(seen, stop, Phase.DELETING, attempt=stop.attempt + 1, event=event)
    return replace(again, again_seconds=min(60.0, 2.0 ** min(stop.attempt, 6)))


def _fails(seen: Observed, stop: Termination, begun: Rescue) -> str | None:
    """Return why the rescue is given up, empty if the sentence about the volume says it; None: it goes on."""
    volume = rescue.volume_to_read(seen.run, seen.pods)
    if volume is None or seen.rescue is None or rescue.gone(seen):
        return ""
    if why := obstacle(seen):
        return why
    if isinstance(seen.answer, Mismatch) and not seen.answer.curable:
        return f"What the rescue Job saved does not verify: {seen.answer.complaint}"
    if stop.attempt - begun.attempt >= failing.ATTEMPTS_MAX:
        wrong = seen.answer.complaint if isinstance(seen.answer, Mismatch) else rescue.trouble(seen, stop)
        return f"The rescue has failed {failing.ATTEMPTS_MAX} times: {wrong}"
    hold = seen.defaults.hold_after_seconds
    seconds = hold if proving.cannot_hold(seen) else max(PATIENCE_SECONDS, hold)
    if rescue.patient(seen, stop, seconds):
        return None
    silent = next((pod.name for pod in seen.live_pods), "")
    return f"Pod {silent} is silent, and may still run." if silent else rescue.trouble(seen, stop)


def _give_up(seen: Observed, stop: Termination, begun: Rescue, why: str) -> Decision:
    """End the rescue without a proof, and say what may be lost."""
    if isinstance(seen.answer, Unreachable):
        unread = f"Whether the bucket has the last files of the pod is not known: {seen.answer.message}"
        loss = clipped(" ".join(filter(None, (unread, rescue.whereabouts(seen)))), VERDICT_MAX)
    else:
        loss = proving.loss_after(seen, stop.saved or Saved(), f"{ENDED} {why}".rstrip())
    over = begun.model_copy(update={"over": True})
    return transitions.advance(seen, stop, Phase.DELETING, attempt=stop.attempt + 1, rescue=over, data_loss=loss)
