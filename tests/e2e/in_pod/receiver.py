"""Runs beside an operator, in its pod: a webhook's receiver. What it was told it tells the test; the first messages it does not take."""

from __future__ import annotations

import asyncio
import os

from aiohttp import web

PORT = 9200


class Receiver:
    """Keeps what arrives."""

    def __init__(self, refusals: int) -> None:
        self.refusals = refusals
        self.messages: list[dict[str, object]] = []

    async def take(self, request: web.Request) -> web.Response:
        """Take a message, or say that it could not be taken."""
        wanted = ("content-type", "webhook-id", "webhook-timestamp", "webhook-signature")
        self.refusals -= 1
        taken = self.refusals < 0
        headers = {name: request.headers.get(name, "") for name in wanted}
        self.messages.append({"taken": taken, "headers": headers, "body": await request.text()})
        return web.Response(status=204 if taken else 503)

    async def received(self, _: web.Request) -> web.Response:
        """For the test."""
        return web.json_response(self.messages)


async def main() -> None:
    """Until the pod is deleted."""
    receiver = Receiver(int(os.environ["REFUSALS"]))
    app = web.Application()
    app.add_routes([web.post("/events", receiver.take), web.get("/received", receiver.received)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "0.0.0.0", PORT).start()  # noqa: S104 - the pod's own network
    await asyncio.Event().wait()


asyncio.run(main())
