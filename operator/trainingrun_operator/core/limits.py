"""Limits of `spec` that contradict each other, and stop rules that cannot be told apart."""

from __future__ import annotations

from itertools import pairwise, product
from typing import TYPE_CHECKING, Final

from trainingrun_operator.api.rules import SHAPES, Action, Goal
from trainingrun_operator.core.bounds import clipped
from trainingrun_operator.core.facts.reading import LOSS
from trainingrun_operator.core.facts.run import Problem

if TYPE_CHECKING:
    from trainingrun_operator.api.rules import StopRule
    from trainingrun_operator.api.run import TrainingRunSpec
    from trainingrun_operator.core.defaults import Defaults

RESERVED: Final = frozenset(
    {
        "deleted",
        "endedBefore",
        "stop",
        "stopFile",
        "jobGone",
        "exitCode",
        "crashes",
        "neverStarted",
        "cannotStart",
        "autoStopLoss",
        "marker",
        "finalStep",
        "outputs",
        "logPatterns",
        "finalEpochStall",
        "maxDuration",
        "hang",
        "idle",
        "budget",
        "suspend",
    }
)
"""Names of the operator's own rules."""


def complaint(spec: TrainingRunSpec) -> Problem | None:
    """Return the first problem with what ends the run; None: there is none. The spec of a running run may get one: its stop rules then do not count."""
    said = _rules(spec) or _thresholds(spec) or _schedule(spec)
    return Problem("InvalidStopRules", said) if said else None


def budget(spec: TrainingRunSpec) -> Problem | None:
    """Return what is wrong with the budget; None: nothing, or there is none."""
    if spec.budget is None or spec.template.gpus:
        return None
    hours, money = spec.budget.max_gpu_hours, spec.budget.max_cost
    limits = [f"{name} is {most:g}" for name, most in (("maxGpuHours", hours), ("maxCost", money)) if most is not None]
    return Problem(
        "InvalidBudget",
        f"spec.budget.{' and '.join(limits)}, and the template requests no GPU (a limit of a resource whose name ends in /gpu), so that"
        " nothing would count: remove spec.budget, or set spec.maxDurationSeconds.",
    )


def unpriced(spec: TrainingRunSpec, defaults: Defaults) -> Problem | None:
    """Return why no cost can count here, whatever the pools cost; None: it can, or the run has no limit of it."""
    if spec.budget is None or spec.budget.max_cost is None or defaults.release_nodes:
        return None
    return Problem(
        "InvalidBudget",
        f"spec.budget.maxCost is {spec.budget.max_cost:g}, and the operator of this namespace reads no GPUNodePools (nodeRelease.enabled of its chart),"
        " which have the prices, so that nothing would count: remove maxCost, set spec.budget.maxGpuHours, or ask the operator's administrator.",
        permanent=False,
    )


def _rules(spec: TrainingRunSpec) -> str:
    """Return a problem of one rule, or of two with one name."""
    names: dict[str, int] = {}
    for number, rule in enumerate(spec.stop_rules):
        where = f"spec.stopRules[{number}]"
        if len(rule.shapes) != 1:
            has = " and ".join(rule.shapes) or "none of them"
            return f"{where} needs exactly one of {', '.join(SHAPES)}, and has {has}."
        if rule.called in RESERVED:
            return f"{where}.name is {rule.called!r}, the name of one of the operator's own rules: choose another."
        if rule.called in names:
            return (
                f"{where} is called {rule.called!r}, as spec.stopRules[{names[rule.called]}] is: give it another name."
            )
        names[rule.called] = number
    return ""


def _thresholds(spec: TrainingRunSpec) -> str:
    """Return two thresholds of one metric of which one holds for every value."""
    enforced = [one for one in spec.stop_rules if one.action is Action.STOP and one.threshold is not None]
    below = [_limit(one) for one in enforced if one.goal is Goal.MINIMIZE]
    above = [_limit(one) for one in enforced if one.goal is Goal.MAXIMIZE]
    if spec.auto_stop_loss is not None and spec.auto_stop_loss >= 0:
        below.append(("spec.autoStopLoss", LOSS, spec.auto_stop_loss))
    below.extend(("spec.autoStopLossSchedule", LOSS, one.loss) for one in spec.auto_stop_loss_schedule)
    for (low, metric, least), (high, of, most) in product(below, above):
        if metric == of and least >= most:
            return (
                f"{low} ends the run if {metric} is below {least:g}, and {high} if it is above {most:g}: together they hold for every value. Correct one of"
                " them; goal says whether smaller or larger values are better."
            )
    return ""


def _limit(rule: StopRule) -> tuple[str, str, float]:
    value = rule.threshold.value if rule.threshold is not None else 0.0
    return f"the stop rule {clipped(rule.called, 64)!r}", rule.metric, value


def _schedule(spec: TrainingRunSpec) -> str:
    """Return what is wrong with the schedule of the loss threshold: it falls as the steps grow."""
    schedule, field = spec.auto_stop_loss_schedule, "spec.autoStopLossSchedule"
    if not schedule:
        return ""
    for number, (one, after) in enumerate(pairwise(schedule), 1):
        if after.step <= one.step:
            return f"{field}[{number}].step is {after.step}, and the one before is {one.step}: steps must grow."
        if after.loss >= one.loss:
            return f"{field}[{number}].loss is {after.loss:g}, and the one before is {one.loss:g}: losses must fall as the steps grow."
    limit = spec.auto_stop_loss
    if limit is not None and limit < 0:
        return f"spec.autoStopLoss is {limit:g}, which switches the threshold off, and {field} sets one: remove one of them."
    if limit is not None and limit <= schedule[0].loss:
        return (
            f"spec.autoStopLoss is {limit:g} and applies before step {schedule[0].step}, from which {field} has {schedule[0].loss:g}: the threshold must"
            " fall. Remove autoStopLoss, or make it larger."
        )
    return ""
