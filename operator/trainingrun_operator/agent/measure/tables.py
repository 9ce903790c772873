"""Reads the newest row of numbers out of JSON lines, Lightning's ``metrics.csv`` and Hugging Face's ``trainer_state.json``."""

from __future__ import annotations

import csv
import json
import re
from math import inf
from typing import TYPE_CHECKING, Any, Final

from trainingrun_operator.api.names import TRAINER_SUMMARY

if TYPE_CHECKING:
    from collections.abc import Mapping

STEPS: Final = (
    "step",
    "global_step",
    "training_step",
    "train_step",
    "current_step",
    "current_steps",
    "iteration",
    "iter",
    "num_updates",
    "_step",
)
"""Names of a row's step."""
ROWS_MAX: Final = 2000
"""Newest rows that are read."""
_NUMBER: Final = re.compile(
    r"[+-]?(?:\d{1,40}(?:\.\d{0,40})?|\.\d{1,40})(?:[eE][+-]?\d{1,4})?|[+-]?(?i:nan|inf(?:inity)?)"
)


class Values:
    """The newest value of each name, with its step."""

    def __init__(self) -> None:
        self.newest: dict[str, tuple[float, float | None]] = {}

    def add(self, name: str, value: float, step: float | None) -> None:
        """Add a newer value."""
        self.newest.pop(name, None)
        self.newest[name] = (value, step)

    def add_row(self, row: Mapping[str, float]) -> None:
        """Add the values of one moment."""
        step = next((row[name] for name in STEPS if name in row), None)
        for name, value in row.items():
            self.add(name, value, step)


def json_lines(text: str, *, whole: bool) -> Values:
    """Read objects, one on each line, as far as lines are whole; objects in them by ``outer/inner``."""
    found = Values()
    for line in _lines(text, whole=whole)[-ROWS_MAX:]:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict):
            found.add_row(row_of(row))
    return found


def table(header: str, text: str, *, whole: bool) -> Values:
    """Read rows below a header, as far as lines are whole. Cells of a row that are empty have no value."""
    found = Values()
    names = next(csv.reader([header]), [])
    for cells in csv.reader(_lines(text, whole=whole)[-ROWS_MAX:]):
        if len(cells) == len(names):
            pairs = zip(names, map(_number, cells), strict=True)
            found.add_row({name: value for name, value in pairs if name and value is not None})
    return found


def trainer_state(text: str) -> Values:
    """Read the log of Hugging Face's Trainer, with the total of its epochs. A file that is not whole has no values."""
    found = Values()
    try:
        state = json.loads(text)
    except (ValueError, RecursionError):
        return found
    rows = state.get("log_history") if isinstance(state, dict) else None
    for row in rows[-ROWS_MAX:] if isinstance(rows, list) else ():
        if isinstance(row, dict) and TRAINER_SUMMARY not in row:
            found.add_row(row_of(row))
    if found.newest and (total := _number(state.get("num_train_epochs"))) is not None:
        found.add("num_train_epochs", total, None)
    return found


def _lines(text: str, *, whole: bool) -> list[str]:
    """Return the lines that are whole: the last one may be being written, and the first one cut."""
    lines = text.split("\n")[:-1]
    return [line for line in (lines if whole else lines[1:]) if line.strip()]


def row_of(row: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of an object; those of objects in it by ``outer/inner``."""
    inner = (
        (f"{outer}/{name}", value) for outer, one in row.items() if isinstance(one, dict) for name, value in one.items()
    )
    return {str(name): number for name, value in (*row.items(), *inner) if (number := _number(value)) is not None}


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, int | float):
        try:
            return float(value)
        except OverflowError:
            return inf if value > 0 else -inf
    if isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
        return float(value)
    return None
