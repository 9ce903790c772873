"""Events for an open page.

Requests to the API server: for the fleet, one list (as a table, without specs) and one watch; for a run, one watch, one
followed log, and a read of its curve every ten seconds while it runs. Anonymous viewers share them. A hidden tab closes its
stream.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from trainingrun_operator.dashboard import curve, feeds, pages
from trainingrun_operator.dashboard.fleet import Query, Row, page_of
from trainingrun_operator.dashboard.stream import Event, Fragments
from trainingrun_operator.dashboard.tail import LOG_LINES, tailed
from trainingrun_operator.dashboard.words import trouble
from trainingrun_operator.edge.apiserver.transport import KubeError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator

    from trainingrun_operator.dashboard.cluster import Person
    from trainingrun_operator.dashboard.feeds import Feed, Fleet, OneRun
    from trainingrun_operator.dashboard.run_view import RunView

FLEET_SECONDS: Final = 1.0
LOG_SECONDS: Final = 0.25


class _Trouble:
    """Tells a page when its state becomes old, and when it is live again."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._told: KubeError | None = None
        self._well = False

    def changed(self, error: KubeError | None) -> Iterator[Event]:
        """Yield an event if the page does not know of this error yet, or not of its end."""
        if error is None and not self._well:
            yield Event("well", {})
        elif error is not None and error is not self._told:
            yield Event("trouble", {"text": trouble(error, self._what), "login": error.status == feeds.UNAUTHORIZED})
        self._told, self._well = error, error is None


# -- the fleet ------------------------------------------------------------------------------------------------


async def fleet(feed: Feed[Fleet], query: Query) -> AsyncGenerator[Event, None]:
    """Yield the part of the fleet that a page shows, then its changes, at most once a second: a fleet changes faster than people can read."""
    shown, order, told, looks = Fragments(), _Order(), _Trouble("list TrainingRuns here"), 0
    while True:
        await feed.wait(looks)
        looks = feed.looks
        if feed.state.rows is not None:
            for event in _fleet_changes(shown, order, feed.state.rows, query):
                yield event
        for event in told.changed(feed.state.error):
            yield event
        if feed.over:
            return
        await asyncio.sleep(FLEET_SECONDS)


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


@dataclass(frozen=True)
class Watched:
    """A run as one person sees it."""

    feed: Feed[OneRun]
    person: Person
    user: str
    may_patch: bool

    # -- its state --------------------------------------------------------------------------------------------

    async def states(self) -> AsyncGenerator[Event, None]:
        """Yield the parts of the page that show the run's state, and why it is not shown any more."""
        shown, told, looks, before = Fragments(), _Trouble("read this TrainingRun"), 0, None
        while True:
            await self.feed.wait(looks)
            looks, view = self.feed.looks, self.feed.state.view
            if view is not None and view is not before:
                for event in self._seen(shown, before, view):
                    yield event
                before = view
            for event in told.changed(self.feed.state.error) if not self.feed.state.gone else ():
                yield event
            if self.feed.state.gone:
                yield Event("gone", {"text": self.feed.state.gone})
            if self.feed.over:
                return

    def _seen(self, shown: Fragments, before: RunView | None, view: RunView) -> Iterator[Event]:
        """Yield the changed parts of a newer state. A screen reader gets an event only if the announcement changes."""
        said = pages.run_said(view, may_patch=self.may_patch, user=self.user)
        yield from shown.changed(pages.run_parts(said))
        if before is not None and before.announcement != view.announcement:
            yield Event("announce", {"text": view.announcement})

    # -- its curve --------------------------------------------------------------------------------------------

    async def curves(self) -> AsyncGenerator[Event, None]:
        """Yield the curve when its points or marks change."""
        shown: dict[str, Any] | None = None
        looks = 0
        while not self.feed.over:
            await self.feed.wait(looks)
            looks, now = self.feed.looks, self.feed.state
            if now.view is None or not now.curve_read:
                continue
            drawn = curve.drawn(now.points, now.view.status) | ({"summary": now.note} if now.note else {})
            drawn["values"] = curve.drawn_values(now.values, now.view.spec, now.view.status)
            if drawn != shown:
                shown = drawn
                yield Event("curve", drawn)

    # -- its log ----------------------------------------------------------------------------------------------

    async def logs(self) -> AsyncGenerator[Event, None]:
        """Follow the log of the pod that trains, then of the pod that replaces it."""
        followed, looks, tried = "", 0, None
        while not self.feed.over:
            await self.feed.wait(looks)
            looks, view = self.feed.looks, self.feed.state.view
            if view is None or view is tried:
                continue
            pod, tried = view.newest_pod, view
            if pod is None:
                over = view.finished or view.suspending
                gone = "The pods and their logs are gone." if over else "No pod has started yet."
                yield Event("log", {"note": gone, "lines": [], "reset": False})
            elif pod.uid != followed:
                try:
                    async for event in self._log_of(view, pod.name):
                        yield event
                    followed = pod.uid
                except KubeError as error:
                    # The log is not readable before the container has started, nor after the node is gone.
                    waits = error.status == 400  # noqa: PLR2004 - HTTP's Bad Request
                    refused = trouble(error, f"read logs in namespace {view.namespace}")
                    note = "The container has not started yet." if waits else refused
                    yield Event("log", {"note": note, "lines": [], "reset": True})
                    if waits or not error.status:
                        await self.feed.wait(looks, feeds.RETRY_SECONDS)
                        looks, tried = self.feed.looks - 1, None

    async def _log_of(self, view: RunView, pod: str) -> AsyncGenerator[Event, None]:
        """Yield the log of one pod until it ends."""
        container = view.training_container
        yield Event("log", {"note": f"{pod}, container {container}", "lines": [], "reset": True})
        async for lines in tailed(self.person.log(view.namespace, pod, container, LOG_LINES), LOG_SECONDS):
            yield Event("log", {"note": "", "lines": lines, "reset": False})
        yield Event("log", {"note": f"{pod} has ended", "lines": [], "reset": False})
