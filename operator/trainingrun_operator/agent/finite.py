"""Which checkpoints are from before the first value that is not finite: a run that ends for that publishes the newest of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from trainingrun_operator.agent.volume.detect import Seen
    from trainingrun_operator.api.spoiled import Spoiled
    from trainingrun_operator.checkpoints.documents import Checkpoint


def is_before(step: int | None, epoch: int | None, written_us: int, spoiled: Spoiled) -> bool:
    """Whether a checkpoint is known to be from before the first value that is not finite.

    By the step where both have one, else by the time. A step beside an epoch may be counted in the epoch, so then both have to say so.
    """
    in_time = spoiled.written_us is not None and written_us <= spoiled.written_us
    if step is None or spoiled.step is None:
        return in_time
    return step < spoiled.step and (epoch is None or in_time or spoiled.written_us is None)


def of_volume(seen: Iterable[Seen], spoiled: Spoiled) -> list[Seen]:
    """Return the units from before it."""
    return [one for one in seen if is_before(one.unit.step, one.unit.epoch, one.unit.mtime_ns // 1000, spoiled)]


def told(checkpoint: Checkpoint, spoiled: Spoiled, *, finite: bool) -> Checkpoint:
    """Return a checkpoint that says whether it is from before it."""
    where = (
        "the first value that is not finite"
        if spoiled.step is None
        else f"step {spoiled.step}, the first one that is not finite"
    )
    words = f"the newest from before {where}" if finite else f"none is known to be from before {where}"
    return checkpoint.model_copy(update={"finite": finite, "evidence": f"{checkpoint.evidence}; {words}"})
