"""A run with `keepLast` before a bucket: the real retention, and what it needs of the operator."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from builders import checkpoint_spec, make_observed, make_run, make_status, make_stop

from trainingrun_operator.api.status import CheckpointStatus, Phase
from trainingrun_operator.edge.background.retention import Retention
from trainingrun_operator.edge.kube import KubeError

if TYPE_CHECKING:
    from trainingrun_operator.checkpoints.s3 import Access
    from trainingrun_operator.core.facts.run import Problem
    from trainingrun_operator.core.observed import Observed


@dataclass
class Events:
    """Keeps the Events that are recorded."""

    told: list[tuple[str, str]] = field(default_factory=list)
    failing: bool = False

    async def record_event(self, involved: Any, reason: str, message: str, *, warning: bool, wall: str) -> None:
        if self.failing:
            raise KubeError(500, "InternalError", "no")
        self.told.append((reason, message))


@dataclass
class Reader:
    """Gives the credentials of every run."""

    given: Access | Problem

    async def access(self, run: Any) -> Access | Problem:
        return self.given


@dataclass
class Place:
    """The retention, and a clock that stands still."""

    store: Any
    access: Access | Problem
    events: Events = field(default_factory=Events)
    leads: bool = True
    now: float = 0.0

    def __post_init__(self) -> None:
        self.made = self.make()

    def make(self) -> Retention:
        """A new operator: it knows nothing of what an earlier one did."""
        return Retention(self.events, self.store, Reader(self.access), lambda: self.leads, lambda: self.now)  # type: ignore[arg-type]

    async def rounds(self, count: int = 8) -> None:
        """Work as long as there is more to do at once."""
        for _ in range(count):
            await self.made.work()


def seen_of(
    bucket: str, proven: str, keep_last: int | None = 1, *, ended: bool = False, phase: Phase = Phase.DONE, **run: Any
) -> Observed:
    """A run whose last proven commit is this one."""
    stop = {"termination": make_stop(phase, saved=None)} if ended else {}
    status = make_status(checkpoint=CheckpointStatus(commit=proven) if proven else None, **stop)
    spec = {"checkpoint": checkpoint_spec(destination=f"s3://{bucket}/team/a", keepLast=keep_last)}
    named = {"namespace": "ml", "name": "llama", "uid": "1f0c"}
    return make_observed(run=make_run(spec=spec, status=status, **(named | run)), verified=None)
