"""The rules that end a run, in order; the first that fires decides. People come first, then exit codes, then metrics."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from trainingrun_operator.api.status import FindingStatus, Shadow
from trainingrun_operator.core import cost, duration
from trainingrun_operator.core.bounds import TEXT_MAX, WORD_MAX, clipped
from trainingrun_operator.core.observed import Observed
from trainingrun_operator.core.rules import (
    backup,
    completion,
    exits,
    hang,
    idle,
    limit,
    loss,
    people,
    stop_rules,
    workload,
)
from trainingrun_operator.core.rules.finding import Finding

if TYPE_CHECKING:
    from collections.abc import Sequence

Rule = Callable[[Observed], Finding | None]
"""Pure and total. None: the rule does not apply in this situation."""

RULES: Final[tuple[Rule, ...]] = (
    people.deleted,
    backup.ended_before,
    people.user_stop,
    people.stop_file,
    workload.job_gone,
    exits.exit_code,
    exits.crashed,
    workload.never_started,
    workload.cannot_start,
    loss.low_loss,
    *stop_rules.RULES,
    completion.marker,
    completion.final_step,
    completion.outputs,
    completion.log_line,
    completion.final_epoch_stall,
    hang.hang,
    idle.idle,
    limit.max_duration,
    limit.budgeted,
)
AT_REST: Final[tuple[Rule, ...]] = (people.deleted, people.user_stop, workload.job_gone)
"""The rules for a suspended run, which does not train."""

FINDINGS_MAX: Final = 32
"""Bound of ``status.findings`` in the schema."""
_SHADOWS_MAX: Final = 16
"""Bound of ``status.shadow`` in the schema."""


def why_end(seen: Observed, rules: Sequence[Rule] = RULES) -> Finding | None:
    """Return the first finding that ends the run; None: the run continues."""
    return next((found for rule in rules if (found := rule(seen)) and found.fires and found.enforced), None)


def findings(seen: Observed, rules: Sequence[Rule] = RULES) -> tuple[Finding, ...]:
    """Return the findings of all rules that apply, in order; none once a stop is decided."""
    if seen.run.status.termination is not None:
        return ()
    return tuple(found for rule in rules if (found := rule(seen)) is not None)


def stored(found: Sequence[Finding]) -> tuple[FindingStatus, ...]:
    """Return the findings for ``status.findings``, cut to the schema's bounds."""
    return tuple(
        FindingStatus(
            rule=clipped(one.rule, WORD_MAX),
            fires=one.fires,
            reason=clipped(one.reason, WORD_MAX),
            message=clipped(one.message, TEXT_MAX),
        )
        for one in found[:FINDINGS_MAX]
    )


def shadows(seen: Observed, found: Sequence[Finding]) -> tuple[Shadow, ...]:
    """Return when each rule that only reports would first have ended the run."""
    known = seen.run.status.shadow
    recorded = {one.rule for one in known}
    new = (one for one in found if one.fires and not one.enforced and one.rule not in recorded)
    return (*(_grown(seen, one) for one in known), *(_shadow(seen, one) for one in new))[:_SHADOWS_MAX]


def _grown(seen: Observed, one: Shadow) -> Shadow:
    """Return a recorded rule with what it would have saved by now."""
    if one.trained_seconds is None:
        return one
    saved = {"saved_gpu_hours": duration.saved_gpu_hours(seen, one.trained_seconds)}
    return one.model_copy(update={**saved, "saved_cost": cost.since(seen, one.cost)})


def _shadow(seen: Observed, one: Finding) -> Shadow:
    last, known = one.evidence[-1] if one.evidence else None, seen.cost
    return Shadow(
        rule=clipped(one.rule, WORD_MAX),
        would_stop_at=seen.wall,
        step=last.step if last else None,
        value=clipped(last.value, WORD_MAX) if last else "",
        trained_seconds=duration.seconds(seen),
        saved_gpu_hours=0,
        cost=known.amount if known is not None else None,
    )
