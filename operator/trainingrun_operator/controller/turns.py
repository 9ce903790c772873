"""Work on many runs that lets others have the event loop in between."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

T = TypeVar("T")

AT_ONCE: Final = 16
"""Items in one turn of the loop."""


async def in_turns(items: Iterable[T]) -> AsyncIterator[T]:
    """Yield the items as they are now, and let others run after each `AT_ONCE` of them. Meanwhile, they may change what the items are about."""
    for number, item in enumerate(tuple(items), 1):
        yield item
        if number % AT_ONCE == 0:
            await asyncio.sleep(0)
