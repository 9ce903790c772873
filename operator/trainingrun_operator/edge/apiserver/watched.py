"""kopf's HTTP session: lists and events arrive slim, see `slim`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import aiohttp

from trainingrun_operator.edge.apiserver import slim
from trainingrun_operator.edge.apiserver.transport import LONG_BYTES, lines

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from typing import Self

    Take = Callable[[str, list[dict[str, Any]], bool], Awaitable[bool]]
    """Takes a page of a list: its path, its objects, and whether more pages follow. Returns whether it has: otherwise kopf handles them."""


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


def taken_by(take: Take) -> type[SlimResponse]:
    """Return the class of answers whose lists are taken. kopf then gets empty lists: it makes a task for each object, and does not tell when a list is complete."""

    class TakenResponse(SlimResponse):
        """An answer whose list is taken."""

        async def json(self, **_: Any) -> Any:
            """Return the parsed answer, without the objects that are taken."""
            answer = await super().json()
            if self.ok and isinstance(answer, dict) and isinstance(answer.get("items"), list):
                more = bool((answer.get("metadata") or {}).get("continue"))
                if await take(self.url.path, answer["items"], more):
                    answer["items"] = []
            return answer

    return TakenResponse


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
