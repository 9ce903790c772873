"""The loop of background work: wait for an alarm or a second, and retry with exponential backoff."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

LOOK_SECONDS: Final = 1.0
RETRY_MAX_SECONDS: Final = 300.0


async def work_on(work: Callable[[], Awaitable[None]], alarm: asyncio.Event) -> None:
    """Run `work` when `alarm` is set and every second, until cancelled."""
    while True:
        alarm.clear()
        await work()
        try:
            await asyncio.wait_for(alarm.wait(), LOOK_SECONDS)
        except TimeoutError:
            continue


def backoff(failures: int) -> float:
    """Seconds until the next attempt after `failures` in a row: 2, 4, 8 and so on, at most five minutes."""
    return min(RETRY_MAX_SECONDS, 2.0 ** min(failures, 10))
