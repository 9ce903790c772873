"""Choose the explanation of a run's state: not started, training, stopping, suspended or ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainingrun_operator.api.status import Phase
from trainingrun_operator.cli.explain import before, stopped, training
from trainingrun_operator.cli.explain.facts import Explanation, Facts

if TYPE_CHECKING:
    from datetime import datetime

    from trainingrun_operator.core.facts.run import Run


def explain(run: Run, now: datetime) -> Explanation:
    """Explain why a run has, or has not, stopped.

    Args:
        run: the stored run with its status.
        now: the time from which ages are computed.
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
    """Add a note if the status is of an older spec."""
    seen = facts.run.status.observed_generation
    if seen is None or seen >= facts.run.generation:
        return told
    note = (
        f"This is about generation {seen} of the spec: the operator has not processed the newest"
        f" (generation {facts.run.generation}) yet."
    )
    return Explanation(told.answer, (*told.because, note), told.todo)
