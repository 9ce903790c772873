"""What open pages follow: the state of a fleet or of a run, kept up to date by one list and one watch.

All anonymous viewers see the same, so they share a feed for each namespace and for each run. A person's feed belongs to one page: each person's calls
carry that person's own token.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar
from weakref import WeakValueDictionary

from pydantic import ValidationError

from trainingrun_operator.dashboard import curve
from trainingrun_operator.dashboard.fleet import Row, row_of
from trainingrun_operator.dashboard.run_view import RunView
from trainingrun_operator.dashboard.words import trouble
from trainingrun_operator.edge.apiserver.transport import KubeError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine, Hashable, Sequence

    from trainingrun_operator.api.curve import Point, ValueCurve
    from trainingrun_operator.dashboard.cluster import Person

    Pump = Coroutine[Any, Any, None]

State = TypeVar("State", bound="Fleet | OneRun")

_known: Final[WeakValueDictionary[str, Row]] = WeakValueDictionary()
"""The newest row of each run, by uid, while a feed holds it."""

log = logging.getLogger(__name__)

RETRY_SECONDS: Final = 3.0
CURVE_SECONDS: Final = 10.0
LINGER_SECONDS: Final = 30.0
"""A shared feed stays this long without a page: a reloaded page causes no list."""
LAST_READS: Final = 4
"""Reads of the curve after the end: the operator may write the last points later, and a run without a loss has no curve."""
LINGERING: Final = 8
UNAUTHORIZED: Final = 401


@dataclass(frozen=True)
class Reader:
    """The person in whose name a feed is read."""

    now: Callable[[], Person]
    """The person with a token that is valid now: the dashboard's own is renewed in its file."""
    shared: bool = False
    """The dashboard itself, for all anonymous viewers. Its token is renewed, so an expired one ends nothing."""


@dataclass
class Fleet:
    """The runs of a namespace, or of all."""

    rows: dict[str, Row] | None = None
    """By uid; None before the first list."""
    error: KubeError | None = None
    """Why the rows may be old."""


@dataclass
class OneRun:
    """One run and its curves."""

    view: RunView | None = None
    error: KubeError | None = None
    gone: str = ""
    """Why it is not shown any more."""
    points: tuple[Point, ...] = ()
    values: tuple[ValueCurve, ...] = ()
    note: str = ""
    """Why the curve cannot be read."""
    curve_read: bool = False


class Feed(Generic[State]):
    """A state that changes. It is kept up to date while a page follows it."""

    def __init__(self, state: State, pumps: Callable[[Feed[State]], Sequence[Pump]]) -> None:
        self.state = state
        self.looks = 0
        """Number of changes."""
        self.over = False
        """Whether no more changes come."""
        self.followers = 0
        self._pumps = pumps
        self._changed = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to read."""
        self._tasks = [asyncio.create_task(self._pump(pump)) for pump in self._pumps(self)]

    def cancel(self) -> None:
        """Stop reading."""
        for task in self._tasks:
            task.cancel()

    async def stop(self) -> None:
        """Stop reading, and wait until it has stopped."""
        self.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def tell(self) -> None:
        """Wake every page."""
        self.looks += 1
        self._changed.set()
        self._changed = asyncio.Event()

    def end(self) -> None:
        """Tell every page that no more changes come."""
        self.over = True
        self.tell()

    async def wait(self, looks: int, seconds: float | None = None) -> None:
        """Wait until there are more than ``looks`` changes, at most ``seconds``."""
        try:
            async with asyncio.timeout(seconds):
                while self.looks <= looks and not self.over:
                    await self._changed.wait()
        except TimeoutError:
            return

    async def _pump(self, pump: Pump) -> None:
        try:
            await pump
        except Exception:
            log.exception("a feed of pages failed")
            self.end()


class Feeds:
    """The feeds that pages follow now."""

    def __init__(self) -> None:
        self._open: dict[Hashable, Feed[Any]] = {}

    @asynccontextmanager
    async def follow(
        self, key: Hashable, make: Callable[[], Feed[State]], *, shared: bool
    ) -> AsyncGenerator[Feed[State]]:
        """Follow the feed of this key; one that is not shared is the caller's own."""
        feed: Feed[State] | None = self._open.get(key) if shared else None
        if feed is None or feed.over:
            feed = make()
            feed.start()
            if shared:
                self._open[key] = feed
        feed.followers += 1
        try:
            yield feed
        finally:
            feed.followers -= 1
            if not shared:
                await feed.stop()
            elif not feed.followers:
                # Names of namespaces are the viewers' to invent: only a few feeds wait for their next page.
                linger = LINGER_SECONDS if len(self._open) <= LINGERING else 0
                asyncio.get_running_loop().call_later(linger, self._forget, key, feed)

    def _forget(self, key: Hashable, feed: Feed[Any]) -> None:
        if feed.followers:
            return
        if self._open.get(key) is feed:
            del self._open[key]
        feed.cancel()


# -- the fleet ------------------------------------------------------------------------------------------------


def fleet(reader: Reader, namespace: str) -> Feed[Fleet]:
    """Make the feed of a namespace's runs; of all with an empty name."""
    return Feed(Fleet(), lambda feed: [_read_fleet(feed, reader, namespace)])


async def _read_fleet(feed: Feed[Fleet], reader: Reader, namespace: str) -> None:
    now = feed.state
    while True:
        person = reader.now()
        try:
            listed = await person.runs(namespace)
            now.rows = {row.uid: row for row in (_shared(row_of(listed.columns, one)) for one in listed.rows)}
            now.error, columns, version = None, listed.columns, listed.version
            del listed
            feed.tell()
            async for kind, table in person.watch_runs(namespace, version):
                _take(now.rows, kind, table, columns)
                feed.tell()
        except KubeError as error:
            if await _ends(feed, reader, error):
                return


def _take(rows: dict[str, Row], kind: str, table: dict[str, Any], columns: tuple[str, ...]) -> None:
    """Update the rows. Only the first table of a watch names the columns."""
    named = tuple(one["name"] for one in table.get("columnDefinitions") or ()) or columns
    for row in (_shared(row_of(named, one)) for one in table["rows"]):
        if kind == "DELETED":
            rows.pop(row.uid, None)
        else:
            rows[row.uid] = row


def _shared(row: Row) -> Row:
    """Return an equal row of another feed, if there is one: the fleet is in memory once, however many people look at it."""
    known = _known.get(row.uid)
    if known == row:
        return known
    _known[row.uid] = row
    return row


async def _ends(feed: Feed[State], reader: Reader, error: KubeError) -> bool:
    """Tell the error, and wait before the next try. An expired list is not told. Return whether no try can succeed."""
    if not error.expired:
        feed.state.error = error
        feed.tell()
    if error.status == UNAUTHORIZED and not reader.shared:
        feed.end()
        return True
    await asyncio.sleep(RETRY_SECONDS)
    return False


# -- one run --------------------------------------------------------------------------------------------------


def one_run(reader: Reader, namespace: str, name: str) -> Feed[OneRun]:
    """Make the feed of a run."""
    return Feed(
        OneRun(), lambda feed: [_read_run(feed, reader, namespace, name), _read_curve(feed, reader, namespace, name)]
    )


async def _read_run(feed: Feed[OneRun], reader: Reader, namespace: str, name: str) -> None:
    now = feed.state
    while True:
        person = reader.now()
        try:
            stored = await person.run(namespace, name)
            uid, version = stored["metadata"]["uid"], stored["metadata"]["resourceVersion"]
            now.view, now.error = RunView.of(stored), None
            feed.tell()
            async for kind, newer in person.watch_run(namespace, name, version):
                if kind == "DELETED" or newer["metadata"]["uid"] != uid:
                    now.gone = "This TrainingRun was deleted. Its checkpoints stay in the bucket."
                    break
                now.view = RunView.of(newer)
                feed.tell()
        except KubeError as error:
            if error.gone:
                now.gone = trouble(error, "")
            elif await _ends(feed, reader, error):
                return
        except ValidationError:
            now.gone = "This dashboard does not understand the TrainingRun: a newer operator wrote it."
        if now.gone:
            feed.end()
            return


async def _read_curve(feed: Feed[OneRun], reader: Reader, namespace: str, name: str) -> None:
    """Read the curve again while the run trains, and a few times after its end."""
    now, last = feed.state, 0
    while not feed.over and last < LAST_READS:
        if now.view is None:
            await feed.wait(feed.looks)
            continue
        finished = now.view.finished
        try:
            stored = await reader.now().curve(namespace, name)
            now.points, now.values, now.note = curve.points_of(stored), curve.values_of(stored), ""
        except KubeError as error:
            now.note = trouble(error, f"read ConfigMaps in namespace {namespace}, which hold the curve")
        now.curve_read = True
        feed.tell()
        last += finished and not now.note
        await asyncio.sleep(CURVE_SECONDS)
