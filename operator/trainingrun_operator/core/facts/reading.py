"""What one look at a run's metrics yields, whichever source it comes from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

LOSS: Final = "loss"
"""The name in `Reading.values` that decisions are made by."""


@dataclass(frozen=True)
class Reading:
    """One reading. What the source does not have is None, or not among the values; NaN and infinities are passed on as they are."""

    step: float | None = None
    epoch: float | None = None
    total_epochs: float | None = None
    values: Mapping[str, float] = field(default_factory=dict)
    """By name, whatever their source calls them; the loss is `LOSS`."""
    at: float | None = None
    """When the values were measured, on the monotonic clock of this process; None: when they were read."""

    @property
    def loss(self) -> float | None:
        """The loss; None: the source has none."""
        return self.values.get(LOSS)


@dataclass(frozen=True)
class Failure:
    """Why there is no reading. Never evidence of anything about the training."""

    reason: str
    """CamelCase, the condition's reason: ``ConnectionRefused``, ``Timeout``, ``TooLarge``, ``HTTPStatus``, ``Redirect``, …"""
    message: str
    """A sentence with the address and what to do."""
