"""The metric source Auto: takes the first source that has the training's loss and step, and stays with it for the whole run.

A page and posts are preferred to files, and files to a log, because names say what a number is. What is readable first is not taken at once: a training may print
before it serves its page. The choice is in the run's status, so that the next pod and the next operator make no other one.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from trainingrun_operator.core.bounds import clipped
from trainingrun_operator.core.epochs import counts
from trainingrun_operator.core.facts.reading import FILES, LOGS, PROMETHEUS, PUSH, Failure, Reading
from trainingrun_operator.edge.metrics.files import FileSource, PushSource
from trainingrun_operator.edge.metrics.log.source import LogSource
from trainingrun_operator.edge.metrics.prometheus import PrometheusSource

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trainingrun_operator.core.facts.run import Run
    from trainingrun_operator.edge.metrics.source import MetricSource, Target, Tools

PAGE_POLLS: Final = 3
"""Polls without loss and step on the page, after which another source is taken."""
RUNS_MAX: Final = 10_000
"""Runs whose polls are counted, and whose choice is kept until the status has it."""
_WHY_MAX: Final = 300


class AutoSource:
    """Implements `MetricSource` by the built-in ones."""

    def __init__(self, tools: Tools) -> None:
        self._sources: Mapping[str, MetricSource] = {
            PROMETHEUS: PrometheusSource(tools),
            PUSH: PushSource(tools),
            FILES: FileSource(tools),
            LOGS: LogSource(tools),
        }
        self._missed: OrderedDict[str, int] = OrderedDict()
        """By uid of a run without a choice, its polls without a page."""
        self._choices: OrderedDict[str, tuple[str, str]] = OrderedDict()
        """By uid of a run, the source and why it was taken."""

    async def read(self, target: Target) -> Reading | Failure:
        """See `MetricSource`."""
        choice = self._choice(target.run)
        if choice is not None:
            return _by(*choice, await self._sources[choice[0]].read(target))
        readings = await asyncio.gather(*(one.read(target) for one in self._sources.values()))
        if target.pod.rank:
            return readings[0]  # rank 0 decides
        missed = self._missed[target.run.uid] = self._missed.pop(target.run.uid, 0) + 1
        _bound(self._missed)
        lacks: dict[str, str] = {}
        for source, reading in zip(self._sources, readings, strict=True):
            if why := _lacks(reading):
                lacks[source] = why
            elif source == PROMETHEUS or missed >= PAGE_POLLS:
                return self._take(target.run, source, lacks, reading)
            else:
                return Failure(
                    "ChoosingSource",
                    f"{source} has loss and step, and is read if no preferred source has them in {PAGE_POLLS} polls. {_told(lacks)}",
                )
        return Failure("NoSource", f"No source has loss and step. {_told(lacks)}")

    def _choice(self, run: Run) -> tuple[str, str] | None:
        known = run.status.effective
        if known is not None and known.metrics_source_note and known.metrics_source in self._sources:
            return known.metrics_source, known.metrics_source_note
        return self._choices.get(run.uid)

    def _take(self, run: Run, source: str, lacks: Mapping[str, str], reading: Reading | Failure) -> Reading | Failure:
        self._missed.pop(run.uid, None)
        why = f"It is the first source with loss and step. {_told(lacks)}".rstrip()
        self._choices[run.uid] = (source, why)
        _bound(self._choices)
        return _by(source, why, reading)


def _by(source: str, why: str, reading: Reading | Failure) -> Reading | Failure:
    return replace(reading, source=source, source_note=why) if isinstance(reading, Reading) else reading


def _told(lacks: Mapping[str, str]) -> str:
    return " ".join(f"{source}: {why}" for source, why in lacks.items())


def _lacks(reading: Reading | Failure) -> str:
    """Return why a reading is not enough for the rules; empty: it is."""
    if isinstance(reading, Failure):
        return clipped(f"{reading.reason}: {reading.message}", _WHY_MAX)
    if reading.loss is None:
        return "it has no loss."
    return "" if counts(reading.step) else "it has a loss, but no step that is certainly the training's."


def _bound(kept: OrderedDict[str, int] | OrderedDict[str, tuple[str, str]]) -> None:
    while len(kept) > RUNS_MAX:
        kept.popitem(last=False)
