"""Patterns of `spec.metrics.logs.patterns`: RE2 with named groups, searched in each line of a log."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from trainingrun_operator.core import log_patterns
from trainingrun_operator.edge.metrics import gradient
from trainingrun_operator.edge.metrics.log.line import Line

if TYPE_CHECKING:
    from collections.abc import Sequence

_STEP, _EPOCH, _TOTAL, _LOSS = "step", "epoch", "totalEpochs", "loss"
_OWN: Final = frozenset({_STEP, _EPOCH, _TOTAL, _LOSS})


def parse(text: str, patterns: Sequence[str]) -> Line | None:
    """Return the numbers of the first pattern that a line has; None: it has none. Patterns that are not valid are not found."""
    for pattern in patterns:
        found = log_patterns.groups(pattern, text)
        if found is None:
            continue
        values = {name: value for name, text in found.items() if (value := _number(text)) is not None}
        return Line(
            losses={_LOSS: values[_LOSS]} if _LOSS in values else {},
            step=values.get(_STEP),
            epoch=values.get(_EPOCH),
            total_epochs=values.get(_TOTAL),
            gradient_norm=next((value for name, value in values.items() if gradient.is_gradient_norm(name)), None),
            values={name: value for name, value in values.items() if name not in _OWN},
        )
    return None


def _number(text: str) -> float | None:
    try:
        return float(text.replace(",", ""))
    except ValueError:
        return None
