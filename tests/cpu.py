"""CPU time in tests. A slow or busy core takes more of it for everything, so tests count seconds of a quiet core."""

from __future__ import annotations

import json
import time
from itertools import pairwise
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

REPEATS: Final = 3
_TEXT: Final = json.dumps([{"name": str(number), "value": [number, None]} for number in range(5000)])
_QUIET_SECONDS: Final = 0.0017
"""What parsing this text takes on a quiet core of the machine on which the limits were chosen."""


def quiet_seconds(call: Callable[[], object]) -> float:
    """Call repeatedly; return the least CPU time of this thread, in seconds of a quiet core."""
    return longest_step(lambda: (call() for _ in range(1)))


def longest_step(steps: Callable[[], Iterable[object]]) -> float:
    """Iterate repeatedly; of each step take the least CPU time of this thread, and return that of the longest step, in seconds of a quiet core.

    The steps are the same each time: what only one repeat takes longer for is not due to them.
    """
    repeats = zip(*(_steps(steps()) for _ in range(REPEATS)), strict=True)
    longest: float = max(min(of_one) for of_one in repeats)
    return longest / _slowness()


def _steps(steps: Iterable[object]) -> list[float]:
    at, left = [time.thread_time()], iter(steps)
    while True:
        found = next(left, left)
        at.append(time.thread_time())
        if found is left:
            return [after - before for before, after in pairwise(at)]


def _slowness() -> float:
    """How many times longer than on a quiet core a computation takes here and now; at least 1."""
    least = min(seconds for _ in range(REPEATS) for seconds in _steps(json.loads(_TEXT) for _ in range(1))[:1])
    return max(1.0, least / _QUIET_SECONDS)
