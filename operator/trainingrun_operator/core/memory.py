"""The memory of one process about a run between two looks, and the only code that changes it.

`remember` folds the facts of a look into the memory and builds `Observed` from both. It is pure and total: `now` is an argument, and it accepts any
facts in any order. A lost memory costs time, not correctness.

Seconds are on the monotonic clock of the process.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, assert_never

from trainingrun_operator.checkpoints.reached import Reached
from trainingrun_operator.core import completion_line, idle, quiet, refuted, saves, watch
from trainingrun_operator.core.facts.gathered import Source
from trainingrun_operator.core.facts.learned import DisruptionBudgetChanged, JobRefused, ProviderAnswered, RescueRefused
from trainingrun_operator.core.facts.rank import LastSaid, Rank
from trainingrun_operator.core.facts.reading import Reading
from trainingrun_operator.core.observed import Observed
from trainingrun_operator.core.outputs import Outputs, uids
from trainingrun_operator.core.release import Gate, facts_of, gate_of
from trainingrun_operator.core.rules import completion, final_step, workload
from trainingrun_operator.core.stop import disruption, published, rescue
from trainingrun_operator.core.stop.requests import save_request
from trainingrun_operator.core.track import Track, fold, resumed

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Mapping, Sequence

    from trainingrun_operator.api.saves import SaveTimes
    from trainingrun_operator.api.spoiled import Spoiled
    from trainingrun_operator.checkpoints.keys import Order
    from trainingrun_operator.core.completion_line import CompletionLine
    from trainingrun_operator.core.facts.bucket import Verified
    from trainingrun_operator.core.facts.gathered import Facts
    from trainingrun_operator.core.facts.learned import Learned
    from trainingrun_operator.core.facts.log import LogSearch
    from trainingrun_operator.core.facts.nodes import Fate, NodeFacts, Refusal
    from trainingrun_operator.core.facts.pod import Pod
    from trainingrun_operator.core.facts.run import Problem
    from trainingrun_operator.core.idle import Idle
    from trainingrun_operator.core.quiet import Quiet
    from trainingrun_operator.core.watch import Watch


@dataclass(frozen=True)
class Stopwatch:
    """Measures how long a value has not changed."""

    what: Hashable = None
    since: float = 0

    def at(self, what: Hashable, now: float) -> Stopwatch:
        """Continue if the value is the same; restart otherwise."""
        return self if what == self.what else Stopwatch(what, now)

    def seconds(self, now: float) -> float:
        """Seconds for which the value has not changed."""
        return now - self.since


@dataclass(frozen=True)
class RankMemory:
    """The memory of one rank, about its newest pod."""

    track: Track = field(default_factory=Track)
    waiting: Stopwatch = field(default_factory=Stopwatch)
    """Of what the pod lacks."""
    silence: Stopwatch = field(default_factory=Stopwatch)
    """Of its agent."""
    unshipped: Stopwatch = field(default_factory=Stopwatch)
    last_said: LastSaid | None = None
    unmoved: str = ""
    """UID of the pod whose newest reading shows step 0."""

    def silent(self, pod: Pod | None, now: float, *, heard: bool) -> Stopwatch:
        """Return the stopwatch of the silence after the newest pod's agent was asked at `now`."""
        return self.silence.at((pod.uid, not heard) if pod is not None else None, now)


@dataclass(frozen=True)
class Memory:
    """The memory of one run."""

    read_at: Mapping[Source, float] = field(default_factory=dict)
    """Time of the last read of each source."""
    ranks: Mapping[int, RankMemory] = field(default_factory=dict)
    """By number."""
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
    next_reading_at: float = 0
    """Time when the metrics are due."""
    verified: Verified | None = None
    """The newest commit that has verified."""
    furthest: Verified | None = None
    """The commit that has verified and that has reached most."""
    unverifiable: str = ""
    """Key of a commit that did not verify; it is not read again."""
    refuted: Mapping[Order, str] = field(default_factory=dict)
    """The commits that do not verify, though they may have before, each with the complaint."""
    restore_heard: str = ""
    """uid of the last pod whose restore is in `refuted`."""
    problem: Problem | None = None
    problem_generation: int = 0
    """Generation of the spec that the problem was found with."""
    ended_before: Verified | None = None
    rescue_refused: str = ""
    """Why the API server refused to create the rescue Job at the last try."""
    log_tails: Mapping[str, str] = field(default_factory=dict)
    """By pod uid, the last lines of a crashed training's log."""
    log_searches: Mapping[str, LogSearch] = field(default_factory=dict)
    """By pod uid, what was found in these logs."""
    identities: Mapping[str, NodeFacts] = field(default_factory=dict)
    """The node of each pod, by pod uid."""
    fates: Mapping[str, Fate] = field(default_factory=dict)
    """By pod uid, of silent pods."""
    disruption_budget: str | None = None
    """uid of the disruption budget; empty: there is none; None: not known."""
    namespace_labels: Mapping[str, str] = field(default_factory=dict)
    refusals: Mapping[str, Refusal] = field(default_factory=dict)
    """The node provider's last refusal to release a machine, by providerID."""
    phase: Stopwatch = field(default_factory=Stopwatch)
    saving: Stopwatch = field(default_factory=Stopwatch)
    saved_so_far: Stopwatch = field(default_factory=Stopwatch)
    """Of `agents`, for the pending save request."""
    agents: Mapping[int, Hashable] = field(default_factory=dict)
    """By rank, what its agent had done when it answered last."""
    final_step: Stopwatch = field(default_factory=Stopwatch)
    """Of the pod, the final step that the spec names, and whether it is reached."""
    candidate: Stopwatch = field(default_factory=Stopwatch)
    proven: Stopwatch = field(default_factory=Stopwatch)
    nodes: Mapping[str, Stopwatch] = field(default_factory=dict)
    """By node uid."""
    gates: Mapping[str, Stopwatch] = field(default_factory=dict)
    """By node uid."""

    def rank(self, number: int) -> RankMemory:
        """Return the memory of a rank."""
        return self.ranks.get(number) or RankMemory()

    def age(self, source: Source, now: float) -> float:
        """Seconds since a source was read; infinite if it never was."""
        return now - self.read_at.get(source, float("-inf"))


def remember(memory: Memory, facts: Facts, now: float) -> tuple[Memory, Observed]:
    """Fold the facts of one look into the memory. Returns the new memory and the input of `decide`."""
    known = _watched(_timed(_with_values(memory, facts, now), facts, now), facts, now)
    pods = uids(group[-1] for group in facts.ranks if group)
    known = replace(
        known,
        outputs=known.outputs.fold(facts.run.spec.completion.outputs, pods, facts.looked, now),
        completion_line=completion_line.fold(known.completion_line, facts, known.rank(0).track, now),
        quiet=quiet.fold(known.quiet, facts, known.rank(0).track, now),
        idle=idle.fold(known.idle, facts, now),
        saves=saves.fold(known.saves, facts),
    )
    seen = _observed(known, facts, now)
    # Rules compute these three from the rest of the observation.
    named, reached = facts.run.spec.completion.final_step, final_step.is_reached(seen)
    known = replace(known, final_step=known.final_step.at((seen.track.pod_uid, named, reached), now))
    seen = replace(seen, final_step_seconds=known.final_step.seconds(now) if reached else None)
    is_proven, verdict = disruption.all_proven(seen), completion.inferred(seen)
    completes = (verdict.actor, *(rank.pod and rank.pod.uid for rank in seen.ranks)) if verdict is not None else None
    known = replace(known, proven=known.proven.at(is_proven, now), candidate=known.candidate.at(completes, now))
    return known, replace(
        seen,
        proven_seconds=known.proven.seconds(now) if is_proven else None,
        candidate_seconds=known.candidate.seconds(now) if verdict is not None else None,
    )


def remember_effects(memory: Memory, learned: Iterable[Learned]) -> Memory:
    """Fold the results of a decision's effects into the memory."""
    for one in learned:
        match one:
            case ProviderAnswered(provider_id, refusal):
                others = {key: said for key, said in memory.refusals.items() if key != provider_id}
                memory = replace(memory, refusals=others | ({provider_id: refusal} if refusal else {}))
            case DisruptionBudgetChanged(uid):
                memory = replace(memory, disruption_budget=uid)
            case JobRefused(problem):
                memory = replace(memory, problem=problem)
            case RescueRefused(message):
                memory = replace(memory, rescue_refused=message)
            case _ as never:  # pragma: no cover - mypy proves that nothing else can be learned
                assert_never(never)
    return memory


def _with_values(memory: Memory, facts: Facts, now: float) -> Memory:
    """Keep the values that were read."""
    read = facts.read
    bad = refuted.folded(memory.refuted, facts, memory.verified, memory.restore_heard)
    heard = refuted.restored_pod(facts)
    new, last = _unless(facts.verified, bad), _unless(memory.verified, bad)
    stop = facts.run.status.termination
    spoiled = stop.spoiled if stop is not None else None
    newer = new is not None and (last is None or _later(new, last, spoiled))
    checked = Source.PREFLIGHT in read
    return replace(
        memory,
        read_at={**memory.read_at, **dict.fromkeys(read, now)} if read else memory.read_at,
        verified=new if newer else last,
        furthest=_furthest(_unless(memory.furthest, bad), new),
        unverifiable=facts.unverifiable or memory.unverifiable,
        refuted=bad,
        restore_heard=heard.uid if heard is not None else memory.restore_heard,
        problem=facts.problem if checked else memory.problem,
        problem_generation=facts.run.generation if checked else memory.problem_generation,
        ended_before=facts.ended_before or memory.ended_before,
        rescue_refused=memory.rescue_refused if facts.rescue is not None and facts.rescue.job is None else "",
        ranks=_folded(memory, facts, now),
        next_reading_at=now + facts.run.spec.poll_interval_seconds if facts.readings else memory.next_reading_at,
        log_tails=facts.log_tails,
        log_searches=facts.log_searches,
        identities=facts.identities,
        fates=facts.fates,
        disruption_budget=facts.disruption_budget if Source.DISRUPTION_BUDGET in read else memory.disruption_budget,
        namespace_labels=(facts.namespace_labels or {}) if Source.NAMESPACE in read else memory.namespace_labels,
    )


def _watched(memory: Memory, facts: Facts, now: float) -> Memory:
    """Fold the reading of rank 0 into what the stop rules count."""
    spec, status, reading = facts.run.spec, facts.run.status, facts.readings.get(0)
    if not spec.stop_rules:
        return memory if not memory.watches else replace(memory, watches={})
    if reading is None:
        return memory
    track, losses = memory.rank(0).track, spec.metrics.names.loss
    watches = watch.fold(
        memory.watches,
        spec.stop_rules,
        status.rules,
        track,
        reading,
        losses=losses,
        written_us=_written_us(facts),
        now=now,
    )
    return replace(memory, watches=watches)


def _written_us(facts: Facts) -> int | None:
    """Return the modification time of the newest complete checkpoint, by the volume's clock; 0: there is none; None: an agent does not say."""
    reports = [facts.reports.get(number) for number in range(len(facts.ranks))]
    times = [
        0 if one.newest is None else one.newest.written_us
        for one in reports
        if one is not None and one.files is not None
    ]
    known = [one for one in times if one is not None]
    return max(known) if known and len(known) == len(reports) else None


def _later(new: Verified, last: Verified, spoiled: Spoiled | None) -> bool:
    """Whether a commit takes the place of the newest one. Of values that are no longer finite, one from before comes before those after."""
    if spoiled is None:
        return new.commit.order >= last.commit.order
    one, other = ((published.is_from_before(found.commit, spoiled), found.commit.order) for found in (new, last))
    return one >= other


def _unless(found: Verified | None, bad: Mapping[Order, str]) -> Verified | None:
    return found if found is not None and found.commit.order not in bad else None


def _furthest(known: Verified | None, new: Verified | None) -> Verified | None:
    found = [one for one in (known, new) if one is not None]
    return max(found, key=lambda one: Reached.of(one.commit), default=None)


def _timed(memory: Memory, facts: Facts, now: float) -> Memory:
    """Continue or restart every stopwatch."""
    run, stop = facts.run, facts.run.status.termination
    request = save_request(run, facts.pods)
    nodes, gates, agents = memory.nodes, memory.gates, _agents(memory, facts)
    if run.status.nodes:
        gate = _gates(facts)
        nodes = {n.uid: nodes.get(n.uid, Stopwatch()).at(n.phase, now) for n in run.status.nodes}
        gates = {n.uid: gates.get(n.uid, Stopwatch()).at((n.phase, gate[n.uid]), now) for n in run.status.nodes}
    return replace(
        memory,
        phase=memory.phase.at((stop.phase, stop.attempt) if stop else None, now),
        saving=memory.saving.at(request[0], now) if request is not None else memory.saving,
        saved_so_far=memory.saved_so_far.at(
            (request, facts.answer is None, _rescue_so_far(facts), *agents.items()), now
        ),
        agents=agents,
        nodes=nodes,
        gates=gates,
    )


def _agents(memory: Memory, facts: Facts) -> dict[int, Hashable]:
    """Return what changes as long as saving makes progress: bytes read again, bytes in the bucket, manifests and commits."""
    done = {
        number: (report.pod_uid, report.uploaded_bytes, report.hashed_bytes, report.manifest, report.commit)
        for number, report in facts.reports.items()
    }
    return {**memory.agents, **done}


def _rescue_so_far(facts: Facts) -> Hashable:
    """Return what changes as long as a rescue makes progress."""
    found = facts.rescue
    if found is None:
        return None
    pod, report = found.pod, found.report
    return (
        found.claim,
        found.job,
        (pod.uid, pod.phase) if pod is not None else None,
        (report.uploaded_bytes, report.hashed_bytes, report.manifest, report.commit) if report is not None else None,
    )


def _folded(memory: Memory, facts: Facts, now: float) -> dict[int, RankMemory]:
    """Fold the facts of each rank into its memory."""
    folded = (
        _rank_folded(memory.rank(number), Rank.of(number, pods), facts, now) for number, pods in enumerate(facts.ranks)
    )
    return {**memory.ranks, **dict(enumerate(folded))}


def _rank_folded(known: RankMemory, rank: Rank, facts: Facts, now: float) -> RankMemory:
    pod, report, reading = rank.pod, facts.reports.get(rank.number), facts.readings.get(rank.number)
    track, unshipped, unmoved = known.track, known.unshipped, known.unmoved
    named = facts.run.spec.completion.total_epochs
    if reading is not None and pod is not None:
        if rank.number == 0 and track == Track():
            track = resumed(facts.run.status.progress, pod_uid=pod.uid, now=now)
            # The recorded total may be the one that the spec names; a training that shows its own does so again.
            track = replace(track, epochs=replace(track.epochs, shown=None)) if named is not None else track
        track = replace(track, epochs=track.epochs.naming(named))
        track = fold(track, reading, pod_uid=pod.uid, now=now)
        unmoved = pod.uid if isinstance(reading, Reading) and reading.step == 0 else ""
    if report is not None and report.newest is not None:
        newest = (report.pod_uid, disruption.shipped(report), report.commit and report.commit.key)
        unshipped = unshipped.at(newest, now)
    return RankMemory(
        track=track,
        waiting=known.waiting.at((pod.uid, workload.lacks(pod)) if pod is not None else None, now),
        silence=known.silent(pod, now, heard=report is not None),
        unshipped=unshipped,
        last_said=LastSaid.of(report) if report is not None else known.last_said,
        unmoved=unmoved,
    )


def _observed(memory: Memory, facts: Facts, now: float) -> Observed:
    """Build the observation, without the three durations that rules compute."""
    run, stop = facts.run, facts.run.status.termination
    return Observed(
        run=run,
        now=now,
        wall=facts.wall,
        ranks=tuple(_rank(memory, facts, number, pods, now) for number, pods in enumerate(facts.ranks)),
        next_reading_at=memory.next_reading_at,
        watches=memory.watches,
        outputs=memory.outputs,
        completion_line=memory.completion_line,
        quiet=memory.quiet,
        idle=memory.idle,
        saves=memory.saves,
        defaults=facts.defaults,
        workload=facts.workload,
        verified=memory.verified,
        furthest=memory.furthest,
        refuted=memory.refuted,
        answer=facts.answer,
        save_failing_seconds=memory.saving.seconds(now) if save_request(run, facts.pods) is not None else 0,
        no_progress_seconds=memory.saved_so_far.seconds(now) if save_request(run, facts.pods) is not None else 0,
        phase_seconds=memory.phase.seconds(now),
        nodes=_nodes(memory, facts) if rescue.releases(stop) else facts.nodes,
        node_seconds={node.uid: memory.nodes[node.uid].seconds(now) for node in run.status.nodes},
        gate_seconds={uid: memory.gates[uid].seconds(now) if gate else 0 for uid, gate in _gates(facts).items()},
        ending_runs=facts.ending_runs,
        pools=facts.pools,
        namespace_labels=facts.namespace_labels,
        namespace_ends=facts.namespace_ends,
        problem=facts.problem,
        ended_before=memory.ended_before,
        origin=facts.origin,
        disruption_budget=facts.disruption_budget,
        rescue=replace(facts.rescue, refused=memory.rescue_refused) if facts.rescue is not None else None,
    )


def _rank(memory: Memory, facts: Facts, number: int, pods: Sequence[Pod], now: float) -> Rank:
    known = memory.rank(number)
    said, refused = facts.reports.get(number), facts.refused.get(number)
    rank = Rank.of(number, pods, report=said, refused=refused, track=known.track)
    searched = memory.log_searches.get(rank.pod.uid) if rank.pod is not None else None
    return replace(
        rank,
        fatal_pattern=searched.found if searched is not None else "",
        crash_cause=searched.cause if searched is not None else "",
        log_tail=memory.log_tails.get(rank.pod.uid, "") if rank.pod is not None else "",
        waiting_seconds=known.waiting.seconds(now),
        unshipped_seconds=known.unshipped.seconds(now),
        last_said=_said_by(known.last_said, rank.pod),
        unmoved=rank.pod is not None and known.unmoved == rank.pod.uid,
    )


def _said_by(said: LastSaid | None, pod: Pod | None) -> LastSaid | None:
    """Return what an agent has said last, unless a newer pod has taken its place; a pod that is gone has none."""
    return said if said is None or pod is None or said.pod_uid == pod.uid else None


def _nodes(memory: Memory, facts: Facts) -> tuple[NodeFacts, ...]:
    """Add the provider's last refusal to nodes without a present one."""
    said = memory.refusals
    return tuple(
        replace(node, refusal=said[node.provider_id]) if node.refusal is None and node.provider_id in said else node
        for node in facts.nodes
    )


def _gates(facts: Facts) -> dict[str, Gate | None]:
    """Return by node uid the condition whose duration counts for the node now."""
    run = facts.run
    return {node.uid: gate_of(run.uid, node, facts_of(facts.nodes, node)) for node in run.status.nodes}
