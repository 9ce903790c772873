"""A run's loss curve, as the operator keeps it in a ConfigMap beside the run: for whoever may read ConfigMaps there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from trainingrun_operator.api import names
from trainingrun_operator.api.curve import Curve

if TYPE_CHECKING:
    from trainingrun_operator.api.curve import Point


def points_of(config_map: dict[str, Any] | None, run_uid: str) -> tuple[Point, ...]:
    """Read the curve of a run, in the order in which it was seen; empty if there is none, or it is not this run's, or cannot be read."""
    if config_map is None or (config_map["metadata"].get("labels") or {}).get(names.RUN_UID_LABEL) != run_uid:
        return ()
    try:
        return Curve.model_validate_json((config_map.get("data") or {}).get(names.CURVE_KEY, "{}")).points
    except ValidationError:
        return ()
