"""A finding: the result of one rule at one look, whether it ends the run or not."""

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
    """One CamelCase word, for programs."""
    message: str
    """Sentences with the values that decided, or with what is missing."""
    ending: Ending | None = None
    """How the run ends; None: the rule does not fire."""
    actor: str = ""
    """The person or thing that requested the end."""
    evidence: tuple[Evidence, ...] = ()
    inferred: bool = False
    """Inferred, not stated by an exit code or a person: the last writes may not be finished."""
    warning: str = ""
    """Reported as an Event of type Warning."""
    enforced: bool = True
    """False: the rule only reports and ends nothing."""

    @property
    def fires(self) -> bool:
        """Whether the rule's condition holds."""
        return self.ending is not None

    @property
    def status(self) -> str:
        """The run's ``terminationStatus``; empty: the rule does not fire."""
        return self.ending.status if self.ending is not None else ""
