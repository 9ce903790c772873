"""The rules of `spec.stopRules`: thresholds, plateaus, rises and values that are not finite, of any value that the training shows.

What is counted for each is a `Watch`; a rule only compares it with its limits.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final

from trainingrun_operator.api import endings
from trainingrun_operator.api.rules import STOP_RULES_MAX, Action, Goal
from trainingrun_operator.api.status import Evidence
from trainingrun_operator.core import limits, moves
from trainingrun_operator.core.bounds import WORD_MAX, clipped
from trainingrun_operator.core.facts.pod import Training
from trainingrun_operator.core.rules import loss
from trainingrun_operator.core.rules.finding import Finding
from trainingrun_operator.core.track import NEVER_ADVANCED, STEP_FELL
from trainingrun_operator.core.watch import rise, signature
from trainingrun_operator.core.words import shown

if TYPE_CHECKING:
    from trainingrun_operator.api.endings import Ending
    from trainingrun_operator.api.rules import StopRule
    from trainingrun_operator.core.facts.reading import Failure
    from trainingrun_operator.core.observed import Observed
    from trainingrun_operator.core.watch import Watch

SHADOW_NOTE: Final = " This rule only reports: its action is Shadow."


def judged(number: int, seen: Observed) -> Finding | None:
    """Return the finding of one stop rule. Does not apply if the spec has fewer."""
    rules = seen.run.spec.stop_rules
    if number >= len(rules):
        return None
    rule = rules[number]
    found = _refused(seen, rule) or _unread(seen, rule) or _compared(seen, rule)
    if rule.action is Action.SHADOW:
        return replace(found, message=f"{found.message}{SHADOW_NOTE}", enforced=False)
    return found


RULES: Final = tuple(partial(judged, number) for number in range(STOP_RULES_MAX))
"""One for each place in `spec.stopRules`."""


def unseen(seen: Observed) -> tuple[tuple[StopRule, Failure], ...]:
    """Return the rules whose metric no reading of the pod has had, although the metrics were read, and why."""
    watches = ((rule, seen.watches.get(rule.called)) for rule in seen.run.spec.stop_rules)
    return tuple(
        (rule, watch.trouble)
        for rule, watch in watches
        if watch is not None and watch.at is None and watch.trouble is not None
    )


def _refused(seen: Observed, rule: StopRule) -> Finding | None:
    """The rules of a running run were changed to some that contradict each other: none of them counts."""
    problem = limits.complaint(seen.run.spec)
    return None if problem is None else Finding(rule.called, problem.reason, problem.message)


def _unread(seen: Observed, rule: StopRule) -> Finding | None:
    """The metric is not read now."""
    if all(pod.training is not Training.RUNNING for pod in seen.live_pods):
        return Finding(rule.called, "NotRunning", f"No {rule.metric} is read: no training is running.")
    watch, oddity = seen.watches.get(rule.called), seen.track.oddity
    # What was counted for a rule before it was changed does not count for it.
    if watch is None or watch.of != signature(rule) or (watch.at is None and watch.trouble is None):
        message = (
            f"No {rule.metric} was read yet."
            if oddity is None
            else f"No {rule.metric} is read ({oddity.reason}): {oddity.message}"
        )
        return Finding(rule.called, loss.NOT_READ_YET if oddity is None else oddity.reason, message)
    if watch.trouble is not None:
        return Finding(rule.called, watch.trouble.reason, watch.trouble.message)
    if not seen.track.observations and watch.newest is None:
        return Finding(rule.called, NEVER_ADVANCED, f"No {rule.metric} counts yet: the step has not advanced.")
    if seen.track.below:
        message = f"The step is below {seen.track.step}, the newest one. No {rule.metric} counts while that may be another rank, or a new stage of the training."
        return Finding(rule.called, STEP_FELL, message)
    stale, quiet = rule.stale_after_seconds or seen.defaults.stale_after_seconds, seen.now - (watch.at or 0)
    if watch.at is None or quiet > stale:
        return Finding(
            rule.called,
            "Stale",
            f"No {rule.metric} was read for {quiet:.0f} seconds: the rule acts on values of the last {stale:g} s.",
        )
    return None


def _compared(seen: Observed, rule: StopRule) -> Finding:
    """Compare what was counted with the limits of the rule."""
    watch = seen.watches[rule.called]
    if watch.newest is None:
        return Finding(
            rule.called, "NoObservation", f"No {rule.metric} counts yet. The first value seen in a pod does not."
        )
    ending, said, missing = _shape(rule, watch)
    at = f"{rule.metric} {shown(watch.newest.value)} at step {watch.newest.step}"
    if missing:
        return Finding(rule.called, "NotYet", f"{at}{said}: {missing}.")
    if (rule.plateau is not None or rule.rising is not None) and (short := _within_noise(rule, watch)) is not None:
        reason, why = short
        return Finding(rule.called, reason, f"{at}{said}. {why}")
    message = f"{at}{said}."
    waits = ending is not endings.AUTO_NON_FINITE and rule.action is Action.STOP
    if waits and not loss.has_checkpoint(seen):
        return Finding(rule.called, "NoCheckpoint", f"{message} The stop waits for the first complete checkpoint.")
    evidence = tuple(Evidence(what=rule.metric, value=shown(one.value), step=one.step) for one in watch.recent)
    return Finding(
        rule.called,
        ending.reason.removeprefix("Auto"),
        message,
        ending,
        actor=rule.called,
        evidence=_with_best(rule, watch, evidence),
    )


def _within_noise(rule: StopRule, watch: Watch) -> tuple[str, str] | None:
    """Return why a plateau or a rise does not count yet, by what the value usually moves between two observations."""
    usual = moves.usual(watch.moves)
    if not watch.improved:
        start = "the first one" if watch.start is None else shown(watch.start)
        why = f"No value was better than {start} by more than {moves.CLEAR} times its usual move ({shown(usual)}): a training that has not begun to improve is not over."
        return "NeverImproved", why
    chance = moves.without_direction(watch.moves, watch.in_a_row)
    grown = rise(rule, watch)
    if rule.rising is None or grown > chance:
        return None
    why = f"They are worse by {shown(grown)} together; without a direction, so many of its usual moves ({shown(usual)}) lead {shown(chance)} away."
    return "WithinNoise", why


def _with_best(rule: StopRule, watch: Watch, evidence: tuple[Evidence, ...]) -> tuple[Evidence, ...]:
    """Put the best value before the newest ones, where it decides; of values that are not finite, the last one that was."""
    if watch.best is None or rule.threshold is not None:
        return evidence
    which = "best" if rule.non_finite is None else "last finite"
    return (
        Evidence(what=clipped(f"{which} {rule.metric}", WORD_MAX), value=shown(watch.best.value), step=watch.best.step),
        *evidence,
    )


def _shape(rule: StopRule, watch: Watch) -> tuple[Ending, str, str]:
    """Return how the rule ends the run, what was counted in words, and what is missing; empty: the rule holds."""
    extra = rule.needed - 1
    if rule.threshold is not None:
        side = "below" if rule.goal is Goal.MINIMIZE else "above"
        needed = rule.needed
        said = f", {side} {shown(rule.threshold.value)} in {watch.in_a_row} of {needed} observations in a row"
        return endings.AUTO_THRESHOLD, said, _missing(watch.in_a_row, needed, "observations in a row")
    if rule.plateau is not None:
        needed = rule.plateau.patience + extra
        said = f", no better than {_best(watch)} by more than {rule.plateau.min_delta:g} in {watch.without_improvement} observations (plateau.patience {rule.plateau.patience})"
        return (
            endings.AUTO_PLATEAU,
            said,
            _missing(watch.without_improvement, needed, "observations without an improvement"),
        )
    if rule.rising is not None:
        needed = rule.rising.observations + extra
        said = f", worse than the one before in {watch.in_a_row} observations in a row (rising.observations {rule.rising.observations}); the best was {_best(watch)}"
        return endings.AUTO_RISING, said, _missing(watch.in_a_row, needed, "observations in a row")
    needed = rule.needed
    said = (
        f", not finite in {watch.in_a_row} of {needed} observations in a row; the last finite one was {_best(watch)}"
        if watch.in_a_row
        else ", finite"
    )
    return endings.AUTO_NON_FINITE, said, _missing(watch.in_a_row, needed, "observations in a row that are not finite")


def _best(watch: Watch) -> str:
    return "none" if watch.best is None else f"{shown(watch.best.value)} at step {watch.best.step}"


def _missing(counted: int, needed: int, what: str) -> str:
    return "" if counted >= needed else f"{needed} {what} end the run"
