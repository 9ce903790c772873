"""Which of its situations a run is in: not begun, training, stopping, suspended, ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainingrun_operator.api.status import Phase
from trainingrun_operator.cli.explain import before, stopped, training
from trainingrun_operator.cli.explain.facts import Explanation, Facts

if TYPE_CHECKING:
    from datetime import datetime

    from trainingrun_operator.core.facts.run import Run


def explain(run: Run, now: datetime) -> Explanation:
    """Say why a run has, or has not, stopped.

    Args:
        run: as stored; what the operator knows of it is what its status says.
        now: what ages are told by.
    """
    facts = Facts(run, now)
    stop = run.status.termination
    if stop is not None:
        if stop.phase is not Phase.DONE:
            return stopped.stopping(facts, stop)
        return stopped.suspended(facts, stop) if stop.suspends else stopped.ended(facts, stop)
    told = (
        before.unheard(facts)
        or before.asleep(facts)
        or before.refused(facts)
        or before.waiting(facts)
        or training.trains(facts)
    )
    return _outdated(facts, told)


def _outdated(facts: Facts, told: Explanation) -> Explanation:
    """A status that speaks of an older spec is told of as such."""
    seen = facts.run.status.observed_generation
    if seen is None or seen >= facts.run.generation:
        return told
    note = (
        f"The operator has not looked at the newest spec yet (generation {facts.run.generation}, it has seen {seen}):"
        " this is about the one before."
    )
    return Explanation(told.answer, (*told.because, note), told.todo)
