"""A verdict: why a run should end, with what decided it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trainingrun_operator.api.status import Evidence, TerminationStatus


@dataclass(frozen=True)
class Verdict:
    """One reason to end a run."""

    status: TerminationStatus
    message: str
    """A sentence with the values that decided."""
    actor: str = ""
    evidence: tuple[Evidence, ...] = ()
    inferred: bool = False
    """Concluded from what was seen, not told by an exit code or a person: the last writes may still land."""
    warning: str = ""
    """Something odd on the way, told as a Warning."""
