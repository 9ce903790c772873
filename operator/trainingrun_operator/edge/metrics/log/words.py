"""What the words of a log line say: the phase of the training, and what a number is called."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from trainingrun_operator.api.run import MetricNames

_WORD: Final = re.compile(r"[a-z]++")
_HUMP: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_NOT_IN_A_NAME: Final = re.compile(r"[^a-z0-9]++")
_EVALUATION: Final = frozenset(
    [
        "eval",
        "evals",
        "evaluate",
        "evaluation",
        "evaluating",
        "val",
        "valid",
        "validate",
        "validation",
        "validating",
        "test",
        "testing",
        "dev",
        "holdout",
        "heldout",
        "predict",
        "predicting",
        "prediction",
        "inference",
        "sanity",
    ]
)
_TRAINING: Final = frozenset(["train", "training"])
_NO_PART_OF_A_NAME: Final = frozenset(["info", "debug", "warn", "warning", "error", "root"])
"""Levels and loggers that stand before a name."""

LOSSES: Final = (
    "lm_loss",
    "total_loss",
    "train_total_loss",
    "avg_loss",
    "average_loss",
    "mean_loss",
    "train_avg_loss",
    "batch_loss",
    "running_loss",
    "train_loss_step",
    "loss_step",
    "train_loss_epoch",
    "loss_train",
    "loss_training",
)
"""Names that trainers print beside those of `spec.metrics.names`."""
STEPS: Final = (
    "steps",
    "train_step",
    "current_step",
    "current_steps",
    "global_steps",
    "iteration",
    "iter",
    "it",
    "num_updates",
    "global_step_max_steps",
)
EPOCHS: Final = ("train_epoch", "current_epoch")
TOTALS: Final = ("num_epochs", "num_train_epochs", "max_epochs")


class Phase(Enum):
    """What the training does while it prints a number."""

    TRAINING = "training"
    EVALUATION = "evaluation"


def phase(text: str) -> Phase | None:
    """Return the last phase that a text names; None: it names none."""
    for word in reversed(_WORD.findall(_HUMP.sub(" ", text).lower())):
        if word in _EVALUATION:
            return Phase.EVALUATION
        if word in _TRAINING:
            return Phase.TRAINING
    return None


@lru_cache(maxsize=4096)
def name_of(text: str) -> str:
    """Return a name as in ``train_loss``: of ``train/loss``, ``Train Loss`` or ``INFO train.loss``."""
    words = _NOT_IN_A_NAME.sub("_", text.lower()).strip("_").split("_")
    while len(words) > 1 and words[0] in _NO_PART_OF_A_NAME:
        del words[0]
    return "_".join(words)


@dataclass(frozen=True)
class Names:
    """The names of what is looked for, the preferred ones first."""

    loss: tuple[str, ...]
    step: frozenset[str]
    epoch: frozenset[str]
    total_epochs: frozenset[str]
    own: bool
    """Whether the spec names the loss: then no other name is one."""


@lru_cache(maxsize=256)
def names(wanted: MetricNames) -> Names:
    """Return the names of `spec.metrics.names`, with those that trainers print unless the spec has its own."""
    default = type(wanted)()
    own = wanted.loss != default.loss
    return Names(
        loss=_all(wanted.loss, () if own else LOSSES),
        step=frozenset(_all(wanted.step, STEPS if wanted.step == default.step else ())),
        epoch=frozenset(_all(wanted.epoch, EPOCHS if wanted.epoch == default.epoch else ())),
        total_epochs=frozenset(
            _all(wanted.total_epochs, TOTALS if wanted.total_epochs == default.total_epochs else ())
        ),
        own=own,
    )


def _all(wanted: Iterable[str], more: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*(name_of(one.partition("{")[0]) for one in wanted), *more)))
