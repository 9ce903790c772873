"""Whether the watch's first lists of pods and Jobs are complete. First looks take pods and Job from them, instead of one request each for every run."""

from __future__ import annotations

import asyncio
import contextlib
import time
from math import isfinite
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

STALLED_SECONDS: Final = 5.0
"""Time without a page after which first looks wait no longer, and read for themselves."""
WAIT_MAX_SECONDS: Final = 30.0
"""Time after the first page after which they wait no longer, whatever comes: the lists of one namespace may be long."""
FRESH_SECONDS: Final = 60.0
"""Time after its beginning in which a complete list counts as read by a first look. Later, as when a standby takes over, a first look reads for itself."""


class Listed:
    """The lists that first looks wait for, by namespace and plural. Until `expects` is called there are none, and no look waits."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._missing: set[tuple[str, str]] = set()
        self._began_at = float("-inf")
        """When the first page of the oldest list came: the API server answers all pages of a list as of then."""
        self._page_at = 0.0
        self._complete = asyncio.Event()

    def expects(self, lists: Iterable[tuple[str, str]]) -> None:
        """Let first looks wait for these lists."""
        self._missing.update(lists)
        self._page_at = self._monotonic()

    def page(self, of: tuple[str, str], *, more: bool) -> None:
        """Note a page of a list, whose objects are in the cache; ``more``: it is not the last."""
        self._page_at = self._monotonic()
        if not isfinite(self._began_at):
            self._began_at = self._page_at
        if not more:
            self._missing.discard(of)
        if not self._missing:
            self._complete.set()

    def is_fresh(self) -> bool:
        """Whether all lists are complete, and began a moment ago."""
        return not self._missing and self._monotonic() - self._began_at < FRESH_SECONDS

    async def wait(self) -> None:
        """Wait until all lists are complete, or no page has come for a while."""
        while self._missing and (left := self._waits_until() - self._monotonic()) > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._complete.wait(), left)

    def _waits_until(self) -> float:
        stalled = self._page_at + STALLED_SECONDS
        return min(stalled, self._began_at + WAIT_MAX_SECONDS) if isfinite(self._began_at) else stalled
