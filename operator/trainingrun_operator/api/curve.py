"""A run's loss curve as it is kept: `curve.json` in the ConfigMap `<run>-curve`, written by the operator for whoever may read ConfigMaps there."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field

from trainingrun_operator.api.base import BigCount, Model, Timestamp

POINTS_MAX: Final = 500


class Point(Model):
    """One observation: the step had advanced, and the loss was a number."""

    at: Timestamp
    """When it was read."""
    step: BigCount
    """The step. It goes back where a pod was replaced and its training went on from a checkpoint: a line begins anew there."""
    epoch: Annotated[float | None, Field(allow_inf_nan=False)] = None
    """The epoch, if the training says it."""
    loss: Annotated[float, Field(allow_inf_nan=False)]
    """As it was read."""


class Curve(Model):
    """A run's observations, thinned: the first, the newest and the one with the lowest loss are always among the points.

    The newest point may be older than `status.progress` while the run trains: one that lies between two points of the curve is no reason to write it.
    """

    every: Annotated[int, Field(ge=1)] = 1
    """How many observations a point stands for: doubled, and every second point dropped, whenever there would be too many."""
    points: Annotated[tuple[Point, ...], Field(max_length=POINTS_MAX)] = ()
    """In the order in which they were read."""
