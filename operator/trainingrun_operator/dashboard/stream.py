"""Server-sent events: several sources in one stream, because a browser opens at most six connections to a host."""

from __future__ import annotations

import asyncio
import json
import logging
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence

log = logging.getLogger(__name__)

HEARTBEAT_SECONDS: Final = 15.0
"""Proxies close connections that are idle for a minute."""
QUEUE: Final = 2
"""Events of all sources that wait for a browser to read; then the sources wait."""
HEADERS: Final = {"Content-Type": "text/event-stream", "X-Accel-Buffering": "no", "Cache-Control": "no-store"}


@dataclass(frozen=True)
class Event:
    """One event; its data is JSON."""

    name: str
    data: Any

    def encode(self) -> bytes:
        """Wire format; JSON as dumped here has no line breaks."""
        return f"event: {self.name}\ndata: {json.dumps(self.data, separators=(',', ':'))}\n\n".encode()


@dataclass
class Fragments:
    """The rendered parts of a page by id; unchanged parts are not sent again."""

    _shown: dict[str, str] = field(default_factory=dict)

    def changed(self, rendered: Mapping[str, str]) -> Iterator[Event]:
        """Events for the parts that have changed."""
        for part, html in rendered.items():
            if self._shown.get(part) != html:
                self._shown[part] = html
                yield Event("part", {"id": part, "html": html})


async def merged(sources: Sequence[AsyncGenerator[Event, None]]) -> AsyncGenerator[bytes, None]:
    """Merge the sources in order of arrival, with a heartbeat, until the reader disconnects or every source ends."""
    queue: asyncio.Queue[Event | None] = asyncio.Queue(QUEUE)

    async def pump(source: AsyncGenerator[Event, None]) -> None:
        try:
            async with aclosing(source):
                async for event in source:
                    await queue.put(event)
        except Exception:
            log.exception("event source of a page failed")
        await queue.put(None)

    tasks = [asyncio.create_task(pump(source)) for source in sources]
    running = len(tasks)
    try:
        yield b"retry: 3000\n\n"
        while running:
            try:
                async with asyncio.timeout(HEARTBEAT_SECONDS):
                    event = await queue.get()
            except TimeoutError:
                yield b": still here\n\n"
                continue
            if event is None:
                running -= 1
            else:
                yield event.encode()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
