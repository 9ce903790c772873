"""What this process remembers of a run between two looks. A cache and a set of stopwatches: losing it costs time, never truth."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from trainingrun_operator.core.track import Track

if TYPE_CHECKING:
    from collections.abc import Hashable

    from trainingrun_operator.api.exchange import AgentReport
    from trainingrun_operator.core.observed import NodeFacts, Problem, Verified


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
    log_tails: dict[str, str] = field(default_factory=dict)
    """By pod uid."""
    children_at: float = float("-inf")
    """When pods and Job were last read from the API server itself: a watch can miss an event."""
    identities: dict[str, NodeFacts] = field(default_factory=dict)
    """Nodes of the run's pods, by name, as they were when first seen."""
    provider_said: dict[str, str] = field(default_factory=dict)
    """What the provider answered last, by providerID, if it refused."""
    written: str = ""
    """Digest of the last status that was applied."""
    written_at: float = float("-inf")
    shown: tuple[str, ...] = ()
    """What must be written at once when it changes: phase and the conditions' states."""
    phase: Stopwatch = field(default_factory=Stopwatch)
    saving: Stopwatch = field(default_factory=Stopwatch)
    waiting: Stopwatch = field(default_factory=Stopwatch)
    candidate: Stopwatch = field(default_factory=Stopwatch)
    nodes: dict[str, Stopwatch] = field(default_factory=dict)
    """By node uid."""
