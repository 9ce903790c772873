"""Results of effects that the next look needs and cannot read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trainingrun_operator.core.facts.nodes import Refusal
    from trainingrun_operator.core.facts.run import Problem


@dataclass(frozen=True)
class ProviderAnswered:
    """The node provider's answer to a release."""

    provider_id: str
    refusal: Refusal | None = None
    """None: it accepted."""


@dataclass(frozen=True)
class DisruptionBudgetChanged:
    """The PodDisruptionBudget after an effect on it."""

    uid: str | None
    """Empty: there is none; None: not known, the effect failed."""


@dataclass(frozen=True)
class JobRefused:
    """The API server refused to create the Job."""

    problem: Problem


@dataclass(frozen=True)
class RescueRefused:
    """The API server refused to create the rescue Job."""

    message: str


Learned = ProviderAnswered | DisruptionBudgetChanged | JobRefused | RescueRefused
