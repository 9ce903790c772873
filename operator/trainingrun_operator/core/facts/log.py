"""What was searched for in a log."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LogSearch:
    """A search in the end of a crashed training's log."""

    patterns: tuple[str, ...] = ()
    """``crash.fatalLogPatterns`` at that time."""
    found: str = ""
    """The first of them that is in the log; empty: none is."""
