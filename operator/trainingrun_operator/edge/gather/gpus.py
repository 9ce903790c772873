"""Reads the pages of the DCGM exporters, once per interval for all runs.

The installation names one address. A name with several addresses, as that of a headless Service for the DaemonSet of the exporter, is read at each of
them: every node has an exporter of its own.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit, urlunsplit

from trainingrun_operator.core.facts.gpus import Gpus
from trainingrun_operator.core.facts.reading import Failure
from trainingrun_operator.edge.clock import SystemClock
from trainingrun_operator.edge.metrics import dcgm, prometheus

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    import aiohttp

    from trainingrun_operator.edge.clock import Clock

    Resolve = Callable[[str, int], Awaitable[Sequence[str]]]

INTERVAL_SECONDS: Final = 30.0
STALE_SECONDS: Final = 90.0
"""What was read longer ago than this is not used."""
WAIT_SECONDS: Final = 2.0
"""Time that a look waits for the pages. They are read on meanwhile."""
PAGE_SECONDS: Final = 3.0
CAP_BYTES: Final = 4 << 20
"""Of one page. An exporter's page of 8 GPUs has about 60 kB."""
AT_ONCE: Final = 8
_FEDERATE: Final = "/federate"
"""End of the path of Prometheus' page with series of its own."""
_INLINE_BYTES: Final = 1 << 16
NOT_SHOWN: Final = "NotShown"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Round:
    """What all pages showed."""

    at: float
    """When reading began."""
    page: dcgm.Page = field(default_factory=dict)
    failures: frozenset[str] = frozenset()
    """Reasons for which pages could not be read."""


class GpuPages:
    """Implements `GpuReader`."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        url: str,
        *,
        clock: Clock | None = None,
        resolve: Resolve | None = None,
        epoch: Callable[[], float] = time.time,
    ) -> None:
        """Take the address.

        Args:
            session: from `prometheus.make_session`.
            url: ``http://host:port/path``.
            clock: for the interval.
            resolve: returns the addresses of a host; by default from DNS.
            epoch: seconds since 1970.
        """
        self._session, self._url, self._parts = session, url, urlsplit(url)
        self._clock, self._resolve, self._epoch = clock or SystemClock(), resolve or _addresses, epoch
        self._newest: Round | None = None
        self._reading: asyncio.Task[None] | None = None

    async def of(self, namespace: str, pod: str) -> Gpus | Failure:
        """See `GpuReader`."""
        known = await self._read_lately()
        if known is None:
            return Failure("NotRead", f"{self._url} has not answered yet.")
        if self._clock.monotonic() - known.at > STALE_SECONDS:
            return Failure("Stale", f"{self._url} has not answered for {STALE_SECONDS:g} s.")
        if devices := known.page.get((namespace, pod)):
            return Gpus(known.at, tuple(shown.gpu for shown in devices.values()))
        reason = min(known.failures, default=NOT_SHOWN)
        return Failure(reason, f"{self._url} shows no GPU of pod {namespace}/{pod}.")

    async def close(self) -> None:
        """End a read in progress."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)

    async def _read_lately(self) -> Round | None:
        """Return the newest round, after a new one if the interval is over."""
        due = self._newest is None or self._clock.monotonic() - self._newest.at >= INTERVAL_SECONDS
        if due and (self._reading is None or self._reading.done()):
            self._reading = asyncio.create_task(self._read())
        if due and self._reading is not None:
            # It ends by itself, also if this look is cancelled.
            await asyncio.wait({self._reading}, timeout=WAIT_SECONDS)
        return self._newest

    async def _read(self) -> None:
        """Read all pages."""
        at, page, places = self._clock.monotonic(), dcgm.Page(), asyncio.Semaphore(AT_ONCE)
        try:
            addresses = await self._resolve(self._parts.hostname or "", self._parts.port or 80)
            read = await asyncio.gather(*(self._one(address, places) for address in addresses))
        except (OSError, UnicodeError) as error:
            log.debug("%s cannot be resolved: %s", self._url, error)
            read = [Failure("HostUnreachable", f"{self._url} cannot be resolved.")]
        for one in read:
            if not isinstance(one, Failure):
                dcgm.merge(page, one)
        done = Round(at, page, frozenset(one.reason for one in read if isinstance(one, Failure)))
        if done.failures and (self._newest is None or self._newest.failures != done.failures):
            failed = sum(isinstance(one, Failure) for one in read)
            log.warning(
                "%s: %d of %d pages cannot be read (%s): the GPUs that they show count as busy",
                self._url,
                failed,
                len(read),
                ", ".join(sorted(done.failures)),
            )
        self._newest = done

    async def _one(self, address: str, places: asyncio.Semaphore) -> dcgm.Page | Failure:
        """Read the page at one address."""
        host = f"[{address}]" if ":" in address else address
        url = urlunsplit(self._parts._replace(netloc=f"{host}:{self._parts.port or 80}"))
        async with places:
            page = await prometheus.fetch(
                self._session, url, timeout_seconds=PAGE_SECONDS, cap_bytes=CAP_BYTES, host=self._parts.netloc
            )
            if isinstance(page, Failure):
                return page
            federated, now = self._parts.path.rstrip("/").endswith(_FEDERATE), self._epoch()
            if len(page) <= _INLINE_BYTES:
                return dcgm.parse(page, now=now, federated=federated)
            # Parsing holds Python's lock only for short calls: in a thread, a large page does not delay other runs.
            return await asyncio.to_thread(dcgm.parse, page, now=now, federated=federated)


async def _addresses(host: str, port: int) -> list[str]:
    """Return all addresses of a host, each once."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))
