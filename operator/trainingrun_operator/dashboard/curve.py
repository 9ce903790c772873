"""The loss curve as the page draws it: the kept points, the threshold, where it stopped and which samples decided."""

from __future__ import annotations

import json
from math import isfinite
from typing import TYPE_CHECKING, Any

from trainingrun_operator.dashboard.words import count, look

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from trainingrun_operator.api.status import TrainingRunStatus

Json = dict[str, Any]

KEY = "curve.json"


def points_of(stored: Json | None) -> list[Json]:
    """The points of the ConfigMap; none if it is absent or cannot be read: a curve is no reason for a page to fail."""
    try:
        points = json.loads(((stored or {}).get("data") or {}).get(KEY, "{}")).get("points")
    except (AttributeError, TypeError, ValueError):
        return []
    return [one for one in points or () if isinstance(one, dict) and _finite(one.get("loss")) and one.get("at")]


def drawn(points: Sequence[Json], status: TrainingRunStatus) -> Json:
    """What `curve.js` draws: at most as many points as were kept, by step where every point has one, else by time."""
    by_step = bool(points) and all(isinstance(one.get("step"), int) for one in points)
    # A training that went on from its checkpoint takes some steps again: the last time counts.
    ordered = sorted({(one["step"] if by_step else one["at"]): one for one in points}.items())
    force, stop = status.effective, status.termination
    threshold = force.auto_stop_loss if force is not None and force.auto_stop_action != "Off" else None
    deciding = [
        [sample.step, float(sample.value)]
        for sample in (stop.evidence if stop is not None else ())
        if sample.what == "loss" and sample.step is not None and _finite(_number(sample.value))
    ]
    ended = None
    if stop is not None and not stop.suspends and by_step:
        at = max((step for step, _ in deciding), default=None)
        if at is None and status.progress is not None:
            at = status.progress.step
        words = look(status.phase or "", stop.status).words
        ended = {"at": at, "words": words if status.completion_time else "decided to stop"} if at is not None else None
    return {
        "by": "step" if by_step else "time",
        "x": [x for x, _ in ordered],
        "loss": [one["loss"] for _, one in ordered],
        "rows": [[one["at"], one.get("step"), one.get("epoch"), one["loss"]] for _, one in ordered],
        "threshold": threshold,
        "shadow": force is not None and force.auto_stop_action == "Shadow",
        "deciding": deciding if by_step else [],
        "stop": ended,
        "summary": _summary([one for _, one in ordered], threshold, by_step=by_step),
    }


def _summary(points: Sequence[Mapping[str, Any]], threshold: float | None, *, by_step: bool) -> str:
    """The curve in a sentence, for who cannot see it."""
    if not points:
        return "No loss has been kept yet."

    def where(one: Mapping[str, Any]) -> str:
        return f"at step {count(one['step'])}" if by_step else f"at {one['at']}"

    first, last = points[0], points[-1]
    best = min(points, key=lambda one: float(one["loss"]))
    said = f"The loss went from {first['loss']:.4g} {where(first)} to {last['loss']:.4g} {where(last)}; the lowest was {best['loss']:.4g} {where(best)}."
    return said if threshold is None else f"{said} The threshold is {threshold:.4g}."


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
