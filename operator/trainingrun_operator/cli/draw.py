"""Curves in characters: a one-line sparkline and a plot with axes. Pure; the caller adds colours."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import isfinite, log10
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

BARS: Final = "▁▂▃▄▅▆▇█"
PLAIN_BARS: Final = "_.:-=+*#"
THRESHOLD: Final = "╌"
PLAIN_THRESHOLD: Final = "-"
_BRAILLE: Final = 0x2800
_DOTS: Final = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""Bits of a braille cell, by row and column."""
LABEL: Final = 8
"""Width of a number on the vertical axis, in characters."""
LARGEST: Final = 1e300
"""Losses beyond it are drawn at it: differences of larger ones are not finite."""


def sparkline(values: Sequence[float], width: int, *, plain: bool = False) -> str:
    """Draw the values in one line of at most `width` characters; the maximum is the tallest bar."""
    finite = [value for value in values if isfinite(value)]
    if not finite or width < 1:
        return ""
    shown = _means(finite, width)
    low, high = min(shown), max(shown)
    bars = PLAIN_BARS if plain else BARS
    span = high - low or 1.0
    return "".join(bars[min(len(bars) - 1, int((value - low) / span * len(bars)))] for value in shown)


def _means(values: list[float], width: int) -> list[float]:
    if len(values) <= width:
        return values
    edges = [round(i * len(values) / width) for i in range(width + 1)]
    return [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]


@dataclass(frozen=True)
class Plot:
    """Input of a plot."""

    points: Sequence[tuple[float, float]]
    """Horizontal position and loss, in order. A smaller position starts a new line: the pod was replaced."""
    threshold: float | None = None
    axis: str = "step"
    """Name of the horizontal axis."""
    stop: float | None = None
    """Position at which the end was decided."""


def plot(curve: Plot, width: int, height: int, *, plain: bool = False, logarithmic: bool = False) -> list[str]:
    """Draw the curve as lines of at most `width` characters; `height` lines are the plot itself.

    The threshold is always visible. On a logarithmic axis, values up to 0 are left out.
    """
    scale: Callable[[float], float] = log10 if logarithmic else float
    points = [(x, scale(_bounded(y))) for x, y in curve.points if isfinite(y) and (not logarithmic or y > 0)]
    if not points:
        return []
    threshold = (
        None if curve.threshold is None or (logarithmic and curve.threshold <= 0) else scale(_bounded(curve.threshold))
    )
    levels = [y for _, y in points] + ([threshold] if threshold is not None else [])
    low, high = min(levels), max(levels)
    if high == low:
        around = max(0.5, abs(high) * 1e-6)
        low, high = low - around, high + around
    cells = _Cells(max(8, width - LABEL - 2), height, points, low, high)
    cells.draw(points)
    rows = cells.rows(plain=plain)
    line = cells.row_of(threshold) if threshold is not None else None
    if line is not None:
        dash = PLAIN_THRESHOLD if plain else THRESHOLD
        rows[line] = "".join(dash if char == " " else char for char in rows[line])
    middle = height // 2
    labels = {0: high, middle: high - (high - low) * middle / (height - 1), height - 1: low}
    if line is not None and threshold is not None:
        # Label the threshold; drop labels next to it, which would be confused with it.
        labels = {row: value for row, value in labels.items() if abs(row - line) > 1} | {line: threshold}
    unscaled: Callable[[float], float] = (lambda value: 10**value) if logarithmic else float
    side = "|" if plain else "┤"
    drawn = [
        f"{f'{unscaled(labels[row]):.4g}' if row in labels else '':>{LABEL}}{side if row in labels else _bar(plain=plain)}{text}".rstrip()
        for row, text in enumerate(rows)
    ]
    return [*drawn, *_foot(curve, cells, plain=plain)]


def _bounded(value: float) -> float:
    """Return the value, or the nearest one with which the axis can be computed."""
    return max(-LARGEST, min(LARGEST, value))


def _bar(*, plain: bool) -> str:
    return "|" if plain else "│"


def _foot(curve: Plot, cells: _Cells, *, plain: bool) -> list[str]:
    """The horizontal axis with its end labels and the position of the end."""
    corner, dash = ("+", "-") if plain else ("└", "─")
    first, last = f"{cells.left:g}", f"{cells.right:g}"
    room = cells.columns - len(first) - len(last)
    middle = f"{curve.axis:^{room}}" if room > len(curve.axis) else " " * max(1, room)
    foot = [f"{'':>{LABEL}}{corner}{dash * cells.columns}", f"{'':>{LABEL}} {first}{middle}{last}"]
    if curve.stop is not None and cells.left <= curve.stop <= cells.right:
        at, says = cells.column_of(curve.stop) // 2, f"ended at {curve.axis} {curve.stop:g}"
        mark = "^" if plain else "▲"
        text = f"{mark} {says}" if at + len(says) + 2 <= cells.columns else f"{says} {mark}"
        foot.insert(1, " " * (LABEL + 1 + (at if text.startswith(mark) else max(0, at - len(says) - 1))) + text)
    return foot


class _Cells:
    """A grid of braille cells, two dots wide and four high; in plain mode, one mark per non-empty cell."""

    def __init__(
        self, columns: int, height: int, points: Sequence[tuple[float, float]], low: float, high: float
    ) -> None:
        self.columns, self.height = columns, height
        self.low, self.high = low, high
        self.left, self.right = min(x for x, _ in points), max(x for x, _ in points)
        self._cells = [[0] * columns for _ in range(height)]

    def column_of(self, x: float) -> int:
        """Column in dots."""
        return round((x - self.left) / ((self.right - self.left) or 1.0) * (self.columns * 2 - 1))

    def row_of(self, y: float) -> int:
        """Row in cells."""
        return self._dot(y) // 4

    def _dot(self, y: float) -> int:
        return round((self.high - y) / (self.high - self.low) * (self.height * 4 - 1))

    def draw(self, points: Sequence[tuple[float, float]]) -> None:
        """Connect the points by lines."""
        dots = [(self.column_of(x), self._dot(y)) for x, y in points]
        self._set(*dots[0])
        for (x0, y0), (x1, y1) in pairwise(dots):
            # After a resume from an earlier checkpoint, the two lines are not connected.
            steps = max(abs(x1 - x0), abs(y1 - y0), 1) if x1 >= x0 else 1
            for i in range(1, steps + 1):
                self._set(x0 + round((x1 - x0) * i / steps), y0 + round((y1 - y0) * i / steps))

    def _set(self, column: int, row: int) -> None:
        self._cells[row // 4][column // 2] |= _DOTS[row % 4][column % 2]

    def rows(self, *, plain: bool) -> list[str]:
        """The grid as text, without axes."""
        return [
            "".join(" " if not cell else "*" if plain else chr(_BRAILLE + cell) for cell in row) for row in self._cells
        ]
