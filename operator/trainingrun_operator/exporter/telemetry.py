"""Counters of the operator's own work, and the runs that are exported. One `Telemetry` per process; tests make their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily
from prometheus_client.exposition import generate_latest

from trainingrun_operator import __version__
from trainingrun_operator.api.endings import ENDINGS
from trainingrun_operator.exporter import metrics
from trainingrun_operator.exporter.page import RunPage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from trainingrun_operator.exporter.metrics import Metric

_REASONS_MAX: Final = 100
_LOOK_BUCKETS: Final = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_LATENESS_BUCKETS: Final = (0.01, 0.05, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60)
_UPLOAD_BUCKETS: Final = (0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)
_RELEASE_BUCKETS: Final = (5, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200)

Instrument = TypeVar("Instrument", Counter, Gauge)


class _Calls:
    """A counter that somebody else keeps, read when it is scraped."""

    def __init__(self, made: Callable[[], Mapping[str, int]]) -> None:
        self._made = made

    def describe(self) -> Iterable[CounterMetricFamily]:
        """Nothing in advance: registering must not collect."""
        return ()

    def collect(self) -> Iterator[CounterMetricFamily]:
        metric = metrics.API_CALLS
        family = CounterMetricFamily(metric.name, metric.help, labels=metric.labels)
        for api, count in self._made().items():
            family.add_metric((api,), count)
        yield family


class Telemetry:
    """What the operator tells about itself, and whom to tell it."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        # `…_created` series double every counter and nobody reads them.
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = registry if registry is not None else CollectorRegistry()
        self.runs = RunPage()
        """By uid. Whoever forgets a run takes it out here."""
        self._terminations = self._made(Counter, metrics.TERMINATIONS)
        self._data_losses = self._made(Counter, metrics.DATA_LOSSES)
        self._gpu_seconds = self._made(Counter, metrics.GPU_SECONDS)
        self._gpu_seconds_saved = self._made(Counter, metrics.GPU_SECONDS_SAVED)
        self._node_release = self._histogram(metrics.NODE_RELEASE, _RELEASE_BUCKETS)
        self._upload_duration = self._histogram(metrics.UPLOAD_DURATION, _UPLOAD_BUCKETS)
        self._upload_bytes = self._made(Counter, metrics.UPLOAD_BYTES)
        self._upload_failures = self._made(Counter, metrics.UPLOAD_FAILURES)
        self._poll_errors = self._made(Counter, metrics.POLL_ERRORS)
        self._lateness = self._histogram(metrics.LATENESS, _LATENESS_BUCKETS)
        self._reconcile = self._histogram(metrics.RECONCILE, _LOOK_BUCKETS)
        self._reconcile_errors = self._made(Counter, metrics.RECONCILE_ERRORS)
        self._notifications = self._made(Counter, metrics.NOTIFICATIONS)
        self._leader = self._made(Gauge, metrics.LEADER)
        self._made(Gauge, metrics.BUILD_INFO).labels(__version__).set(1)
        self._reasons: set[tuple[str, str]] = set()
        # A counter that is born with its first event has no increase to be seen.
        for ending in ENDINGS.values():
            self._terminations.labels(ending.status)
            if ending.saves:
                self._gpu_seconds_saved.labels(ending.status)
        for result in ("sent", "failed", "dropped"):
            self._notifications.labels(result)

    def _made(self, kind: type[Instrument], metric: Metric) -> Instrument:
        return kind(metric.name, metric.help, metric.labels, registry=self.registry)

    def _histogram(self, metric: Metric, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(metric.name, metric.help, metric.labels, buckets=buckets, registry=self.registry)

    def page(self) -> list[bytes]:
        """Assemble the page, in pieces. Not for the event loop: it takes a while."""
        return [*self.runs.chunks(), generate_latest(self.registry)]

    def leads(self, leads: Callable[[], bool]) -> None:
        """Whom to ask, whenever it is read, whether this replica leads."""
        self._leader.set_function(leads)

    def calls(self, made: Callable[[], Mapping[str, int]]) -> None:
        """Whom to ask, whenever it is read, how many requests were made, by whom they were made to."""
        self.registry.register(_Calls(made))

    # -- runs --------------------------------------------------------------------------------------------

    def lost_data(self) -> None:
        """A run ended, or was suspended, without all that it had written."""
        self._data_losses.inc()

    def terminated(self, status: str) -> None:
        """A run has ended, for this reason."""
        self._terminations.labels(status).inc()

    def gpu_seconds(self, seconds: float) -> None:
        """Pods have held GPUs for so much longer; several GPUs count as often."""
        self._gpu_seconds.inc(seconds)

    def gpu_seconds_saved(self, status: str, seconds: float) -> None:
        """A run that was ended for this reason would have gone on for so long; several GPUs count as often."""
        self._gpu_seconds_saved.labels(status).inc(seconds)

    def node_released(self, pool: str, seconds: float) -> None:
        """A node of this pool is gone, so long after it was not needed any more."""
        self._node_release.labels(pool).observe(max(0.0, seconds))

    def uploaded(self, size: int, seconds: float) -> None:
        """An agent has committed a generation: bytes sent, and how long it took."""
        self._upload_bytes.inc(size)
        self._upload_duration.observe(seconds)

    def upload_failures(self, count: int) -> None:
        """An agent has failed so many more times."""
        self._upload_failures.inc(count)

    # -- looks -------------------------------------------------------------------------------------------

    def poll_error(self, source: str, reason: str) -> None:
        """A reading failed: source is ``metrics``, ``agent`` or ``store``."""
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

    def reconcile_error(self) -> None:
        """A look at a run ended in an error."""
        self._reconcile_errors.inc()

    # -- beside the looks --------------------------------------------------------------------------------

    def notification(self, result: str) -> None:
        """A try to tell the webhook of an event: ``sent``, ``failed`` or ``dropped``."""
        self._notifications.labels(result).inc()
