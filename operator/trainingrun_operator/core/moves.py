"""How far a value usually moves between two observations, and which movements are clearly more than that.

The usual move is the median of the newest moves. A single jump does not change it, and it follows a training that becomes calmer.
"""

from __future__ import annotations

from math import sqrt
from statistics import median_high
from typing import Final

from trainingrun_operator.api.rules import MOVES_MAX

CLEAR: Final = 2
"""Usual moves by which a value must be better than that at the start: a training that has improved by less has not begun to learn."""
_DEVIATION: Final = 1.5
"""Standard deviation of moves that are distributed normally, in usual moves: 1 / 0.674."""


def usual(moves: tuple[float, ...]) -> float:
    """Return the usual move; of an even number the larger one in the middle, so that two moves can not be clearly more than themselves."""
    return median_high(moves) if moves else 0.0


def added(moves: tuple[float, ...], one: float, other: float) -> tuple[float, ...]:
    """Return the newest moves with that between two values."""
    return (*moves, abs(one - other))[-MOVES_MAX:]


def without_direction(moves: tuple[float, ...], count: int) -> float:
    """Return how far so many usual moves lead whose directions are chance: one standard deviation."""
    return _DEVIATION * usual(moves) * sqrt(count)
