"""Durations, lists, generations and foreign text as people read them at a terminal."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from trainingrun_operator.core.words import moment

if TYPE_CHECKING:
    from datetime import datetime

_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_MINUTE, _HOUR, _DAY = 60, 3600, 86_400
_WEEK = 7 * _DAY


def clean(text: str) -> str:
    """Text that somebody else wrote, without what a terminal would obey: a log line in a status may hold anything."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def duration(seconds: float) -> str:
    """Two units at most, as kubectl has them: `45s`, `3m20s`, `2h5m`, `3d4h`."""
    whole = max(0, int(seconds))
    if whole < _MINUTE:
        return f"{whole}s"
    for unit, size, smaller, part in (("m", _MINUTE, "s", 1), ("h", _HOUR, "m", _MINUTE), ("d", _DAY, "h", _HOUR)):
        if whole < size * {"m": 60, "h": 24}.get(unit, whole):
            # A day more or less is all that counts after a week.
            rest = 0 if whole > _WEEK else whole % size // part
            return f"{whole // size}{unit}{rest}{smaller}" if rest else f"{whole // size}{unit}"
    raise AssertionError  # the last unit takes everything


def age(stamp: str | None, now: datetime) -> str:
    """How long ago an RFC 3339 time was; empty if there is none that can be read."""
    at = moment(stamp)
    return "" if at is None else duration((now - at).total_seconds())


def ago(stamp: str | None, now: datetime) -> str:
    """` (3m20s ago)` with its space, or nothing."""
    past = age(stamp, now)
    return f" ({past} ago)" if past else ""


def generation(key: str) -> str:
    """How a person names one, by the key of its commit: `i1-g0003`."""
    return key.rpartition("/")[2].removesuffix(".json")


def listed(words: tuple[str, ...] | list[str], last: str = "and") -> str:
    """`a, b and c`."""
    return f" {last} ".join(filter(None, (", ".join(words[:-1]), words[-1]))) if words else "none"
