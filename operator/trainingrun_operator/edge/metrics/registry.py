"""The metric sources of this operator, each built once: those of this package, and those that others register."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Final

from trainingrun_operator.core.facts.reading import Failure, Reading
from trainingrun_operator.edge.doors import opened
from trainingrun_operator.edge.metrics.prometheus import PrometheusSource
from trainingrun_operator.edge.metrics.source import MetricSource

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from trainingrun_operator.edge.metrics.source import Target, Tools

GROUP: Final = "trainingrun_operator.metric_sources"
"""Entry points whose factory takes `Tools` and returns a `MetricSource`."""
BUILT_IN: Final[Mapping[str, Callable[[Any], MetricSource]]] = {"Prometheus": PrometheusSource}
READ_SECONDS: Final = 10.0

log = logging.getLogger(__name__)


class Sources:
    """Reads a run's metrics from the source that `spec.metrics.source` names."""

    def __init__(self, made: Mapping[str, MetricSource]) -> None:
        self._made = made

    @classmethod
    def of(cls, tools: Tools) -> Sources:
        """Build every source that there is."""
        return cls(opened(GROUP, BUILT_IN, tools, MetricSource))

    @property
    def names(self) -> tuple[str, ...]:
        """What a run may name."""
        return tuple(sorted(self._made))

    async def read(self, target: Target) -> Reading | Failure:
        """Return one reading, or why there is none; never raises, and never waits for ever."""
        name = target.run.spec.metrics.source
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
            return Failure("Timeout", f"The metric source {name} has not answered within {READ_SECONDS:.0f} s.")
        except Exception as error:  # noqa: BLE001 - whatever it raises is a failure of this reading
            # Somebody else's code. Its words are not shown to the run's people: they may say anything.
            log.warning("%s: metric source %s has failed: %s: %s", target.run.key, name, type(error).__name__, error)
            return Failure(
                "SourceFailed", f"The metric source {name} has failed ({type(error).__name__}): see the operator's log."
            )
        if isinstance(reading, Failure) or _sound(reading):
            return reading
        log.warning("%s: metric source %s has returned what is no reading: %.200r", target.run.key, name, reading)
        return Failure(
            "SourceFailed", f"The metric source {name} has returned what is no reading: see the operator's log."
        )


def _sound(reading: Any) -> bool:
    """Whether somebody else's code has returned numbers where decisions look for numbers."""
    if not isinstance(reading, Reading):
        return False
    optional = (reading.step, reading.epoch, reading.total_epochs, reading.at)
    return all(
        isinstance(one, int | float) for one in (*reading.values.values(), *(x for x in optional if x is not None))
    )
