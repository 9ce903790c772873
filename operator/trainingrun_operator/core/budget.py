"""How much of `spec.budget` a training has used, and what is to be said about it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

from trainingrun_operator.core import duration

if TYPE_CHECKING:
    from trainingrun_operator.api.status import Trained
    from trainingrun_operator.core.observed import Observed

NEAR: Final = "Near"
SPENT: Final = "Spent"
HOURS_MAX: Final = 1e9
"""Bound of ``status.trained.gpuHours`` in the schema."""


def hours(seen: Observed) -> float:
    """GPU hours that the training has used."""
    return duration.seconds(seen) * duration.gpus(seen) / 3600


def reserve_hours(seen: Observed) -> float:
    """GPU hours before the end of the budget that are kept for saving; 0 without a budget."""
    limit, gpus = seen.run.spec.budget, duration.gpus(seen)
    if limit is None or not gpus:
        return 0
    return duration.reserve(seen, limit.max_gpu_hours * 3600 / gpus) * gpus / 3600


def stage(seen: Observed) -> Literal["", "Near", "Spent"]:
    """Return how much is used; empty: less than what is warned of, or there is no budget."""
    limit = seen.run.spec.budget
    if limit is None:
        return ""
    used = hours(seen)
    if used >= limit.max_gpu_hours:
        return SPENT
    return NEAR if used >= limit.max_gpu_hours * limit.warn_at_percent / 100 else ""


def render(seen: Observed) -> Trained | None:
    """Return ``status.trained``, with what is used of the budget. One that was raised warns once more."""
    now = duration.render(seen)
    if now is None:
        return None
    used = None if seen.run.spec.budget is None else min(HOURS_MAX, round(hours(seen), 3))
    return now.model_copy(update={"gpu_hours": used, "budget_told": stage(seen)})


def news(seen: Observed) -> Literal["", "Near", "Spent"]:
    """Return what an Event is to say now: each of the two once."""
    before, now = seen.run.status.trained, stage(seen)
    return now if now != (before.budget_told if before is not None else "") else ""
