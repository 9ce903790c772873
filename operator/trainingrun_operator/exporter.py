"""What Prometheus reads: one set of series per run, and counters of the operator's own work.

A run's series carry its namespace and name only and vanish with it; no uid, step, message or address is ever a label.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Final

import prometheus_client
from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from trainingrun_operator import __version__
from trainingrun_operator.api.status import NodePhase, Phase, TrainingRunStatus

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping

    from prometheus_client.metrics_core import Metric

    from trainingrun_operator.api.run import TrainingRunSpec

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

PAGE_SECONDS: Final = 2.0
"""How long a rendered page is handed out again: two Prometheus replicas cost one rendering."""

_REASONS_MAX: Final = 100
_LABELS: Final = ("namespace", "name")
_ON_THE_WAY: Final = frozenset({NodePhase.WAIT_IDLE, NodePhase.CORDONED, NodePhase.RELEASING, NodePhase.VERIFYING})
_GAUGES: Final = {
    "trainingrun_info": "A run that the operator knows; always 1.",
    "trainingrun_loss": "The newest finite loss.",
    "trainingrun_loss_best": "The lowest loss seen.",
    "trainingrun_auto_stop_loss": "The loss below which the run ends by itself.",
    "trainingrun_step": "The newest step.",
    "trainingrun_epoch": "The newest epoch.",
    "trainingrun_progress_ratio": "Share of all epochs that is done, 0 to 1.",
    "trainingrun_eta_seconds": "Estimated seconds to the end of the last epoch.",
    "trainingrun_stall_polls": "Polls without a step in the final epoch.",
    "trainingrun_stall_polls_limit": "How many polls without a step in the final epoch complete the run.",
    "trainingrun_last_metric_timestamp_seconds": "When the step was last seen to advance.",
    "trainingrun_start_time_seconds": "When the training started.",
    "trainingrun_completion_time_seconds": "When the run was over, node released.",
    "trainingrun_checkpoint_last_verified_timestamp_seconds": "When a checkpoint was last read back from the bucket and matched.",
    "trainingrun_checkpoint_generation": "Generation of the newest verified checkpoint.",
    "trainingrun_checkpoint_bytes": "Size of the newest verified checkpoint.",
    "trainingrun_checkpoint_lag_bytes": "In the volume and not in the bucket.",
    "trainingrun_checkpoint_held": "1 while the pod is kept because its checkpoint cannot be proven.",
    "trainingrun_nodes_unreleased": "Nodes on their way back to the pool that have not arrived.",
}
_PHASES: Final = {
    "trainingrun_status_phase": "The run's phase; only the current one is present.",
    "trainingrun_termination_phase": "The phase of the run's stop; only the current one is present.",
}


@dataclass(frozen=True)
class RunSeries:
    """All series of one run."""

    namespace: str
    name: str
    gauges: Mapping[str, float] = field(default_factory=dict)
    """By metric name; what is unknown is absent."""
    phases: Mapping[str, str] = field(default_factory=dict)
    """By metric name, the one phase that it is in."""


def series_of(namespace: str, name: str, spec: TrainingRunSpec, status: TrainingRunStatus) -> RunSeries:
    """Everything that a run's spec and status say in numbers."""
    stop = status.termination
    known: dict[str, float | None] = {
        "trainingrun_info": 1,
        "trainingrun_auto_stop_loss": _threshold(spec, status),
        "trainingrun_stall_polls_limit": spec.stall_polls,
        "trainingrun_start_time_seconds": _seconds(status.start_time),
        "trainingrun_completion_time_seconds": _seconds(status.completion_time),
        "trainingrun_checkpoint_held": float(stop is not None and stop.phase is Phase.HELD),
        "trainingrun_nodes_unreleased": sum(node.phase in _ON_THE_WAY for node in status.nodes),
        **_progress(status),
        **_checkpoint(status),
    }
    phases = {"trainingrun_status_phase": status.phase, "trainingrun_termination_phase": stop and str(stop.phase)}
    return RunSeries(
        namespace=namespace,
        name=name,
        gauges={metric: value for metric, value in known.items() if value is not None},
        phases={metric: phase for metric, phase in phases.items() if phase},
    )


def _threshold(spec: TrainingRunSpec, status: TrainingRunStatus) -> float | None:
    threshold = status.effective.auto_stop_loss if status.effective else spec.auto_stop_loss
    # A negative one means: off.
    return threshold if threshold is not None and threshold >= 0 else None


def _progress(status: TrainingRunStatus) -> dict[str, float | None]:
    progress = status.progress
    if progress is None:
        return {}
    return {
        "trainingrun_loss": _number(progress.loss),
        "trainingrun_loss_best": _number(progress.best_loss),
        "trainingrun_step": progress.step,
        "trainingrun_epoch": _number(progress.epoch),
        "trainingrun_progress_ratio": None if progress.percent is None else progress.percent / 100,
        "trainingrun_eta_seconds": progress.eta_seconds,
        "trainingrun_stall_polls": progress.stall_polls,
        "trainingrun_last_metric_timestamp_seconds": _seconds(progress.last_observation_time),
    }


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


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text is not None else None
    except ValueError:
        return None


def _seconds(stamp: str | None) -> float | None:
    try:
        return datetime.fromisoformat(stamp).timestamp() if stamp else None
    except ValueError:
        return None


class RunCollector:
    """Yields the series of whichever runs are in the mapping, uid to series, at that moment."""

    def __init__(self, runs: Mapping[str, RunSeries]) -> None:
        self._runs = runs

    def describe(self) -> Iterable[Metric]:
        """Nothing in advance: registering must not collect."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Every metric of every run; called from a thread."""
        runs = tuple(self._runs.values())
        for metric, text in _GAUGES.items():
            family = GaugeMetricFamily(metric, text, labels=_LABELS)
            for run in runs:
                if metric in run.gauges:
                    family.add_metric((run.namespace, run.name), run.gauges[metric])
            yield family
        for metric, text in _PHASES.items():
            family = GaugeMetricFamily(metric, text, labels=(*_LABELS, "phase"))
            for run in runs:
                if metric in run.phases:
                    family.add_metric((run.namespace, run.name, run.phases[metric]), 1)
            yield family


class Telemetry:
    """Counters of the operator's own work, and the runs that are exported. One per process; tests make their own."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        # `…_created` series double every counter and nobody reads them.
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = registry if registry is not None else CollectorRegistry()
        self.runs: dict[str, RunSeries] = {}
        """By uid. Whoever forgets a run takes it out here."""
        self.registry.register(RunCollector(self.runs))
        self._terminations = Counter(
            "trainingrun_terminations", "Runs that ended, by why.", ("status",), registry=self.registry
        )
        self._data_losses = Counter(
            "trainingrun_data_losses", "Runs that ended without all that they had written.", registry=self.registry
        )
        self._poll_errors = Counter(
            "trainingrun_poll_errors",
            "Readings that failed, by source and reason.",
            ("source", "reason"),
            registry=self.registry,
        )
        self._lateness = Histogram(
            "trainingrun_scheduler_lateness_seconds",
            "How much later than due a run was looked at.",
            buckets=(0.01, 0.05, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60),
            registry=self.registry,
        )
        self._reconcile = Histogram(
            "trainingrun_reconcile_duration_seconds",
            "How long one look at a run took, effects included.",
            buckets=(0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
            registry=self.registry,
        )
        self._reconcile_errors = Counter(
            "trainingrun_reconcile_errors", "Looks at a run that ended in an error.", registry=self.registry
        )
        prometheus_client.Info("trainingrun_build", "The operator's version.", registry=self.registry).info(
            {"version": __version__}
        )
        self._leader = Gauge(
            "trainingrun_leader",
            "1 while this replica looks at the runs, 0 while another does. Only the one with 1 has series of runs.",
            registry=self.registry,
        )
        self._notifications = Counter(
            "trainingrun_notifications",
            "Tries to tell the webhook of an event, by what came of it: sent, failed (tried again), dropped (given up).",
            ("result",),
            registry=self.registry,
        )
        self._reasons: set[tuple[str, str]] = set()

    def leads(self, leads: Callable[[], bool]) -> None:
        """Whom to ask, whenever it is read, whether this replica leads."""
        self._leader.set_function(leads)

    def lost_data(self) -> None:
        """A run ended without all that it had written."""
        self._data_losses.inc()

    def terminated(self, status: str) -> None:
        """A run has ended, for this reason."""
        self._terminations.labels(status).inc()

    def poll_error(self, source: str, reason: str) -> None:
        """A reading failed: source is ``metrics``, ``agent``, ``store`` or ``provider``."""
        # A reason may be a code that a tenant's store made up: they must not become series without end.
        if (source, reason) not in self._reasons and len(self._reasons) >= _REASONS_MAX:
            reason = "Other"
        self._reasons.add((source, reason))
        self._poll_errors.labels(source, reason).inc()

    def lateness(self, seconds: float) -> None:
        """A run was looked at this much later than due."""
        self._lateness.observe(max(0.0, seconds))

    def reconciled(self, seconds: float) -> None:
        """A look at a run took this long."""
        self._reconcile.observe(seconds)

    def notification(self, result: str) -> None:
        """A try to tell the webhook of an event: ``sent``, ``failed`` or ``dropped``."""
        self._notifications.labels(result).inc()

    def reconcile_error(self) -> None:
        """A look at a run ended in an error."""
        self._reconcile_errors.inc()


def metrics_handler(telemetry: Telemetry, *, page_seconds: float = PAGE_SECONDS) -> Handler:
    """Return the handler of ``GET /metrics``: rendered in a thread, since ten thousand runs take seconds, and never twice at once."""
    lock = asyncio.Lock()
    page, rendered_at = b"", -page_seconds

    async def handle(_: web.Request) -> web.Response:
        nonlocal page, rendered_at
        async with lock:
            if not page or time.monotonic() - rendered_at >= page_seconds:
                page = await asyncio.to_thread(generate_latest, telemetry.registry)
                rendered_at = time.monotonic()
        return web.Response(body=page, headers={"Content-Type": CONTENT_TYPE_LATEST})

    return handle


async def serve(telemetry: Telemetry, port: int, *routes: web.RouteDef, host: str | None = None) -> web.AppRunner:
    """On every interface, serve ``/metrics``, and whatever else is given, until the returned runner's `cleanup` is awaited."""
    app = web.Application()
    app.add_routes([web.get("/metrics", metrics_handler(telemetry)), *routes])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, host, port).start()
    return runner
