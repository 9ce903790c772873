"""What a status tells of a run's past, in sentences for all user interfaces: what its training started from, and what was lost before."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from trainingrun_operator.api.run import CheckpointMode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trainingrun_operator.api.restored import Restored
    from trainingrun_operator.api.status import PhaseChange
    from trainingrun_operator.core.facts.run import Run

UNNAMED: Final = frozenset({"", "."})
"""Folders of a checkpoint that has no name of its own."""


def beginning(run: Run) -> tuple[str, ...]:
    """Return what the training of the newest pod started from, one sentence for each fact; empty: there is nothing to say.

    A start from the beginning is usual. It is mentioned only if another one was expected.
    """
    restored, asked = run.status.restored, origin(run)
    if restored is None:
        waits = run.status.start_time is None and run.status.termination is None
        return (f"It is to start from {asked} (spec.checkpoint.restoreFrom).",) if asked and waits else ()
    over = [f"{one.commit}: {one.why}" for one in restored.passed_over]
    said = [*_first("passed over", over), *_first("left out", restored.left_out)]
    if not asked and not said and not restored.commit and not restored.in_volume:
        return ()
    pod = f"Pod {restored.pod}" if restored.pod else "The training"
    return (f"{pod} started from {_source(restored)}.{_kept(restored)}", *said)


def origin(run: Run) -> str:
    """Return the checkpoint that a run starts from while it has none of its own; empty: none."""
    asked = run.spec.checkpoint.restore_from
    if asked is None or run.spec.checkpoint.mode is CheckpointMode.DISABLED:
        return ""
    return asked.uri or f"the furthest checkpoint of run {asked.namespace or run.namespace}/{asked.run}"


def earlier_losses(run: Run) -> tuple[PhaseChange, ...]:
    """Return the phase changes at which data was lost, oldest first, without the loss that the run's state shows now."""
    status = run.status
    shown = [one.data_loss for one in (status.termination, status.checkpoint) if one is not None and one.data_loss]
    return tuple(
        change
        for change in status.history
        if change.data_loss and not any(one.startswith(change.data_loss.removesuffix("…")) for one in shown)
    )


def _source(restored: Restored) -> str:
    if not restored.commit and not restored.in_volume:
        return "the beginning: there was no checkpoint"
    name = "the checkpoint" if restored.dir in UNNAMED else restored.dir
    step = f" of step {restored.step}" if restored.step is not None else ""
    if restored.in_volume:
        return f"{name}{step} in its volume, which is further than all in the bucket"
    generation = restored.commit.rpartition("/")[2].removesuffix(".json")
    whose = f" of run {restored.run}" if restored.run else ""
    return f"{name}{step}, restored from {generation}{whose}"


def _kept(restored: Restored) -> str:
    if not restored.kept:
        return ""
    return f" {restored.kept} newer {'file' if restored.kept == 1 else 'files'} in its volume stayed."


def _first(what: str, found: Sequence[str]) -> tuple[str, ...]:
    """Return a sentence with the first of some entries."""
    more = f" And {len(found) - 1} more, see status.restored." if found[1:] else ""
    return (f"The restore {what} {found[0].rstrip('.')}.{more}",) if found else ()
