"""`spec.stopRules` and `spec.autoStopLossSchedule`, and what is counted for them in ``status.rules``."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final

from pydantic import ConfigDict, Field

from trainingrun_operator.api.base import BigCount, Cel, Count, Model, Word
from trainingrun_operator.api.spoiled import Spoiled

STOP_RULES_MAX: Final = 8
SHAPES: Final = ("threshold", "plateau", "rising", "nonFinite")
"""The members of which a rule has exactly one."""
_LABEL: Final = r'[a-zA-Z_][a-zA-Z0-9_]*="[^"\\\n]*"'
MOVES_MAX: Final = 16
Number = Annotated[float, Field(allow_inf_nan=False)]
Delta = Annotated[float, Field(ge=0, allow_inf_nan=False)]
ValueName = Annotated[
    str, Field(pattern=rf"^[a-zA-Z_:][a-zA-Z0-9_:./@-]*(\{{{_LABEL}(, ?{_LABEL})*\}})?$", max_length=128)
]
"""The name of a value that the training shows, and the labels of the series that is meant: ``eval_loss`` or ``loss{split="val"}``."""
Observations = Annotated[int, Field(ge=1, le=10_000)]


class Goal(StrEnum):
    """Which values of a metric are better."""

    MINIMIZE = "Minimize"
    MAXIMIZE = "Maximize"


class Action(StrEnum):
    """What a stop rule does when it fires."""

    STOP = "Stop"
    SHADOW = "Shadow"


class Threshold(Model):
    """The metric has reached a value."""

    value: Number
    """The rule holds for values below this one, with goal Maximize for values above it. It may be negative."""


class Plateau(Model):
    """The metric no longer improves."""

    patience: Observations = 20
    """Number of observations in a row without an improvement after which the rule fires. Default 20."""
    min_delta: Delta = 0
    """A value is an improvement if it is better than the best one by more than this. Default 0."""


class Rising(Model):
    """The metric gets worse."""

    observations: Observations = 5
    """Number of observations in a row, each worse than the one before, after which the rule fires. Together they must be worse by more than the value
    usually moves in so many observations without a direction. Default 5."""
    min_delta: Delta = 0
    """An observation counts as worse if it differs from the one before by more than this. Default 0."""


class NonFinite(Model):
    """The metric is NaN or infinite. Has no members."""

    model_config = ConfigDict(json_schema_extra={"maxProperties": 0})


class StopRule(Model):
    """One reason to end the run by a value that the training shows."""

    cel_rules = (
        Cel(
            " + ".join(f"(has(self.{shape}) ? 1 : 0)" for shape in SHAPES) + " == 1",
            f"a stop rule has exactly one of {', '.join(SHAPES)}",
        ),
    )

    name: Annotated[str, Field(pattern=r"^([A-Za-z]([A-Za-z0-9_-]*[A-Za-z0-9])?)?$", max_length=63)] = ""
    """Name of the rule in the status, unique among the rules. Default: threshold, plateau, rising or nonFinite."""
    metric: ValueName = "loss"
    """The value that the rule looks at, by the name under which the training shows it; loss is the one of spec.metrics.names.loss. A name may select
    labels: loss{split="val"}. Default loss."""
    goal: Goal = Goal.MINIMIZE
    """Minimize: smaller values are better. Maximize: larger ones. nonFinite ignores it. Default Minimize."""
    threshold: Threshold | None = None
    """The metric has reached a value: the run ends as auto_threshold. Default absent."""
    plateau: Plateau | None = None
    """The metric no longer improves, after it has improved by more than it usually moves: the run ends as auto_plateau. Default absent."""
    rising: Rising | None = None
    """The metric gets worse, after it has improved by more than it usually moves: the run ends as auto_rising. Default absent."""
    non_finite: NonFinite | None = None
    """The metric is NaN or infinite: the run ends as auto_non_finite, which is a failure and does not wait for a checkpoint. Default absent."""
    action: Action = Action.STOP
    """Stop: end the run. Shadow: only record in status.shadow when the rule would have ended it. Default Stop."""
    warmup_steps: BigCount = 0
    """Observations before this step do not count. Default 0."""
    for_observations: Observations | None = None
    """Number of observations in a row for which the rule must hold before it fires. Default 2 for threshold and nonFinite, 1 for plateau and rising,
    which count observations themselves."""
    stale_after_seconds: Annotated[int, Field(ge=1, le=86_400)] | None = None
    """The rule does not fire if its metric was not read for this many seconds. Default: the installation's timing.staleAfterSeconds, 120."""

    @property
    def shapes(self) -> tuple[str, ...]:
        """The shapes that the rule has; a valid one has exactly one."""
        has = (self.threshold, self.plateau, self.rising, self.non_finite)
        return tuple(shape for shape, one in zip(SHAPES, has, strict=True) if one is not None)

    @property
    def called(self) -> str:
        """The name, by default that of the shape."""
        return self.name or next(iter(self.shapes), "rule")

    @property
    def needed(self) -> int:
        """Number of observations in a row for which the rule must hold."""
        if self.for_observations is not None:
            return self.for_observations
        return 1 if self.plateau is not None or self.rising is not None else 2


class LossLimit(Model):
    """A threshold of the loss from a step on."""

    step: BigCount
    """The step from which the threshold applies."""
    loss: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    """End the run when its loss is below this value."""


class RuleWindow(Model):
    """What has been counted for one stop rule. A restarted operator continues from it."""

    name: Word
    """The rule."""
    of: Word
    """What is counted. A rule that counts something else starts again; patience, action and the like may change."""
    pod_uid: Annotated[Word, Field(alias="podUID")] = ""
    """UID of the pod that was read last."""
    source: Word = ""
    """The metric source that was read. Another source starts again."""
    first: Word | None = None
    """The first value in that pod, which may be the default of a metric."""
    first_step: BigCount | None = None
    """Its step, if the pod was read from its first reading on."""
    changed: bool = False
    """Whether the value has changed since."""
    repeats: bool = False
    """Whether one value was read at several steps, so that the metric changes less often than the step."""
    observations: Count = 0
    """Observations that counted."""
    value: Word | None = None
    """The newest one."""
    step: BigCount | None = None
    """Its step."""
    interval: BigCount | None = None
    """Most steps between two observations with different values."""
    best: Word | None = None
    """The best value; of a nonFinite rule, the last finite one."""
    best_step: BigCount | None = None
    """Its step."""
    start: Word | None = None
    """The value from which an improvement is measured: the worse of the first one in the pod and the first one that counted."""
    moves: Annotated[tuple[Word, ...], Field(max_length=MOVES_MAX)] = ()
    """How far the newest observations are from those before them, oldest first. Their median is the usual move."""
    improved: bool = False
    """Whether any value was better than that at the start by more than twice the usual move."""
    without_improvement: Count = 0
    """Observations since then."""
    in_a_row: Count = 0
    """Newest observations in a row for which the rule's condition holds."""
    rose_from: Word | None = None
    """Of a rise: the observation before the first of these."""
    spoiled: Spoiled | None = None
    """Of a nonFinite rule: the first of the newest readings in a row that are not finite. Absent: the newest one is finite."""
