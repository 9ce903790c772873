"""What this process remembers of a run between two looks. A cache and a set of stopwatches: losing it costs time, never truth."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from trainingrun_operator.core.release import facts_of, gate_holds
from trainingrun_operator.core.track import Track

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from trainingrun_operator.api.exchange import AgentReport
    from trainingrun_operator.checkpoints.s3 import Access
    from trainingrun_operator.core.facts.bucket import Verified
    from trainingrun_operator.core.facts.nodes import NodeFacts
    from trainingrun_operator.core.facts.run import Problem, Run
    from trainingrun_operator.edge.gather.lost import Fate


@dataclass
class Stopwatch:
    """Measures how long the same thing has been so; another thing starts it again."""

    _what: Hashable = None
    _since: float = 0

    def of(self, what: Hashable, now: float) -> float:
        """Seconds that `what` has been seen without interruption."""
        if what != self._what:
            self._what, self._since = what, now
        return now - self._since


@dataclass
class Told:
    """What the counters know already: nothing is counted twice."""

    scrape: float = 0
    """When the next scrape after the last one that was counted was due."""
    gpus: tuple[int, float] = (0, 0)
    """How many the pods held at the last look, and when that was."""
    upload: tuple[int, int] | None = None
    """Epoch and generation of the newest upload; None: nothing is known, and what an agent says first was counted by an operator before this one."""
    failures: tuple[str, int] | None = None
    """The uid of the agent's pod, and how many failures it has spoken of; None: likewise."""


@dataclass
class Memory:
    """Of one run."""

    track: Track = field(default_factory=Track)
    next_scrape: float = 0
    agent: AgentReport | None = None
    verified: Verified | None = None
    unverifiable: str = ""
    """Key of a commit that did not verify; it is not tried again until the agent writes another."""
    problem: Problem | None = None
    problem_at: float = float("-inf")
    problem_generation: int = 0
    ended_before: Verified | None = None
    """What the stop of this very run left in the bucket, found before anything was created."""
    access: Access | None = None
    """As the bucket was last reached: a namespace that is being deleted loses its Secret before its pods."""
    log_tails: dict[str, str] = field(default_factory=dict)
    """By pod uid."""
    children_at: float = float("-inf")
    """When pods and Job were last read from the API server itself: a watch can miss an event."""
    identities: dict[str, NodeFacts] = field(default_factory=dict)
    """Who the node of a pod is, by the pod's uid: names are used again."""
    identities_at: float = float("-inf")
    """When they were last read: a Node can be made anew under a pod that goes on running."""
    budget: str | None = None
    """uid of the run's disruption budget; empty: there is none; None: not known."""
    budget_at: float = float("-inf")
    """When that was last read."""
    namespace_labels: dict[str, str] = field(default_factory=dict)
    """As they were last read; and when."""
    namespace_labels_at: float = float("-inf")
    provider_said: dict[str, str] = field(default_factory=dict)
    """What the provider answered last, by providerID, if it refused."""
    written: str = ""
    """Digest of the last status that was applied."""
    written_at: float = float("-inf")
    shown: tuple[str, ...] = ()
    """What must be written at once when it changes: the generation that was seen, phase and the conditions' states."""
    phase: Stopwatch = field(default_factory=Stopwatch)
    saving: Stopwatch = field(default_factory=Stopwatch)
    waiting: Stopwatch = field(default_factory=Stopwatch)
    candidate: Stopwatch = field(default_factory=Stopwatch)
    proven: Stopwatch = field(default_factory=Stopwatch)
    unshipped: Stopwatch = field(default_factory=Stopwatch)
    nodes: dict[str, Stopwatch] = field(default_factory=dict)
    """By node uid."""
    gates: dict[str, Stopwatch] = field(default_factory=dict)
    """By node uid."""
    told: Told = field(default_factory=Told)
    silence: Stopwatch = field(default_factory=Stopwatch)
    """Of the newest pod's agent."""
    fates: dict[str, Fate] = field(default_factory=dict)
    """By pod uid, of pods from which nothing is heard."""
    fates_at: float = float("-inf")
    """When they were last asked for."""

    def gate_seconds(self, run: Run, nodes: Sequence[NodeFacts], now: float) -> dict[str, float]:
        """How long what each node's phase waits through has been so, by uid."""
        seconds: dict[str, float] = {}
        for node in run.status.nodes:
            holds = gate_holds(run.uid, node, facts_of(nodes, node))
            since = self.gates.setdefault(node.uid, Stopwatch()).of((node.phase, holds), now)
            seconds[node.uid] = since if holds else 0
        return seconds
