"""One heap of due times, and a bounded number of looks at once: a slow pod costs a slot, never the tick, and a namespace never takes them all."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
import time
from collections import Counter
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

SLOTS: Final = 64
_IDLE_SECONDS: Final = 1.0

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
        self._slots, self._share = slots, max(1, slots // 2)
        self._heap: list[tuple[float, int, str]] = []
        self._due: dict[str, float] = {}
        self._parked: dict[str, dict[str, float]] = {}
        """By namespace, in their order: runs that were due when their namespace had no slot left, and since when."""
        self._taken: Counter[str] = Counter()
        self._looking: dict[str, asyncio.Task[None]] = {}
        self._woken: set[str] = set()
        self._order = itertools.count()
        self._alarm = asyncio.Event()
        self.beat = time.monotonic()
        """When the loop last turned; liveness looks at it."""

    def wake(self, uid: str, after: float = 0) -> None:
        """Have a run looked at in `after` seconds, or earlier if it is due earlier. During a look: once more, right after it."""
        if uid in self._looking and after <= 0:
            self._woken.add(uid)
            return
        self._push(uid, time.monotonic() + after)

    def _push(self, uid: str, due: float) -> None:
        if due < self._due.get(uid, float("inf")):
            self._due[uid] = due
            heapq.heappush(self._heap, (due, next(self._order), uid))
            self._alarm.set()

    def forget(self, uid: str) -> None:
        """Nobody needs to look at it any more."""
        self._due.pop(uid, None)
        self._woken.discard(uid)
        # It may have been the one that a free slot was promised to.
        for namespace, parked in self._parked.items():
            parked.pop(uid, None)
            self._unpark(namespace)

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
            namespace = self._namespace_of(uid)
            if self._taken[namespace] >= self._share:
                self._parked.setdefault(namespace, {}).setdefault(uid, due)
                continue
            due = self._parked.get(namespace, {}).pop(uid, due)
            self._on_late(now - due)
            self._start(uid, namespace)

    def _unpark(self, namespace: str) -> None:
        """With a free slot in the namespace, who has waited longest for one is due again, as early as it was."""
        parked = self._parked.get(namespace)
        if parked and self._taken[namespace] < self._share:
            uid = next(iter(parked))
            self._push(uid, parked.pop(uid))

    def _start(self, uid: str, namespace: str) -> None:
        self._taken[namespace] += 1
        task = asyncio.create_task(self._one(uid, namespace), name=f"look {uid}")
        self._looking[uid] = task

    async def _one(self, uid: str, namespace: str) -> None:
        again: float | None = None
        try:
            again = await self._look(uid)
        except Exception:
            # A look handles what it expects; what comes here is a bug, and must cost this run alone.
            log.exception("look failed", extra={"uid": uid})
            again = _IDLE_SECONDS
        finally:
            del self._looking[uid]
            self._taken[namespace] -= 1
            self._unpark(namespace)
            if uid in self._woken:
                self._woken.discard(uid)
                again = 0
            if again is not None:
                self.wake(uid, again)
            self._alarm.set()
