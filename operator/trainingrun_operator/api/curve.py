"""A run's stored curves, of the loss and of other values: `curve.json` in the ConfigMap `<run>-curve`, written by the operator."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field

from trainingrun_operator.api.base import BigCount, Model, Timestamp, Word

POINTS_MAX: Final = 500
VALUES_MAX: Final = 8
"""Values beside the loss."""
VALUE_POINTS_MAX: Final = 120
"""Points of each of them."""


class Point(Model):
    """An observation with a new step and a finite loss."""

    at: Timestamp
    """Time of the reading."""
    step: BigCount
    """The step. It decreases when a replaced pod resumes from a checkpoint: a new line starts there."""
    epoch: Annotated[float | None, Field(allow_inf_nan=False)] = None
    """The epoch, if exported."""
    loss: Annotated[float, Field(allow_inf_nan=False)]
    """The loss."""


class ValuePoint(Model):
    """A finite value that was read for the first time."""

    at: Timestamp
    """Time of the reading."""
    step: BigCount
    """The newest step then."""
    epoch: Annotated[float | None, Field(allow_inf_nan=False)] = None
    """The epoch, if exported."""
    value: Annotated[float, Field(allow_inf_nan=False)]
    """The value."""


class ValueCurve(Model):
    """A thinned list of the readings of one value; it always has the first, the latest, the lowest and the highest."""

    name: Word
    """Its name, as the source has it: ``eval_loss``, ``accuracy``, …"""
    every: Annotated[int, Field(ge=1)] = 1
    """Number of new values per point."""
    points: Annotated[tuple[ValuePoint, ...], Field(max_length=VALUE_POINTS_MAX)] = ()
    """Points in the order read."""


class Curve(Model):
    """A thinned list of a run's observations; it always has the first, the latest, and the one with the lowest loss.

    While the run trains, the latest point may be older than `status.progress`: a single point within the curve causes no write.
    """

    every: Annotated[int, Field(ge=1)] = 1
    """Number of observations per point; it doubles, and every second point is dropped, when there are too many points."""
    points: Annotated[tuple[Point, ...], Field(max_length=POINTS_MAX)] = ()
    """Points in the order read."""
    values: Annotated[tuple[ValueCurve, ...], Field(max_length=VALUES_MAX)] = ()
    """Curves of other values, by name; absent in those of earlier operators."""
