"""Parsing and formatting of times, numbers and sizes for all user interfaces."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from math import isfinite
from typing import Final

_KILO: Final = 1000
_LARGER: Final = ("kB", "MB", "GB", "TB", "PB")


def moment(stamp: str | None) -> datetime | None:
    """Parse an RFC 3339 time, UTC without a zone; None: it is not valid."""
    try:
        at = datetime.fromisoformat(stamp or "")
    except ValueError:
        return None
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def before(stamp: str, seconds: float) -> str:
    """Return the time that many seconds before another one; a stamp that is no time is returned as it is."""
    at = moment(stamp)
    return stamp if at is None else (at - timedelta(seconds=min(seconds, 1e9))).strftime("%Y-%m-%dT%H:%M:%SZ")


def finite(text: str | None) -> float | None:
    """Parse a number from a status; None: it is missing, invalid or not finite."""
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if isfinite(number) else None


def shown(number: float | None) -> str:
    """Format a loss with four significant digits."""
    return "none" if number is None else f"{number:.4g}"


def size(count: float) -> str:
    """Format bytes with three digits, decimal: `512 B`, `39.6 kB`, `1.2 GB`."""
    unit, shown = "B", f"{count:.3g}"
    for larger in _LARGER:
        # Compare the rounded value: 999,950 bytes are not 1e+03 kB.
        if float(shown) < _KILO:
            break
        count /= _KILO
        unit, shown = larger, f"{count:.3g}"
    return f"{shown} {unit}"
