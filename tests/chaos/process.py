"""An operator of the small world: observes, decides, acts and says as `controller/reconciler.py` does, and can be struck at every single effect.

Decisions (`core`) and the reading of the bucket (`edge/gather/bucket.py`) are the real ones.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, TypeVar

from builders import make_agent, make_found, make_reading
from chaos.world import STEP_BYTES, SimPod, SimRun, StaleError, World

from trainingrun_operator.api import names
from trainingrun_operator.api.exchange import AgentReport, CommitSeen, MarkerSeen
from trainingrun_operator.api.run import NodePoolPolicy
from trainingrun_operator.api.status import NodeStatus, Phase, TrainingRunStatus
from trainingrun_operator.core import effects as do
from trainingrun_operator.core.decide import decide
from trainingrun_operator.core.defaults import Defaults
from trainingrun_operator.core.facts.bucket import Answer, Mismatch, Unreachable, Verified
from trainingrun_operator.core.facts.nodes import Instance, NodeFacts, Occupant
from trainingrun_operator.core.facts.pod import Pod, Training
from trainingrun_operator.core.observed import Observed
from trainingrun_operator.core.release import SETTLED
from trainingrun_operator.core.rules import completion, workload
from trainingrun_operator.core.status import render
from trainingrun_operator.core.stop import disruption
from trainingrun_operator.core.track import Track, fold, resumed
from trainingrun_operator.edge.gather.bucket import Evidence, asked
from trainingrun_operator.edge.memory import Memory, Stopwatch

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from trainingrun_operator.checkpoints.documents import Commit
    from trainingrun_operator.checkpoints.keys import Layout
    from trainingrun_operator.core.facts.run import Run
    from trainingrun_operator.core.facts.workload import Job

STEPS_AT_ONCE: Final = 12
STATUS_SECONDS: Final = 60.0
BACKOFF_MAX_SECONDS: Final = 60.0
DEFAULTS: Final = Defaults(node_removal_seconds=20)
DERIVED: Final = (
    "conditions", "observed_generation", "phase", "termination_message", "effective", "start_time", "progress", "workload", "pods",
    "checkpoint", "shadow", "history",
)  # fmt: skip
SECRET: Final = {"AWS_ACCESS_KEY_ID": b"key", "AWS_SECRET_ACCESS_KEY": b"secret"}
T = TypeVar("T")


class ApiError(Exception):
    """The API server refused, or did not answer."""


class ProviderError(Exception):
    """The cloud refused, or did not answer."""


Look = Generator[tuple[str, str], None, float]
"""Yields (before or after, the effect's name) around every effect; returns the seconds to the next look."""


class Process:
    """One operator process. What it remembers is gone when it is killed."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.memories: dict[str, Memory] = {}
        self.views: dict[str, Run] = {}
        self.children: dict[str, tuple[tuple[Pod, ...], Job | None]] = {}
        self.failures: dict[str, int] = {}

    def look(self, sim: SimRun) -> Look:
        """One look at a run, whatever comes of it."""
        uid = sim.run.uid
        stale = self.world.during("stale")
        if uid not in self.views or not stale:
            if self.world.during("api_away") and uid not in self.views:
                return self._backoff(uid)
            self.views[uid] = sim.run
        if not sim.exists and not stale:
            return 60.0
        try:
            again = yield from self._look(sim)
        except StaleError:
            return self._reread(sim)
        except ApiError:
            return self._backoff(uid)
        self.failures.pop(uid, None)
        return again

    def _look(self, sim: SimRun) -> Look:
        uid = sim.run.uid
        memory = self.memories.setdefault(uid, Memory())
        for _ in range(STEPS_AT_ONCE):
            seen = self.observe(sim, memory)
            decision = decide(seen)
            if any(isinstance(effect, do.Begin) for effect in decision.effects) and not self._confirms(sim, seen):
                raise StaleError
            version = sim.run.resource_version
            for effect in decision.effects:
                yield from self._do(sim, effect, seen, memory)
            wrote = sim.run.resource_version != version and any(map(_writes_run, decision.effects))
            if wrote:
                self.views[uid] = sim.run
            if decision.again_seconds != 0:
                yield from self._say(sim, self.observe(sim, memory) if wrote else seen, memory)
                return decision.again_seconds if decision.again_seconds is not None else 30.0
        return 0.0

    def _do(self, sim: SimRun, effect: do.Effect, seen: Observed, memory: Memory) -> Generator[tuple[str, str]]:
        name = type(effect).__name__
        try:
            changes = self._taints(effect)
            yield "before", name
            self._reach_api()
            # As edge/execute.py does: it reads the Node, asks for its Lease, and writes on what it has read.
            if changes != self._taints(effect):
                raise StaleError
            if isinstance(effect, do.ReleaseMachine):
                self._reach_cloud()
            self.world.apply(sim, effect, seen)
            yield "after", name
            if isinstance(effect, do.CreateJob) and not sim.exists and sim.job is not None:
                # As edge/execute.py does.
                yield from self._do(sim, do.DeleteJob(sim.job.name, sim.job.uid), seen, memory)
                raise StaleError
        except (ApiError, ProviderError) as error:
            if isinstance(effect, do.ReleaseMachine):
                memory.provider_said[effect.provider_id] = str(error)
            elif not isinstance(effect, do.Tell | do.CreateBudget | do.DeleteBudget):
                raise

    def _taints(self, effect: do.Effect) -> int:
        """How often those of the Node of this effect have been changed."""
        node = self.world.node(effect.name) if isinstance(effect, do.TaintNode | do.UntaintNode) else None
        return node.changes if node is not None else 0

    def _say(self, sim: SimRun, seen: Observed, memory: Memory) -> Generator[tuple[str, str]]:
        """Write what is derived: at once on a transition, else every so often."""
        status = render(seen)
        shown = (
            str(status.phase),
            str(status.termination_message),
            *(f"{c.type}{c.status}{c.reason}" for c in status.conditions),
            *((str(status.progress.pod_uid), str(status.progress.epoch_base)) if status.progress else ()),
        )
        due = shown != memory.shown or seen.now - memory.written_at >= STATUS_SECONDS
        if not due or _derived(status) == _derived(seen.run.status):
            return
        yield "before", "status"
        self._reach_api()
        if not sim.exists or sim.run.resource_version != seen.run.resource_version:
            raise StaleError
        self.world.write(sim, **_derived(status))
        yield "after", "status"
        self.views[sim.run.uid] = sim.run
        memory.written_at, memory.shown = seen.now, shown

    def _reach_api(self) -> None:
        if self.world.during("api_away"):
            raise ApiError("the API server does not answer")

    def _reach_cloud(self) -> None:
        if self.world.during("cloud_away"):
            raise ProviderError("Throttling")

    def _backoff(self, uid: str) -> float:
        self.failures[uid] = count = self.failures.get(uid, 0) + 1
        return float(min(BACKOFF_MAX_SECONDS, 0.5 * 2 ** min(count, 10)))

    def _reread(self, sim: SimRun) -> float:
        if self.world.during("api_away"):
            return self._backoff(sim.run.uid)
        before = self.views[sim.run.uid]
        self.views[sim.run.uid] = sim.run
        return 0.2 if sim.run.resource_version != before.resource_version else self._backoff(sim.run.uid)

    # -- observing ---------------------------------------------------------------------------------------------

    def observe(self, sim: SimRun, memory: Memory) -> Observed:
        """What `edge/gather/observer.py` would gather.

        Raises:
            ApiError: the API server could not be asked.
        """
        self._reach_api()
        run, now = self.views[sim.run.uid], self.world.now
        stop = run.status.termination
        pods, job = self._children(sim, run)
        pod = pods[-1] if pods else None
        self._ask_pod(sim, run, pod, memory)
        pods = tuple(self._fate(sim, run, pod) for pod in pods)
        answer: Answer | None = _now(Evidence(_Secrets(), _Store(self.world, sim)).ask(run, pods, memory))  # type: ignore[arg-type]
        request = asked(run, pods)
        nodes = self._nodes(sim, run, pods, memory)
        seen = Observed(
            run=run,
            now=now,
            wall=self.world.wall,
            track=memory.track,
            defaults=DEFAULTS,
            job=job,
            pods=pods,
            agent=memory.agent,
            verified=memory.verified,
            answer=answer,
            save_failing_seconds=memory.saving.of(request[0], now) if request else 0,
            phase_seconds=memory.phase.of((stop.phase, stop.attempt) if stop else None, now),
            nodes=nodes,
            gate_seconds=memory.gate_seconds(run, nodes, now),
            node_seconds={
                n.uid: memory.nodes.setdefault(n.uid, Stopwatch()).of(n.phase, now) for n in run.status.nodes
            },
            ending_runs=frozenset(other.run.uid for other in self.world.runs if _releases_no_more(other)),
            pools=(self.world.pool,),
            waiting_seconds=memory.waiting.of((pod.uid, workload.lacks(pod)) if pod else None, now),
            budget=sim.budget if job is not None and names.FINALIZER in run.finalizers else None,
        )
        proven = disruption.all_proven(seen)
        proven_seconds = memory.proven.of(proven, now)
        verdict = completion.inferred(seen)
        held = memory.candidate.of((verdict.actor, pod.uid) if verdict and pod else None, now)
        return replace(
            seen, proven_seconds=proven_seconds if proven else None, candidate_seconds=held if verdict else None
        )

    def _children(self, sim: SimRun, run: Run) -> tuple[tuple[Pod, ...], Job | None]:
        """From the watch while a run is on its way; in every stop from the API server itself."""
        known = self.children.get(run.uid)
        if run.status.termination is None and not run.deleting and known is not None and self.world.during("stale"):
            return known
        job = sim.job
        for pod in sim.pods:
            pod.seen = pod.seen or pod.training is not Training.NOT_STARTED
        known = self.children[run.uid] = (tuple(_pod(sim, pod) for pod in sim.pods), job)
        return known

    def _fate(self, sim: SimRun, run: Run, pod: Pod) -> Pod:
        """As `edge/gather/lost.py` says it: a silent node is lost once the cloud says that its machine is gone."""
        there = sim.find(pod.uid)
        machine = there.machine if there is not None else None
        if (
            machine is None
            or pod.terminal
            or machine.state is not Instance.GONE
            or self.world.now < machine.gone_at + 5
        ):
            return pod
        recorded = any(node.provider_id == machine.provider_id and node.pool for node in run.status.nodes)
        return replace(pod, unreachable=True, lost=recorded and not self.world.during("cloud_away"))

    def _confirms(self, sim: SimRun, seen: Observed) -> bool:
        self._reach_api()
        there = tuple((pod.uid, pod.training, pod.exit_code) for pod in sim.pods)
        if there == tuple((pod.uid, pod.training, pod.exit_code) for pod in seen.pods) and (
            (sim.job and sim.job.uid) == (seen.job and seen.job.uid)
        ):
            return True
        self.children.pop(seen.run.uid, None)
        return False

    def _ask_pod(self, sim: SimRun, run: Run, pod: Pod | None, memory: Memory) -> None:
        there = sim.find(pod.uid) if pod is not None else None
        memory.agent = None
        dead = there is None or there.machine is None or there.machine.state is Instance.GONE
        if there is None or dead or there.over or there.training is Training.NOT_STARTED:
            return
        if not self.world.during("agent_away"):
            memory.agent = _report(sim, there)
        if (
            there.training is not Training.RUNNING
            or run.status.termination is not None
            or self.world.now < memory.next_scrape
        ):
            return
        memory.next_scrape = self.world.now + run.spec.poll_interval_seconds
        if memory.track == Track():
            memory.track = resumed(run.status.progress, pod_uid=there.uid, now=self.world.now)
        low = sim.cause == "low loss" and there.step >= 8
        reading = make_reading(loss=0.3 if low else 2.0, step=float(there.step))
        memory.track = fold(memory.track, reading, pod_uid=there.uid, now=self.world.now)

    # -- nodes -------------------------------------------------------------------------------------------------

    def _nodes(self, sim: SimRun, run: Run, pods: tuple[Pod, ...], memory: Memory) -> tuple[NodeFacts, ...]:
        stop = run.status.termination
        if stop is not None and stop.phase is Phase.RELEASING:
            return tuple(
                self._facts(sim, node, memory.provider_said) for node in run.status.nodes if node.phase not in SETTLED
            )
        for pod in pods:
            there = self.world.node(pod.node) if pod.node and not pod.terminal else None
            if there is not None and pod.uid not in memory.identities:
                memory.identities[pod.uid] = NodeFacts(
                    there.name, there.uid, there.provider_id, {"pool": "a100"}, there.tainted_by
                )
        known = dict(memory.identities)
        for pod in pods:
            under = sim.find(pod.uid)
            if pod.lost and under is not None and under.machine is not None:
                machine = under.machine
                uid = machine.uid if machine.has_node else None
                known[pod.uid] = NodeFacts(machine.name, uid, machine.provider_id, instance=Instance.GONE)
        return tuple({facts.uid: facts for pod in pods if (facts := known.get(pod.uid))}.values())

    def _facts(self, sim: SimRun, node: NodeStatus, said: dict[str, str]) -> NodeFacts:
        world = self.world
        machine = next(m for m in world.machines if m.provider_id == node.provider_id)
        there = world.node(node.name)
        away = world.during("cloud_away")
        facts = NodeFacts(
            name=node.name,
            provider_id=node.provider_id,
            occupants=self._occupants(node.name),
            instance=Instance.UNKNOWN if away else machine.state,
            problem="Throttling" if away else said.get(node.provider_id, ""),
        )
        if there is None or there.uid != node.uid:
            return facts
        waiting = tuple(
            Occupant(other.run.namespace, pod.uid, other.run.uid)
            for other in world.runs
            if other is not sim
            for pod in other.pods
            if pod.machine is None and pod.deleting_since is None
        )
        return replace(facts, uid=there.uid, labels={"pool": "a100"}, tainted_by=there.tainted_by, demand=waiting)

    def _occupants(self, name: str) -> tuple[Occupant, ...]:
        guest = self.world.guest_on
        guests = (Occupant("team", "notebook"),) if guest is not None and guest.name == name else ()
        ours = (
            Occupant(sim.run.namespace, pod.uid, sim.run.uid)
            for sim in self.world.runs
            for pod in sim.pods
            if pod.machine is not None and pod.machine.name == name and not pod.over
        )
        return (*guests, *ours)


def _writes_run(effect: do.Effect) -> bool:
    return isinstance(effect, do.AddFinalizer | do.RemoveFinalizer | do.Begin | do.Advance | do.RecordNodes)


def _derived(status: TrainingRunStatus) -> dict[str, Any]:
    return {name: getattr(status, name) for name in DERIVED}


def _releases_no_more(sim: SimRun) -> bool:
    """As `edge/cache.py` says it."""
    stop = sim.run.status.termination
    past = stop is not None and stop.phase in (Phase.RELEASING, Phase.DONE)
    return not sim.exists or past or sim.run.spec.node_pool.policy is NodePoolPolicy.NEVER


def _pod(sim: SimRun, pod: SimPod) -> Pod:
    bad = sim.cause == "bad image" and pod.machine is not None
    return Pod(
        name=pod.uid,
        uid=pod.uid,
        node=pod.machine.name if pod.machine else "",
        ip="10.0.0.7",
        phase=pod.phase,
        deleting=pod.deleting_since is not None,
        training=pod.training,
        exit_code=pod.exit_code,
        started_at="2026-01-02T00:00:00Z" if pod.training is not Training.NOT_STARTED else "",
        waiting_reason="ImagePullBackOff" if bad else "",
        stop=pod.stop,
        save=pod.save,
        released=pod.released,
        nudge=pod.nudge,
    )


def _report(sim: SimRun, pod: SimPod) -> AgentReport:
    commit = pod.newest_commit
    return make_agent(
        pod_uid=pod.uid,
        unsaved_bytes=(pod.written - (World.step_of(commit) if commit else pod.restored)) * STEP_BYTES,
        newest=make_found(step=pod.written, dir=f"checkpoint-{pod.written}") if pod.written else None,
        files=3 if pod.written else 0,
        markers=(MarkerSeen(name="done", age_seconds=1),) if sim.cause == "marker" and pod.step >= 8 else (),
        commit=CommitSeen(
            key=sim.layout.commit(commit.order),
            epoch=commit.epoch,
            generation=commit.generation,
            step=World.step_of(commit),
        )
        if commit
        else None,
    )


# -- what the evidence is read from -------------------------------------------------------------------------------


def _now(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that waits for nothing."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]
    raise AssertionError("it waits")


class _Secrets:
    async def secret(self, _namespace: str, _name: str) -> dict[str, bytes]:
        return SECRET


class _Store:
    """The bucket of one run, as `edge/gather/store.py` answers."""

    def __init__(self, world: World, sim: SimRun) -> None:
        self._world, self._sim = world, sim

    async def verify(self, _access: object, layout: Layout, key: str) -> Answer:
        if self._world.during("bucket_away"):
            return Unreachable("Unreachable", "The bucket does not answer.")
        return self._proof(next(c for c in self._sim.bucket if layout.commit(c.order) == key))

    async def find(
        self,
        _access: object,
        _layout: object,
        wanted: Callable[[Commit], bool],
        *,
        fall_back: bool = False,
        **_: object,
    ) -> Answer | None:
        if self._world.during("bucket_away"):
            return Unreachable("Unreachable", "The bucket does not answer.")
        complaint: Answer | None = None
        for commit in sorted(filter(wanted, self._sim.bucket), key=lambda c: c.order, reverse=True):
            found = self._proof(commit)
            if isinstance(found, Verified) or not fall_back:
                return found
            complaint = complaint or found
        return complaint

    def _proof(self, commit: Commit) -> Verified | Mismatch:
        key = self._sim.layout.commit(commit.order)
        if commit.generation in self._world.scenario.spoilt:
            return Mismatch(key, "a byte is wrong", commit.termination_id, commit.attempt)
        return Verified(key, f"sha256-{commit.generation}", f"s3://bucket/{key}", commit)
