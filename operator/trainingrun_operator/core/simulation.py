"""A recorded training, read again as the operator would have read it: by its own memory and its own rules.

Each row is one poll. Everything else that a look reads is that of a healthy pod which trains.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from trainingrun_operator.api.exchange import AgentReport, CheckpointSeen
from trainingrun_operator.core.facts.gathered import Facts
from trainingrun_operator.core.facts.pod import Pod, Training
from trainingrun_operator.core.facts.reading import Reading
from trainingrun_operator.core.facts.workload import Workload
from trainingrun_operator.core.memory import Memory, remember
from trainingrun_operator.core.rules import completion, limit, loss, stop_rules
from trainingrun_operator.core.words import finite

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from trainingrun_operator.core.defaults import Defaults
    from trainingrun_operator.core.facts.run import Run
    from trainingrun_operator.core.observed import Observed
    from trainingrun_operator.core.rules.chain import Rule
    from trainingrun_operator.core.rules.finding import Finding

_BEGAN: Final = datetime(2000, 1, 1, tzinfo=UTC)
_POD: Final = "simulated"
_BY_VALUES: Final[tuple[Rule, ...]] = (loss.low_loss, *stop_rules.RULES)
_BY_TIME: Final[tuple[Rule, ...]] = (completion.final_step, completion.final_epoch_stall, limit.max_duration)
"""The rules that a recorded training can show, in the order in which they decide."""
_SECONDS_MAX: Final = 10.0**10


@dataclass(frozen=True)
class Row:
    """One poll of a recorded training."""

    step: float | None = None
    epoch: float | None = None
    total_epochs: float | None = None
    values: Mapping[str, float] = field(default_factory=dict)
    """By name; the loss is ``loss``."""
    time: float | None = None
    """Seconds, from any moment on; None: not recorded."""
    checkpoint_step: float | None = None
    """The newest complete checkpoint at this time."""


@dataclass(frozen=True)
class Fired:
    """A rule at the first row at which it holds."""

    rule: str
    status: str
    enforced: bool
    message: str
    row: int
    """Index of the row."""
    step: int | None
    value: float | str | None
    """What decided: the value of the metric, or the words of the evidence."""
    trained_seconds: float | None
    """Seconds since the first row; None: the rows have no times."""


@dataclass(frozen=True)
class Simulated:
    """What the rules would have done."""

    rows: int
    decision: Fired | None
    """The first rule that ends the run."""
    fired: tuple[Fired, ...]
    """Each rule that ever holds, also after the decision."""
    last: Observed | None
    """What the operator has seen after the last row."""


def simulate(run: Run, rows: Sequence[Row], defaults: Defaults) -> Simulated:
    """Read the rows one by one.

    Args:
        run: the run whose spec has the rules.
        rows: in the order in which they were recorded.
        defaults: of the installation.
    """
    timed = any(row.time is not None for row in rows)
    checkpoints = _Checkpoints(assumed=all(row.checkpoint_step is None for row in rows))
    memory, now = Memory(), 0.0
    first: dict[str, Fired] = {}
    decision: Fired | None = None
    seen: Observed | None = None
    start = next((row.time for row in rows if row.time is not None), 0.0)
    for number, row in enumerate(rows):
        if not timed:
            now = float(number * run.spec.poll_interval_seconds)
        elif row.time is not None:
            # A clock that is set back repeats no time.
            now = max(now, row.time - start)
        memory, seen = remember(memory, _facts(run, row, checkpoints.report(row, now), now, defaults), now)
        holding = tuple(_holding(seen, timed=timed))
        for found in holding:
            fired = _fired(seen, found, number, now if timed else None)
            first.setdefault(fired.rule, fired)
            if decision is None and found.enforced:
                decision = fired
    return Simulated(len(rows), decision, tuple(first.values()), seen)


def _holding(seen: Observed, *, timed: bool) -> Iterable[Finding]:
    """Return the findings that fire. Without times, nothing that needs one does."""
    rules = (*_BY_VALUES, *_BY_TIME) if timed else _BY_VALUES
    return (found for rule in rules if (found := rule(seen)) is not None and found.fires)


def _fired(seen: Observed, found: Finding, row: int, seconds: float | None) -> Fired:
    last = found.evidence[-1] if found.evidence else None
    return Fired(
        rule=found.rule,
        status=found.status,
        enforced=found.enforced,
        message=found.message,
        row=row,
        step=last.step if last is not None else None,
        value=_value(seen, found),
        trained_seconds=seconds,
    )


def _value(seen: Observed, found: Finding) -> float | str | None:
    """Return the value that decided, with all its digits where it is one of a metric."""
    if found.rule == loss.RULE:
        return seen.track.losses.last
    watch = seen.watches.get(found.rule)
    if watch is not None and watch.newest is not None:
        return watch.newest.value
    words = found.evidence[-1].value if found.evidence else None
    number = finite(words)
    return words if number is None else number


def _facts(run: Run, row: Row, report: AgentReport, now: float, defaults: Defaults) -> Facts:
    began = _BEGAN.isoformat()
    pod = Pod(name=_POD, uid=_POD, phase="Running", training=Training.RUNNING, started_at=began, created=began)
    return Facts(
        run=run,
        wall=(_BEGAN + timedelta(seconds=min(now, _SECONDS_MAX))).isoformat(),
        defaults=defaults,
        workload=Workload("batch/v1", "Job", name=run.name, uid=_POD, run_uid=run.uid),
        pods=(pod,),
        reports={0: report},
        readings={0: Reading(row.step, row.epoch, row.total_epochs, row.values)},
    )


class _Checkpoints:
    """The checkpoints of the pod at each row."""

    def __init__(self, *, assumed: bool) -> None:
        self._assumed = assumed
        self._step: int | None = None
        self._since = 0.0
        self._last: float | None = None

    def report(self, row: Row, now: float) -> AgentReport:
        """Return what the agent says at a row.

        Without checkpoints in the rows, one of an earlier step is always there, and one of the last step whenever the step stands still.
        """
        step = self._step
        if not self._assumed:
            step = step if row.checkpoint_step is None else int(row.checkpoint_step)
        elif row.step is not None and row.step == self._last:
            step = int(row.step)
        elif step is None:
            step = 0
        if step != self._step:
            self._step, self._since = step, now
        self._last = self._last if row.step is None else row.step
        age = now - self._since
        newest = (
            None
            if step is None
            else CheckpointSeen(dir=f"checkpoint-{step}", step=step, complete=True, age_seconds=age)
        )
        return AgentReport(pod_uid=_POD, newest=newest, files=3, temporary_files=0, last_change_seconds=age)
