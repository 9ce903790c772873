"""The input of every explanation (the run, its conditions, the time), and its output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainingrun_operator.cli import words
from trainingrun_operator.core.commands import command, patch_word

if TYPE_CHECKING:
    from datetime import datetime

    from trainingrun_operator.core.facts.run import Run


@dataclass(frozen=True)
class Explanation:
    """The answer, its reasons, and what the user can do."""

    answer: str
    because: tuple[str, ...] = ()
    todo: tuple[str, ...] = ()
    """Each a sentence, or a command after `$ `."""


@dataclass(frozen=True)
class Facts:
    """One run at a moment."""

    run: Run
    now: datetime

    @property
    def name(self) -> str:
        """The run's name."""
        return self.run.name

    def state(self, kind: str) -> tuple[str, str, str]:
        """Return status, reason and message of a condition; status Unknown if it is missing."""
        found = self.run.status.condition(kind)
        return (found.status, found.reason, found.message) if found else ("Unknown", "", "")

    def ago(self, stamp: str | None) -> str:
        """Return ` (3m20s ago)`; empty without a time."""
        return words.ago(stamp, self.now)

    def lasting(self, stamp: str | None) -> str:
        """Return ` (for 3m20s)`; empty without a time."""
        past = words.age(stamp, self.now)
        return f" (for {past})" if past else ""

    def command(self, what: str, *more: str) -> str:
        """Return a plugin command for this run."""
        return "$ " + command("kubectl", "trainingrun", what, self.name, "--namespace", self.run.namespace, *more)

    def patch(self, what: dict[str, Any]) -> str:
        """Return a kubectl command that merges a patch into the run."""
        run = "kubectl", "patch", "trun", self.name, "--namespace", self.run.namespace
        return "$ " + command(*run, "--type", "merge", "--patch", patch_word(what))

    def operator_away(self) -> tuple[str, ...]:
        """Return what to check if the operator does not act."""
        return (
            "Check that the operator runs and that its runSelector selects this run:",
            "$ kubectl get pods --all-namespaces --selector app.kubernetes.io/name=trainingrun-operator",
        )
