"""The end of a log, as much of it as a page shows: old lines are dropped and counted, whatever the log brings and however slowly a browser reads."""

from __future__ import annotations

import asyncio
import re
from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

LOG_LINES: Final = 200
LINE_MAX: Final = 2000
"""Characters shown of one line."""
CHARACTERS_MAX: Final = 131_072
"""Characters kept of all lines."""
_RAW_MAX: Final = 2 * LINE_MAX
"""Characters kept of a line that has not ended: some are terminal sequences, which are not shown."""
_CONTROL: Final = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|[\x00-\x08\x0b-\x1f\x7f]")
"""Terminal sequences for colours and cursor movements, and other control characters."""


class Tail:
    """The newest lines that were not taken yet, shortened, without control characters, and the last state of a progress bar."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque()
        self._characters = 0
        self._dropped = 0
        self._rest = ""
        """The beginning of a line that has not ended, from the last carriage return on."""
        self._more = 0
        """Characters of this line that were not kept."""

    def add(self, piece: str) -> None:
        """Take the next part of the log, which ends anywhere."""
        *whole, rest = piece.split("\n")
        if (skipped := len(whole) - LOG_LINES) > 0:
            self._restart()
            self._dropped += skipped
        for line in whole[max(0, skipped) :]:
            self._extend(line)
            self._end_line()
        self._extend(rest)

    def take(self, *, all_of_it: bool = False) -> list[str]:
        """Return the lines, after a mark if some were dropped; with ``all_of_it`` also a line that has not ended."""
        if all_of_it and (self._rest or self._more):
            self._end_line()
        mark = [f"… {self._dropped} lines not shown …"] if self._dropped else []
        lines = [*mark, *self._lines]
        self._lines.clear()
        self._characters = self._dropped = 0
        return lines

    def _extend(self, text: str) -> None:
        """Continue the line: a carriage return takes it back to its beginning, unless it is the line's end."""
        body = (self._rest + text).rstrip("\r")
        ends = "\r" if len(body) < len(self._rest) + len(text) else ""
        _, returned, newest = body.rpartition("\r")
        self._more = 0 if returned else self._more
        self._more += max(0, len(newest) - _RAW_MAX)
        self._rest = newest[:_RAW_MAX] + ends

    def _end_line(self) -> None:
        raw, more = self._rest.rstrip("\r"), self._more
        self._restart()
        line = _CONTROL.sub("", raw)
        if more or len(line) > LINE_MAX:
            line = f"{line[:LINE_MAX]}… ({len(line) + more} characters)"
        self._lines.append(line)
        self._characters += len(line)
        while len(self._lines) > LOG_LINES or self._characters > CHARACTERS_MAX:
            self._characters -= len(self._lines.popleft())
            self._dropped += 1

    def _restart(self) -> None:
        self._rest, self._more = "", 0


async def tailed(pieces: AsyncIterator[str], seconds: float) -> AsyncGenerator[list[str], None]:
    """Yield the newest lines of a log every ``seconds``, until it ends. It is read however slowly these are taken."""
    tail, news = Tail(), asyncio.Event()

    async def pump() -> None:
        try:
            async for piece in pieces:
                tail.add(piece)
                news.set()
        finally:
            news.set()

    pumping = asyncio.create_task(pump())
    try:
        ended = False
        while not ended:
            await news.wait()
            news.clear()
            await asyncio.sleep(0 if pumping.done() else seconds)
            ended = pumping.done()
            if lines := tail.take(all_of_it=ended):
                yield lines
        await pumping
    finally:
        pumping.cancel()
        await asyncio.gather(pumping, return_exceptions=True)
