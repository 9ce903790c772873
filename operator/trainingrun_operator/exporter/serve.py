"""``GET /metrics``: built in a thread and sent in pieces, so that a page of ten thousand runs does not block the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Final

from aiohttp import hdrs, web
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trainingrun_operator.exporter.telemetry import Telemetry

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

PAGE_SECONDS: Final = 2.0
"""How long a built page is reused: two Prometheus replicas cost one build."""
PIECE_BYTES: Final = 1 << 18
"""Bytes written before the event loop gets control back."""


def metrics_handler(telemetry: Telemetry, *, page_seconds: float = PAGE_SECONDS) -> Handler:
    """Return the handler of ``GET /metrics``; at most one page is built at a time."""
    lock = asyncio.Lock()
    page: list[bytes] = []
    assembled_at = -page_seconds

    async def handle(request: web.Request) -> web.StreamResponse:
        nonlocal page, assembled_at
        async with lock:
            if not page or time.monotonic() - assembled_at >= page_seconds:
                page = await asyncio.to_thread(telemetry.page)
                assembled_at = time.monotonic()
        return await _send(request, page)

    return handle


async def _send(request: web.Request, page: list[bytes]) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4})
    response.content_length = sum(len(chunk) for chunk in page)
    # A client may disconnect early, at its own scrape timeout.
    with contextlib.suppress(ConnectionResetError):
        await response.prepare(request)
        # aiohttp sends a body for HEAD as well; the client would then read the next response from the middle of this one.
        for chunk in page if request.method != hdrs.METH_HEAD else ():
            whole = memoryview(chunk)
            for start in range(0, len(whole), PIECE_BYTES):
                await response.write(whole[start : start + PIECE_BYTES])
                await asyncio.sleep(0)
        await response.write_eof()
    return response


async def serve(telemetry: Telemetry, port: int, *routes: web.RouteDef, host: str | None = None) -> web.AppRunner:
    """Serve ``/metrics`` and `routes`, on every interface unless `host` is set, until the returned runner's `cleanup` is awaited."""
    app = web.Application()
    app.add_routes([web.get("/metrics", metrics_handler(telemetry)), *routes])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, host, port).start()
    return runner
