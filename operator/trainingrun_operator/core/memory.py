"""What one process remembers of a run between two looks, and the only place where that changes.

`remember` folds the facts of a look into the memory and builds `Observed` from both. It is pure and total: it has no clock (`now` enters), asks for
nothing, and accepts any facts in any order. Losing a memory costs time, never truth.

Seconds are on the monotonic clock of the process.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, assert_never

from trainingrun_operator.api.status import Phase
from trainingrun_operator.core.facts.gathered import Source
from trainingrun_operator.core.facts.learned import BudgetChanged, JobRefused, ProviderAnswered
from trainingrun_operator.core.observed import Observed
from trainingrun_operator.core.release import facts_of, gate_holds
from trainingrun_operator.core.rules import completion, workload
from trainingrun_operator.core.stop import disruption
from trainingrun_operator.core.stop.requests import save_request
from trainingrun_operator.core.track import Track, fold, resumed

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Mapping

    from trainingrun_operator.core.facts.bucket import Verified
    from trainingrun_operator.core.facts.gathered import Facts
    from trainingrun_operator.core.facts.learned import Learned
    from trainingrun_operator.core.facts.nodes import Fate, NodeFacts, Refusal
    from trainingrun_operator.core.facts.pod import Pod
    from trainingrun_operator.core.facts.run import Problem


@dataclass(frozen=True)
class Stopwatch:
    """Measures how long the same thing has been so."""

    what: Hashable = None
    since: float = 0

    def at(self, what: Hashable, now: float) -> Stopwatch:
        """Go on if it is the same thing; start again if it is another."""
        return self if what == self.what else Stopwatch(what, now)

    def seconds(self, now: float) -> float:
        """Seconds for which the same thing has been seen without interruption."""
        return now - self.since


@dataclass(frozen=True)
class Memory:
    """Of one run."""

    read_at: Mapping[Source, float] = field(default_factory=dict)
    """When each source was read last."""
    track: Track = field(default_factory=Track)
    next_reading_at: float = 0
    """When the metrics are due."""
    verified: Verified | None = None
    """The newest commit that has verified."""
    unverifiable: str = ""
    """Key of a commit that did not verify; it is not read again until the agent ships another."""
    problem: Problem | None = None
    problem_generation: int = 0
    """Generation of the spec that the problem was found with."""
    ended_before: Verified | None = None
    log_tail: tuple[str, str] = ("", "")
    """Pod uid, and the last lines of that pod's log."""
    identities: Mapping[str, NodeFacts] = field(default_factory=dict)
    """The node of each pod, by pod uid."""
    fates: Mapping[str, Fate] = field(default_factory=dict)
    """By pod uid, of silent pods."""
    budget: str | None = None
    """uid of the disruption budget; empty: there is none; None: not known."""
    namespace_labels: Mapping[str, str] = field(default_factory=dict)
    refusals: Mapping[str, Refusal] = field(default_factory=dict)
    """The node provider's last refusal to release a machine, by providerID."""
    phase: Stopwatch = field(default_factory=Stopwatch)
    saving: Stopwatch = field(default_factory=Stopwatch)
    waiting: Stopwatch = field(default_factory=Stopwatch)
    silence: Stopwatch = field(default_factory=Stopwatch)
    """Of the newest pod's agent."""
    unshipped: Stopwatch = field(default_factory=Stopwatch)
    candidate: Stopwatch = field(default_factory=Stopwatch)
    proven: Stopwatch = field(default_factory=Stopwatch)
    nodes: Mapping[str, Stopwatch] = field(default_factory=dict)
    """By node uid."""
    gates: Mapping[str, Stopwatch] = field(default_factory=dict)
    """By node uid."""

    def age(self, source: Source, now: float) -> float:
        """Seconds since a source was read; infinite if it never was."""
        return now - self.read_at.get(source, float("-inf"))


def remember(memory: Memory, facts: Facts, now: float) -> tuple[Memory, Observed]:
    """Fold the facts of one look into the memory. Returns the new memory and what `decide` may look at."""
    known = _timed(_with_reading(_with_values(memory, facts, now), facts, now), facts, now)
    seen = _observed(known, facts, now)
    # These two are judged by rules, which look at everything else that is observed.
    is_proven, verdict = disruption.all_proven(seen), completion.inferred(seen)
    completes = (verdict.actor, facts.pod.uid) if verdict is not None and facts.pod is not None else None
    known = replace(known, proven=known.proven.at(is_proven, now), candidate=known.candidate.at(completes, now))
    return known, replace(
        seen,
        proven_seconds=known.proven.seconds(now) if is_proven else None,
        candidate_seconds=known.candidate.seconds(now) if verdict is not None else None,
    )


def remember_effects(memory: Memory, learned: Iterable[Learned]) -> Memory:
    """Fold in what doing the effects of a decision has taught."""
    for one in learned:
        match one:
            case ProviderAnswered(provider_id, refusal):
                others = {key: said for key, said in memory.refusals.items() if key != provider_id}
                memory = replace(memory, refusals=others | ({provider_id: refusal} if refusal else {}))
            case BudgetChanged(uid):
                memory = replace(memory, budget=uid)
            case JobRefused(problem):
                memory = replace(memory, problem=problem)
            case _ as never:  # pragma: no cover - mypy proves that nothing else can be learned
                assert_never(never)
    return memory


def silence(memory: Memory, pod: Pod | None, now: float, *, heard: bool) -> Stopwatch:
    """Return the stopwatch of the newest pod's silence, once its agent was asked at `now`."""
    return memory.silence.at((pod.uid, not heard) if pod is not None else None, now)


def _with_values(memory: Memory, facts: Facts, now: float) -> Memory:
    """Keep what was read."""
    read, pod = facts.read, facts.pod
    new = facts.verified
    newer = new is not None and (memory.verified is None or new.commit.order >= memory.verified.commit.order)
    checked = Source.PREFLIGHT in read
    return replace(
        memory,
        read_at={**memory.read_at, **dict.fromkeys(read, now)} if read else memory.read_at,
        verified=new if newer else memory.verified,
        unverifiable=facts.unverifiable or memory.unverifiable,
        problem=facts.problem if checked else memory.problem,
        problem_generation=facts.run.generation if checked else memory.problem_generation,
        ended_before=facts.ended_before or memory.ended_before,
        log_tail=(pod.uid, facts.log_tail) if pod is not None and facts.log_tail is not None else memory.log_tail,
        identities=facts.identities,
        fates=facts.fates,
        budget=facts.budget if Source.BUDGET in read else memory.budget,
        namespace_labels=(facts.namespace_labels or {}) if Source.NAMESPACE in read else memory.namespace_labels,
    )


def _with_reading(memory: Memory, facts: Facts, now: float) -> Memory:
    """Fold the reading of the metrics, if one was due, into the track."""
    pod, run = facts.pod, facts.run
    if facts.reading is None or pod is None:
        return memory
    first = memory.track == Track()
    track = resumed(run.status.progress, pod_uid=pod.uid, now=now) if first else memory.track
    return replace(
        memory,
        track=fold(track, facts.reading, pod_uid=pod.uid, now=now),
        next_reading_at=now + run.spec.poll_interval_seconds,
    )


def _timed(memory: Memory, facts: Facts, now: float) -> Memory:
    """Let every stopwatch go on, or start it again."""
    run, pod, agent, stop = facts.run, facts.pod, facts.agent, facts.run.status.termination
    request = save_request(run, facts.pods)
    unshipped = (
        (agent.pod_uid, disruption.shipped(agent), agent.commit and agent.commit.key)
        if agent is not None and agent.newest is not None
        else memory.unshipped.what
    )
    nodes, gates = memory.nodes, memory.gates
    if run.status.nodes:
        holds = _gates(facts)
        nodes = {n.uid: nodes.get(n.uid, Stopwatch()).at(n.phase, now) for n in run.status.nodes}
        gates = {n.uid: gates.get(n.uid, Stopwatch()).at((n.phase, holds[n.uid]), now) for n in run.status.nodes}
    return replace(
        memory,
        phase=memory.phase.at((stop.phase, stop.attempt) if stop else None, now),
        saving=memory.saving.at(request[0], now) if request is not None else memory.saving,
        waiting=memory.waiting.at((pod.uid, workload.lacks(pod)) if pod is not None else None, now),
        silence=silence(memory, pod, now, heard=agent is not None),
        unshipped=memory.unshipped.at(unshipped, now),
        nodes=nodes,
        gates=gates,
    )


def _observed(memory: Memory, facts: Facts, now: float) -> Observed:
    """Build what `decide` may look at, but for the two durations that rules judge."""
    run, stop = facts.run, facts.run.status.termination
    return Observed(
        run=run,
        now=now,
        wall=facts.wall,
        track=memory.track,
        next_reading_at=memory.next_reading_at,
        defaults=facts.defaults,
        job=facts.job,
        pods=facts.pods,
        agent=facts.agent,
        verified=memory.verified,
        answer=facts.answer,
        save_failing_seconds=memory.saving.seconds(now) if save_request(run, facts.pods) is not None else 0,
        phase_seconds=memory.phase.seconds(now),
        nodes=_nodes(memory, facts) if stop is not None and stop.phase is Phase.RELEASING else facts.nodes,
        node_seconds={node.uid: memory.nodes[node.uid].seconds(now) for node in run.status.nodes},
        gate_seconds={uid: memory.gates[uid].seconds(now) if holds else 0 for uid, holds in _gates(facts).items()},
        ending_runs=facts.ending_runs,
        pools=facts.pools,
        namespace_labels=facts.namespace_labels,
        namespace_ends=facts.namespace_ends,
        problem=facts.problem,
        ended_before=memory.ended_before,
        log_tail=facts.log_tail or "",
        waiting_seconds=memory.waiting.seconds(now),
        unshipped_seconds=memory.unshipped.seconds(now),
        budget=facts.budget,
    )


def _nodes(memory: Memory, facts: Facts) -> tuple[NodeFacts, ...]:
    """Add the provider's last refusal where it says nothing worse now."""
    said = memory.refusals
    return tuple(
        replace(node, refusal=said[node.provider_id]) if node.refusal is None and node.provider_id in said else node
        for node in facts.nodes
    )


def _gates(facts: Facts) -> dict[str, bool]:
    """Return by node uid whether what the node's phase waits through is so now."""
    run = facts.run
    return {node.uid: gate_holds(run.uid, node, facts_of(facts.nodes, node)) for node in run.status.nodes}
