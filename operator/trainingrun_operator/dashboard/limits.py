"""How many pages are live at once, and how many requests are answered at once. A refusal says so in words that the page shows."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from starlette.responses import PlainTextResponse, Response, StreamingResponse

from trainingrun_operator.dashboard.guard import HEALTH
from trainingrun_operator.dashboard.stream import HEADERS

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

STREAMS: Final = 200
"""Live pages of all viewers. Each holds some 100 kB."""
STREAMS_OF_ONE: Final = 20
"""Live pages of one person. Hidden tabs are not live."""
STREAMS_ANONYMOUS: Final = 100
"""Live pages of all anonymous viewers: a person who logs in always finds a place."""
REQUESTS: Final = 64
"""Requests without an answer yet."""


class Streams:
    """The live pages."""

    def __init__(self) -> None:
        self._open: Counter[str] = Counter()
        """By user name; empty for anonymous viewers."""

    def refusal(self, user: str) -> Response | None:
        """Return why this viewer gets no more live pages; None if there is a place."""
        if user and self._open[user] >= STREAMS_OF_ONE:
            said = f"You have {STREAMS_OF_ONE} live pages open, which is the limit for one person. Close some; this page then becomes live."
            return PlainTextResponse(f"{said}\n", 429, {"Retry-After": "15"})
        if not user and self._open[user] >= STREAMS_ANONYMOUS:
            said = f"{STREAMS_ANONYMOUS} pages of viewers without a login are live, which is the limit. Log in, or wait until this page becomes live."
            return PlainTextResponse(f"{said}\n", 503, {"Retry-After": "30"})
        if self._open.total() >= STREAMS:
            said = f"{STREAMS} pages are live, which is the limit of this dashboard (dashboard.replicas). This page becomes live when another is closed."
            return PlainTextResponse(f"{said}\n", 503, {"Retry-After": "30"})
        return None

    def of(self, user: str, content: Callable[[], AsyncGenerator[bytes, None]]) -> Response:
        """Return the response that streams the content, if there is a place."""
        return self.refusal(user) or _Stream(self._open, user, content)


class _Stream(Response):
    """Server-sent events. The place is taken while they are sent."""

    def __init__(self, places: Counter[str], user: str, content: Callable[[], AsyncGenerator[bytes, None]]) -> None:
        super().__init__(headers=HEADERS)
        self._places, self._user, self._content = places, user, content

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._places[self._user] += 1
        content = self._content()
        try:
            await StreamingResponse(content, headers=HEADERS)(scope, receive, send)
        finally:
            self._places[self._user] -= 1
            if not self._places[self._user]:
                del self._places[self._user]
            await content.aclose()


class Requests:
    """ASGI middleware that refuses requests above the limit. Liveness is always answered; a stream counts until it begins."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse or forward a request."""
        if scope["type"] != "http" or scope["path"] == HEALTH:
            await self._app(scope, receive, send)
            return
        if self._running >= REQUESTS:
            said = f"The dashboard answers {REQUESTS} requests, which is its limit. Try again in a few seconds.\n"
            await PlainTextResponse(said, 503, {"Retry-After": "5"})(scope, receive, send)
            return
        counts = 1

        async def begun(message: Message) -> None:
            nonlocal counts
            self._running -= counts
            counts = 0
            await send(message)

        self._running += counts
        try:
            await self._app(scope, receive, begun)
        finally:
            self._running -= counts
