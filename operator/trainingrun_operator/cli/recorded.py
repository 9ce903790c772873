"""Reads a recorded training from a file: JSON lines, CSV, or the `trainer_state.json` of Hugging Face's Trainer."""

from __future__ import annotations

import csv
import io
import json
from math import isfinite
from typing import TYPE_CHECKING, Any, Final

from trainingrun_operator.core.facts.reading import GRADIENT_NORM, LOSS
from trainingrun_operator.core.simulation import Row

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from trainingrun_operator.api.run import MetricNames

BYTES_MAX: Final = 256 << 20
_SUMMARY: Final = "train_runtime"
"""Hugging Face's Trainer logs it at the end, beside a loss that is the mean of all steps."""
_TIMES: Final = ("time", "timestamp", "_timestamp", "wall_time")
_CHECKPOINT: Final = "checkpointStep"
_NORM: Final = "grad_norm"
_SHOWN: Final = 60


class UnreadableError(Exception):
    """The file is no recorded training; the message says where and why."""


def rows_of(path: Path, names: MetricNames) -> list[Row]:
    """Read a file.

    Args:
        path: of the file; its content says which format it has.
        names: the names of loss, step, epoch and total.

    Raises:
        UnreadableError: it cannot be read, or has no row with a step and a number.
    """
    try:
        rows = [_row(record, names) for record in _records(_text(path)) if _SUMMARY not in record]
    except UnreadableError as error:
        raise UnreadableError(f"{path}: {error}") from None
    if not any(row.step is not None and row.values for row in rows):
        wanted = ", ".join(dict.fromkeys(("step", *names.step)))
        raise UnreadableError(
            f"{path} has no row with a step and a value: each row needs one of {wanted}, and at least one number."
        )
    return rows


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > BYTES_MAX:
            raise UnreadableError(f"it is larger than {BYTES_MAX >> 20} MiB: keep every second row.")
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UnreadableError(
            f"it is no text in UTF-8 (byte {error.start}): give JSON lines, CSV or a trainer_state.json."
        ) from None
    except OSError as error:
        raise UnreadableError(f"it cannot be read: {error.strerror}.") from None


def _records(text: str) -> Iterator[Mapping[str, Any]]:
    """Return the records of a file in any of the formats."""
    start = text.lstrip()[:1]
    if not start:
        return iter(())
    whole = _whole(text) if start in "{[" else None
    if isinstance(whole, dict) and isinstance(whole.get("log_history"), list):
        return _of_trainer_state(whole)
    if isinstance(whole, list):
        return _objects(enumerate(whole, 1), "item")
    return _json_lines(text) if start == "{" else _csv(text)


def _whole(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _of_trainer_state(state: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    total = {"totalEpochs": state["num_train_epochs"]} if "num_train_epochs" in state else {}
    return ({**total, **one} for one in _objects(enumerate(state["log_history"], 1), "log_history entry"))


def _objects(items: Iterator[tuple[int, Any]], what: str) -> Iterator[Mapping[str, Any]]:
    for number, item in items:
        if not isinstance(item, dict):
            raise UnreadableError(f"{what} {number} is no object: {_shown(item)}.")
        yield item


def _json_lines(text: str) -> Iterator[Mapping[str, Any]]:
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            raise UnreadableError(f"line {number} is no JSON: {_shown(line)}.") from None
        if not isinstance(found, dict):
            raise UnreadableError(f"line {number} is no JSON object: {_shown(line)}.")
        yield found


def _csv(text: str) -> Iterator[Mapping[str, Any]]:
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        fields = reader.fieldnames or ()
        if len(fields) < 2:  # noqa: PLR2004 - a step and a value
            raise UnreadableError(f"line 1 is no header of a CSV with several columns: {_shown(','.join(fields))}.")
        for record in reader:
            if None in record:
                raise UnreadableError(f"line {reader.line_num} has more cells than the header.")
            yield {str(name).strip(): cell for name, cell in record.items()}
    except csv.Error as error:
        raise UnreadableError(f"line {reader.line_num} is no CSV: {error}.") from None


def _row(record: Mapping[str, Any], names: MetricNames) -> Row:
    numbers = {name: value for name, one in record.items() if (value := _number(one)) is not None}
    values = dict(numbers)
    own = (*names.step, *names.epoch, *names.total_epochs, *_TIMES, "step", "epoch", "totalEpochs", _CHECKPOINT)
    for name in own:
        values.pop(name, None)
    if (loss := _first(numbers, (*names.loss, LOSS))) is not None:
        values[LOSS] = loss
    if _NORM in numbers:
        values[GRADIENT_NORM] = numbers[_NORM]
    return Row(
        step=_first(numbers, (*names.step, "step")),
        epoch=_first(numbers, (*names.epoch, "epoch")),
        total_epochs=_first(numbers, (*names.total_epochs, "totalEpochs")),
        values=values,
        time=_finite(_first(numbers, _TIMES)),
        checkpoint_step=_finite(numbers.get(_CHECKPOINT)),
    )


def _first(numbers: Mapping[str, float], names: tuple[str, ...]) -> float | None:
    return next((numbers[name] for name in names if name in numbers), None)


def _finite(number: float | None) -> float | None:
    return number if number is not None and isfinite(number) else None


def _number(value: Any) -> float | None:
    """Return a number, also one written as text; None: it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    return repr(text[:_SHOWN] + ("…" if len(text) > _SHOWN else ""))
