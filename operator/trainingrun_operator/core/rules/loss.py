"""The rule of the loss threshold, enforced or only reported."""

from __future__ import annotations

from dataclasses import replace
from itertools import takewhile
from typing import TYPE_CHECKING, Final

from trainingrun_operator.api import endings
from trainingrun_operator.api.run import CheckpointMode
from trainingrun_operator.api.status import Effective, Evidence
from trainingrun_operator.core.facts.pod import Training
from trainingrun_operator.core.facts.reading import Failure
from trainingrun_operator.core.rules.finding import Finding

if TYPE_CHECKING:
    from trainingrun_operator.api.run import TrainingRunSpec
    from trainingrun_operator.core.defaults import Defaults
    from trainingrun_operator.core.observed import Observed
    from trainingrun_operator.core.track import Observation

LOW_OBSERVATIONS: Final = 2
"""Successive observations that must be below the threshold, so that one lucky batch does not end the run."""

STOP, SHADOW, OFF = "Stop", "Shadow", "Off"
RULE: Final = "autoStopLoss"
NOT_READ_YET: Final = "NotReadYet"
"""Reason of `unread` before the first reading, which is not an error."""


def effective(spec: TrainingRunSpec, pinned: Effective | None, defaults: Defaults) -> Effective:
    """Return the values in force: the spec's, else the installation's defaults when the run began."""
    kept = {"node_pool": pinned.node_pool if pinned else "", "metrics_source": spec.metrics.source}
    if spec.auto_stop_loss is not None:
        off = spec.auto_stop_loss < 0
        return Effective(
            auto_stop_loss=None if off else spec.auto_stop_loss, auto_stop_action=OFF if off else STOP, **kept
        )
    if pinned is not None and pinned.auto_stop_action == defaults.auto_stop_action:
        return pinned.model_copy(update=kept)
    return Effective(auto_stop_loss=defaults.auto_stop_loss, auto_stop_action=defaults.auto_stop_action, **kept)


def in_force(seen: Observed) -> Effective:
    """Return the values in force for a run; once it ends, those from then."""
    if seen.run.status.termination is not None and seen.run.status.effective is not None:
        return seen.run.status.effective
    return effective(seen.run.spec, seen.run.status.effective, seen.defaults)


def low_loss(seen: Observed) -> Finding:
    """The loss is below the threshold in enough observations; an enforced stop also waits for the first complete checkpoint."""
    force = in_force(seen)
    found = _judged(seen, force)
    shadow = " This rule only reports: spec.autoStopLoss is not set." if force.auto_stop_action == SHADOW else ""
    return replace(found, message=f"{found.message}{shadow}")


def _judged(seen: Observed, force: Effective) -> Finding:
    low = _low(seen)
    if not low:
        return _not_low(seen, force)
    below = f"Loss {shown(low[-1].loss)} < {shown(force.auto_stop_loss)} at step {low[-1].step}."
    enforced = force.auto_stop_action == STOP
    if enforced and not _has_checkpoint(seen):
        message = f"{below} The stop waits for the first complete checkpoint."
        return Finding(RULE, "NoCheckpoint", message)
    return Finding(
        RULE,
        "LowLoss",
        below,
        endings.AUTO_LOW_LOSS,
        actor="autoStopLoss",
        evidence=tuple(Evidence(what="loss", value=shown(o.loss), step=o.step) for o in low),
        enforced=enforced,
    )


def _not_low(seen: Observed, force: Effective) -> Finding:
    """Return why the loss does not count as low."""
    threshold, newest = force.auto_stop_loss, seen.track.newest
    if threshold is None:
        return Finding(RULE, "Off", "The rule is off: autoStopLoss is negative.")
    if all(pod.training is not Training.RUNNING for pod in seen.live_pods):
        return Finding(RULE, "NotRunning", "No loss is read: no training is running.")
    if (trouble := unread(seen)) is not None:
        return Finding(RULE, trouble.reason, f"No loss is read ({trouble.reason}): {trouble.message}")
    if newest is None or newest.loss is None:
        message = "No loss counts yet: the step has not advanced with a finite loss since the operator started reading."
        return Finding(RULE, "NoObservation", message)
    at = f"Loss {shown(newest.loss)} at step {newest.step}"
    if newest.loss >= threshold:
        best = seen.track.best_loss
        lowest = f"; the lowest so far was {shown(best)}" if best is not None and best < newest.loss else ""
        message = f"{at} is not below {shown(threshold)} (autoStopLoss){lowest}. {LOW_OBSERVATIONS} observations in a row below it end the run."
        return Finding(RULE, "NotBelow", message)
    low = takewhile(lambda one: one.loss is not None and one.loss < threshold, reversed(seen.track.observations))
    message = f"{at} is below {shown(threshold)} (autoStopLoss), in {sum(1 for _ in low)} of {LOW_OBSERVATIONS} observations in a row."
    return Finding(RULE, "TooFewObservations", message)


def unread(seen: Observed) -> Failure | None:
    """Return why there is no finite, fresh loss of the training; None: there is one."""
    pod = seen.ranks[0].pod
    if pod is not None and pod.host_network:
        return Failure(
            "HostNetwork",
            "The pod uses the host network; its metrics are not read, because they could be another pod's.",
        )
    if seen.track.oddity is not None:
        return seen.track.oddity
    if seen.track.loss_at is None:
        return Failure(NOT_READ_YET, "The metrics have not been read yet.")
    if seen.now - seen.track.loss_at > seen.defaults.stale_after_seconds:
        return Failure("Stale", f"No loss was read for {seen.now - seen.track.loss_at:.0f} seconds.")
    return None


def _low(seen: Observed) -> tuple[Observation, ...]:
    """Return the newest observations if all are below the threshold and the newest reading is usable."""
    threshold = in_force(seen).auto_stop_loss
    newest = seen.track.observations[-LOW_OBSERVATIONS:]
    fresh = (
        seen.track.oddity is None
        and seen.track.loss_at is not None
        and seen.now - seen.track.loss_at <= seen.defaults.stale_after_seconds
    )
    if threshold is None or not fresh or len(newest) < LOW_OBSERVATIONS:
        return ()
    return newest if all(o.loss is not None and o.loss < threshold for o in newest) else ()


def _has_checkpoint(seen: Observed) -> bool:
    if seen.run.spec.checkpoint.mode is CheckpointMode.DISABLED:
        return True
    reports = seen.reports
    return reports is not None and all(report.newest is not None or report.commit is not None for report in reports)


def shown(number: float | None) -> str:
    """Format a loss with four significant digits."""
    return "none" if number is None else f"{number:.4g}"
