"""Choose the explanation of a run's state: not started, training, stopping, suspended or ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainingrun_operator.api.status import Phase
from trainingrun_operator.cli.explain import before, stopped, training
from trainingrun_operator.cli.explain.facts import Explanation, Facts
from trainingrun_operator.core import past

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
            return _with_past(facts, stopped.stopping(facts, stop))
        return _with_past(facts, stopped.suspended(facts, stop) if stop.suspends else stopped.ended(facts, stop))
    told = before.unheard(facts) or before.asleep(facts) or before.refused(facts)
    return _outdated(facts, told or _with_past(facts, before.waiting(facts) or training.trains(facts)))


def _with_past(facts: Facts, told: Explanation) -> Explanation:
    """Add what the training started from, and what was lost before."""
    losses = past.earlier_losses(facts.run)
    more = f" It was not the first: {len(losses) - 1} more in status.history." if losses[1:] else ""
    lost = (f"Data was lost before{facts.ago(losses[-1].at)}: {losses[-1].data_loss}{more}",) if losses else ()
    return Explanation(told.answer, (*told.because, *past.beginning(facts.run), *lost), told.todo)


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
