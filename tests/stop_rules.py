"""A training read poll by poll, as the operator remembers it, until one of its stop rules fires."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from builders import POD_UID, make_agent, make_observed, make_pod, make_run, make_status

from trainingrun_operator.core.facts.gathered import Facts
from trainingrun_operator.core.facts.reading import Failure, Reading
from trainingrun_operator.core.memory import Memory, remember
from trainingrun_operator.core.rules.chain import why_end
from trainingrun_operator.core.status import render

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from trainingrun_operator.core.facts.run import Run
    from trainingrun_operator.core.observed import Observed
    from trainingrun_operator.core.rules.finding import Finding

TIMEOUT = Failure("Timeout", "10.0.0.7:8000 did not answer within 3 s.")
RESTART = "the operator is restarted"
"""Between two polls: only the status is left of what was remembered."""


def reading(step: float, **values: float) -> Reading:
    return Reading(step=step, values=values)


def rows(*values: float, name: str = "loss", every: int = 100, first: int = 0) -> list[Reading]:
    """Readings with a value each, after the first one of a training, which is 9."""
    return [reading(first + every * number, **{name: value}) for number, value in enumerate((9.0, *values))]


@dataclass
class Operator:
    """Polls one run every ten seconds."""

    run: Run
    pod_uid: str = POD_UID
    now: float = 1000.0
    memory: Memory = field(default_factory=Memory)
    agent: Any = field(default_factory=make_agent)

    def poll(self, read: Reading | Failure | None) -> Observed:
        """Look at the run ten seconds later; None: the metrics are not due."""
        self.now += 10
        pod = make_pod(uid=self.pod_uid)
        facts = Facts(
            run=self.run,
            wall=f"2026-01-02T{int(self.now) // 3600 % 24:02}:{int(self.now) // 60 % 60:02}:{int(self.now) % 60:02}Z",
            workload=make_observed().workload,
            pods=(pod,),
            reports={} if self.agent is None else {0: self.agent},
            readings={} if read is None else {0: read},
        )
        self.memory, seen = remember(self.memory, facts, self.now)
        return seen

    def restart(self, seen: Observed) -> None:
        """Forget everything but the status."""
        self.run = make_run(spec=self.written, status=render(seen))
        self.memory = Memory()

    @property
    def written(self) -> dict[str, Any]:
        return self.run.spec.model_dump(mode="json", by_alias=True, exclude_none=True)


def operator(*rules: dict[str, Any], **spec: Any) -> Operator:
    """An operator of a run with these stop rules, and no threshold of the loss."""
    written = {"autoStopLoss": -1, "stopRules": list(rules), **spec}
    return Operator(make_run(spec=written, status=make_status()))


def first_end(one: Operator, polls: Iterable[Any], *, until: Callable[[Observed], Any] = why_end) -> Any:
    """What `until` finds first, by default the finding that ends the run; None: nothing."""
    seen = None
    for poll in polls:
        if poll is RESTART:
            if seen is not None:
                one.restart(seen)
            continue
        seen = one.poll(poll)
        if (found := until(seen)) is not None:
            return found
    return None


def ended_at(found: Finding | None) -> tuple[str, int | None] | None:
    """How and at which step a finding ends the run."""
    return None if found is None else (found.status, found.evidence[-1].step)
