"""The loss curve for the page: points, threshold, the samples that decided, and where the run stopped."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from trainingrun_operator.api import names
from trainingrun_operator.api.curve import POINTS_MAX, Point
from trainingrun_operator.core.rules.loss import OFF, SHADOW
from trainingrun_operator.core.words import finite
from trainingrun_operator.dashboard.words import count, look

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trainingrun_operator.api.status import Progress, TrainingRunStatus

Json = dict[str, Any]


def points_of(stored: Json | None) -> tuple[Point, ...]:
    """Points of the ConfigMap. Invalid points are skipped: many people may write the ConfigMap, and the page must still render."""
    try:
        said = json.loads(((stored or {}).get("data") or {}).get(names.CURVE_KEY, "{}")).get("points")
    except (AttributeError, TypeError, ValueError):
        return ()
    newest = said[-POINTS_MAX:] if isinstance(said, list) else ()
    return tuple(point for one in newest if (point := _point(one)) is not None)


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
    force, stop = status.effective, status.termination
    threshold = force.auto_stop_loss if force is not None and force.auto_stop_action != OFF else None
    deciding = [
        [sample.step, number]
        for sample in (stop.evidence if stop is not None else ())
        if sample.what == "loss" and sample.step is not None and (number := finite(sample.value)) is not None
    ]
    return {
        "x": [point.step for point in line],
        "loss": [point.loss for point in line],
        "rows": [[point.at, point.step, point.epoch, point.loss] for point in line],
        "threshold": threshold,
        "shadow": force is not None and force.auto_stop_action == SHADOW,
        "deciding": deciding,
        "stop": _stopped(status, max((step for step, _ in deciding), default=None)),
        "summary": _summary(line, threshold),
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


def _summary(line: Sequence[Point], threshold: float | None) -> str:
    """The curve in a sentence, for screen readers."""
    if not line:
        return "No loss is recorded yet."
    first, last, best = line[0], line[-1], min(line, key=lambda point: point.loss)
    said = (
        f"The loss went from {first.loss:.4g} at step {count(first.step)} to {last.loss:.4g} at step {count(last.step)};"
        f" the lowest was {best.loss:.4g} at step {count(best.step)}."
    )
    return said if threshold is None else f"{said} The threshold is {threshold:.4g}."
