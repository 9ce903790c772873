"""The endings of a run: one row per ``terminationStatus``, with what it is called, looks like and counts as.

Status, dashboard, plugin and metrics read this table and nothing else. ``terminationStatus`` is open to new values: `ending_of` has a row for every one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

FinalPhase = Literal["Succeeded", "Stopped", "Failed"]
"""What ``status.phase`` says of a run that has ended."""


@dataclass(frozen=True)
class Ending:
    """One way in which a run ends."""

    status: str
    """``terminationStatus``, snake_case."""
    phase: FinalPhase
    """``status.phase`` once the run has ended this way. Succeeded is the only one that counts as success, and only with a proven checkpoint."""
    label: str
    """What people read."""
    icon: str
    """A symbol of the dashboard's ``_icons.html``."""
    tone: str
    """A colour of the dashboard's ``app.css``: good, stopped, bad, busy, warn or quiet."""
    saves: bool = False
    """Whether the rest of the training is left undone, so that its GPU time counts as saved."""
    complete: bool = False
    """Whether the training had nothing left to do: progress is 100 percent."""
    by_hand: bool = False
    """Whether a person asked for it: ``spec.stopMode`` then says which checkpoint the stop waits for."""

    @property
    def succeeds(self) -> bool:
        """Whether it is a success, as long as its checkpoint is proven."""
        return self.phase == "Succeeded"

    @property
    def reason(self) -> str:
        """The condition's reason: ``auto_low_loss`` is ``AutoLowLoss``."""
        return "".join(word.capitalize() for word in self.status.split("_"))


AUTO_LOW_LOSS: Final = Ending("auto_low_loss", "Succeeded", "Auto-stopped (low loss)", "check", "good", saves=True)
AUTO_COMPLETE: Final = Ending("auto_complete", "Succeeded", "Training complete", "check", "good", complete=True)
USER_STOP: Final = Ending("user_stop", "Stopped", "Stopped by user", "square", "stopped", saves=True, by_hand=True)
FAILED: Final = Ending("failed", "Failed", "Failed", "cross", "bad")
DELETED: Final = Ending("deleted", "Stopped", "Deleted", "bin", "quiet")

ENDINGS: Final = {row.status: row for row in (AUTO_LOW_LOSS, AUTO_COMPLETE, USER_STOP, FAILED, DELETED)}
"""By ``terminationStatus``."""

_UNKNOWN: Final[dict[str, tuple[FinalPhase, str, str, str]]] = {
    "Succeeded": ("Succeeded", "Auto-stopped", "check", "good"),
    "Stopped": ("Stopped", "Stopped", "square", "stopped"),
    "Failed": ("Failed", "Failed", "cross", "bad"),
}


def ending_of(status: str, phase: str = "Failed") -> Ending:
    """Return the row of a ``terminationStatus``.

    Args:
        status: as stored; one that this version does not know gets a row of its own name.
        phase: what an unknown status counts as: ``status.phase`` where a newer operator has written it.
    """
    if (known := ENDINGS.get(status)) is not None:
        return known
    counts_as, label, icon, tone = _UNKNOWN[phase]
    why = status.removeprefix("auto_").replace("_", " ")
    return Ending(status, counts_as, f"{label} ({why})" if why else label, icon, tone)
