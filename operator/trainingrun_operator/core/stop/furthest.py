"""The furthest proven checkpoint of a run: status, messages and restore name the same one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainingrun_operator.api.status import Saved
from trainingrun_operator.checkpoints.keys import Order, order_of_commit
from trainingrun_operator.checkpoints.reached import Reached
from trainingrun_operator.core.stop.proving import saved_from, sentence_of

if TYPE_CHECKING:
    from trainingrun_operator.api.status import CheckpointStatus
    from trainingrun_operator.core.observed import Observed


def newest(seen: Observed) -> Saved | None:
    """Return the record of the newest proven commit: that of the stop, else the last one that verified."""
    stop = seen.run.status.termination
    if stop is not None and stop.saved is not None:
        return stop.saved
    return saved_from(seen.verified) if seen.verified is not None else None


def furthest(seen: Observed) -> Saved | None:
    """Return the record of the proven commit that a replaced pod resumes from; None: no commit is known.

    A record of the status or of the memory that is newer than the newest proven commit does not count: its commit is gone. Nor does one that does not
    verify any more.
    """
    last = newest(seen)
    if last is None or not last.commit:
        return last
    earlier = [saved_from(seen.furthest)] if seen.furthest is not None else []
    if (before := seen.run.status.checkpoint) is not None and before.commit:
        earlier.append(_of(before))
    there = (one for one in earlier if _order(one) < _order(last) and _order(one) not in seen.refuted)
    return max((last, *there), key=Reached.recorded)


def sentence(seen: Observed, last: Saved) -> str:
    """Return the sentence about the furthest proven checkpoint, and about the newest one if that has reached less."""
    best = furthest(seen) or last
    if best.commit == last.commit or not last.files:
        return sentence_of(last)
    reached = last.dir if last.step is None else f"{last.dir} (step {last.step})"
    return f"{sentence_of(best)} The last attempt reached less: {reached}, verified as well.{' ' + last.note if last.note else ''}"


def _of(before: CheckpointStatus) -> Saved:
    return Saved(
        commit=before.commit,
        digest=before.digest,
        uri=before.uri,
        dir=before.dir,
        step=before.step,
        epoch=before.epoch,
        format=before.format,
        inherited=before.inherited,
        finite=before.finite,
        bytes=before.bytes,
        files=before.files,
        complete=before.complete,
    )


def _order(saved: Saved) -> Order:
    return order_of_commit(saved.commit) or Order(0, 0)
