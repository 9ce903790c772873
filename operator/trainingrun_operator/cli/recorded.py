"""Reads a recorded training from a file: JSON lines, CSV, Hugging Face's `trainer_state.json`, TensorBoard's events, or a log.

A log and TensorBoard's events are read by the code of the metric sources.
"""

from __future__ import annotations

import csv
import io
import json
import re
from math import isfinite
from typing import TYPE_CHECKING, Any, Final

from trainingrun_operator.agent.measure import events
from trainingrun_operator.api.names import TRAINER_SUMMARY
from trainingrun_operator.core.facts.reading import GRADIENT_NORM, LOSS, Reading
from trainingrun_operator.core.simulation import Row
from trainingrun_operator.edge.metrics.log.fold import Fold
from trainingrun_operator.edge.metrics.log.words import Phase, name_of, names, phase

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from trainingrun_operator.api.run import MetricNames
    from trainingrun_operator.core.facts.reading import Failure
    from trainingrun_operator.edge.metrics.log.words import Names

BYTES_MAX: Final = 256 << 20
_TIMES: Final = ("time", "timestamp", "_timestamp", "wall_time")
_CHECKPOINT: Final = "checkpointStep"
_NORM: Final = "grad_norm"
_SHOWN: Final = 60
_HEADER: Final = re.compile(r"\s*[\w./:@ -]{1,128}(?:,[\w./:@ -]{0,128}){1,1023}\s*")
"""The first line of a CSV: names of columns."""


class UnreadableError(Exception):
    """The file is no recorded training; the message says where and why."""


def rows_of(path: Path, wanted: MetricNames, patterns: Sequence[str] = ()) -> list[Row]:
    """Read a file.

    Args:
        path: of the file; its content says which format it has.
        wanted: the names of loss, step, epoch and total.
        patterns: those of ``spec.metrics.logs.patterns``, for a log.

    Raises:
        UnreadableError: it cannot be read, or has no row with a step and a number.
    """
    try:
        rows = list(_rows(_bytes(path), wanted, patterns))
    except UnreadableError as error:
        raise UnreadableError(f"{path}: {error}") from None
    if not any(row.step is not None and row.values for row in rows):
        steps = ", ".join(dict.fromkeys(("step", *wanted.step)))
        raise UnreadableError(
            f"{path} has no row with a step and a value: each row needs one of {steps}, and at least one number."
        )
    return rows


def _bytes(path: Path) -> bytes:
    try:
        if path.stat().st_size > BYTES_MAX:
            raise UnreadableError(f"it is larger than {BYTES_MAX >> 20} MiB: keep every second row.")
        return path.read_bytes()
    except OSError as error:
        raise UnreadableError(f"it cannot be read: {error.strerror}.") from None


def _rows(data: bytes, wanted: MetricNames, patterns: Sequence[str]) -> Iterator[Row]:
    """Return the rows of a file in any of the formats."""
    if b"\0" in data[:8] and next(events.records(data), None) is not None:
        return _of_events(data, names(wanted))
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        formats = "JSON lines, CSV, a trainer_state.json, TensorBoard's events or a log"
        raise UnreadableError(f"it is no text in UTF-8 (byte {error.start}): give {formats}.") from None
    records = _records(text)
    if records is None:
        return _of_log(text, Fold(names(wanted), patterns))
    return (_row(record, wanted) for record in records if TRAINER_SUMMARY not in record)


def _records(text: str) -> Iterator[Mapping[str, Any]] | None:
    """Return the records of JSON or CSV; None: it is a log."""
    first = next((line for line in text.splitlines() if line.strip()), "")
    if first.lstrip()[:1] in ("{", "["):
        whole = _whole(text)
        if isinstance(whole, dict) and isinstance(whole.get("log_history"), list):
            return _of_trainer_state(whole)
        if isinstance(whole, list):
            return _objects(enumerate(whole, 1), "item")
        if isinstance(_whole(first), dict):
            return _json_lines(text)
    return _csv(text) if _HEADER.fullmatch(first) else None


def _of_events(data: bytes, wanted: Names) -> Iterator[Row]:
    """Yield a row for each step of TensorBoard's scalars."""
    step, values = 0, dict[str, float]()
    for _, record in events.records(data):
        for one in events.scalars(record) if record is not None else ():
            if one.step != step and values:
                yield Row(step=step, values=values)
                values = {}
            step, name = one.step, name_of(one.tag)
            values[name] = values[one.tag] = one.value
            if name in wanted.loss and phase(one.tag) is not Phase.EVALUATION:
                values[LOSS] = one.value
    if values:
        yield Row(step=step, values=values)


def _of_log(text: str, fold: Fold) -> Iterator[Row]:
    """Yield a row for each line of a log after which the newest numbers are others."""
    before: Reading | Failure | None = None
    for line in text.splitlines():
        fold.add(line + "\n")
        reading = fold.reading()
        if isinstance(reading, Reading) and reading != before:
            yield Row(reading.step, reading.epoch, reading.total_epochs, reading.values)
        before = reading


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
        for record in reader:
            if None in record:
                raise UnreadableError(f"line {reader.line_num} has more cells than the header.")
            yield {str(name).strip(): cell for name, cell in record.items()}
    except csv.Error as error:
        raise UnreadableError(f"line {reader.line_num} is no CSV: {error}.") from None


def _row(record: Mapping[str, Any], wanted: MetricNames) -> Row:
    numbers = {name: value for name, one in record.items() if (value := _number(one)) is not None}
    values = dict(numbers)
    own = (*wanted.step, *wanted.epoch, *wanted.total_epochs, *_TIMES, "step", "epoch", "totalEpochs", _CHECKPOINT)
    for name in own:
        values.pop(name, None)
    if (loss := _first(numbers, (*wanted.loss, LOSS))) is not None:
        values[LOSS] = loss
    if _NORM in numbers:
        values[GRADIENT_NORM] = numbers[_NORM]
    return Row(
        step=_first(numbers, (*wanted.step, "step")),
        epoch=_first(numbers, (*wanted.epoch, "epoch")),
        total_epochs=_first(numbers, (*wanted.total_epochs, "totalEpochs")),
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
