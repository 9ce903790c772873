"""The dashboard over HTTP on loopback, before an API server that knows people, and a browser that is no more than its requests."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
import uvicorn
from fakes import Plain

from trainingrun_operator.dashboard import app
from trainingrun_operator.dashboard.cluster import Cluster
from trainingrun_operator.dashboard.connections import BoundedProtocol
from trainingrun_operator.dashboard.guard import csrf_of
from trainingrun_operator.settings import DashboardSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import people
    from fakes import Json

ADA = "ada"
"""Her token, and her name."""
EVENT = re.compile(rb"event: (\w+)\ndata: (.*)")


@dataclass
class Page:
    """An answer, read whole."""

    status: int
    headers: Any
    text: str

    @property
    def json(self) -> Json:
        return dict(json.loads(self.text))

    @property
    def message(self) -> str:
        return str(self.json["message"])


@dataclass
class Visitor:
    """A browser: it names the host, keeps a cookie, and says where a form comes from."""

    session: aiohttp.ClientSession
    base: str
    token: str = ""

    @property
    def host(self) -> str:
        return self.base.removeprefix("http://")

    def _headers(self, headers: Json) -> Json:
        cookie = {"Cookie": f"trainingrun-token={self.token}"} if self.token else {}
        said = cookie | headers
        return {name: said[name] for name in said if said[name] is not None}

    async def get(self, path: str, **headers: Any) -> Page:
        async with self.session.get(
            self.base + path, headers=self._headers(_named(headers)), allow_redirects=False
        ) as answer:
            return Page(answer.status, answer.headers, await answer.text())

    async def post(self, path: str, data: Any = None, **headers: Any) -> Page:
        """A form as a dict, or JSON as a string."""
        said = {"Origin": self.base} | _named(headers)
        async with self.session.post(
            self.base + path, data=data, headers=self._headers(said), allow_redirects=False
        ) as answer:
            return Page(answer.status, answer.headers, await answer.text())

    async def press(self, path: str, body: Json, **headers: Any) -> Page:
        """What a dialog's button sends."""
        said = {"X-CSRF-Token": csrf_of(self.token), "Content-Type": "application/json"} | _named(headers)
        return await self.post(path, json.dumps(body), **said)

    @asynccontextmanager
    async def events(self, path: str) -> AsyncIterator[Stream]:
        async with self.session.get(self.base + path, headers=self._headers({})) as answer:
            yield Stream(answer)


class Stream:
    """An open page's events."""

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        self.answer = answer
        self.seen: list[tuple[str, Json]] = []

    async def wait(self, name: str, part: str = "") -> Json:
        """The next event of this name whose data contains `part`."""
        async with asyncio.timeout(10):
            async for line in self._events():
                self.seen.append(line)
                if line[0] == name and part in json.dumps(line[1], ensure_ascii=False):
                    return line[1]
        raise AssertionError(f"The stream ended without {name} {part!r}: {self.seen}")

    async def _events(self) -> AsyncIterator[tuple[str, Json]]:
        while text := await self.answer.content.readuntil(b"\n\n"):
            if found := EVENT.match(text):
                yield found[1].decode(), json.loads(found[2])


def _named(headers: Json) -> Json:
    return {name.replace("_", "-"): value for name, value in headers.items()}


@pytest.fixture
def visit():
    """Serve the dashboard for a cluster; gives who bears a token, or nobody."""

    @asynccontextmanager
    async def served(cluster: people.Cluster, token: str = ADA, **settings: Any) -> AsyncIterator[Visitor]:
        listening = socket.create_server(("127.0.0.1", 0))
        async with (
            Cluster(Plain(cluster.url)) as where,
            aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session,
        ):
            made = app.make(where, DashboardSettings(**settings))
            config = uvicorn.Config(
                made,
                http=BoundedProtocol,
                access_log=False,
                log_config=None,
                lifespan="off",
                ws="none",
                timeout_graceful_shutdown=1,
            )
            server = uvicorn.Server(config)
            serving = asyncio.create_task(server.serve(sockets=[listening]))
            try:
                yield Visitor(session, f"http://127.0.0.1:{listening.getsockname()[1]}", token)
            finally:
                await session.close()
                server.should_exit = True
                await serving

    return served
