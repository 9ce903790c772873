"""`Observed`: one frozen snapshot of a run, its children, its samples and the bucket. Everything that `decide` may look at.

Seconds are floats on the monotonic clock of the process that observed; they are only ever subtracted. `wall` is for people.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

from trainingrun_operator.core.defaults import Defaults
from trainingrun_operator.core.facts.rank import Rank

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trainingrun_operator.api.exchange import AgentReport
    from trainingrun_operator.core.facts.bucket import Answer, Verified
    from trainingrun_operator.core.facts.nodes import NodeFacts, Pool
    from trainingrun_operator.core.facts.pod import Pod
    from trainingrun_operator.core.facts.run import Problem, Run
    from trainingrun_operator.core.facts.workload import Workload
    from trainingrun_operator.core.track import Track


@dataclass(frozen=True)
class Observed:
    """Everything known about a run at one moment."""

    run: Run
    now: float
    wall: str
    """RFC 3339, UTC."""
    ranks: tuple[Rank, ...] = (Rank(),)
    """By number. There is always rank 0, and its numbers are the run's."""
    next_reading_at: float = 0
    """When the metrics are due again."""
    defaults: Defaults = field(default_factory=Defaults)
    workload: Workload | None = None
    verified: Verified | None = None
    """The newest commit of the run that verified, if the bucket was asked."""
    answer: Answer | None = None
    """To the save request in hand."""
    save_failing_seconds: float = 0
    """How long saving has been asked for without an answer."""
    phase_seconds: float = 0
    """How long this process has seen the stop in its present phase."""
    nodes: tuple[NodeFacts, ...] = ()
    """In the order of ``status.nodes``."""
    node_seconds: Mapping[str, float] = field(default_factory=dict)
    """How long this process has seen each node, by uid, in its present phase."""
    gate_seconds: Mapping[str, float] = field(default_factory=dict)
    """How long, by uid, what its phase waits through has been so: empty, tainted, its machine gone (`release.gate_holds`)."""
    ending_runs: frozenset[str] = frozenset()
    """UIDs of runs that will not release a node after this one: finished, releasing, or told never to."""
    pools: tuple[Pool, ...] = ()
    namespace_labels: Mapping[str, str] | None = None
    """Of the run's namespace; None: not read, because no pool is chosen by them now."""
    namespace_ends: bool = False
    """The run's namespace is being deleted; known only where its Job is gone, or nobody is left who could save."""
    problem: Problem | None = None
    """Found on the way to the first Job: unknown secret, refused template, missing bucket."""
    ended_before: Verified | None = None
    """What a stop of this very run left in the bucket, although the cluster knows of no stop: its state is older than the bucket."""
    disruption_budget: str | None = None
    """uid of the budget that keeps the run's pods from being evicted; empty: there is none; None: not known."""
    proven_seconds: float | None = None
    """How long everything in the volume has been proven, as `disruption.all_proven` says; None if it is not."""
    candidate_seconds: float | None = None
    """How long a completion has been inferred without interruption; None if it is not."""

    @property
    def track(self) -> Track:
        """The readings of rank 0, which speak for the run."""
        return self.ranks[0].track

    @property
    def pods(self) -> tuple[Pod, ...]:
        """All pods of all ranks, rank by rank, oldest first."""
        return tuple(pod for rank in self.ranks for pod in rank.pods)

    @property
    def live_pods(self) -> tuple[Pod, ...]:
        """Those of which anything still runs."""
        return tuple(pod for pod in self.pods if not pod.terminal)

    @property
    def runs(self) -> bool:
        """Whether the training of any rank runs."""
        return any(rank.runs for rank in self.ranks)

    @property
    def reports(self) -> tuple[AgentReport, ...] | None:
        """Of every rank's agent, by rank; None if any did not answer: what holds of all ranks is then not known."""
        reports = tuple(rank.report for rank in self.ranks if rank.report is not None)
        return reports if len(reports) == len(self.ranks) else None

    def seconds_since(self, stamp: str) -> float:
        """By the wall clock, since a moment that was written down."""
        return (datetime.fromisoformat(self.wall) - datetime.fromisoformat(stamp)).total_seconds()
