"""The limits of what a run may use: `spec.maxDurationSeconds` and `spec.budget`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from trainingrun_operator.api import endings
from trainingrun_operator.api.limits import LimitAction
from trainingrun_operator.api.status import Evidence
from trainingrun_operator.core import budget, duration
from trainingrun_operator.core.cost import money
from trainingrun_operator.core.rules.finding import Finding

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trainingrun_operator.core.observed import Observed

RULE: Final = "maxDuration"
BUDGET: Final = "budget"


def max_duration(seen: Observed) -> Finding | None:
    """The training has run for as long as it may. Does not apply without a limit, and before the workload exists."""
    limit, end = seen.run.spec.max_duration_seconds, duration.ends_after(seen)
    if limit is None or end is None or seen.workload is None:
        return None
    trained = duration.seconds(seen)
    reserve = f"{limit - end} s before, so that it can save" if end < limit else "then"
    if trained < end:
        reason = "NearLimit" if duration.is_near(seen) else "WithinLimit"
        message = f"The training has run for {trained} of {limit} s (maxDurationSeconds). The run ends {reserve}."
        return Finding(RULE, reason, message)
    return Finding(
        RULE,
        "LimitReached",
        f"The training has run for {trained} s; the limit is {limit} s (maxDurationSeconds), and the run ends {reserve}.",
        endings.MAX_DURATION,
        actor=RULE,
        evidence=(Evidence(what="trainedSeconds", value=str(trained), step=seen.track.step),),
    )


def warning(seen: Observed) -> str:
    """Return what an Event says once before the limit; empty: nothing now."""
    if not duration.warns(seen):
        return ""
    end = duration.ends_after(seen) or 0
    left = max(0, end - duration.seconds(seen))
    return f"The run ends in {left} s of training: spec.maxDurationSeconds is {seen.run.spec.max_duration_seconds}. Raise it to let the training go on."


def budgeted(seen: Observed) -> Finding | None:
    """The training has used its budget. Does not apply without one, and before the workload exists."""
    limit, uses = seen.run.spec.budget, budget.uses(seen)
    if limit is None or not uses or seen.workload is None:
        return None
    unknown = budget.not_known(seen)
    spent = next((one for one in uses if one.used >= one.limit - one.reserve), None)
    if spent is None:
        stage = budget.stage(seen)
        reason = "NearBudget" if stage == budget.NEAR else "CostUnknown" if unknown else "WithinBudget"
        kept = " or ".join(one.kept for one in uses if one.reserve)
        end = f" The run ends {kept} before, so that it can save." if kept else ""
        return Finding(BUDGET, reason, f"{_used(uses)}.{end}{f' {unknown}' if unknown else ''}")
    kept = f", {money(spent.reserve)} of which are kept to save" if spent.reserve else ""
    return Finding(
        BUDGET,
        "BudgetExhausted",
        f"The training has {spent}{kept}.",
        endings.BUDGET_EXHAUSTED,
        actor=BUDGET,
        evidence=(Evidence(what=spent.what, value=spent.value, step=seen.track.step),),
        enforced=limit.on_exhausted is LimitAction.STOP,
    )


def budget_warning(seen: Observed) -> tuple[str, str]:
    """Return reason and text of the Event about the budget; empty: nothing now."""
    limit, news = seen.run.spec.budget, budget.news(seen)
    if limit is None or not news:
        return "", ""
    used = f"{_used(budget.uses(seen))}."
    if news == budget.UNKNOWN:
        return "BudgetUnknown", f"{used} {budget.not_known(seen)}"
    if limit.on_exhausted is LimitAction.STOP:
        return "BudgetNear", f"{used} The run ends when a limit is used. Raise it to let the training go on."
    return f"Budget{news}", f"{used} It goes on: onExhausted is Notify."


def _used(uses: Sequence[budget.Use]) -> str:
    return f"The training has {' and '.join(map(str, uses))}"
