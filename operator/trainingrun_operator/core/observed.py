"""`Observed`: one frozen snapshot of a run, its children, its metrics and the bucket; the whole input of `decide`.

Seconds are floats on the monotonic clock of the process; only differences have a meaning. `wall` is for people.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING

from trainingrun_operator.core import cost
from trainingrun_operator.core.defaults import Defaults
from trainingrun_operator.core.facts.rank import Rank
from trainingrun_operator.core.outputs import Outputs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trainingrun_operator.api.exchange import AgentReport
    from trainingrun_operator.api.limits import Cost
    from trainingrun_operator.api.saves import SaveTimes
    from trainingrun_operator.checkpoints.keys import Order
    from trainingrun_operator.core.completion_line import CompletionLine
    from trainingrun_operator.core.cost import Rate
    from trainingrun_operator.core.facts.bucket import Answer, Verified
    from trainingrun_operator.core.facts.nodes import NodeFacts, Pool
    from trainingrun_operator.core.facts.pod import Pod
    from trainingrun_operator.core.facts.rescue import RescueFacts
    from trainingrun_operator.core.facts.run import Problem, Run
    from trainingrun_operator.core.facts.workload import Workload
    from trainingrun_operator.core.idle import Idle
    from trainingrun_operator.core.quiet import Quiet
    from trainingrun_operator.core.restoring import Origin
    from trainingrun_operator.core.track import Track
    from trainingrun_operator.core.watch import Watch


@dataclass(frozen=True)
class Observed:
    """Everything known about a run at one moment."""

    run: Run
    now: float
    wall: str
    """RFC 3339, UTC."""
    ranks: tuple[Rank, ...] = (Rank(),)
    """By number. Rank 0 always exists, and its metrics are the run's."""
    next_reading_at: float = 0
    """Time of the next reading of the metrics."""
    watches: Mapping[str, Watch] = field(default_factory=dict)
    """By name, what is counted for each of ``spec.stopRules``."""
    outputs: Outputs = field(default_factory=Outputs)
    """What the bucket shows of ``completion.outputs``."""
    completion_line: CompletionLine | None = None
    """What rank 0 has printed of ``completion.logPatterns``; None: nothing was read yet, or none is named."""
    quiet: Quiet | None = None
    """What of the training moved last; None: nothing was read yet."""
    idle: Idle | None = None
    """Since when its GPUs have been idle; None: nothing was read yet, or none is to be read."""
    saves: SaveTimes | None = None
    """When the training has saved; None: no complete checkpoint was seen."""
    defaults: Defaults = field(default_factory=Defaults)
    workload: Workload | None = None
    verified: Verified | None = None
    """The newest commit of the run that verified."""
    furthest: Verified | None = None
    """The commit that verified and that has reached most (`checkpoints.reached`)."""
    refuted: Mapping[Order, str] = field(default_factory=dict)
    """The commits that do not verify, though they may have before, each with the complaint."""
    answer: Answer | None = None
    """The bucket's answer to the pending save request."""
    save_failing_seconds: float = 0
    """Time since the pending save request, while unanswered."""
    no_progress_seconds: float = 0
    """Time for which the agents have neither read nor sent a byte for the pending save request, nor answered it."""
    phase_seconds: float = 0
    """Time for which this process has seen the stop in its present phase."""
    nodes: tuple[NodeFacts, ...] = ()
    """In the order of ``status.nodes``."""
    node_seconds: Mapping[str, float] = field(default_factory=dict)
    """By node uid, time for which this process has seen it in its present phase."""
    gate_seconds: Mapping[str, float] = field(default_factory=dict)
    """By node uid, time for which its condition has held: empty, tainted, machine gone, pool missing (`release.gate_of`)."""
    ending_runs: frozenset[str] = frozenset()
    """UIDs of runs that will not release a node after this one: finished, releasing, or with policy Never."""
    pools: tuple[Pool, ...] = ()
    namespace_labels: Mapping[str, str] | None = None
    """Of the run's namespace; None: not read, because no pool selection needs them now."""
    namespace_ends: bool = False
    """The run's namespace is being deleted; read only if its Job is gone, or no pod is left to save."""
    problem: Problem | None = None
    """Why the first Job cannot be created: unknown Secret, refused template, missing bucket."""
    ended_before: Verified | None = None
    """Commit of an earlier stop of this run, though the status has no stop: the cluster's state is older than the bucket."""
    origin: Origin | None = None
    """The other run from which this one starts; None: from none, or it is not known yet, or the Job exists."""
    rescue: RescueFacts | None = None
    """None: not read, because a pod of the run can save, or nothing is to be saved from a claim."""
    disruption_budget: str | None = None
    """uid of the run's PodDisruptionBudget; empty: there is none; None: not known."""
    proven_seconds: float | None = None
    """Time for which everything in the volume has been proven (`disruption.all_proven`); None: it is not."""
    final_step_seconds: float | None = None
    """Time for which the present pod has been at ``completion.finalStep`` or beyond it; None: it has not reached it, or none is named."""
    candidate_seconds: float | None = None
    """Time for which a completion has been inferred without interruption; None: it is not."""

    @property
    def track(self) -> Track:
        """The track of rank 0, which represents the run."""
        return self.ranks[0].track

    @property
    def pods(self) -> tuple[Pod, ...]:
        """All pods of all ranks, rank by rank, oldest first."""
        return tuple(pod for rank in self.ranks for pod in rank.pods)

    @property
    def live_pods(self) -> tuple[Pod, ...]:
        """All pods with a container that still runs."""
        return tuple(pod for pod in self.pods if not pod.terminal)

    @property
    def runs(self) -> bool:
        """Whether the training of any rank runs."""
        return any(rank.runs for rank in self.ranks)

    @property
    def reports(self) -> tuple[AgentReport, ...] | None:
        """Reports of all ranks' agents, by rank; None: at least one did not answer."""
        reports = tuple(rank.report for rank in self.ranks if rank.report is not None)
        return reports if len(reports) == len(self.ranks) else None

    @cached_property
    def cost(self) -> Cost | None:
        """What the training has cost, as in ``status.trained.cost``; None: no price was known yet."""
        return cost.of(self)

    @cached_property
    def rate(self) -> Rate:
        """What an hour of the training costs now."""
        return cost.rate(self)

    def seconds_since(self, stamp: str) -> float:
        """Seconds since a stored time, by the wall clock."""
        return (datetime.fromisoformat(self.wall) - datetime.fromisoformat(stamp)).total_seconds()
