"""kopf's HTTP session: lists and events arrive slim, see `slim`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import aiohttp

from trainingrun_operator.edge.apiserver import slim
from trainingrun_operator.edge.apiserver.transport import LONG_BYTES, lines

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from typing import Self


class SlimResponse(aiohttp.ClientResponse):
    """An answer of the API server to kopf, which reads a list by `json` and the events of a watch by `content.iter_chunked`."""

    async def start(self, connection: Any) -> Self:
        """Take over the connection."""
        await super().start(connection)
        self.content = _SlimLines(self.content)  # type: ignore[assignment]
        return self

    async def json(self, **_: Any) -> Any:
        """Return the parsed answer."""
        body = await self.read()
        return await asyncio.to_thread(slim.loads, body) if len(body) > LONG_BYTES else slim.loads(body)


class _SlimLines:
    """A body; read in chunks, each is one line of slim JSON."""

    def __init__(self, content: aiohttp.StreamReader) -> None:
        self._content = content

    def __getattr__(self, name: str) -> Any:
        return getattr(self._content, name)

    async def iter_chunked(self, _: int) -> AsyncIterator[bytes]:
        """Yield lines."""
        async for line in lines(self._content):
            yield (
                await asyncio.to_thread(slim.slimmed, line) + b"\n"
                if len(line) > LONG_BYTES
                else slim.slimmed(line) + b"\n"
            )
