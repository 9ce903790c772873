"""Rules for people's requests: deletion, ``spec.stop``, a stop file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from trainingrun_operator.api import endings
from trainingrun_operator.api.status import Evidence
from trainingrun_operator.core.rules.finding import Finding

if TYPE_CHECKING:
    from trainingrun_operator.core.observed import Observed

STOP: Final = "stop"
"""Name of the rule of ``spec.stop``; its actor is a person or the program that wrote the field."""


def deleted(seen: Observed) -> Finding | None:
    """The TrainingRun is being deleted. Applies to no other."""
    if not seen.run.deleting:
        return None
    return Finding("deleted", "Deleted", "The TrainingRun was deleted.", endings.DELETED, actor="kubectl delete")


def user_stop(seen: Observed) -> Finding:
    """``spec.stop`` is true."""
    if not seen.run.spec.stop:
        return Finding(STOP, "NotAsked", "Not requested: spec.stop is not true.")
    reason = f" ({seen.run.spec.stop_reason})" if seen.run.spec.stop_reason else ""
    return Finding(
        STOP,
        "Asked",
        f"Stopped by hand: spec.stop is true{reason}.",
        endings.USER_STOP,
        actor=seen.run.spec.stopped_by or seen.run.stop_manager or "spec.stop",
    )


def stop_file(seen: Observed) -> Finding | None:
    """The volume has a stop file that the operator did not request."""
    if not any(rank.report.foreign_stop_file for rank in seen.ranks if rank.report is not None):
        return None
    name = seen.run.spec.shutdown.file
    return Finding(
        "stopFile",
        "Written",
        f"Stopped by hand: found the stop file {name}.",
        endings.USER_STOP,
        actor="stop file",
        evidence=(Evidence(what="stopFile", value=name),),
    )
