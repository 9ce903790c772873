"""When a run that still trains should end because of its numbers: the loss threshold, enforced or only watched."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from trainingrun_operator.api.run import CheckpointMode
from trainingrun_operator.api.status import Effective, Evidence, Shadow, TerminationStatus
from trainingrun_operator.core.rules.verdict import Verdict

if TYPE_CHECKING:
    from trainingrun_operator.api.run import TrainingRunSpec
    from trainingrun_operator.core.defaults import Defaults
    from trainingrun_operator.core.observed import Observed
    from trainingrun_operator.core.track import Observation

LOW_OBSERVATIONS: Final = 2
"""So many successive observations must be below the threshold: one lucky batch ends nothing."""

STOP, SHADOW, OFF = "Stop", "Shadow", "Off"


def effective(spec: TrainingRunSpec, pinned: Effective | None, defaults: Defaults) -> Effective:
    """What is in force: what the person wrote, else what the installation's default was when the run began."""
    if spec.auto_stop_loss is not None:
        off = spec.auto_stop_loss < 0
        return Effective(
            auto_stop_loss=None if off else spec.auto_stop_loss,
            auto_stop_action=OFF if off else STOP,
            node_pool=pinned.node_pool if pinned else "",
        )
    if pinned is not None and pinned.auto_stop_action == defaults.auto_stop_action:
        return pinned
    return Effective(
        auto_stop_loss=defaults.auto_stop_loss,
        auto_stop_action=defaults.auto_stop_action,
        node_pool=pinned.node_pool if pinned else "",
    )


def in_force(seen: Observed) -> Effective:
    """What is in force for the observed run; once it ends, what was in force then."""
    if seen.run.status.termination is not None and seen.run.status.effective is not None:
        return seen.run.status.effective
    return effective(seen.run.spec, seen.run.status.effective, seen.defaults)


def low_loss(seen: Observed) -> Verdict | None:
    """Loss below the threshold, enforced, and with a complete checkpoint to show for it."""
    force = in_force(seen)
    low = _low(seen)
    if not low or force.auto_stop_action != STOP or not _has_checkpoint(seen):
        return None
    newest = low[-1]
    return Verdict(
        TerminationStatus.AUTO_LOW_LOSS,
        f"Loss {shown(newest.loss)} < {shown(force.auto_stop_loss)} at step {newest.step}.",
        actor="autoStopLoss",
        evidence=tuple(Evidence(what="loss", value=shown(o.loss), step=o.step) for o in low),
    )


def shadow(seen: Observed) -> tuple[Shadow, ...]:
    """When the threshold would have ended the run, had it been enforced. The first time is kept."""
    known = seen.run.status.shadow
    low = _low(seen)
    if known or not low or seen.run.status.termination is not None or in_force(seen).auto_stop_action != SHADOW:
        return known
    return (Shadow(rule="autoStopLoss", would_stop_at=seen.wall, step=low[-1].step, value=shown(low[-1].loss)),)


def _low(seen: Observed) -> tuple[Observation, ...]:
    """The newest observations, if enough of them in a row are below the threshold and the newest reading is sound."""
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
    return seen.agent is not None and (seen.agent.newest is not None or seen.agent.commit is not None)


def shown(number: float | None) -> str:
    """A loss as people read it: four significant digits."""
    return "none" if number is None else f"{number:.4g}"
