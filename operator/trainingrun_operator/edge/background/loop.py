"""What every loop beside the looks does: it waits for news or a moment, and tries again with growing patience."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

LOOK_SECONDS: Final = 1.0
RETRY_MAX_SECONDS: Final = 300.0


async def work_on(work: Callable[[], Awaitable[None]], alarm: asyncio.Event) -> None:
    """Do `work` whenever `alarm` is set, and every second without; until cancelled."""
    while True:
        alarm.clear()
        await work()
        try:
            await asyncio.wait_for(alarm.wait(), LOOK_SECONDS)
        except TimeoutError:
            continue


def backoff(failures: int) -> float:
    """Seconds until the next try after so many that failed: 2, 4, 8 and so on, up to five minutes."""
    return min(RETRY_MAX_SECONDS, 2.0 ** min(failures, 10))
