"""Connections of browsers: how many, how long a request may take to arrive, and how long an answer may stay unread.

uvicorn limits none of these. Its `limit_concurrency` refuses the kubelet's probes as well, so that a flood would restart the dashboard.
"""

from __future__ import annotations

import socket
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from uvicorn.protocols.http.h11_impl import H11Protocol

if TYPE_CHECKING:
    import asyncio

CONNECTIONS: Final = 512
"""More than live pages and requests together: there is always a connection to drop."""
REQUEST_SECONDS = 10.0
"""From its first byte, or from the connection, to the last byte of its body."""
UNREAD_SECONDS = 30.0
"""A browser takes no byte of an answer. A page that comes back later connects again."""
SEND_BYTES: Final = 131_072
"""The kernel's buffer for one connection, which counts as the dashboard's memory; by itself it grows to several MB."""


class BoundedProtocol(H11Protocol):
    """A connection with deadlines. At the limit, the oldest one without a running request is dropped."""

    _made_at: float
    _request_timer: asyncio.TimerHandle | None = None
    _unread_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        """Accept a connection, and wait for its first request."""
        super().connection_made(transport)
        self._made_at = self.loop.time()
        if (there := transport.get_extra_info("socket")) is not None:
            there.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BYTES)
        self._request_timer = self.loop.call_later(REQUEST_SECONDS, transport.abort)
        if len(self.connections) > CONNECTIONS:
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the deadlines."""
        super().connection_lost(exc)
        self._received()
        self._read()

    def data_received(self, data: bytes) -> None:
        """Take bytes of a request: its deadline begins with the first and ends with the last."""
        super().data_received(data)
        if not self._waits and not self.cycle.more_body:
            self._received()
        elif self._request_timer is None:
            self._request_timer = self.loop.call_later(REQUEST_SECONDS, self.transport.abort)

    def pause_writing(self) -> None:
        """The browser does not keep up."""
        super().pause_writing()
        if self._unread_timer is None:
            self._unread_timer = self.loop.call_later(UNREAD_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """The browser reads again."""
        super().resume_writing()
        self._read()

    def _received(self) -> None:
        if self._request_timer is not None:
            self._request_timer.cancel()
            self._request_timer = None

    def _read(self) -> None:
        if self._unread_timer is not None:
            self._unread_timer.cancel()
            self._unread_timer = None

    @property
    def _waits(self) -> bool:
        """Whether no request of this connection is being answered."""
        return self.cycle is None or self.cycle.response_complete  # type: ignore[redundant-expr]  # None before the first request

    def _make_room(self) -> None:
        """Drop a connection of the address that has the most; behind a proxy, all have the proxy's."""
        waiting = [each for each in self.connections if isinstance(each, BoundedProtocol) and each._waits]  # noqa: SLF001 - of this class
        held: Counter[Any] = Counter(each.client and each.client[0] for each in waiting)
        oldest = min(waiting, key=lambda each: (-held[each.client and each.client[0]], each._made_at))  # noqa: SLF001 - of this class
        self.connections.discard(oldest)
        oldest.transport.abort()
