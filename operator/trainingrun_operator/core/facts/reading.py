"""One reading of a run's metrics, from any source."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

LOSS: Final = "loss"
"""The name of the loss in `Reading.values`."""

GRADIENT_NORM: Final = "gradientNorm"
"""The name of a norm of the training's gradients. A source that knows it reports it at least if it is NaN or infinite."""


@dataclass(frozen=True)
class Reading:
    """One reading. A missing value is None or absent; NaN and infinities are kept."""

    step: float | None = None
    epoch: float | None = None
    total_epochs: float | None = None
    values: Mapping[str, float] = field(default_factory=dict)
    """By name, independent of the source's names; the loss is `LOSS`."""
    at: float | None = None
    """Time of measurement, on the monotonic clock of this process; None: time of reading."""

    @property
    def loss(self) -> float | None:
        """The loss; None: the source has none."""
        return self.values.get(LOSS)

    @property
    def gradient_norm(self) -> float | None:
        """The norm of the gradients; None: the source has none."""
        return self.values.get(GRADIENT_NORM)


@dataclass(frozen=True)
class Failure:
    """Why there is no reading. It is no evidence about the training."""

    reason: str
    """CamelCase, the condition's reason: ``ConnectionRefused``, ``Timeout``, ``TooLarge``, ``HTTPStatus``, ``Redirect``, …"""
    message: str
    """A sentence with the address and what to do."""
