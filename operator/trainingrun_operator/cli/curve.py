"""A run's loss over time, as the operator keeps it in a ConfigMap beside the run: read by anybody who may read ConfigMaps there."""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

KEY = "curve.json"


@dataclass(frozen=True)
class Point:
    """One loss."""

    at: str
    """RFC 3339."""
    loss: float
    step: int | None = None


def name_of(run: str) -> str:
    """The ConfigMap of a run."""
    return f"{run}-curve"


def points_of(config_map: dict[str, Any] | None) -> tuple[Point, ...]:
    """Read the curve, oldest first; empty if there is none, or none that can be read."""
    try:
        said = json.loads(((config_map or {}).get("data") or {}).get(KEY, "{}"))
        return tuple(_points(said.get("points") or ()))
    except (ValueError, AttributeError, TypeError):
        return ()


def _points(said: Iterable[dict[str, Any]]) -> Iterable[Point]:
    for one in said:
        loss, step = one.get("loss"), one.get("step")
        if isinstance(loss, int | float) and isfinite(loss):
            yield Point(str(one.get("at", "")), float(loss), step if isinstance(step, int) else None)
