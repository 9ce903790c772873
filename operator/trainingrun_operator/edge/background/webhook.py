"""Tells the installation's webhook what became of runs, beside the looks: a receiver that is away, slow or wrong delays nothing and nobody.

At least once: an event is due for as long as the run's status calls for it and does not list it as told, and it is listed only after the receiver has taken it.
Whoever is told twice sees the same id. What nobody can be told for an hour is given up, with a word in the log.
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
    """The receiver has not taken an event."""

    def __init__(self, said: str, *, everybody: bool = False, wait: float = 0) -> None:
        super().__init__(said)
        self.everybody = everybody
        """It would take no other event either, for now."""
        self.wait = wait
        """Seconds that it asked to be left alone for."""


@dataclass(frozen=True)
class Webhook:
    """Where to, signed by what, about what."""

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
    """The receiver has it; that is not written down yet."""


def make_session() -> aiohttp.ClientSession:
    """Return a session that goes through the proxy of the environment, if there is one, as requests to S3 do. The caller closes it."""
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
    return aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), timeout=timeout, trust_env=True)


class Notifier:
    """`run` it beside the looks; `note` what they see."""

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
        """`count`: told of each try whether it was sent, failed or dropped."""
        self._webhook, self._kube, self._cache, self._leads, self._count = webhook, kube, cache, leads, count
        self._clock, self._wall = clock, wall
        self._pending: dict[str, _Pending] = {}
        """By the event's id."""
        self._told: defaultdict[str, set[str]] = defaultdict(set)
        """By the run's uid: a look that began before an event was written down would bring it again, and so would the next look one that was given up."""
        self._quiet_until = float("-inf")
        self._failures = 0
        self._retired = False
        self._alarm = asyncio.Event()

    def note(self, seen: Observed, status: TrainingRunStatus) -> None:
        """Take in what a run's status calls for. Waits for nothing."""
        if self._retired:
            return
        try:
            events = notification.due(seen, status)
        except ValidationError:
            # The look that brought this must go on.
            log.exception("%s: what is to be told cannot be said", seen.run.key)
            return
        now = self._clock()
        for event in events:
            if event.type in self._webhook.types and event.id not in self._told[seen.run.uid]:
                if event.id not in self._pending:
                    self._alarm.set()
                self._pending.setdefault(event.id, _Pending(event, since=now, due=now))

    def forget(self, uid: str) -> None:
        """The run is gone; what is still to be told of it is told."""
        self._told.pop(uid, None)

    def forget_all(self) -> None:
        """Somebody else looks at the runs, and tells of them."""
        self._pending.clear()
        self._told.clear()

    async def run(self) -> None:
        """Tell what is due until cancelled."""
        async with make_session() as session:
            await loop.work_on(lambda: self.tell(session), self._alarm)

    async def tell(self, session: aiohttp.ClientSession) -> None:
        """Tell what is due, one event after the other."""
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
                    log.info("told %s of %s", pending.event.type.value, pending.event.subject)
                await self._write_down(pending)
            except FailedError as error:
                self._failed(pending, error)
            except KubeError as error:
                pending.tries += 1
                pending.due = self._clock() + loop.backoff(pending.tries)
                log.warning(
                    "%s: cannot write down that %s was told: %s", pending.event.subject, pending.event.id, error
                )
                self._give_up_if_late(pending)
            except Exception:
                # A bug must cost this event alone.
                log.exception("%s cannot be told", pending.event.id)
                self._drop(pending)

    async def _send(self, session: aiohttp.ClientSession, event: CloudEvent) -> None:
        """Returns when the receiver has taken it.

        Raises:
            FailedError: it has not.
        """
        body = event.body()
        headers = signed(self._webhook.keys, event.id, int(self._wall()), body)
        headers |= {"Content-Type": CONTENT_TYPE, "User-Agent": f"trainingrun-operator/{__version__}"}
        try:
            async with session.post(self._webhook.url, data=body, headers=headers, allow_redirects=False) as answer:
                status, wait = answer.status, _seconds(answer.headers.get("Retry-After", ""))
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            # Its name only: its words may quote the address, which may be a secret.
            raise FailedError(f"it does not answer ({type(error).__name__})", everybody=True) from None
        if status == _GONE:
            self._retired = True
            raise FailedError("it answers 410 Gone and is told nothing any more, until the operator starts again")
        if status in range(300, 400):
            raise FailedError(
                f"it answers {status}, a redirect, which is not followed: set its final address", everybody=True
            )
        if not 200 <= status < 300:  # noqa: PLR2004 - HTTP's success
            raise FailedError(
                f"it answers {status}", everybody=status == _TOO_MANY or status >= _SERVER_ERROR, wait=wait
            )

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
        log.warning("the webhook was not told %s: %s; tried again in %.0f s", pending.event.id, error, wait)
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
            log.error("given up telling the webhook: %s", event.body().decode())

    async def _write_down(self, pending: _Pending) -> None:
        """List the event in the run's status, so that no operator after this one tells it."""
        event, about = pending.event, pending.event.data
        if (stored := self._cache.runs.get(about.uid)) is not None:
            self._told[about.uid].add(event.id)
            status = TrainingRunStatus.parse(stored.get("status") or {})
            # Of a suspension that is over nobody would tell again.
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
    """A date instead of a number is not waited for."""
    return float(retry_after) if retry_after.isdecimal() else 0
