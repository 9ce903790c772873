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
    cause: str = ""
    """What the log says about CUDA, NCCL and memory (`core.crash_causes`); empty: nothing."""


@dataclass(frozen=True)
class Printed:
    """What one container of the training of rank 0 has printed, as far as this process has read its log."""

    patterns: tuple[str, ...]
    """``completion.logPatterns`` at that time."""
    lines: int = 0
    """Lines that were read."""
    found: int = 0
    """Reads that have found a whole line with a pattern."""
    pattern: str = ""
    """The first pattern that `line` has; empty: no line has one."""
    line: str = ""
    """The last such line."""
