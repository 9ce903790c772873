"""Explain why a run that trains has not stopped: the rules' findings in its status."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainingrun_operator.cli import words
from trainingrun_operator.cli.explain import checkpoint
from trainingrun_operator.cli.explain.facts import Explanation
from trainingrun_operator.core import metric_source
from trainingrun_operator.core.facts.reading import AUTO
from trainingrun_operator.core.rules.loss import SHADOW

if TYPE_CHECKING:
    from trainingrun_operator.cli.explain.facts import Facts

MEASURED = "MetricsAvailable"
"""The condition that a loss is read."""
NOTHING_FOUND = "The status has no findings of the rules: an older operator wrote it."


def trains(facts: Facts) -> Explanation:
    """Explain a run that trains, or whose training has crashed and is being replaced."""
    found = _findings(facts) or (NOTHING_FOUND,)
    budget = facts.run.spec.budget
    # The finding of a limit of the cost says it.
    cost = words.cost(facts.run.status) if budget is None or budget.max_cost is None else ()
    return Explanation(
        f"{facts.name} has not ended: no rule ends it yet.",
        (*found, *_advanced(facts), *_source(facts), *_would_have(facts), *cost, checkpoint.of_a_training(facts)),
        (*_last_log(facts), *_enforce(facts), "To end it by hand:", facts.command("stop")),
    )


def _findings(facts: Facts) -> tuple[str, ...]:
    """Return what each rule has found. Of those in `spec.stopRules`, several may look at one value: they are named."""
    own = {rule.called for rule in facts.run.spec.stop_rules}
    return tuple(f"{one.rule}: {one.message}" if one.rule in own else one.message for one in facts.run.status.findings)


def _advanced(facts: Facts) -> tuple[str, ...]:
    """Return when the newest step was observed."""
    progress = facts.run.status.progress
    if progress is None or progress.step is None or not progress.last_observation_time:
        return ()
    return (f"Step {progress.step} was reached{facts.ago(progress.last_observation_time)}.",)


def _source(facts: Facts) -> tuple[str, ...]:
    """Return which source `Auto` has taken, and why; or from where a run has no loss whose spec names no source."""
    run = facts.run
    force, unnamed, measured = run.status.effective, run.spec.metrics.source is None, run.status.condition(MEASURED)
    if force is None:
        return ()
    source = metric_source.of(run)
    if source == AUTO and metric_source.has_choice(force):
        return (f"Auto reads loss and step from {force.metrics_source}: {force.metrics_source_note}",)
    if source == AUTO and not unnamed:
        return ("spec.metrics.source is Auto, and no source is taken yet.",)
    if not unnamed or (measured is not None and measured.status == "True"):
        return ()
    if source == AUTO:
        return ("spec.metrics.source is not set, and no source is taken yet.",)
    page = metric_source.names_page(run.spec.metrics)
    why = "the spec says where on its page they are" if page else "the run keeps the source that was recorded first"
    return (f"spec.metrics.source is not set: loss and step are read from {source} alone, because {why}.",)


def _would_have(facts: Facts) -> tuple[str, ...]:
    """Return when rules that only report would have ended the run."""
    told = []
    for one in facts.run.status.shadow:
        step = f" at step {one.step}" if one.step is not None else ""
        told.append(
            f"{one.rule} only reports: it would have ended the run{step}{facts.ago(one.would_stop_at)}, at {one.value}.{words.saved_by(one)}"
        )
    return tuple(told)


def _last_log(facts: Facts) -> tuple[str, ...]:
    """Return how to read the end of a crashed training's log."""
    pods = facts.run.status.pods
    crashed = bool(pods) and pods[-1].phase == "Exited"
    return ("To see the end of the training's log:", facts.command("logs", "--tail", "20")) if crashed else ()


def _enforce(facts: Facts) -> tuple[str, ...]:
    """Return how to enforce a threshold that only reports."""
    force = facts.run.status.effective
    if force is None or force.auto_stop_action != SHADOW or force.auto_stop_loss is None:
        return ()
    command = facts.patch({"spec": {"autoStopLoss": force.auto_stop_loss}})
    return (f"To end it below {force.auto_stop_loss:g}:", command)
