"""Curves in characters: a sparkline of one line, and a plot with axes. Pure; colours are put on by whoever prints."""

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
"""Of a braille cell, by row and column."""
LABEL: Final = 8
"""Characters of a number on the vertical axis."""


def sparkline(values: Sequence[float], width: int, *, plain: bool = False) -> str:
    """The values in one line of at most `width` characters, the highest as the tallest bar."""
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
class Curve:
    """What is plotted."""

    points: Sequence[tuple[float, float]]
    """Where on the horizontal axis, and the loss; in order. A step back begins another line: a pod was replaced."""
    threshold: float | None = None
    axis: str = "step"
    """What the horizontal axis counts."""
    stop: float | None = None
    """Where on it the end was decided."""


def plot(curve: Curve, width: int, height: int, *, plain: bool = False, logarithmic: bool = False) -> list[str]:
    """The curve as lines of at most `width` characters, of which `height` are the plot itself.

    The threshold is always in the picture. On a logarithmic axis, what is not above 0 is left out.
    """
    scale: Callable[[float], float] = log10 if logarithmic else float
    points = [(x, scale(y)) for x, y in curve.points if isfinite(y) and (not logarithmic or y > 0)]
    if not points:
        return []
    threshold = None if curve.threshold is None or (logarithmic and curve.threshold <= 0) else scale(curve.threshold)
    levels = [y for _, y in points] + ([threshold] if threshold is not None else [])
    low, high = min(levels), max(levels)
    if high == low:
        low, high = low - 0.5, high + 0.5
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
        # The threshold's own label, and none so near that the two are taken for each other.
        labels = {row: value for row, value in labels.items() if abs(row - line) > 1} | {line: threshold}
    unscaled: Callable[[float], float] = (lambda value: 10**value) if logarithmic else float
    side = "|" if plain else "┤"
    drawn = [
        f"{f'{unscaled(labels[row]):.4g}' if row in labels else '':>{LABEL}}{side if row in labels else _bar(plain=plain)}{text}".rstrip()
        for row, text in enumerate(rows)
    ]
    return [*drawn, *_foot(curve, cells, plain=plain)]


def _bar(*, plain: bool) -> str:
    return "|" if plain else "│"


def _foot(curve: Curve, cells: _Cells, *, plain: bool) -> list[str]:
    """The horizontal axis, its ends, and where the run was ended."""
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
    """Dots in braille cells, two to the right and four down; in plain characters one mark per cell that has any."""

    def __init__(
        self, columns: int, height: int, points: Sequence[tuple[float, float]], low: float, high: float
    ) -> None:
        self.columns, self.height = columns, height
        self.low, self.high = low, high
        self.left, self.right = min(x for x, _ in points), max(x for x, _ in points)
        self._cells = [[0] * columns for _ in range(height)]

    def column_of(self, x: float) -> int:
        """Of dots."""
        return round((x - self.left) / ((self.right - self.left) or 1.0) * (self.columns * 2 - 1))

    def row_of(self, y: float) -> int:
        """Of cells."""
        return self._dot(y) // 4

    def _dot(self, y: float) -> int:
        return round((self.high - y) / (self.high - self.low) * (self.height * 4 - 1))

    def draw(self, points: Sequence[tuple[float, float]]) -> None:
        """Join the points by lines."""
        dots = [(self.column_of(x), self._dot(y)) for x, y in points]
        self._set(*dots[0])
        for (x0, y0), (x1, y1) in pairwise(dots):
            # Back to an earlier step: another pod went on from a checkpoint, and nothing joins the two.
            steps = max(abs(x1 - x0), abs(y1 - y0), 1) if x1 >= x0 else 1
            for i in range(1, steps + 1):
                self._set(x0 + round((x1 - x0) * i / steps), y0 + round((y1 - y0) * i / steps))

    def _set(self, column: int, row: int) -> None:
        self._cells[row // 4][column // 2] |= _DOTS[row % 4][column % 2]

    def rows(self, *, plain: bool) -> list[str]:
        """As text, without the axes."""
        return [
            "".join(" " if not cell else "*" if plain else chr(_BRAILLE + cell) for cell in row) for row in self._cells
        ]
