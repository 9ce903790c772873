"""The process's clock."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """A clock."""

    def monotonic(self) -> float:
        """Seconds; only differences have a meaning."""
        ...

    def wall(self) -> str:
        """Return the time for people: RFC 3339 in UTC, whole seconds."""
        ...


class SystemClock:
    """The system clock."""

    def monotonic(self) -> float:
        """Seconds; only differences have a meaning."""
        return time.monotonic()

    def wall(self) -> str:
        """Return the time for people: RFC 3339 in UTC, whole seconds."""
        return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
