"""A finding: what one rule says of one look at a run, whether it ends the run or not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trainingrun_operator.api.endings import Ending
    from trainingrun_operator.api.status import Evidence


@dataclass(frozen=True)
class Finding:
    """Why a rule fires, or why it does not fire yet."""

    rule: str
    """The rule's name, camelCase, unique among the rules."""
    reason: str
    """One CamelCase word: what programs tell findings apart by."""
    message: str
    """One or more sentences with the values that decided, or with what is still missing."""
    ending: Ending | None = None
    """How the run ends; None: the rule does not fire."""
    actor: str = ""
    """Who or what asked for it."""
    evidence: tuple[Evidence, ...] = ()
    inferred: bool = False
    """Concluded from what was seen, not told by an exit code or a person: the last writes may still land."""
    warning: str = ""
    """Something odd on the way, reported as an Event of type Warning."""
    enforced: bool = True
    """False: the rule is only watched. It may fire and ends nothing."""

    @property
    def fires(self) -> bool:
        """Whether what the rule looks for is so."""
        return self.ending is not None

    @property
    def status(self) -> str:
        """The ``terminationStatus`` to end with; empty while the rule does not fire."""
        return self.ending.status if self.ending is not None else ""
