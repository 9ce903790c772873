"""What a run has lost, by its present stop or by an earlier suspension."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainingrun_operator.checkpoints.keys import order_of_commit

if TYPE_CHECKING:
    from trainingrun_operator.core.observed import Observed


def of(seen: Observed) -> str | None:
    """Return what was lost and not yet followed by a newer proof; None: nothing."""
    stop = seen.run.status.termination
    return stop.data_loss if stop is not None and stop.data_loss else _of_a_suspension(seen)


def _of_a_suspension(seen: Observed) -> str | None:
    """Return the recorded loss of an earlier suspension, until a commit of a pod after it is proven."""
    before, stop, verified = seen.run.status.checkpoint, seen.run.status.termination, seen.verified
    if before is None or not before.data_loss:
        return None
    # The suspension has deleted all pods before.
    if verified is not None and any(pod.uid == verified.commit.pod_uid for pod in seen.pods):
        return None
    saved = order_of_commit(stop.saved.commit) if stop is not None and stop.saved is not None else None
    known = order_of_commit(before.commit)
    newer = saved is not None and (known is None or saved > known)
    return None if newer else before.data_loss
