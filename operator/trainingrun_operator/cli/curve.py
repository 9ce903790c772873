"""The curves of a run, read from the ConfigMap in which the operator stores it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from trainingrun_operator.api import names
from trainingrun_operator.api.curve import Curve

if TYPE_CHECKING:
    from trainingrun_operator.api.curve import Point


def curve_of(config_map: dict[str, Any] | None, run_uid: str) -> Curve:
    """The run's curves; empty if the ConfigMap is absent, belongs to another run, or is invalid."""
    if config_map is None or (config_map["metadata"].get("labels") or {}).get(names.RUN_UID_LABEL) != run_uid:
        return Curve()
    try:
        return Curve.model_validate_json((config_map.get("data") or {}).get(names.CURVE_KEY, "{}"))
    except ValidationError:
        return Curve()


def points_of(config_map: dict[str, Any] | None, run_uid: str) -> tuple[Point, ...]:
    """Points of the run's loss curve in the order observed; empty if there is none."""
    return curve_of(config_map, run_uid).points
