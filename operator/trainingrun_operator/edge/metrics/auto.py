"""The metric source Auto: takes the first source that has the training's loss and step, and stays with it for the whole run.

A page and posts are preferred to files, and files to a log, because names say what a number is. What is readable first is not taken at once: a training may print
before it serves its page. So a page is taken at once, and another source after the training has advanced by it in several polls without a page. The choice is in the
run's status, so that the next pod and the next operator make no other one.

A run whose spec names no source is more careful. Whatever answers where the page would be may still become one: then its numbers come from there alone, as in releases
whose default was the page. And posts are not looked for, because its pod has no address for them.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import replace
from itertools import takewhile
from math import ceil
from typing import TYPE_CHECKING, Final

from trainingrun_operator.core import metric_source
from trainingrun_operator.core.facts.reading import FILES, LOGS, PROMETHEUS, PUSH, Failure, Reading
from trainingrun_operator.edge.metrics.candidates import ADVANCE_SECONDS, ADVANCES, Candidates
from trainingrun_operator.edge.metrics.files import FileSource, PushSource
from trainingrun_operator.edge.metrics.log.source import LogSource
from trainingrun_operator.edge.metrics.prometheus import PrometheusSource

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trainingrun_operator.core.facts.run import Run
    from trainingrun_operator.edge.metrics.source import MetricSource, Target, Tools

NO_PAGE: Final = "ConnectionRefused"
"""The one reason that says that nothing serves a page."""
NO_ANSWER: Final = frozenset({NO_PAGE, "Timeout", "HostUnreachable", "Disconnected"})
"""Reasons that do not say that something serves a page. Any other answer does."""
RUNS_MAX: Final = 10_000
"""Runs whose candidates are kept, and whose choice is kept until the status has it."""
_NOTE: Final = "It is the first source with loss and step."
_PAGE_ALONE: Final = (
    "The spec names no source, and another one is taken only if nothing listens there: name one in spec.metrics.source."
)


class AutoSource:
    """Implements `MetricSource` by the built-in ones."""

    def __init__(self, tools: Tools) -> None:
        self._sources: Mapping[str, MetricSource] = {
            PROMETHEUS: PrometheusSource(tools),
            PUSH: PushSource(tools),
            FILES: FileSource(tools),
            LOGS: LogSource(tools),
        }
        self._candidates: OrderedDict[str, Candidates] = OrderedDict()
        """By uid of a run without a choice."""
        self._choices: OrderedDict[str, tuple[str, str]] = OrderedDict()
        """By uid of a run, the source and why it was taken."""

    async def read(self, target: Target) -> Reading | Failure:
        """See `MetricSource`."""
        choice = self._choice(target.run)
        if choice is not None:
            return _by(*choice, await self._sources[choice[0]].read(target))
        page = await self._sources[PROMETHEUS].read(target)
        if target.pod.rank:
            return page  # rank 0 decides
        found = self._candidates_of(target)
        if found.add(PROMETHEUS, page):
            return self._take(target.run, PROMETHEUS, found, page)
        if target.run.spec.metrics.source is None:
            reason = page.reason if isinstance(page, Failure) else ""
            found.page_came = found.page_came or reason not in NO_ANSWER
            if found.page_came or reason != NO_PAGE:
                return _of_page_alone(page)
        return await self._read_others(target, found)

    async def _read_others(self, target: Target, found: Candidates) -> Reading | Failure:
        """Look at the sources that are due, and take the preferred one once the training has advanced by any of them for long enough."""
        others = tuple(
            one for one in self._sources if one != PROMETHEUS and (one != PUSH or target.run.spec.metrics.source)
        )
        interval = target.run.spec.poll_interval_seconds
        readings = await self._look(target, found, tuple(one for one in others if found.is_due(one, interval)))
        enough = ADVANCES if target.run.spec.metrics.source else max(ADVANCES, ceil(ADVANCE_SECONDS / interval))
        if found.advanced(others, enough):
            # What was not looked at for long may have come meanwhile, and be preferred.
            readings |= await self._look(target, found, tuple(one for one in others if one not in readings))
            source = next(one for one in others if found.moves(one))
            return self._take(target.run, source, found, readings[source])
        if usable := tuple(one for one in others if found.has_numbers(one)):
            said = f"{usable[0]} has loss and step, and is read after its step has advanced in {enough} polls without a metrics page."
            return Failure("ChoosingSource", f"{said} {self._told(found)}")
        return Failure("NoSource", f"No source has loss and step. {self._told(found)}")

    async def _look(self, target: Target, found: Candidates, sources: tuple[str, ...]) -> dict[str, Reading | Failure]:
        for one in sources:
            found.looks_at(one)
        readings = await asyncio.gather(*(self._sources[one].read(target) for one in sources))
        made = dict(zip(sources, readings, strict=True))
        for one, reading in made.items():
            found.add(one, reading)
        return made

    def _candidates_of(self, target: Target) -> Candidates:
        """Return what is known of the sources, with one poll more; a new pod's are known from its own polls alone."""
        known = self._candidates.pop(target.run.uid, None)
        if known is None or known.pod_uid != target.pod.uid:
            known = Candidates(target.pod.uid, page_came=known is not None and known.page_came)
        self._candidates[target.run.uid] = known
        _bound(self._candidates)
        known.polls += 1
        return known

    def _choice(self, run: Run) -> tuple[str, str] | None:
        known = run.status.effective
        if known is not None and metric_source.has_choice(known) and known.metrics_source in self._sources:
            return known.metrics_source, known.metrics_source_note
        return self._choices.get(run.uid)

    def _told(self, found: Candidates, *, before: str = "") -> str:
        """Return what the sources lack: all of them, or those that are preferred to one."""
        passed = takewhile(lambda one: one != before, self._sources)
        return " ".join(f"{one}: {found.lacks[one]}" for one in passed if one in found.lacks)

    def _take(self, run: Run, source: str, found: Candidates, reading: Reading | Failure) -> Reading | Failure:
        self._candidates.pop(run.uid, None)
        why = f"{_NOTE} {self._told(found, before=source)}".rstrip()
        self._choices[run.uid] = (source, why)
        _bound(self._choices)
        return _by(source, why, reading)


def _by(source: str, why: str, reading: Reading | Failure) -> Reading | Failure:
    return replace(reading, source=source, source_note=why) if isinstance(reading, Reading) else reading


def _of_page_alone(page: Reading | Failure) -> Reading | Failure:
    """Return what the page says, of a run that takes no other source while it answers."""
    if isinstance(page, Reading):
        return replace(page, source=PROMETHEUS)
    return Failure(page.reason, f"{page.message} {_PAGE_ALONE}")


def _bound(kept: OrderedDict[str, Candidates] | OrderedDict[str, tuple[str, str]]) -> None:
    while len(kept) > RUNS_MAX:
        kept.popitem(last=False)
