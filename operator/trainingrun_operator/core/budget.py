"""How much of `spec.budget` a training has used, and what is to be said about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from trainingrun_operator.api.limits import LimitAction
from trainingrun_operator.core import cost, duration

if TYPE_CHECKING:
    from trainingrun_operator.api.status import Trained
    from trainingrun_operator.core.observed import Observed

Stage = Literal["", "Unknown", "Near", "Spent"]

UNKNOWN: Final = "Unknown"
NEAR: Final = "Near"
SPENT: Final = "Spent"


@dataclass(frozen=True)
class Use:
    """One limit of the budget and what is used of it."""

    field: str
    """Of ``spec.budget``."""
    what: str
    """Name of the amount in the evidence."""
    verb: str
    unit: str
    """GPU hours or a currency; empty: of a cost that has no currency yet."""
    used: float
    limit: float
    reserve: float
    """Of the limit, what is kept for saving."""
    at_least: bool = False
    """Whether more is used than is known."""

    @property
    def value(self) -> str:
        """What is used, as evidence of `what`."""
        return cost.money(self.used) if self.what == "gpuHours" else f"{cost.money(self.used)} {self.unit}"

    @property
    def kept(self) -> str:
        """What is kept for saving, as text."""
        return f"{cost.money(self.reserve)} {self.unit}".rstrip()

    def __str__(self) -> str:
        least = "at least " if self.at_least else ""
        of = f"{self.limit:g} {self.unit}".rstrip()
        return f"{self.verb} {least}{cost.money(self.used)} of {of} (budget.{self.field})"


def uses(seen: Observed) -> tuple[Use, ...]:
    """Return the limits of the budget with what is used of each. Of a cost that is not known, what is known of it."""
    limit = seen.run.spec.budget
    if limit is None:
        return ()
    found, stops = [], limit.on_exhausted is LimitAction.STOP
    if limit.max_gpu_hours is not None:
        kept = _reserve(seen, limit.max_gpu_hours, duration.gpus(seen)) if stops else 0
        found.append(
            Use("maxGpuHours", "gpuHours", "used", "GPU hours", duration.gpu_hours(seen), limit.max_gpu_hours, kept)
        )
    if limit.max_cost is not None:
        known = seen.cost
        kept = _reserve(seen, limit.max_cost, known.per_hour if known is not None else 0) if stops else 0
        least = cost.unpriced_hours(seen, known) > 0
        amount, unit = (known.amount, known.currency) if known is not None else (0.0, "")
        found.append(Use("maxCost", "cost", "cost", unit, amount, limit.max_cost, kept, at_least=least))
    return tuple(found)


def _reserve(seen: Observed, limit: float, per_hour: float) -> float:
    """Return how much of a limit is kept for saving, if an hour of training uses `per_hour` of it."""
    return duration.reserve(seen, limit * 3600 / per_hour) * per_hour / 3600 if per_hour else 0


def not_known(seen: Observed) -> str:
    """Return what of the cost is not known, as a sentence; empty: nothing, or the cost has no limit."""
    limit = seen.run.spec.budget
    if limit is None or limit.max_cost is None:
        return ""
    now, past = seen.rate.unknown, cost.unpriced_hours(seen, seen.cost)
    if not now and not past:
        return ""
    what = f"The cost of {past:.2f} GPU hours is not known" if past else "The cost of the training is not known"
    return f"{what} and does not count{f': {now}' if now else ''}."


def stage(seen: Observed) -> Stage:
    """Return how much is used; empty: less than what is warned of, or there is no budget."""
    limit, found = seen.run.spec.budget, uses(seen)
    if limit is None:
        return ""
    if any(one.used >= one.limit for one in found):
        return SPENT
    if any(one.used >= one.limit * limit.warn_at_percent / 100 for one in found):
        return NEAR
    return UNKNOWN if not_known(seen) else ""


def render(seen: Observed) -> Trained | None:
    """Return ``status.trained``, with what is used of the budget. One that was raised warns once more."""
    now = duration.render(seen)
    if now is None:
        return None
    used = None if seen.run.spec.budget is None else min(cost.HOURS_MAX, round(duration.gpu_hours(seen), 3))
    spent = cost.projected(seen, seen.cost)
    return now.model_copy(update={"gpu_hours": used, "cost": spent, "budget_told": stage(seen)})


def news(seen: Observed) -> Stage:
    """Return what an Event is to say now: each of them once."""
    before, now = seen.run.status.trained, stage(seen)
    return now if now != (before.budget_told if before is not None else "") else ""
