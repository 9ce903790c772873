"""The loss curve of a run, read from the ConfigMap in which the operator stores it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from trainingrun_operator.api import names
from trainingrun_operator.api.curve import Curve

if TYPE_CHECKING:
    from trainingrun_operator.api.curve import Point


def points_of(config_map: dict[str, Any] | None, run_uid: str) -> tuple[Point, ...]:
    """Points of the run's curve in the order observed; empty if the ConfigMap is absent, belongs to another run, or is invalid."""
    if config_map is None or (config_map["metadata"].get("labels") or {}).get(names.RUN_UID_LABEL) != run_uid:
        return ()
    try:
        return Curve.model_validate_json((config_map.get("data") or {}).get(names.CURVE_KEY, "{}")).points
    except ValidationError:
        return ()
