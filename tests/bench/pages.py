"""Metrics pages that are read in a second on one core, by CPU time, beside the parser of prometheus_client."""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any, Final

from prometheus_client import CollectorRegistry, Gauge, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from trainingrun_operator.api.run import MetricNames
from trainingrun_operator.core.facts.reading import Failure
from trainingrun_operator.edge.metrics.page import parse

if TYPE_CHECKING:
    from collections.abc import Callable

NAME: Final = "parse/prometheus"
PEER: Final = "prometheus_client"
LINES: Final = 200
"""Of a page."""
SECONDS: Final = 0.5
"""Of CPU time, for each rate."""
_WANTED: Final = ("training_loss", "training_step", "training_epoch", "training_total_epochs")
_HISTOGRAMS: Final = ("batch_seconds", "save_seconds", "data_wait_seconds")

Numbers = tuple[float, float, float, float]
"""Loss, step, epoch and total epochs."""


@dataclass(frozen=True)
class Parsed:
    """Pages in a second, by the operator's reader and by the peer."""

    ours: float
    theirs: float
    name: str = NAME

    def document(self) -> dict[str, Any]:
        """The row in the results' file."""
        peer = {"theirs": round(self.theirs), "ratio": round(self.ours / self.theirs, 3)}
        return {"unit": "pages/s", "ours": round(self.ours), "peers": {PEER: peer}}


def bench(rounds: int) -> Parsed:
    """Measure and print; every other round measures the peer first."""
    text = page(LINES)
    ours: list[float] = []
    theirs: list[float] = []
    for number in range(rounds):
        turns = ((ours, read_by_us), (theirs, read_by_peer))
        for rates, read in turns if number % 2 == 0 else reversed(turns):
            rates.append(_rate(text, read))
    found = Parsed(median(ours), median(theirs))
    print(
        f"{NAME}: {found.ours:,.0f} pages/s of {LINES} lines per core, {PEER} {found.theirs:,.0f}:"
        f" {found.ours / found.theirs:.1f} times as many"
    )
    return found


def page(lines: int) -> bytes:
    """A page of so many lines, as prometheus_client writes it: histograms, a gauge for each layer, and the training's four numbers last.

    Raises:
        ValueError: so few lines have no room for them.
    """
    registry = CollectorRegistry()
    for name in _HISTOGRAMS:
        Histogram(name, "Seconds that it takes", registry=registry).observe(0.2)
    norms = Gauge("layer_gradient_norm", "Norm of the gradient of a layer", ["layer", "kind"], registry=registry)
    for number, name in enumerate(_WANTED, 1):
        Gauge(name, "Of the training", registry=registry).set(number / 4)
    missing = lines - generate_latest(registry).count(b"\n")
    if missing < 0:
        raise ValueError(f"a page has {lines - missing} lines at least, and not {lines}")
    for layer in range(missing):
        norms.labels(f"transformer.h.{layer}", "weight").set(1 / (layer + 3))
    return generate_latest(registry)


def read_by_us(text: bytes) -> Numbers:
    """Read loss, step and epochs as the operator does.

    Raises:
        ValueError: the page does not have them.
    """
    found = parse(text, MetricNames())
    if isinstance(found, Failure):
        raise ValueError(found.message)  # noqa: TRY004 - the page is wrong, not a type
    return _numbers(found.loss, found.step, found.epoch, found.total_epochs)


def read_by_peer(text: bytes) -> Numbers:
    """Read them with the peer, which parses every line.

    Raises:
        ValueError: the page does not have them.
    """
    found = {
        sample.name: sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }
    return _numbers(*(found.get(name) for name in _WANTED))


def _numbers(*found: float | None) -> Numbers:
    loss, step, epoch, total = found
    if loss is None or step is None or epoch is None or total is None:
        raise ValueError(f"the page has not all of {', '.join(_WANTED)}: {found}")
    return loss, step, epoch, total


def _rate(text: bytes, read: Callable[[bytes], Numbers]) -> float:
    expected, count, began = read_by_peer(text), 0, time.process_time()
    while (took := time.process_time() - began) < SECONDS or not count:
        if read(text) != expected:
            raise RuntimeError(f"{read.__name__} reads other numbers than {expected}")
        count += 1
    return count / took
