"""The curves for the page, of the loss and of other values: points, threshold, the samples that decided, and where the run stopped."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from trainingrun_operator.api import names
from trainingrun_operator.api.curve import POINTS_MAX, VALUES_MAX, Point, ValueCurve
from trainingrun_operator.api.rules import Action
from trainingrun_operator.core.facts.reading import LOSS
from trainingrun_operator.core.rules.loss import OFF, SHADOW
from trainingrun_operator.core.value_curves import threshold_of
from trainingrun_operator.core.words import finite
from trainingrun_operator.dashboard.words import count, look

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trainingrun_operator.api.run import TrainingRunSpec
    from trainingrun_operator.api.status import Progress, TrainingRunStatus

Json = dict[str, Any]
Row = tuple[str, int, float | None, float]
"""Time, step, epoch and value of a point."""


def points_of(stored: Json | None) -> tuple[Point, ...]:
    """Points of the ConfigMap. Invalid points are skipped: many people may write the ConfigMap, and the page must still render."""
    newest = _listed(stored, "points")[-POINTS_MAX:]
    return tuple(point for one in newest if (point := _point(one)) is not None)


def values_of(stored: Json | None) -> tuple[ValueCurve, ...]:
    """Curves of other values in the ConfigMap. Invalid ones are skipped; of two with one name, the first counts."""
    found: dict[str, ValueCurve] = {}
    for one in _listed(stored, "values")[:VALUES_MAX]:
        try:
            curve = ValueCurve.parse(one)
        except ValidationError:
            continue
        if curve.points and curve.name not in {"", LOSS}:
            found.setdefault(curve.name, curve)
    return tuple(found.values())


def _listed(stored: Json | None, what: str) -> list[Any]:
    try:
        said = json.loads(((stored or {}).get("data") or {}).get(names.CURVE_KEY, "{}")).get(what)
    except (AttributeError, RecursionError, TypeError, ValueError):
        return []
    return said if isinstance(said, list) else []


def _point(said: Any) -> Point | None:
    try:
        return Point.parse(said)
    except ValidationError:
        return None


def drawn(points: Sequence[Point], status: TrainingRunStatus) -> Json:
    """Input of the page's `run.js`: kept points by step, and the latest reading."""
    # After the end is decided, the step is that of the checkpoint, and no loss belongs to it.
    newest = _newest(status.progress) if status.termination is None else None
    # After a resume, some steps run twice; the last point of a step counts.
    by_step = {point.step: point for point in points}
    if newest is not None and points and newest.step > max(by_step):
        by_step[newest.step] = newest
    line = [by_step[step] for step in sorted(by_step)]
    force = status.effective
    threshold = force.auto_stop_loss if force is not None and force.auto_stop_action != OFF else None
    return {
        **_chart(LOSS, [(point.at, point.step, point.epoch, point.loss) for point in line], threshold, status),
        "shadow": force is not None and force.auto_stop_action == SHADOW,
    }


def drawn_values(curves: Sequence[ValueCurve], spec: TrainingRunSpec, status: TrainingRunStatus) -> list[Json]:
    """The same for other values, each with its name."""
    return [_drawn_value(one, spec, status) for one in curves]


def _drawn_value(curve: ValueCurve, spec: TrainingRunSpec, status: TrainingRunStatus) -> Json:
    by_step = {point.step: (point.at, point.step, point.epoch, point.value) for point in curve.points}
    rule = threshold_of(spec, curve.name)
    threshold = rule.threshold.value if rule is not None and rule.threshold is not None else None
    return {
        **_chart(curve.name, [by_step[step] for step in sorted(by_step)], threshold, status),
        "name": curve.name,
        "shadow": rule is not None and rule.action is Action.SHADOW,
    }


def _chart(name: str, rows: Sequence[Row], threshold: float | None, status: TrainingRunStatus) -> Json:
    stop = status.termination
    deciding = [
        [sample.step, number]
        for sample in (stop.evidence if stop is not None else ())
        if sample.what == name and sample.step is not None and (number := finite(sample.value)) is not None
    ]
    return {
        "x": [step for _, step, _, _ in rows],
        "loss": [value for _, _, _, value in rows],
        "rows": [list(row) for row in rows],
        "threshold": threshold,
        "deciding": deciding,
        "stop": _stopped(status, max((step for step, _ in deciding), default=None)),
        "summary": _summary(name, rows, threshold),
    }


def _newest(progress: Progress | None) -> Point | None:
    """The point in the status; it may be newer than the latest kept point."""
    if progress is None or progress.step is None or not progress.last_observation_time:
        return None
    loss = finite(progress.loss)
    return None if loss is None else Point(at=progress.last_observation_time, step=progress.step, loss=loss)


def _stopped(status: TrainingRunStatus, decided_at: float | None) -> Json | None:
    """Where the stop is drawn: at the last sample that decided, else at the last observed step."""
    stop = status.termination
    at = decided_at if decided_at is not None else status.progress.step if status.progress is not None else None
    if stop is None or stop.suspends or at is None:
        return None
    return {
        "at": at,
        "words": look(status.phase or "", stop.status).words if status.completion_time else "decided to stop",
    }


def _summary(name: str, rows: Sequence[Row], threshold: float | None) -> str:
    """The curve in a sentence, for screen readers."""
    if not rows:
        return "No loss is recorded yet."
    (_, start, _, first), (_, end, _, last) = rows[0], rows[-1]
    (_, low, _, lowest), (_, high, _, highest) = (extreme(rows, key=lambda row: row[3]) for extreme in (min, max))
    said = (
        f"{'The loss' if name == LOSS else name} went from {first:.4g} at step {count(start)} to {last:.4g} at step {count(end)};"
        f" the lowest was {lowest:.4g} at step {count(low)}"
    )
    said += "." if name == LOSS else f", the highest {highest:.4g} at step {count(high)}."
    return said if threshold is None else f"{said} The threshold is {threshold:.4g}."
