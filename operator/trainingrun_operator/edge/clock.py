"""The process's clock."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Tells the time."""

    def monotonic(self) -> float:
        """Seconds; only their differences mean anything."""
        ...

    def wall(self) -> str:
        """Now, for people: RFC 3339 in UTC, whole seconds."""
        ...


class SystemClock:
    """The machine's own."""

    def monotonic(self) -> float:
        """Seconds; only their differences mean anything."""
        return time.monotonic()

    def wall(self) -> str:
        """Now, for people: RFC 3339 in UTC, whole seconds."""
        return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
