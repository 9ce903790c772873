"""One reading of a run's metrics, from any source."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

LOSS: Final = "loss"
"""The name of the loss in `Reading.values`."""

GRADIENT_NORM: Final = "gradientNorm"
"""The name of a norm of the training's gradients. A source that knows it reports it at least if it is NaN or infinite."""

PROMETHEUS: Final = "Prometheus"
"""The metric source that reads the pod's metrics page."""
PUSH: Final = "Push"
"""The metric source of numbers that the training posts to the agent."""
FILES: Final = "Files"
"""The metric source that reads the training's files, through the agent."""
AUTO: Final = "Auto"
"""The metric source that takes one of the others."""
LOGS: Final = "Logs"
"""The metric source that reads what the training prints."""

VALUES_MAX: Final = 64
"""Named values of one reading."""
NAME_MAX: Final = 128
"""Characters of a value's name."""
_FIRST: Final = (LOSS, GRADIENT_NORM)
"""Names that are kept if there are too many."""


@dataclass(frozen=True)
class Reading:
    """One reading: when, of which source, at which step, and any number of named values. A missing value is None or absent; NaN and infinities are kept."""

    step: float | None = None
    epoch: float | None = None
    total_epochs: float | None = None
    values: Mapping[str, float] = field(default_factory=dict)
    """By name. The loss is `LOSS`, whatever the source calls it; other values have the source's names: ``eval_loss``, ``accuracy``, …"""
    at: float | None = None
    """Time of measurement, on the monotonic clock of this process; None: time of reading."""
    printed: int | None = None
    """Characters of the log that were read; None: the source is no log."""
    troubles: Mapping[str, Failure] = field(default_factory=dict)
    """By name, why a value that a stop rule names could not be taken although the source has it."""
    source: str = ""
    """The metric source that has read it, as in `spec.metrics.source`; empty: not known."""
    source_note: str = ""
    """Why `AUTO` has taken this source; empty: it has not."""
    total_of_bar: bool = False
    """Whether `total_epochs` is said by a progress bar alone, which may be one of several that the training shows."""

    @property
    def loss(self) -> float | None:
        """The loss; None: the source has none."""
        return self.values.get(LOSS)

    @property
    def gradient_norm(self) -> float | None:
        """The norm of the gradients; None: the source has none."""
        return self.values.get(GRADIENT_NORM)

    def read_by(self, source: str) -> Reading:
        """Return the reading with its source unless it names another one, and with at most `VALUES_MAX` values: those with an own meaning, then by name."""
        usable = [name for name in self.values if 0 < len(name) <= NAME_MAX]
        kept = sorted(usable, key=lambda name: (name not in _FIRST, name))[:VALUES_MAX]
        return replace(self, source=self.source or source, values={name: self.values[name] for name in kept})


@dataclass(frozen=True)
class Failure:
    """Why there is no reading. It is no evidence about the training."""

    reason: str
    """CamelCase, the condition's reason: ``ConnectionRefused``, ``Timeout``, ``TooLarge``, ``HTTPStatus``, ``Redirect``, …"""
    message: str
    """A sentence with the address and what to do."""
