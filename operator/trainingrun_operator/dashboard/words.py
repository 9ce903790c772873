"""Texts of the dashboard: names and looks of states, durations, errors of calls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from trainingrun_operator.api.endings import ending_of
from trainingrun_operator.api.status import Phase

if TYPE_CHECKING:
    from trainingrun_operator.edge.apiserver.transport import KubeError

_MINUTE: Final = 60
_HOUR: Final = 3600
_DAY: Final = 86_400


@dataclass(frozen=True)
class Look:
    """The look of a state. Icon, colour and words each identify it without the others."""

    icon: str
    """A symbol of `_icons.html`."""
    tone: str
    """A colour of `app.css`: good, stopped, bad, busy, warn or quiet."""
    words: str


_PHASES: Final = {
    "": Look("ring", "quiet", "Not processed yet"),
    "Pending": Look("ring", "quiet", "Pending"),
    "Queued": Look("ring", "quiet", "Queued"),
    "Running": Look("play", "busy", "Running"),
    "Stopping": Look("half", "stopped", "Stopping"),
    "Held": Look("triangle", "warn", "Held"),
    "Suspended": Look("pause", "busy", "Suspended"),
}
SUSPENDING: Final = Look("pause", "busy", "Suspending")
"""A run that saves a checkpoint and releases its GPUs until it is resumed."""
_ENDED: Final = frozenset({"Succeeded", "Stopped", "Failed"})


def look(phase: str, status: str) -> Look:
    """Return the look of a run's phase or, once it has ended, of its ending. Unknown values appear under their own name."""
    if phase not in _ENDED:
        return _PHASES.get(phase) or Look("ring", "quiet", phase)
    ending = ending_of(status, phase)
    if ending.succeeds and phase == "Failed":
        return Look("cross", "bad", f"{ending.label}, checkpoint not saved")
    return Look(ending.icon, ending.tone, ending.label)


STEPS: Final = (
    (Phase.REQUESTED, "Decided", "The reason is recorded before any action."),
    (Phase.DRAINING, "Training exits", "The training is asked to save and exit."),
    (Phase.SAVING, "Saving", "The agent uploads what is not in the bucket yet."),
    (Phase.VERIFYING, "Verifying", "The operator compares every file in the bucket."),
    (Phase.DELETING, "Deleting the pods", "The checkpoint is proven, so the pods are deleted."),
    (Phase.RELEASING, "Releasing the nodes", "Machines go back to the cloud once no other pod uses them."),
    (Phase.DONE, "Done", "The stop is complete."),
)
"""The phases of a stop for display. Held is shown as Saving that does not succeed."""


def duration(seconds: float) -> str:
    """Format seconds: `45 s`, `12 min`, `3 h 20 min`, `2 d 4 h`."""
    whole = max(0, round(seconds))
    if whole < _MINUTE:
        return f"{whole} s"
    if whole < _HOUR:
        return f"{whole // _MINUTE} min"
    if whole < _DAY:
        hours, minutes = whole // _HOUR, whole % _HOUR // _MINUTE
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = whole // _DAY, whole % _DAY // _HOUR
    return f"{days} d {hours} h" if hours else f"{days} d"


def count(number: int) -> str:
    """Format a number: `1,200`."""
    return f"{number:,}"


def trouble(error: KubeError, what: str) -> str:
    """Say why a call failed and what to do. `what` completes "You may not …"."""
    match error.status:
        case 401:
            return "Your login is no longer valid: log in again."
        case 403:
            return f"You may not {what}. The API server says: {error.message}"
        case 404:
            return "The object does not exist. It was deleted, or the name is misspelt."
        case 409:
            return "Someone else has changed the object at the same time: check its new state, and try again."
        case 422:
            return f"The API server refused the change: {error.message}"
        case 429 | 503:
            return "The API server is busy: try again in a moment."
        case 0:
            return f"The API server cannot be reached: {error.message}"
        case _:
            return f"The API server answered {error.status} {error.reason}: {error.message}"
