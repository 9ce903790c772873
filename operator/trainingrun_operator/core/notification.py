"""Webhook events that a run's status requires and that are not yet delivered, as `status.notified` records them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from trainingrun_operator.api import names
from trainingrun_operator.api.notification import CloudEvent, EventType, RunData
from trainingrun_operator.api.status import Phase
from trainingrun_operator.core import release

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trainingrun_operator.api.status import Termination, TrainingRunStatus
    from trainingrun_operator.core.observed import Observed

HISTORY_SECONDS: Final = 3600
"""A run that ended longer ago than this sends no event, so that a new webhook does not receive old runs."""


def due(seen: Observed, status: TrainingRunStatus) -> tuple[CloudEvent, ...]:
    """Return the events to send.

    Args:
        seen: everything known about the run now.
        status: its whole status, as derived now.
    """
    stop = status.termination
    if stop is None or _is_history(seen, stop, status):
        return ()
    return tuple(
        _event(seen, stop, status, kind, at)
        for kind, at in _happened(seen, stop, status)
        if _event_id(stop, kind) not in status.notified
    )


def recorded(status: TrainingRunStatus, event_id: str) -> tuple[str, ...]:
    """Return `status.notified` with one more event and without those of a finished suspension."""
    stop = status.termination
    own = () if stop is None else tuple(one for one in status.notified if one.startswith(f"{stop.id}-"))
    return (*(one for one in own if one != event_id), event_id)


def _is_history(seen: Observed, stop: Termination, status: TrainingRunStatus) -> bool:
    over = status.completion_time or stop.phase_at
    return stop.phase is Phase.DONE and seen.seconds_since(over) > HISTORY_SECONDS


def _happened(seen: Observed, stop: Termination, status: TrainingRunStatus) -> Iterator[tuple[EventType, str]]:
    """Yield each event with its time."""
    if (held_at := _held_at(stop, status)) is not None:
        yield EventType.CHECKPOINT_HELD, held_at
    if stop.data_loss:
        yield EventType.DATA_LOST, stop.phase_at
    if release.overdue(seen):
        yield EventType.NODE_UNRELEASED, seen.wall
    if stop.over:
        yield EventType.RUN_ENDED, status.completion_time or stop.phase_at


def _held_at(stop: Termination, status: TrainingRunStatus) -> str | None:
    """Return when the run was held, also if it no longer is: a killed operator may not have sent the event."""
    if stop.phase is Phase.HELD:
        return stop.phase_at
    held = (one.at for one in reversed(status.history) if one.phase == Phase.HELD.value)
    return next((at for at in held if at >= stop.requested_at), None)


def _event_id(stop: Termination, kind: EventType) -> str:
    return f"{stop.id}-{kind.slug}"


def _event(seen: Observed, stop: Termination, status: TrainingRunStatus, kind: EventType, at: str) -> CloudEvent:
    run, progress = seen.run, status.progress
    return CloudEvent(
        id=_event_id(stop, kind),
        source=f"/apis/{names.API_VERSION}/namespaces/{run.namespace}/{names.RUN_PLURAL}/{run.name}",
        type=kind,
        subject=run.key,
        time=at,
        data=RunData(
            namespace=run.namespace,
            name=run.name,
            uid=run.uid,
            termination_id=stop.id,
            status=stop.status,
            phase=status.phase or "",
            message=status.termination_message or stop.message,
            actor=stop.actor,
            requested_at=stop.requested_at,
            completion_time=status.completion_time,
            step=progress.step if progress else None,
            loss=progress.loss if progress else None,
            checkpoint=status.checkpoint.uri if status.checkpoint else "",
            hold_reason=stop.hold_reason,
            data_loss=stop.data_loss,
            unreleased_nodes=tuple(node.name for node in release.overdue(seen)),
        ),
    )
