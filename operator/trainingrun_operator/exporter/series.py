"""The metric series of one run: its spec, its status, and values measured only in this process."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from math import nan
from typing import TYPE_CHECKING, Final

from trainingrun_operator.api.status import NodePhase, Phase, TrainingRunStatus
from trainingrun_operator.core.epochs import is_final_epoch
from trainingrun_operator.core.track import NOT_FINITE
from trainingrun_operator.core.words import finite, moment

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trainingrun_operator.api.limits import Idle, Quiet
    from trainingrun_operator.api.run import TrainingRunSpec

_ON_THE_WAY: Final = frozenset({NodePhase.WAIT_IDLE, NodePhase.CORDONED, NodePhase.RELEASING, NodePhase.VERIFYING})
_HOLDS_GPUS: Final = frozenset({"Pending", "Running", "Exited"})
_REASON: Final = re.compile(r"[A-Z][A-Za-z0-9]{0,62}")
OTHER_REASON: Final = "Other"
"""Stands for a reason that is no CamelCase word: a metric source of another package may give any text."""
_BOOL: Final = {"True": 1.0, "False": 0.0}


@dataclass(frozen=True)
class Measured:
    """Values that change with every observation and are not in the status."""

    checkpoint_lag_seconds: float | None = None
    upload_failing_seconds: float | None = None
    nodes_overdue: int = 0
    ghosts: Mapping[str, float] = field(default_factory=dict)
    """Machines that run without a Node, by pool."""


@dataclass(frozen=True)
class RunSeries:
    """All series of one run."""

    namespace: str
    name: str
    gauges: Mapping[str, float] = field(default_factory=dict)
    """By metric name; unknown values are absent."""
    labelled: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """By metric name, then by the value of its third label; may be empty."""


def series_of(
    namespace: str, name: str, spec: TrainingRunSpec, status: TrainingRunStatus, measured: Measured | None = None
) -> RunSeries:
    """All known numeric values of a run."""
    measured, stop = measured or Measured(), status.termination
    known: dict[str, float | None] = {
        "trainingrun_info": 1,
        "trainingrun_start_time_seconds": _seconds(status.start_time),
        "trainingrun_completion_time_seconds": _seconds(status.completion_time),
        "trainingrun_gpus": _gpus_held(spec, status) or None,
        "trainingrun_checkpoint_lag_seconds": measured.checkpoint_lag_seconds,
        "trainingrun_checkpoint_upload_failing_seconds": measured.upload_failing_seconds,
        "trainingrun_nodes_overdue": measured.nodes_overdue or None,
        "trainingrun_checkpoint_data_loss": 1 if _lost_data(status) else None,
        **_progress(status),
        **(_training(spec, status) if status.termination is None else {}),
        **_checkpoint(status),
        **_stop(status),
    }
    return RunSeries(
        namespace=namespace,
        name=name,
        gauges={metric: value for metric, value in known.items() if value is not None},
        labelled={
            "trainingrun_status_phase": {status.phase: 1} if status.phase else {},
            "trainingrun_termination_phase": {stop.phase.value: 1} if stop else {},
            "trainingrun_termination_status": {stop.status: 1} if stop else {},
            "trainingrun_ghost_instances": measured.ghosts,
            "trainingrun_cost": _cost(status),
            "trainingrun_finding": _findings(status),
        },
    )


def _lost_data(status: TrainingRunStatus) -> bool:
    """Whether the stop, or a suspension that no newer checkpoint has followed, has lost data."""
    stop, checkpoint = status.termination, status.checkpoint
    return bool((stop and stop.data_loss) or (checkpoint and checkpoint.data_loss))


def _findings(status: TrainingRunStatus) -> dict[str, float]:
    """Return by reason whether the condition of any rule with it holds."""
    found: dict[str, float] = {}
    for one in status.findings:
        reason = one.reason if _REASON.fullmatch(one.reason) else OTHER_REASON
        found[reason] = max(found.get(reason, 0), float(one.fires))
    return found


def _threshold(spec: TrainingRunSpec, status: TrainingRunStatus) -> float | None:
    threshold = status.effective.auto_stop_loss if status.effective else spec.auto_stop_loss
    # A negative threshold disables the rule.
    return threshold if threshold is not None and threshold >= 0 else None


def _gpus_held(spec: TrainingRunSpec, status: TrainingRunStatus) -> int:
    return spec.template.gpus * sum(bool(pod.node) and pod.phase in _HOLDS_GPUS for pod in status.pods)


def _progress(status: TrainingRunStatus) -> dict[str, float | None]:
    progress, condition = status.progress, status.condition("MetricsAvailable")
    if progress is None:
        return {}
    # A gauge may start as NaN: there is no progress until the step advances.
    not_finite = condition is not None and condition.reason == NOT_FINITE
    return {
        "trainingrun_loss": nan if not_finite else finite(progress.loss),
        "trainingrun_loss_best": finite(progress.best_loss),
        "trainingrun_step": progress.step,
        "trainingrun_epoch": finite(progress.epoch),
        "trainingrun_progress_ratio": None if progress.percent is None else progress.percent / 100,
    }


def _training(spec: TrainingRunSpec, status: TrainingRunStatus) -> dict[str, float | None]:
    """Series that exist only until the run ends or is suspended."""
    progress, condition = status.progress, status.condition("MetricsAvailable")
    known = {
        "trainingrun_auto_stop_loss": _threshold(spec, status),
        "trainingrun_metrics_available": _BOOL.get(condition.status) if condition is not None else None,
        "trainingrun_hung_since_timestamp_seconds": _since(status, "Hung", status.quiet),
        "trainingrun_idle_since_timestamp_seconds": _since(status, "Idle", status.idle),
        "trainingrun_budget_used_ratio": _budget_used(spec, status),
    }
    if progress is not None:
        known["trainingrun_eta_seconds"] = progress.eta_seconds
        known["trainingrun_last_metric_timestamp_seconds"] = _seconds(progress.last_observation_time)
        epoch, total, base = finite(progress.epoch), progress.total_epochs, progress.epoch_base
        if is_final_epoch(epoch, total, base, fractional=progress.fractional_epochs):
            known["trainingrun_stall_polls"] = progress.stall_polls
            known["trainingrun_stall_polls_limit"] = spec.stall_polls
    return known


def _budget_used(spec: TrainingRunSpec, status: TrainingRunStatus) -> float | None:
    """Return the used share of the limit of which most is used; None: nothing is known, or there is no limit."""
    trained, limit = status.trained, spec.budget
    if trained is None or limit is None:
        return None
    amount = trained.cost.amount if trained.cost is not None else None
    used = ((trained.gpu_hours, limit.max_gpu_hours), (amount, limit.max_cost))
    return max((one / most for one, most in used if one is not None and most is not None), default=None)


def _cost(status: TrainingRunStatus) -> dict[str, float]:
    """Return what the training has cost, by currency."""
    cost = status.trained.cost if status.trained is not None else None
    return {cost.currency: cost.amount} if cost is not None else {}


def _since(status: TrainingRunStatus, kind: str, counted: Quiet | Idle | None) -> float | None:
    """Return since when a condition holds; None: it does not."""
    condition = status.condition(kind)
    holds = condition is not None and condition.status == "True"
    return _seconds(counted.since) if counted is not None and holds else None


def _checkpoint(status: TrainingRunStatus) -> dict[str, float | None]:
    checkpoint = status.checkpoint
    if checkpoint is None:
        return {}
    verified = checkpoint.verified_at is not None
    return {
        "trainingrun_checkpoint_last_verified_timestamp_seconds": _seconds(checkpoint.verified_at),
        "trainingrun_checkpoint_generation": checkpoint.generation,
        "trainingrun_checkpoint_bytes": checkpoint.bytes if verified else None,
        "trainingrun_checkpoint_lag_bytes": checkpoint.lag.bytes if checkpoint.lag else None,
    }


def _stop(status: TrainingRunStatus) -> dict[str, float | None]:
    stop = status.termination
    if stop is None:
        return {}
    return {
        "trainingrun_termination_requested_timestamp_seconds": _seconds(stop.requested_at),
        "trainingrun_checkpoint_held": float(stop.phase is Phase.HELD),
        "trainingrun_nodes_unreleased": sum(node.phase in _ON_THE_WAY for node in status.nodes),
    }


def _seconds(stamp: str | None) -> float | None:
    return at.timestamp() if (at := moment(stamp)) is not None else None
