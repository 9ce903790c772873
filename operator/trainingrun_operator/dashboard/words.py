"""What people read: how a state looks and is called, durations, and what went wrong with a call."""

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
    """How a state is shown: the shape tells it without the colour, the words without both."""

    icon: str
    """A symbol of `_icons.html`."""
    tone: str
    """A colour of `app.css`: good, stopped, bad, busy, warn or quiet."""
    words: str


_PHASES: Final = {
    "": Look("ring", "quiet", "Not seen yet"),
    "Pending": Look("ring", "quiet", "Pending"),
    "Queued": Look("ring", "quiet", "Queued"),
    "Running": Look("play", "busy", "Running"),
    "Stopping": Look("half", "stopped", "Stopping"),
    "Held": Look("triangle", "warn", "Held"),
    "Suspended": Look("pause", "busy", "Suspended"),
}
SUSPENDING: Final = Look("pause", "busy", "Suspending")
"""It saves, and gives its GPU back for a while."""
_ENDED: Final = frozenset({"Succeeded", "Stopped", "Failed"})


def look(phase: str, status: str) -> Look:
    """How a run looks, by its phase and, once it has ended, by why. Values that are newer than this dashboard are shown by their own name."""
    if phase not in _ENDED:
        return _PHASES.get(phase) or Look("ring", "quiet", phase)
    ending = ending_of(status, phase)
    if ending.succeeds and phase == "Failed":
        return Look("cross", "bad", f"{ending.label}, checkpoint not saved")
    return Look(ending.icon, ending.tone, ending.label)


STEPS: Final = (
    (Phase.REQUESTED, "Decided", "The reason is written down before anything is done."),
    (Phase.DRAINING, "Training leaves", "It is asked to save and exit."),
    (Phase.SAVING, "Saving", "What is not in the bucket yet is uploaded."),
    (Phase.VERIFYING, "Verifying", "Every file is read back and compared."),
    (Phase.DELETING, "Ending the pods", "The checkpoint is proven; now the pods may go."),
    (Phase.RELEASING, "Releasing the nodes", "Machines go back to the cloud once nobody else uses them."),
    (Phase.DONE, "Done", "Everything is settled."),
)
"""The phases of a stop, as a person follows them. Held is Saving that does not succeed."""


def duration(seconds: float) -> str:
    """`45 s`, `12 min`, `3 h 20 min`, `2 d 4 h`."""
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
    """`1,200`."""
    return f"{number:,}"


def trouble(error: KubeError, what: str) -> str:
    """Why a call failed and what to do; `what` completes "You may not …"."""
    match error.status:
        case 401:
            return "Your login is not valid any more: log in again."
        case 403:
            return f"You may not {what}. The API server says: {error.message}"
        case 404:
            return "It is not there (any more). It may have been deleted, or its name is misspelt."
        case 409:
            return "It was changed by somebody else at the same moment: look at what it is now, and try again."
        case 422:
            return f"The API server refused it: {error.message}"
        case 429 | 503:
            return "The API server is busy: try again in a moment."
        case 0:
            return f"The API server cannot be reached: {error.message}"
        case _:
            return f"The API server answered {error.status} {error.reason}: {error.message}"
