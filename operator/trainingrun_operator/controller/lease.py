"""Leader election: the operator that holds the Lease acts; the others watch and wait for it to expire.

As in client-go, a candidate measures on its own clock how long the Lease has not changed and never compares clocks; every write is
refused if another candidate wrote in between. The Lease only avoids duplicate work. The writes themselves are safe against a delayed
former holder.
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
"""Share of the Lease during which its holder acts; the rest covers clock drift and writes in flight."""
ATTEMPT_SHARE: Final = 1 / 3
"""Share of the Lease that one attempt may take: a hanging attempt must leave time for another."""
RETRY_SHARE: Final = 2 / 15
"""Pause between two attempts."""
_NEVER: Final = float("-inf")

log = logging.getLogger(__name__)


class Lease:
    """One candidate; `held` says whether it may act."""

    def __init__(
        self, kube: Kube, namespace: str, name: str, seconds: int, *, pod: str = "", machine: str = ""
    ) -> None:
        """`seconds`: how long others wait for a silent holder. `pod`, or else `machine`, identifies the holder for people.

        A pod runs one operator at a time: a former holder in this pod is dead, so its Lease is taken at once.
        """
        self._kube, self._namespace, self._name, self.seconds = kube, namespace, name, seconds
        self.identity = f"{pod or machine}_{uuid4().hex[:8]}"
        self._former = re.compile(rf"{re.escape(pod)}_[0-9a-f]{{8}}") if pod else None
        self._until = _NEVER
        self._seen: Json = {}
        self._changed = _NEVER
        """When the current state of the Lease was first observed."""
        self._trouble = ""
        self.known = False
        """Whether the Lease was read or created at least once."""
        self.beat = time.monotonic()
        """When the Lease was last requested; used by liveness."""

    def held(self) -> bool:
        """Whether this process may act now. Makes no request; correct also after the process was paused."""
        return time.monotonic() < self._until

    @property
    def installation(self) -> str:
        """Namespace and name of the Lease, which all replicas of one operator share."""
        return f"{self._namespace}/{self._name}"

    @property
    def holder(self) -> str:
        """The holder when the Lease was last read; empty if none."""
        return self._seen.get("holderIdentity") or ""

    async def run(self, begin: Callable[[], None], end: Callable[[], Awaitable[None]]) -> None:
        """Until cancelled, call `begin` when the Lease is acquired and `end` when it is lost. On exit the Lease is given back.

        A process that loses the Lease becomes a candidate again and does not exit: its cache is warm, and `end` clears its memory.
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
            # Only now: no two replicas act at once.
            await self._give_back()

    def described(self) -> str:
        """For people: whether this replica leads, or which one does."""
        return "leading" if self.held() else f"standby: the Lease {self._held_by()}"

    def _held_by(self) -> str:
        if self.holder == self.identity:
            return "could not be renewed in time"
        return f"is held by {self.holder}" if self.holder else "has no holder"

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
            # The Lease has expired and is still not ours: a request failed, or another candidate was faster.
            retry = self.seconds * RETRY_SHARE
            await asyncio.sleep(min(retry, left) if left > 0 else retry)

    async def _keep(self) -> None:
        """Renew until the Lease is lost: another holder is written in it, or it could not be renewed in time."""
        while (left := self._until - time.monotonic()) > 0:
            await asyncio.sleep(min(self.seconds * RETRY_SHARE, left))
            if (left := self._until - time.monotonic()) <= 0:
                return
            asked = await self._attempt(min(self.seconds * ATTEMPT_SHARE, left))
            if asked is not None:
                self._until = asked + self.seconds * HELD_SHARE

    async def _attempt(self, seconds: float) -> float | None:
        """Take or renew the Lease. Returns the time of the request, from which the Lease counts; None if it was not obtained."""
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
        # Another write came between read and write; it may be our own renewal whose response was lost.
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
        """When the Lease expires, by the duration its holder wrote; settings may differ between replicas."""
        return self._changed + (self._seen.get("leaseDurationSeconds") or self.seconds)

    def _renewal(self) -> Json:
        return {"holderIdentity": self.identity, "leaseDurationSeconds": self.seconds, "renewTime": _now()}

    async def _give_back(self) -> None:
        """Clear the holder so that others need not wait for expiry. On failure, they wait.

        Runs while the task is being cancelled, where `asyncio.timeout` raises CancelledError before Python 3.11.3 (gh-102780).
        """
        try:
            if await asyncio.wait_for(self._clear(), self.seconds * ATTEMPT_SHARE):
                log.info("released the Lease %s/%s", self._namespace, self._name)
        except (KubeError, TimeoutError) as error:
            log.warning("failed to release the Lease, it will expire: %s", str(error) or "no answer")

    async def _clear(self) -> bool:
        """Clear the holder if it is this process. Returns whether it was."""
        stored = await self._kube.lease(self._namespace, self._name)
        if stored is None or (stored.get("spec") or {}).get("holderIdentity") != self.identity:
            return False
        nobodys = {"holderIdentity": None, "leaseDurationSeconds": 1, "renewTime": _now()}
        await self._kube.patch_lease(self._namespace, self._name, stored["metadata"]["resourceVersion"], nobodys)
        return True

    def _complain(self, trouble: str) -> None:
        if trouble and trouble != self._trouble:
            log.warning("cannot acquire or renew the Lease %s/%s: %s", self._namespace, self._name, trouble)
        self._trouble = trouble


def _now() -> str:
    """A MicroTime for people; no clock is compared with it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
