"""Limits the writes of derived statuses, so that a status that changes at every look costs the API server little.

A run's phase and generation are written at once, and the transitions of a stop do not pass here at all. Anything else in a status may come from
a pod or a store, such as an error's code as a condition's reason.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

WRITES_PER_SECOND: Final = 100.0
"""Of all runs together."""
BURST: Final = 200.0
RUN_SECONDS: Final = 10.0
"""Between two writes of one run, after `RUN_BURST` writes at once."""
RUN_BURST: Final = 6.0


@dataclass
class Bucket:
    """A token bucket. It starts full."""

    per_second: float
    most: float
    tokens: float = float("inf")
    at: float = 0

    def fill(self, now: float) -> bool:
        """Add the tokens since the last call. Returns whether there is one."""
        self.tokens = min(self.most, self.tokens + max(0.0, now - self.at) * self.per_second)
        self.at = now
        return self.tokens >= 1

    def take(self) -> None:
        """Take one token. There may be none: what must not wait is written all the same, and others wait for it."""
        self.tokens = max(0.0, self.tokens - 1)


def for_all() -> Bucket:
    """Return the bucket of all runs together."""
    return Bucket(WRITES_PER_SECOND, BURST)


def for_run() -> Bucket:
    """Return the bucket of one run."""
    return Bucket(1 / RUN_SECONDS, RUN_BURST)
