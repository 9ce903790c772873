"""One heap of due times, and a bounded number of looks at once: a slow pod costs a slot, never the tick, and a namespace never takes them all.

Slots are shared between groups: the runs of one namespace whose looks are slow, and its others. Alone, the slow take a third of all and the others half;
whoever comes next, the same of what is left. So there is a slot for whoever comes last, and runs that wait for what does not answer wait among themselves.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
import time
from collections import Counter
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

SLOTS: Final = 64
SLOW_SECONDS: Final = 2.5
"""A look that takes longer has waited for something that does not answer."""
_IDLE_SECONDS: Final = 1.0

_Group = tuple[str, bool]
"""A namespace, and whether its slow runs are meant."""

log = logging.getLogger(__name__)


class Scheduler:
    """Calls `look(uid)` when it is due; what it returns, in seconds, is when it is due again. None: when somebody wakes it."""

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
        self._slow: set[str] = set()
        """Runs whose looks are slow: the last one at least."""
        self._excused: set[str] = set()
        """Runs whose last look was short: one slow look may be the API server's fault."""
        self._parked: dict[_Group, dict[str, float]] = {}
        """Runs that were due when their group had no slot left, and since when."""
        self._taken: Counter[_Group] = Counter()
        self._looking: dict[str, asyncio.Task[None]] = {}
        self._woken: set[str] = set()
        self._order = itertools.count()
        self._started = False
        self._alarm = asyncio.Event()
        self.beat = time.monotonic()
        """When the loop last turned; liveness looks at it."""

    def start(self, uids: Iterable[str]) -> None:
        """From now on runs are looked at, these at once. Before it, and after `stop`, nobody is due: who is woken then is in the next `start`."""
        self._started = True
        for uid in uids:
            self.wake(uid)

    async def stop(self) -> None:
        """Hand out no look any more. Those on the way are cancelled; returns when they have ended."""
        self._started = False
        for kept in (self._heap, self._due, self._parked, self._woken, self._slow, self._excused):
            kept.clear()
        looking = tuple(self._looking.values())
        for task in looking:
            task.cancel()
        await asyncio.gather(*looking, return_exceptions=True)
        # One that was cancelled before its first step has not tidied up after itself.
        self._looking.clear()
        self._taken.clear()

    def wake(self, uid: str, after: float = 0) -> None:
        """Have a run looked at in `after` seconds, or earlier if it is due earlier. During a look: once more, right after it."""
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
        """Nobody needs to look at it any more."""
        self._due.pop(uid, None)
        self._woken.discard(uid)
        self._slow.discard(uid)
        self._excused.discard(uid)
        for parked in self._parked.values():
            parked.pop(uid, None)
        # It may have been the one that a free slot was promised to.
        self._unpark()

    async def run(self) -> None:
        """Hand out looks until cancelled."""
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
            group = self._namespace_of(uid), uid in self._slow
            if not self._may_look(group):
                self._parked.setdefault(group, {}).setdefault(uid, due)
                continue
            due = self._parked.get(group, {}).pop(uid, due)
            self._on_late(now - due)
            self._start(uid, group)

    def _may_look(self, group: _Group) -> bool:
        _, slow = group
        return self._taken[group] * (2 if slow else 1) < self._slots - len(self._looking)

    def _unpark(self) -> None:
        """In each group that may take a slot, who has waited longest for one is due again, as early as it was."""
        self._parked = {group: parked for group, parked in self._parked.items() if parked}
        for group, parked in self._parked.items():
            if self._may_look(group):
                uid = min(parked, key=parked.__getitem__)
                self._push(uid, parked.pop(uid))

    def _start(self, uid: str, group: _Group) -> None:
        self._taken[group] += 1
        task = asyncio.create_task(self._one(uid, group), name=f"look {uid}")
        self._looking[uid] = task

    async def _one(self, uid: str, group: _Group) -> None:
        again: float | None = None
        began = time.monotonic()
        try:
            again = await self._look(uid)
        except Exception:
            # A look handles what it expects; what comes here is a bug, and must cost this run alone.
            log.exception("look failed", extra={"uid": uid})
            again = _IDLE_SECONDS
        finally:
            del self._looking[uid]
            self._taken[group] -= 1
            self._remember(uid, slow=time.monotonic() - began > SLOW_SECONDS, goes_on=again is not None)
            self._unpark()
            if uid in self._woken:
                self._woken.discard(uid)
                again = 0
            if again is not None:
                self.wake(uid, again)
            self._alarm.set()

    def _remember(self, uid: str, *, slow: bool, goes_on: bool) -> None:
        excused = uid in self._excused
        self._excused.discard(uid)
        self._slow.discard(uid)
        if not goes_on:
            # Where a look finds that a run is gone, nothing is due: nobody is remembered for ever.
            return
        if not slow:
            self._excused.add(uid)
        elif not excused:
            self._slow.add(uid)
