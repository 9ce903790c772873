"""One heap of due times and a bounded number of concurrent observations.

A slow pod occupies one slot and does not delay the loop, and one namespace cannot occupy all slots. A group is the slow runs of a
namespace, its new runs, or its other runs. A slow group may hold a third of all slots, any other group half; with several groups, each is
limited to the same ratio of the slots left. So one slot stays free for a new group, and unresponsive runs wait only for each other.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
import time
from collections import Counter
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

from trainingrun_operator.edge.waits import Waits, measured

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

SLOTS: Final = 64
SLOW_SECONDS: Final = 2.5
"""A longer wait is one for something unresponsive."""
NEW_SECONDS: Final = 10.0
"""A run is new for so long after its first wait, because its pod may respond before its bucket is asked, and until it has responded `ANSWERS` times."""
RECENT_SECONDS: Final = 60.0
"""A slow observation counts for so long, and until the run has responded `ANSWERS` times since."""
ANSWERS: Final = 3
LATER: Final = 10
_IDLE_SECONDS: Final = 1.0

log = logging.getLogger(__name__)


class _Kind(Enum):
    NEW = 1
    KNOWN = 2
    SLOW = 3


_Group = tuple[str, _Kind]
"""Runs of one namespace."""


@dataclass
class _Past:
    """How one run has responded. Observations that waited for neither pod nor bucket do not count."""

    kind: _Kind = _Kind.NEW
    since: float = float("inf")
    """When the first such observation ended."""
    slow_at: float = float("-inf")
    """When the last slow one ended."""
    answers: int = 0
    """Others since then."""
    waited: float = 0.0
    """Seconds, in the last one."""

    def add(self, waits: Waits, ended: float) -> None:
        if not waits.number:
            return
        self.since, self.waited = min(self.since, ended), waits.longest
        if waits.longest > SLOW_SECONDS:
            recent = ended - self.slow_at < RECENT_SECONDS or self.answers < ANSWERS
            # A single slow one of a run that is known is no sign yet.
            self.kind = _Kind.KNOWN if self.kind is _Kind.KNOWN and not recent else _Kind.SLOW
            self.slow_at, self.answers = ended, 0
            return
        self.answers += 1
        if self.answers >= ANSWERS and ended - self.since >= NEW_SECONDS and ended - self.slow_at >= RECENT_SECONDS:
            self.kind = _Kind.KNOWN


_UNKNOWN: Final = _Past()


class Scheduler:
    """Calls `look(uid)` when due; it returns the seconds until the next call, or None to wait for `wake`."""

    def __init__(
        self,
        look: Callable[[str], Awaitable[float | None]],
        namespace_of: Callable[[str], str],
        on_late: Callable[[float], None] = lambda _: None,
        *,
        slots: int = SLOTS,
    ) -> None:
        self._look, self._namespace_of, self._on_late = look, namespace_of, on_late
        self._slots = slots
        self._heap: list[tuple[float, int, str]] = []
        self._due: dict[str, float] = {}
        self._past: dict[str, _Past] = {}
        self._parked: dict[_Group, dict[str, float]] = {}
        """Runs that were due while their group had no slot, and since when."""
        self._taken: Counter[_Group] = Counter()
        self._looking: dict[str, asyncio.Task[None]] = {}
        self._woken: set[str] = set()
        self._order = itertools.count()
        self._started = False
        self._alarm = asyncio.Event()
        self.beat = time.monotonic()
        """When the loop last turned; used by liveness."""

    def start(self, uids: Iterable[str]) -> None:
        """Start scheduling, with `uids` due at once. Before `start` and after `stop`, `wake` has no effect."""
        self._started = True
        for uid in uids:
            self.wake(uid)

    async def stop(self) -> None:
        """Stop scheduling and cancel running observations; returns when they have ended."""
        self._started = False
        for kept in (self._heap, self._due, self._parked, self._woken, self._past):
            kept.clear()
        looking = tuple(self._looking.values())
        for task in looking:
            task.cancel()
        await asyncio.gather(*looking, return_exceptions=True)
        # A task cancelled before its first step did not clean up.
        self._looking.clear()
        self._taken.clear()

    def wake(self, uid: str, after: float = 0) -> None:
        """Make a run due in `after` seconds, or earlier if already due earlier. While it is observed, observe it once more afterwards."""
        if uid in self._looking and after <= 0:
            self._woken.add(uid)
            return
        self._push(uid, time.monotonic() + after)

    def _push(self, uid: str, due: float) -> None:
        if self._started and due < self._due.get(uid, float("inf")):
            self._due[uid] = due
            heapq.heappush(self._heap, (due, next(self._order), uid))
            self._alarm.set()

    def forget(self, uid: str) -> None:
        """Remove a run from the schedule."""
        self._due.pop(uid, None)
        self._woken.discard(uid)
        self._past.pop(uid, None)
        for parked in self._parked.values():
            parked.pop(uid, None)
        # A free slot may have been reserved for it.
        self._unpark()

    async def run(self) -> None:
        """Schedule until cancelled."""
        while True:
            self.beat = time.monotonic()
            self._alarm.clear()
            self._hand_out()
            wait = (
                min(_IDLE_SECONDS, max(0.0, self._heap[0][0] - time.monotonic()))
                if self._heap and len(self._looking) < self._slots
                else _IDLE_SECONDS
            )
            try:
                await asyncio.wait_for(self._alarm.wait(), wait)
            except TimeoutError:
                continue

    def _hand_out(self) -> None:
        now = time.monotonic()
        while self._heap and self._heap[0][0] <= now and len(self._looking) < self._slots:
            due, _, uid = heapq.heappop(self._heap)
            if self._due.get(uid) != due:
                continue
            del self._due[uid]
            if uid in self._looking:
                self._woken.add(uid)
                continue
            group = self._namespace_of(uid), self._past.get(uid, _UNKNOWN).kind
            if not self._may_look(group):
                self._parked.setdefault(group, {}).setdefault(uid, due)
                continue
            due = self._parked.get(group, {}).pop(uid, due)
            self._on_late(now - due)
            self._start(uid, group)

    def _may_look(self, group: _Group) -> bool:
        _, kind = group
        return self._taken[group] * (2 if kind is _Kind.SLOW else 1) < self._slots - len(self._looking)

    def _unpark(self) -> None:
        """In each group that may take a slot, make the longest-waiting run due again, at its original due time.

        Runs that respond go first: a run counts as due `LATER` times as much later as its last observation waited.
        """
        self._parked = {group: parked for group, parked in self._parked.items() if parked}
        for group, parked in self._parked.items():
            if self._may_look(group):
                uid = min(parked, key=lambda one: parked[one] + LATER * self._past.get(one, _UNKNOWN).waited)
                self._push(uid, parked.pop(uid))

    def _start(self, uid: str, group: _Group) -> None:
        self._taken[group] += 1
        task = asyncio.create_task(self._one(uid, group), name=f"look {uid}")
        self._looking[uid] = task

    async def _one(self, uid: str, group: _Group) -> None:
        again: float | None = None
        waited = Waits()
        try:
            with measured() as waited:
                again = await self._look(uid)
        except Exception:
            # `look` handles expected errors; any other is a bug and must affect this run alone.
            log.exception("observation failed", extra={"uid": uid})
            again = _IDLE_SECONDS
        finally:
            del self._looking[uid]
            self._taken[group] -= 1
            self._remember(uid, waited, goes_on=again is not None)
            self._unpark()
            if uid in self._woken:
                self._woken.discard(uid)
                again = 0
            if again is not None:
                self.wake(uid, again)
            self._alarm.set()

    def _remember(self, uid: str, waited: Waits, *, goes_on: bool) -> None:
        if goes_on:
            self._past.setdefault(uid, _Past()).add(waited, time.monotonic())
        else:
            # The run is gone or needs no more looks; its UID is not kept.
            self._past.pop(uid, None)
