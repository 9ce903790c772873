"""Everything that one look has read about a run."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from typing import TYPE_CHECKING

from trainingrun_operator.core.defaults import Defaults
from trainingrun_operator.core.facts.rank import by_rank

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trainingrun_operator.api.exchange import AgentReport
    from trainingrun_operator.core.facts.bucket import Answer, Mismatch, Verified
    from trainingrun_operator.core.facts.gpus import Gpus
    from trainingrun_operator.core.facts.log import LogSearch, Printed
    from trainingrun_operator.core.facts.nodes import Fate, NodeFacts, Pool
    from trainingrun_operator.core.facts.pod import Pod
    from trainingrun_operator.core.facts.rank import RefusedReport
    from trainingrun_operator.core.facts.reading import Failure, Reading
    from trainingrun_operator.core.facts.rescue import RescueFacts
    from trainingrun_operator.core.facts.run import Problem, Run
    from trainingrun_operator.core.facts.workload import Workload
    from trainingrun_operator.core.outputs import Looked
    from trainingrun_operator.core.restoring import Origin


class Source(Enum):
    """A source that is read at intervals; its last values are used in between."""

    CHILDREN = "pods and workload, from the API server instead of the watch"
    FATES = "nodes and machines of silent pods"
    IDENTITIES = "the nodes of running pods"
    NAMESPACE = "labels of the run's namespace"
    DISRUPTION_BUDGET = "the disruption budget"
    PREFLIGHT = "whether the run can start"


@dataclass(frozen=True)
class Facts:
    """The facts of one look. A `Source` that was not read has the values of the memory."""

    run: Run
    wall: str
    """Start of the look: RFC 3339, UTC."""
    defaults: Defaults = field(default_factory=Defaults)
    read: frozenset[Source] = frozenset()
    """The sources that were read at this look."""
    pools: tuple[Pool, ...] = ()
    workload: Workload | None = None
    pods: tuple[Pod, ...] = ()
    """Oldest first, with their fates applied."""
    reports: Mapping[int, AgentReport] = field(default_factory=dict)
    """By rank, reports of the newest pods' agents that answered."""
    refused: Mapping[int, RefusedReport] = field(default_factory=dict)
    """By rank, what the newest pods' agents answered instead of a report."""
    readings: Mapping[int, Reading | Failure] = field(default_factory=dict)
    """By rank, readings of the newest pods' metrics; empty: not due."""
    gpus: Mapping[int, Gpus | Failure] = field(default_factory=dict)
    """By rank, the GPUs of the newest pods whose training runs; empty: not read."""
    fates: Mapping[str, Fate] = field(default_factory=dict)
    """By pod uid, of silent pods."""
    answer: Answer | None = None
    """The bucket's answer to the pending save request, or a failure to verify a reported commit."""
    verified: Verified | None = None
    """A commit that was verified at this look."""
    unverifiable: str = ""
    """Key of a reported commit that did not verify."""
    refuted: tuple[Mismatch, ...] = ()
    """Commits that did not verify at this look."""
    looked: Looked | None = None
    """One of ``completion.outputs``, as the bucket shows it; None: none was listed at this look."""
    printed: Printed | Failure | None = None
    """What rank 0 has printed, searched for ``completion.logPatterns``; None: it was not read at this look."""
    identities: Mapping[str, NodeFacts] = field(default_factory=dict)
    """The node of each pod, by pod uid: Node names are reused."""
    nodes: tuple[NodeFacts, ...] = ()
    ending_runs: frozenset[str] = frozenset()
    """UIDs of runs that release no node after this one."""
    namespace_labels: Mapping[str, str] | None = None
    """None: not read, because no pool selection needs them now."""
    namespace_ends: bool = False
    problem: Problem | None = None
    """Why the first Job cannot be created; None once it exists."""
    ended_before: Verified | None = None
    """Commit of an earlier stop of this run, found by the preflight."""
    origin: Origin | None = None
    """The other run from which this one starts, found by the preflight; None once the Job exists."""
    log_tails: Mapping[str, str] = field(default_factory=dict)
    """By pod uid, the last lines of the logs of newest pods that have crashed."""
    log_searches: Mapping[str, LogSearch] = field(default_factory=dict)
    """By pod uid, what ``crash.fatalLogPatterns`` are in these logs."""
    rescue: RescueFacts | None = None
    """None: not read, because a pod of the run can save, or nothing is to be saved from a claim."""
    disruption_budget: str | None = None
    """uid of the disruption budget; empty: there is none; None: not known."""

    @cached_property
    def ranks(self) -> tuple[tuple[Pod, ...], ...]:
        """The pods by rank, oldest first."""
        return by_rank(self.pods, self.workload.world_size if self.workload is not None else None)
