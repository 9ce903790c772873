"""Why a run that trains has not stopped: what the rules have found, as the status keeps it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainingrun_operator.cli.explain import checkpoint
from trainingrun_operator.cli.explain.facts import Explanation
from trainingrun_operator.core.rules.loss import SHADOW

if TYPE_CHECKING:
    from trainingrun_operator.cli.explain.facts import Facts

NOTHING_FOUND = "Its status does not say what the rules have found: an older operator wrote it."


def trains(facts: Facts) -> Explanation:
    """It trains, or its training has just crashed and is looked after."""
    found = tuple(one.message for one in facts.run.status.findings) or (NOTHING_FOUND,)
    return Explanation(
        f"{facts.name} has not ended: no reason to end it holds yet.",
        (*found, *_advanced(facts), *_would_have(facts), checkpoint.of_a_training(facts)),
        (*_last_words(facts), *_enforce(facts), "To end it by hand:", facts.command("stop")),
    )


def _advanced(facts: Facts) -> tuple[str, ...]:
    """When its newest step was seen."""
    progress = facts.run.status.progress
    if progress is None or progress.step is None or not progress.last_observation_time:
        return ()
    return (f"Step {progress.step} was reached{facts.ago(progress.last_observation_time)}.",)


def _would_have(facts: Facts) -> tuple[str, ...]:
    """What rules that are only watched would have done."""
    told = []
    for one in facts.run.status.shadow:
        step = f" at step {one.step}" if one.step is not None else ""
        told.append(
            f"{one.rule} is only watched; it would have ended the run{step}{facts.ago(one.would_stop_at)}, at {one.value}."
        )
    return tuple(told)


def _last_words(facts: Facts) -> tuple[str, ...]:
    """Where to read why it crashed."""
    pods = facts.run.status.pods
    crashed = bool(pods) and pods[-1].phase == "Exited"
    return ("What its training said at last:", facts.command("logs", "--tail 20")) if crashed else ()


def _enforce(facts: Facts) -> tuple[str, ...]:
    """How a threshold that is only watched is enforced."""
    force = facts.run.status.effective
    if force is None or force.auto_stop_action != SHADOW or force.auto_stop_loss is None:
        return ()
    command = facts.patch(f'{{"spec":{{"autoStopLoss":{force.auto_stop_loss:g}}}}}')
    return (f"To have it end below {force.auto_stop_loss:g}:", command)
