"""The metric sources of this operator, built in or registered by other packages; each is built once."""

from __future__ import annotations

import asyncio
import logging
import re
from typing import TYPE_CHECKING, Any, Final

from trainingrun_operator.core import metric_source, relayed
from trainingrun_operator.core.facts.reading import AUTO, FILES, LOGS, PROMETHEUS, PUSH, Failure, Reading
from trainingrun_operator.edge.doors import opened
from trainingrun_operator.edge.metrics.auto import AutoSource
from trainingrun_operator.edge.metrics.files import FileSource, PushSource
from trainingrun_operator.edge.metrics.log.source import LogSource
from trainingrun_operator.edge.metrics.prometheus import PrometheusSource
from trainingrun_operator.edge.metrics.source import MetricSource

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from trainingrun_operator.core.facts.run import Run
    from trainingrun_operator.edge.metrics.source import Target, Tools

GROUP: Final = "trainingrun_operator.metric_sources"
"""Entry points whose factory takes `Tools` and returns a `MetricSource`."""
BUILT_IN: Final[Mapping[str, Callable[[Any], MetricSource]]] = {
    PROMETHEUS: PrometheusSource,
    PUSH: PushSource,
    FILES: FileSource,
    LOGS: LogSource,
    AUTO: AutoSource,
}
READ_SECONDS: Final = 10.0
_REASON: Final = re.compile(r"[A-Z][A-Za-z0-9]{0,63}")
"""A condition's reason, as Kubernetes writes its own."""

log = logging.getLogger(__name__)


class Sources:
    """Reads a run's metrics from its source (`metric_source`)."""

    def __init__(self, made: Mapping[str, MetricSource]) -> None:
        self._made = made

    @classmethod
    def of(cls, tools: Tools) -> Sources:
        """Build all sources."""
        return cls(opened(GROUP, BUILT_IN, tools, MetricSource))

    @property
    def names(self) -> tuple[str, ...]:
        """The names for `spec.metrics.source`."""
        return tuple(sorted(self._made))

    def page(self, run: Run) -> str:
        """Return the metrics page that a reading of the run takes, as `exchange.PAGE_HEADER` names it; empty: none that an agent reads."""
        return relayed.page(run.spec.metrics) if metric_source.taken(run) in (PROMETHEUS, AUTO) else ""

    async def read(self, target: Target) -> Reading | Failure:
        """Return one reading, or why there is none, within `READ_SECONDS`; never raises."""
        name = metric_source.of(target.run)
        source = self._made.get(name)
        if source is None:
            known = ", ".join(self.names)
            return Failure(
                "UnknownSource",
                f"This operator has no metric source {name!r} (it has {known}): correct spec.metrics.source.",
            )
        try:
            async with asyncio.timeout(READ_SECONDS):
                reading = await source.read(target)
        except TimeoutError:
            return Failure("Timeout", f"The metric source {name} did not answer within {READ_SECONDS:.0f} s.")
        except Exception as error:  # noqa: BLE001 - any exception is a failed reading
            # Code of another package: its message is not shown to users.
            log.warning("%s: metric source %s failed: %s: %s", target.run.key, name, type(error).__name__, error)
            return Failure(
                "SourceFailed", f"The metric source {name} failed ({type(error).__name__}): see the operator's log."
            )
        if _sound(reading):
            return reading.read_by(name) if isinstance(reading, Reading) else reading
        log.warning("%s: metric source %s returned an invalid reading: %.200r", target.run.key, name, reading)
        return Failure("SourceFailed", f"The metric source {name} returned an invalid reading: see the operator's log.")


def _sound(reading: Any) -> bool:
    """Whether a source returned a `Reading` of numbers, or a `Failure` that a condition can show."""
    if isinstance(reading, Failure):
        words: tuple[Any, ...] = (reading.reason, reading.message)
        return all(isinstance(one, str) and one for one in words) and _REASON.fullmatch(reading.reason) is not None
    if not isinstance(reading, Reading):
        return False
    if not all(isinstance(one, str) for one in reading.values):
        return False
    optional = (reading.step, reading.epoch, reading.total_epochs, reading.at)
    return all(
        isinstance(one, int | float) for one in (*reading.values.values(), *(x for x in optional if x is not None))
    )
