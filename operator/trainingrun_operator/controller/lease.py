"""Which of several operators acts: the one that holds the Lease. The others watch, and wait for it to run out.

As client-go elects: a candidate measures on its own clock how long the Lease has not changed, and never compares it with the time that is written
in there; every write is refused if somebody else wrote meanwhile. The Lease is for economy: that two do not do the same work. What a holder that was
held up still does is made safe by the writes themselves.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

from trainingrun_operator.edge.kube import KubeError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trainingrun_operator.edge.kube import Kube

Json = dict[str, Any]

HELD_SHARE: Final = 2 / 3
"""A holder acts for this much of the Lease after it asked for it. The rest is for clocks of different speed and for writes on their way."""
ATTEMPT_SHARE: Final = 1 / 3
"""An attempt may take this much of the Lease: one that hangs must leave time for another."""
RETRY_SHARE: Final = 2 / 15
"""Between two attempts."""
_NEVER: Final = float("-inf")

log = logging.getLogger(__name__)


class Lease:
    """One candidate. `run` it; `held` says whether it may act."""

    def __init__(
        self, kube: Kube, namespace: str, name: str, seconds: int, *, pod: str = "", machine: str = ""
    ) -> None:
        """`seconds`: how long others wait for a holder that is silent. `pod` or else `machine` tells people who it is.

        In a pod there is one operator at a time: whoever held the Lease from this very pod is dead, and need not be waited for.
        """
        self._kube, self._namespace, self._name, self.seconds = kube, namespace, name, seconds
        self.identity = f"{pod or machine}_{uuid4().hex[:8]}"
        self._former = re.compile(rf"{re.escape(pod)}_[0-9a-f]{{8}}") if pod else None
        self._until = _NEVER
        self._seen: Json = {}
        self._changed = _NEVER
        """When the Lease was first seen as it is now."""
        self._trouble = ""
        self.known = False
        """It was read, or made, at least once."""
        self.beat = time.monotonic()
        """When it was last asked for; liveness looks at it."""

    def held(self) -> bool:
        """Whether this process may act, now. Asks nobody: also right after the process was stopped for a while."""
        return time.monotonic() < self._until

    @property
    def holder(self) -> str:
        """Who held it when it was last read; empty: nobody."""
        return self._seen.get("holderIdentity") or ""

    async def run(self, begin: Callable[[], None], end: Callable[[], Awaitable[None]]) -> None:
        """Until cancelled: `begin` when the Lease is ours, `end` when it is not any more. At the end it is given back.

        Who loses it is a candidate again and does not exit: its cache is warm, and memories are one dict that `end` empties.
        """
        try:
            while True:
                await self._acquire()
                log.info("leading: %s holds the Lease %s/%s", self.identity, self._namespace, self._name)
                begin()
                try:
                    await self._keep()
                finally:
                    self._until = _NEVER
                    await end()
                log.warning("no longer leading: the Lease %s", self._held_by())
        finally:
            # Only now: whoever takes over finds nobody at work.
            await self._give_back()

    def described(self) -> str:
        """For people: whether this one leads, or who does."""
        return "leading" if self.held() else f"standby: the Lease {self._held_by()}"

    def _held_by(self) -> str:
        if self.holder == self.identity:
            return "could not be renewed in time"
        return f"is held by {self.holder}" if self.holder else "is held by nobody"

    async def _acquire(self) -> None:
        while not self.held():
            before = self.holder
            asked = await self._attempt(self.seconds * ATTEMPT_SHARE)
            if asked is not None:
                self._until = asked + self.seconds * HELD_SHARE
                continue
            if self.holder != before:
                log.info("%s", self.described())
            left = self._runs_out() - time.monotonic()
            # A Lease that has run out and is still not ours: there is trouble, or somebody was quicker.
            retry = self.seconds * RETRY_SHARE
            await asyncio.sleep(min(retry, left) if left > 0 else retry)

    async def _keep(self) -> None:
        """Returns when it is lost: by a name that is not ours, or because it could not be renewed in time."""
        while (left := self._until - time.monotonic()) > 0:
            await asyncio.sleep(min(self.seconds * RETRY_SHARE, left))
            if (left := self._until - time.monotonic()) <= 0:
                return
            asked = await self._attempt(min(self.seconds * ATTEMPT_SHARE, left))
            if asked is not None:
                self._until = asked + self.seconds * HELD_SHARE

    async def _attempt(self, seconds: float) -> float | None:
        """Take or renew it. Returns the moment it was asked for, from when on it counts; None: it is not ours, or could not be asked for."""
        self.beat = asked = time.monotonic()
        try:
            async with asyncio.timeout(seconds):
                taken = await self._take()
        except (KubeError, TimeoutError) as error:
            self._complain(str(error) or f"no answer in {seconds:.1f} s")
            return None
        self._complain("")
        return asked if taken else None

    async def _take(self) -> bool:
        try:
            return await self._write()
        except KubeError as error:
            if not error.conflict:
                raise
        # Somebody wrote between reading and writing. Perhaps it was us: a renewal whose answer was lost.
        try:
            return await self._write()
        except KubeError as error:
            if not error.conflict:
                raise
            return False

    async def _write(self) -> bool:
        stored = await self._kube.lease(self._namespace, self._name)
        if stored is None:
            mine = {**self._renewal(), "acquireTime": _now(), "leaseTransitions": 0}
            self._see(await self._kube.create_lease(self._namespace, self._name, mine))
            return True
        self._see(stored)
        ours = self.holder == self.identity
        if not ours and self.holder and not self._died(self.holder) and time.monotonic() < self._runs_out():
            self._until = _NEVER
            return False
        transitions = (self._seen.get("leaseTransitions") or 0) + 1
        change = self._renewal() | ({} if ours else {"acquireTime": _now(), "leaseTransitions": transitions})
        version = stored["metadata"]["resourceVersion"]
        self._see(await self._kube.patch_lease(self._namespace, self._name, version, change))
        return True

    def _died(self, holder: str) -> bool:
        return self._former is not None and self._former.fullmatch(holder) is not None

    def _see(self, stored: Json) -> None:
        self.known = True
        spec = stored.get("spec") or {}
        if spec != self._seen or self._changed == _NEVER:
            self._seen, self._changed = spec, time.monotonic()

    def _runs_out(self) -> float:
        """By the duration that its holder wrote: it may have been set up differently."""
        return self._changed + (self._seen.get("leaseDurationSeconds") or self.seconds)

    def _renewal(self) -> Json:
        return {"holderIdentity": self.identity, "leaseDurationSeconds": self.seconds, "renewTime": _now()}

    async def _give_back(self) -> None:
        """Nobody has to wait for it to run out. If this fails, they wait."""
        try:
            async with asyncio.timeout(self.seconds * ATTEMPT_SHARE):
                stored = await self._kube.lease(self._namespace, self._name)
                if stored is None or (stored.get("spec") or {}).get("holderIdentity") != self.identity:
                    return
                nobodys = {"holderIdentity": None, "leaseDurationSeconds": 1, "renewTime": _now()}
                version = stored["metadata"]["resourceVersion"]
                await self._kube.patch_lease(self._namespace, self._name, version, nobodys)
            log.info("the Lease %s/%s is given back", self._namespace, self._name)
        except (KubeError, TimeoutError) as error:
            log.warning("the Lease could not be given back, it will run out: %s", str(error) or "no answer")

    def _complain(self, trouble: str) -> None:
        if trouble and trouble != self._trouble:
            log.warning("the Lease %s/%s cannot be had or renewed: %s", self._namespace, self._name, trouble)
        self._trouble = trouble


def _now() -> str:
    """A MicroTime, for people to read: no clock is ever compared with it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
