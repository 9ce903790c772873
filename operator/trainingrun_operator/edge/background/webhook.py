"""Delivers run events to the installation's webhook in the background; an unavailable or slow receiver delays nothing.

Delivery is at least once: an event is due while the status calls for it and does not list it in `notified`, and it is listed only after the
receiver has accepted it. A repeated event has the same id. An event that cannot be delivered for an hour is dropped and logged.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import aiohttp
from pydantic import ValidationError

from trainingrun_operator import __version__
from trainingrun_operator.api.notification import CONTENT_TYPE, EventType
from trainingrun_operator.api.status import TrainingRunStatus
from trainingrun_operator.core import notification
from trainingrun_operator.core.signature import signed
from trainingrun_operator.edge.background import loop
from trainingrun_operator.edge.kube import KubeError

if TYPE_CHECKING:
    from collections.abc import Callable

    from trainingrun_operator.api.notification import CloudEvent
    from trainingrun_operator.core.observed import Observed
    from trainingrun_operator.edge.cache import Cache
    from trainingrun_operator.edge.kube import Kube

TIMEOUT_SECONDS: Final = 15
GIVE_UP_SECONDS: Final = 3600.0

_GONE, _TOO_MANY, _SERVER_ERROR = 410, 429, 500

log = logging.getLogger(__name__)


class FailedError(Exception):
    """The receiver did not accept an event."""

    def __init__(self, said: str, *, everybody: bool = False, wait: float = 0) -> None:
        super().__init__(said)
        self.everybody = everybody
        """Whether the receiver would currently refuse every event."""
        self.wait = wait
        """Seconds of the receiver's Retry-After."""


@dataclass(frozen=True)
class Webhook:
    """URL, signing keys and event types."""

    url: str = field(repr=False)
    keys: tuple[bytes, ...] = field(repr=False)
    types: frozenset[EventType] = frozenset(EventType)


@dataclass
class _Pending:
    event: CloudEvent
    since: float
    due: float
    tries: int = 0
    taken: bool = False
    """Whether the receiver has it and the status does not list it yet."""


def make_session() -> aiohttp.ClientSession:
    """Return a session that uses the proxy of the environment, as requests to S3 do. The caller closes it."""
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
    return aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), timeout=timeout, trust_env=True)


class Notifier:
    """`run` works in the background; `note` adds events."""

    def __init__(
        self,
        webhook: Webhook,
        kube: Kube,
        cache: Cache,
        leads: Callable[[], bool],
        count: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """`count`: called with the result of each attempt: sent, failed or dropped."""
        self._webhook, self._kube, self._cache, self._leads, self._count = webhook, kube, cache, leads, count
        self._clock, self._wall = clock, wall
        self._pending: dict[str, _Pending] = {}
        """By event id."""
        self._told: defaultdict[str, set[str]] = defaultdict(set)
        """By run UID, ids that are not queued again: an observation may predate the status write, and a dropped event stays due in the status."""
        self._quiet_until = float("-inf")
        self._failures = 0
        self._retired = False
        self._alarm = asyncio.Event()

    def note(self, seen: Observed, status: TrainingRunStatus) -> None:
        """Queue the events that the status calls for, without waiting."""
        if self._retired:
            return
        try:
            events = notification.due(seen, status)
        except ValidationError:
            # The observation must continue.
            log.exception("%s: invalid event", seen.run.key)
            return
        now = self._clock()
        for event in events:
            if event.type in self._webhook.types and event.id not in self._told[seen.run.uid]:
                if event.id not in self._pending:
                    self._alarm.set()
                self._pending.setdefault(event.id, _Pending(event, since=now, due=now))

    def forget(self, uid: str) -> None:
        """Drop a deleted run; its queued events are still delivered."""
        self._told.pop(uid, None)

    def forget_all(self) -> None:
        """Drop everything: another replica leads and notifies."""
        self._pending.clear()
        self._told.clear()

    async def run(self) -> None:
        """Deliver until cancelled."""
        async with make_session() as session:
            await loop.work_on(lambda: self.tell(session), self._alarm)

    async def tell(self, session: aiohttp.ClientSession) -> None:
        """Deliver due events one by one."""
        for pending in sorted(self._pending.values(), key=lambda one: one.due):
            now = self._clock()
            if not self._leads():
                return
            if pending.due > now or self._pending.get(pending.event.id) is not pending:
                continue
            try:
                if not pending.taken:
                    if self._quiet_until > now:
                        self._give_up_if_late(pending)
                        continue
                    await self._send(session, pending.event)
                    pending.taken, self._failures = True, 0
                    self._count("sent")
                    log.info("delivered %s of %s", pending.event.type.value, pending.event.subject)
                await self._write_down(pending)
            except FailedError as error:
                self._failed(pending, error)
            except KubeError as error:
                pending.tries += 1
                pending.due = self._clock() + loop.backoff(pending.tries)
                log.warning("%s: cannot record the delivery of %s: %s", pending.event.subject, pending.event.id, error)
                self._give_up_if_late(pending)
            except Exception:
                # A bug must affect this event alone.
                log.exception("%s cannot be delivered", pending.event.id)
                self._drop(pending)

    async def _send(self, session: aiohttp.ClientSession, event: CloudEvent) -> None:
        """Send an event; returns when the receiver has accepted it.

        Raises:
            FailedError: the receiver did not accept it.
        """
        body = event.body()
        headers = signed(self._webhook.keys, event.id, int(self._wall()), body)
        headers |= {"Content-Type": CONTENT_TYPE, "User-Agent": f"trainingrun-operator/{__version__}"}
        try:
            async with session.post(self._webhook.url, data=body, headers=headers, allow_redirects=False) as answer:
                status, wait = answer.status, _seconds(answer.headers.get("Retry-After", ""))
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            # Only the exception's class: its message may contain the URL, which may be a secret.
            raise FailedError(f"no response ({type(error).__name__})", everybody=True) from None
        if status == _GONE:
            self._retired = True
            raise FailedError("status 410 Gone: no more events are sent until the operator restarts")
        if status in range(300, 400):
            raise FailedError(
                f"status {status}, a redirect, which is not followed: configure the final URL", everybody=True
            )
        if not 200 <= status < 300:  # noqa: PLR2004 - HTTP's success
            raise FailedError(f"status {status}", everybody=status == _TOO_MANY or status >= _SERVER_ERROR, wait=wait)

    def _failed(self, pending: _Pending, error: FailedError) -> None:
        self._count("failed")
        now = self._clock()
        pending.tries += 1
        if error.everybody:
            self._failures += 1
            wait = max(min(error.wait, GIVE_UP_SECONDS), loop.backoff(self._failures))
            self._quiet_until = now + wait
        else:
            wait = loop.backoff(pending.tries)
            pending.due = now + wait
        log.warning("delivery of %s failed: %s; retry in %.0f s", pending.event.id, error, wait)
        if self._retired:
            for one in list(self._pending.values()):
                self._drop(one)
        else:
            self._give_up_if_late(pending)

    def _give_up_if_late(self, pending: _Pending) -> None:
        if self._clock() - pending.since > GIVE_UP_SECONDS:
            self._drop(pending)

    def _drop(self, pending: _Pending) -> None:
        event, uid = pending.event, pending.event.data.uid
        self._pending.pop(event.id, None)
        if uid in self._cache.runs:
            self._told[uid].add(event.id)
        if not pending.taken:
            self._count("dropped")
            log.error("dropped an undeliverable event: %s", event.body().decode())

    async def _write_down(self, pending: _Pending) -> None:
        """List the event in the run's status, so that no later operator sends it again."""
        event, about = pending.event, pending.event.data
        if (stored := self._cache.runs.get(about.uid)) is not None:
            self._told[about.uid].add(event.id)
            status = TrainingRunStatus.parse(stored.get("status") or {})
            # After the end of a suspension, its events are no longer due.
            if (stop := status.termination) is not None and stop.id == about.termination_id:
                operations: list[dict[str, Any]] = [
                    {"op": "test", "path": "/metadata/uid", "value": about.uid},
                    {"op": "test", "path": "/status/termination/phase", "value": stop.phase.value},
                    {"op": "add", "path": "/status/notified", "value": list(notification.recorded(status, event.id))},
                ]
                try:
                    written = await self._kube.patch_run_status(about.namespace, about.name, operations)
                except KubeError as error:
                    if not error.gone:
                        raise
                else:
                    self._cache.put_run(written)
        self._pending.pop(event.id, None)


def _seconds(retry_after: str) -> float:
    """Seconds of a Retry-After header; a date counts as 0."""
    return float(retry_after) if retry_after.isdecimal() else 0
