"""What one look at a run's metrics yields, whichever source it comes from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sample:
    """One reading. A value is None where its metric is absent; NaN and infinities are passed on as they are."""

    loss: float | None = None
    step: float | None = None
    epoch: float | None = None
    total_epochs: float | None = None


@dataclass(frozen=True)
class ScrapeFailure:
    """Why there is no reading. Never evidence of anything about the training."""

    reason: str
    """CamelCase, the condition's reason: ``ConnectionRefused``, ``Timeout``, ``TooLarge``, ``HTTPStatus``, ``Redirect``, …"""
    message: str
    """A sentence with the address and what to do."""
