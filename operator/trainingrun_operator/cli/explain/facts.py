"""What every explanation is made of: the run, the moment, and what its conditions say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from trainingrun_operator.cli import words

if TYPE_CHECKING:
    from datetime import datetime

    from trainingrun_operator.core.facts.run import Run


@dataclass(frozen=True)
class Explanation:
    """The answer, what it rests on, and what a person may do about it."""

    answer: str
    because: tuple[str, ...] = ()
    todo: tuple[str, ...] = ()
    """Each a sentence, or a command after `$ `."""


@dataclass(frozen=True)
class Facts:
    """One run, looked at."""

    run: Run
    now: datetime

    @property
    def name(self) -> str:
        """Of the run."""
        return self.run.name

    def state(self, kind: str) -> tuple[str, str, str]:
        """Status, reason and message of a condition; Unknown, if it is not there."""
        found = self.run.status.condition(kind)
        return (found.status, found.reason, found.message) if found else ("Unknown", "", "")

    def ago(self, stamp: str | None) -> str:
        """` (3m20s ago)`, or nothing."""
        return words.ago(stamp, self.now)

    def lasting(self, stamp: str | None) -> str:
        """` (for 3m20s)`, or nothing."""
        past = words.age(stamp, self.now)
        return f" (for {past})" if past else ""

    def command(self, what: str, *more: str) -> str:
        """A call of this plugin about the run."""
        return " ".join((f"$ kubectl trainingrun {what} {self.name} --namespace {self.run.namespace}", *more))

    def patch(self, what: str) -> str:
        """A merge patch of the run, as JSON, by kubectl."""
        return f"$ kubectl patch trun {self.name} --namespace {self.run.namespace} --type merge --patch '{what}'"

    def operator_away(self) -> tuple[str, ...]:
        """What to look at when nobody does anything."""
        return (
            "Is the operator there, and does it answer for this run (its runSelector)?",
            "$ kubectl get pods --all-namespaces --selector app.kubernetes.io/name=trainingrun-operator",
        )
