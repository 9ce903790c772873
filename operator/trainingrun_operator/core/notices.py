"""What `spec.hangDetection` and `spec.idleDetection` share: each tells once of a state, and may end the run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainingrun_operator.api.limits import LimitAction

if TYPE_CHECKING:
    from collections.abc import Callable

    from trainingrun_operator.api.limits import Idle, Quiet
    from trainingrun_operator.core.observed import Observed
    from trainingrun_operator.core.rules.finding import Finding

    Rule = Callable[[Observed], Finding | None]


def present(seen: Observed, rule: Rule) -> Finding | None:
    """Return what a rule finds; None: it does not apply, or an end is decided."""
    return rule(seen) if seen.run.status.termination is None else None


def holds(seen: Observed, rule: Rule) -> bool:
    """Whether the training is in the state that a rule is about, and no end is decided."""
    found = present(seen, rule)
    return found is not None and found.fires


def warned_at(stored: Idle | Quiet | None, since: str) -> str | None:
    """Return when an Event told of the state that began at ``since``; None: none has."""
    return stored.warned_at if stored is not None and stored.since == since else None


def warning(found: Finding | None, stored: Idle | Quiet | None, since: str, field: str) -> str:
    """Return what an Event says once of a state that ends nothing; empty: nothing now. ``field``: of the spec."""
    if found is None or not found.fires or found.enforced or warned_at(stored, since) is not None:
        return ""
    return f"{found.message} It goes on: {field}.action is {LimitAction.NOTIFY.value}."
