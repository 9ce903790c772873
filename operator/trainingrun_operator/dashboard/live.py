"""Events for an open page.

Requests to the API server: for the fleet, one list (as a table, without specs) and one watch; for a run, one watch, one
followed log, and a read of its curve every ten seconds while it runs. All use the viewer's token. A hidden tab closes its
stream.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from pydantic import ValidationError

from trainingrun_operator.dashboard import curve, pages
from trainingrun_operator.dashboard.fleet import Query, Row, page_of, row_of
from trainingrun_operator.dashboard.run_view import RunView
from trainingrun_operator.dashboard.stream import Event, Fragments, batched
from trainingrun_operator.dashboard.words import trouble
from trainingrun_operator.edge.apiserver.transport import KubeError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from trainingrun_operator.api.curve import Point
    from trainingrun_operator.dashboard.cluster import Person

FLEET_SECONDS: Final = 1.0
CURVE_SECONDS: Final = 10.0
LAST_READS: Final = 4
"""Reads of the curve after the end: the operator may write the last points later, and a run without a loss has no curve."""
RETRY_SECONDS: Final = 3.0
LOG_SECONDS: Final = 0.25
LOG_LINES: Final = 200
LINE_MAX: Final = 2000
"""Characters shown of one line."""
_UNAUTHORIZED: Final = 401
_CONTROL: Final = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|[\x00-\x08\x0b-\x1f\x7f]")
"""Terminal sequences for colours and cursor movements, and other control characters."""


async def _pause(error: KubeError, what: str) -> AsyncIterator[Event]:
    """Report the error, and wait before the next try. An expired list is not reported."""
    if not error.expired:
        yield Event("trouble", {"text": trouble(error, what), "login": error.status == _UNAUTHORIZED})
    await asyncio.sleep(RETRY_SECONDS)


# -- the fleet ------------------------------------------------------------------------------------------------


async def fleet(person: Person, query: Query) -> AsyncIterator[Event]:
    """Yield the part of the fleet that a page shows, then its changes."""
    shown, order = Fragments(), _Order()
    while True:
        try:
            listed = await person.runs(query.namespace)
            rows = {row.uid: row for row in (row_of(listed.columns, one) for one in listed.rows)}
            for event in _fleet_changes(shown, order, rows, query):
                yield event
            yield Event("well", {})
            async for batch in batched(person.watch_runs(query.namespace, listed.version), FLEET_SECONDS):
                _take(rows, batch, listed.columns)
                for event in _fleet_changes(shown, order, rows, query):
                    yield event
        except KubeError as error:
            async for event in _pause(error, "list TrainingRuns here"):
                yield event
            if error.status == _UNAUTHORIZED:
                return


def _take(rows: dict[str, Row], batch: list[tuple[str, dict[str, Any]]], columns: tuple[str, ...]) -> None:
    """Update the rows. Only the first table of a watch names the columns."""
    for kind, table in batch:
        named = tuple(one["name"] for one in table.get("columnDefinitions") or ()) or columns
        for row in (row_of(named, one) for one in table["rows"]):
            if kind == "DELETED":
                rows.pop(row.uid, None)
            else:
                rows[row.uid] = row


@dataclass
class _Order:
    """The rows of a page, from top to bottom."""

    uids: tuple[str, ...] | None = None


def _fleet_changes(shown: Fragments, order: _Order, rows: dict[str, Row], query: Query) -> Iterator[Event]:
    """Yield the changed rows, or the whole table if rows were added, removed or moved."""
    page = page_of(rows.values(), query)
    yield from shown.changed(pages.fleet_parts(page, query))
    parts = {f"row-{row.uid}": pages.row_part(row) for row in page.rows}
    changes = list(shown.changed(parts))
    uids = tuple(row.uid for row in page.rows)
    if uids == order.uids:
        yield from changes
    else:
        order.uids = uids
        yield Event("part", {"id": "rows", "html": "".join(parts.values())})


# -- one run --------------------------------------------------------------------------------------------------


@dataclass
class Watched:
    """The last state of a run, shared by the streams of its page."""

    person: Person
    namespace: str
    name: str
    user: str
    may_patch: bool
    view: RunView | None = None
    looks: int = 0
    """Number of states seen."""
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def saw(self, stored: dict[str, Any]) -> RunView:
        """Take a newer state."""
        self.view = RunView.of(stored)
        self.looks += 1
        async with self._changed:
            self._changed.notify_all()
        return self.view

    async def wait_change(self, looks: int, seconds: float | None = None) -> None:
        """Wait until more than ``looks`` states were seen, at most ``seconds``."""
        try:
            async with asyncio.timeout(seconds), self._changed:
                await self._changed.wait_for(lambda: self.looks > looks)
        except TimeoutError:
            return

    # -- its state --------------------------------------------------------------------------------------------

    async def states(self) -> AsyncIterator[Event]:
        """Yield the parts of the page that show the run's state."""
        shown = Fragments()
        while True:
            try:
                stored = await self.person.run(self.namespace, self.name)
                async for event in self._seen(shown, stored):
                    yield event
                yield Event("well", {})
                async for event in self._followed(shown, stored["metadata"]):
                    yield event
                    if event.name == "gone":
                        return
            except KubeError as error:
                if error.gone:
                    yield Event("gone", {"text": trouble(error, "")})
                    return
                async for event in _pause(error, "read this TrainingRun"):
                    yield event
                if error.status == _UNAUTHORIZED:
                    return
            except ValidationError:
                yield Event(
                    "gone", {"text": "This dashboard does not understand the TrainingRun: a newer operator wrote it."}
                )
                return

    async def _followed(self, shown: Fragments, read: dict[str, Any]) -> AsyncIterator[Event]:
        """Yield the changes of the run after the read with this metadata."""
        async for kind, newer in self.person.watch_run(self.namespace, self.name, read["resourceVersion"]):
            if kind == "DELETED" or newer["metadata"]["uid"] != read["uid"]:
                yield Event("gone", {"text": "This TrainingRun was deleted. Its checkpoints stay in the bucket."})
                return
            async for event in self._seen(shown, newer):
                yield event

    async def _seen(self, shown: Fragments, stored: dict[str, Any]) -> AsyncIterator[Event]:
        """Take a state and yield the changed parts. A screen reader gets an event only if the announcement changes."""
        before, view = self.view, await self.saw(stored)
        said = pages.run_said(view, may_patch=self.may_patch, user=self.user)
        for event in shown.changed(pages.run_parts(said)):
            yield event
        if before is not None and before.announcement != view.announcement:
            yield Event("announce", {"text": view.announcement})

    # -- its curve --------------------------------------------------------------------------------------------

    async def curves(self) -> AsyncIterator[Event]:
        """Yield the curve when its points or marks change."""
        shown: dict[str, Any] | None = None
        points: tuple[Point, ...] = ()
        loop, note, due, last = asyncio.get_running_loop(), "", 0.0, 0
        while True:
            looks = self.looks
            if self.view is None:
                await self.wait_change(looks)
                continue
            finished = self.view.finished
            if last < LAST_READS and loop.time() >= due:
                due = loop.time() + CURVE_SECONDS
                points, note = await self._points()
                last += finished and not note
            drawn = curve.drawn(points, self.view.status) | ({"summary": note} if note else {})
            if drawn != shown:
                shown = drawn
                yield Event("curve", drawn)
            await self.wait_change(looks, None if last == LAST_READS else max(0.1, due - loop.time()))

    async def _points(self) -> tuple[tuple[Point, ...], str]:
        """Return the points, or why they cannot be read."""
        try:
            return curve.points_of(await self.person.curve(self.namespace, self.name)), ""
        except KubeError as error:
            return (), trouble(error, f"read ConfigMaps in namespace {self.namespace}, which hold the curve")

    # -- its log ----------------------------------------------------------------------------------------------

    async def logs(self) -> AsyncIterator[Event]:
        """Follow the log of the pod that trains, then of the pod that replaces it."""
        followed = ""
        while True:
            looks = self.looks
            pod = self.view.newest_pod if self.view else None
            if self.view is None or pod is None or pod.uid == followed:
                if self.view is not None and pod is None:
                    over = self.view.finished or self.view.suspending
                    gone = "The pods and their logs are gone." if over else "No pod has started yet."
                    yield Event("log", {"note": gone, "lines": [], "reset": False})
                await self.wait_change(looks)
                continue
            try:
                yield Event(
                    "log", {"note": f"{pod.name}, container {self.view.training_container}", "lines": [], "reset": True}
                )
                pieces = self.person.log(self.namespace, pod.name, self.view.training_container, LOG_LINES)
                rest = ""
                async for batch in batched(pieces, LOG_SECONDS):
                    *whole, rest = (rest + "".join(batch)).split("\n")
                    if whole:
                        yield Event("log", {"note": "", "lines": lines_of(whole), "reset": False})
                if rest:
                    yield Event("log", {"note": "", "lines": lines_of([rest]), "reset": False})
                followed = pod.uid
                yield Event("log", {"note": f"{pod.name} has ended", "lines": [], "reset": False})
            except KubeError as error:
                # The log is not readable before the container has started, nor after the node is gone.
                waits = error.status == 400  # noqa: PLR2004 - HTTP's Bad Request
                note = (
                    "The container has not started yet."
                    if waits
                    else trouble(error, f"read logs in namespace {self.namespace}")
                )
                yield Event("log", {"note": note, "lines": [], "reset": True})
                await self.wait_change(looks, RETRY_SECONDS if waits or not error.status else None)


def lines_of(raw: list[str]) -> list[str]:
    """Prepare log lines for a page: the newest, shortened, without control characters, and the last state of a progress bar."""
    skipped = len(raw) - LOG_LINES
    kept = [_CONTROL.sub("", line.rstrip("\r").rpartition("\r")[2]) for line in raw[-LOG_LINES:]]
    shown = [line if len(line) <= LINE_MAX else f"{line[:LINE_MAX]}… ({len(line)} characters)" for line in kept]
    return [f"… {skipped} lines not shown …", *shown] if skipped > 0 else shown
