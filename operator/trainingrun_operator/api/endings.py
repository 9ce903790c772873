"""The endings of a run: one row per ``terminationStatus``, with its phase, label, look and meaning.

Status, dashboard, plugin and metrics all read this table. ``terminationStatus`` is open to new values: `ending_of` returns a row for each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

FinalPhase = Literal["Succeeded", "Stopped", "Failed"]
"""``status.phase`` of a run that has ended."""


@dataclass(frozen=True)
class Ending:
    """One way that a run ends."""

    status: str
    """``terminationStatus``, snake_case."""
    phase: FinalPhase
    """``status.phase`` of a run with this ending. Only Succeeded counts as success, and only with a proven checkpoint."""
    label: str
    """The name for display."""
    icon: str
    """A symbol of the dashboard's ``_icons.html``."""
    tone: str
    """A colour of the dashboard's ``app.css``: good, stopped, bad, busy, warn or quiet."""
    saves: bool = False
    """Whether the rest of the training is omitted, so that its GPU time counts as saved."""
    complete: bool = False
    """Whether the training was complete: progress is 100 percent."""
    spoiled: bool = False
    """Whether what the training saves from now on is worth nothing: the stop waits for no further checkpoint, whatever ``spec.stopMode`` is."""
    saves_again: bool = False
    """Whether the training was in the middle of its work: a stop with ``spec.stopMode`` Auto may wait for its next checkpoint beyond the grace."""
    by_hand: bool = False
    """Whether a user requested it: then ``spec.stopMode`` selects the checkpoint that the stop waits for."""

    @property
    def succeeds(self) -> bool:
        """Whether the ending is a success if its checkpoint is proven."""
        return self.phase == "Succeeded"

    @property
    def reason(self) -> str:
        """The condition's reason, such as ``AutoLowLoss`` for ``auto_low_loss``."""
        return "".join(word.capitalize() for word in self.status.split("_"))


AUTO_LOW_LOSS: Final = Ending(
    "auto_low_loss", "Succeeded", "Auto-stopped (low loss)", "check", "good", saves=True, saves_again=True
)
AUTO_THRESHOLD: Final = Ending(
    "auto_threshold", "Succeeded", "Auto-stopped (threshold)", "check", "good", saves=True, saves_again=True
)
AUTO_PLATEAU: Final = Ending(
    "auto_plateau", "Succeeded", "Auto-stopped (plateau)", "check", "good", saves=True, saves_again=True
)
AUTO_RISING: Final = Ending(
    "auto_rising", "Succeeded", "Auto-stopped (rising)", "check", "good", saves=True, saves_again=True
)
AUTO_NON_FINITE: Final = Ending("auto_non_finite", "Failed", "Failed (not finite)", "cross", "bad", spoiled=True)
AUTO_COMPLETE: Final = Ending("auto_complete", "Succeeded", "Training complete", "check", "good", complete=True)
USER_STOP: Final = Ending(
    "user_stop", "Stopped", "Stopped by user", "square", "stopped", saves=True, saves_again=True, by_hand=True
)
MAX_DURATION: Final = Ending("max_duration", "Stopped", "Stopped (max duration)", "square", "stopped", saves=True)
BUDGET_EXHAUSTED: Final = Ending(
    "budget_exhausted", "Stopped", "Stopped (budget exhausted)", "square", "stopped", saves=True
)
HUNG: Final = Ending("hung", "Failed", "Failed (hung)", "cross", "bad")
IDLE: Final = Ending("idle", "Failed", "Failed (idle GPUs)", "cross", "bad")
FAILED: Final = Ending("failed", "Failed", "Failed", "cross", "bad")
DELETED: Final = Ending("deleted", "Stopped", "Deleted", "bin", "quiet")

_ROWS: Final = (
    AUTO_LOW_LOSS,
    AUTO_THRESHOLD,
    AUTO_PLATEAU,
    AUTO_RISING,
    AUTO_NON_FINITE,
    AUTO_COMPLETE,
    USER_STOP,
    MAX_DURATION,
    BUDGET_EXHAUSTED,
    HUNG,
    IDLE,
    FAILED,
    DELETED,
)
ENDINGS: Final = {row.status: row for row in _ROWS}
"""All known endings, by ``terminationStatus``."""

_UNKNOWN: Final[dict[str, tuple[FinalPhase, str, str, str]]] = {
    "Succeeded": ("Succeeded", "Auto-stopped", "check", "good"),
    "Stopped": ("Stopped", "Stopped", "square", "stopped"),
    "Failed": ("Failed", "Failed", "cross", "bad"),
}


def ending_of(status: str, phase: str = "Failed") -> Ending:
    """Return the row of a ``terminationStatus``.

    Args:
        status: the stored value. An unknown value gets a row with its own name.
        phase: the phase of an unknown value: ``status.phase``, as a newer operator wrote it.
    """
    if (known := ENDINGS.get(status)) is not None:
        return known
    counts_as, label, icon, tone = _UNKNOWN[phase]
    why = status.removeprefix("auto_").replace("_", " ")
    return Ending(status, counts_as, f"{label} ({why})" if why else label, icon, tone)
