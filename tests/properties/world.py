"""A small world in memory: API server, Job controller, kubelet, training, agent, bucket, node and cloud, and an operator that can be killed.

Simulated, and only as true as it must be for a run's story; the same stories are told against the real things in tests/e2e.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from builders import BASE, NAME, NAMESPACE, RUN_UID, make_agent, make_found, make_pool, make_run, make_status

from trainingrun_operator.api import names
from trainingrun_operator.api.exchange import MarkerSeen, SaveRequest, StopRequest
from trainingrun_operator.api.manifest import Checkpoint, Commit, RunRef
from trainingrun_operator.api.run import CheckpointMode
from trainingrun_operator.api.status import NodePhase, Phase
from trainingrun_operator.core import effects as do
from trainingrun_operator.core.completion import inferred
from trainingrun_operator.core.decide import decide
from trainingrun_operator.core.observed import (
    Defaults,
    Instance,
    Job,
    Mismatch,
    NodeFacts,
    Observed,
    Occupant,
    Pod,
    Training,
    Unreachable,
    Verified,
)
from trainingrun_operator.core.sample import Sample
from trainingrun_operator.core.status import render
from trainingrun_operator.core.track import Track, fold

STEP_SECONDS, CHECKPOINT_STEPS = 5.0, 4
WALL = "2026-01-02T03:04:05Z"
OBSERVED = {"conditions", "phase", "effective", "start_time", "progress", "workload", "pods", "checkpoint", "history"}


class StaleError(Exception):
    """A precondition failed: look again."""


class KilledError(Exception):
    """The operator was killed."""


@dataclass(frozen=True)
class Scenario:
    """What happens to a run, besides the operator being killed."""

    cause: str = "low loss"
    """low loss, exit, marker, crashes, user stop, user stop while pending, delete, bad image"""
    mode: str = "Upload"
    leaves_after: float = 3
    """Seconds until the training has saved and left after it was asked to; the grace is 30."""
    bucket_away: tuple[float, float] = (0, 0)
    corrupt: bool = False
    """The first commit that answers a save request does not verify."""
    neighbour: tuple[float, float] = (0, 0)
    """While another pod is on the node."""
    evicted_at: float = 0
    """When the first pod vanishes without a word."""


@dataclass
class SimPod:
    uid: str
    born: float
    start_after: float
    step: int = 0
    training: Training = Training.NOT_STARTED
    exit_code: int | None = None
    phase: str = "Pending"
    deleting_since: float | None = None
    stop: StopRequest | None = None
    stop_at: float = 0
    save: SaveRequest | None = None
    save_at: float = 0
    released: bool = False
    nudge: str = ""
    written: int = 0
    """Step of the newest complete checkpoint in the volume."""
    shipped: int = 0
    answered: SaveRequest | None = None


@dataclass
class Memory:
    """What the operator's process knows; gone when it is killed."""

    track: Track = field(default_factory=Track)
    verified: Verified | None = None
    since: dict[str, tuple[Any, float]] = field(default_factory=dict)

    def seconds(self, watch: str, what: Any, now: float) -> float:
        if self.since.get(watch, (object(), 0))[0] != what:
            self.since[watch] = (what, now)
        return now - self.since[watch][1]


class World:
    def __init__(self, scenario: Scenario, kills: dict[int, str] | None = None) -> None:
        spec: dict[str, Any] = {"completion": {"settleSeconds": 20}, "shutdown": {"graceSeconds": 30}}
        if scenario.mode != "Upload":
            spec["checkpoint"] = {"mode": scenario.mode}
        self.scenario, self.kills = scenario, kills or {}
        self.run = make_run(spec=spec, status=make_status(start_time=None), finalizers=())
        self.now = 0.0
        self.job: Job | None = None
        self.pods: list[SimPod] = []
        self.made = 0
        self.bucket: list[Commit] = []
        self.tainted_by: str | None = None
        self.node: str | None = "node-uid"
        self.machine, self.machine_gone_at = Instance.RUNNING, float("inf")
        self.memory = Memory()
        self.exists = True
        self.count = 0
        self.deleted: list[str] = []
        self.released: list[str] = []
        self.done_effects: list[str] = []

    # -- the world goes on ---------------------------------------------------------------------------------------

    def between(self, interval: tuple[float, float]) -> bool:
        return interval[0] <= self.now < interval[1]

    def advance(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, self.now + 1.0)
            self._people()
            for pod in list(self.pods):
                self._kubelet(pod)
            self._job_controller()
            self._cloud()

    def _people(self) -> None:
        stop_at = {"user stop": 40.0, "user stop while pending": 4.0}.get(self.scenario.cause)
        if stop_at is not None and self.now >= stop_at and not self.run.spec.stop:
            self.run = replace(self.run, spec=self.run.spec.model_copy(update={"stop": True}))
        if self.scenario.cause == "delete" and self.now >= 40 and not self.run.deleting:
            self.run = replace(self.run, deleting=True)

    def _kubelet(self, pod: SimPod) -> None:
        if self.scenario.evicted_at and pod.uid == "pod-1" and self.now >= self.scenario.evicted_at:
            self._vanish(pod)
            return
        if pod.phase == "Pending" and self.now >= pod.born + pod.start_after and pod.deleting_since is None:
            pod.phase, pod.training = "Running", Training.RUNNING
        if pod.training is Training.RUNNING:
            self._train(pod)
        self._agent(pod)
        if pod.training is Training.EXITED and pod.released:
            pod.phase = "Failed" if pod.exit_code else "Succeeded"
        if pod.deleting_since is not None and self.now >= pod.deleting_since + 5:
            self._sigterm(pod)
            self._vanish(pod)

    def _vanish(self, pod: SimPod) -> None:
        if pod.phase not in ("Succeeded", "Failed") and self.job is not None and not self.job.suspended:
            self.job = replace(self.job, failed=self.job.failed + 1)
        self.pods.remove(pod)

    def _train(self, pod: SimPod) -> None:
        age = self.now - pod.born - pod.start_after
        if pod.stop is not None and self.now >= pod.stop_at + self.scenario.leaves_after:
            pod.written = pod.step
            pod.training, pod.exit_code = Training.EXITED, 0
            return
        pod.step = int(age // STEP_SECONDS)
        pod.written = pod.step - pod.step % CHECKPOINT_STEPS
        leaves = {"exit": (60, 0), "crashes": (45, 1)}.get(self.scenario.cause)
        if leaves and age >= leaves[0]:
            pod.training, pod.exit_code = Training.EXITED, leaves[1]

    def _agent(self, pod: SimPod) -> None:
        if self.run.spec.checkpoint.mode is CheckpointMode.DISABLED or self.between(self.scenario.bucket_away):
            return
        if pod.training is Training.NOT_STARTED or pod.phase in ("Succeeded", "Failed"):
            return
        asked = pod.save
        if asked is not None and asked != pod.answered and self.now >= pod.save_at + 2 and (asked.ended or pod.written):
            self._commit(pod, asked)
            pod.answered = asked
        elif pod.written > pod.shipped and pod.training is Training.RUNNING:
            self._commit(pod, None)

    def _sigterm(self, pod: SimPod) -> None:
        away = self.between(self.scenario.bucket_away) or self.run.spec.checkpoint.mode is CheckpointMode.DISABLED
        if not away and pod.training is not Training.NOT_STARTED and pod.written > pod.shipped:
            self._commit(pod, SaveRequest(id="", attempt=0, ended=True))

    def _commit(self, pod: SimPod, asked: SaveRequest | None) -> None:
        found = Checkpoint(dir=f"checkpoint-{pod.written}", step=pod.written, complete=True, evidence="written")
        self.bucket.append(
            Commit(
                run=RunRef(namespace=NAMESPACE, name=NAME, uid=RUN_UID),
                epoch=int(pod.uid.removeprefix("pod-")),
                generation=len(self.bucket),
                reason="save" if asked else "checkpoint",
                termination_id=asked.id if asked else None,
                attempt=asked.attempt if asked else 0,
                final=bool(asked and asked.ended),
                checkpoint=found if pod.written else None,
                pod_uid=pod.uid,
                total_files=3 if pod.written else 0,
            )
        )
        pod.shipped = pod.written

    def _job_controller(self) -> None:
        if self.job is None or self.job.finished:
            return
        if self.job.suspended:
            for pod in self.pods:
                if pod.phase in ("Pending", "Running") and pod.deleting_since is None:
                    pod.deleting_since = self.now
            return
        over = [pod for pod in self.pods if pod.phase in ("Succeeded", "Failed")]
        failed = self.job.failed + sum(pod.phase == "Failed" and pod.start_after >= 0 for pod in over)
        for pod in over:
            pod.start_after = -1  # counted
        self.job = replace(self.job, failed=failed)
        if any(pod.phase == "Succeeded" for pod in over) or failed > self.job.backoff_limit:
            self.job = replace(self.job, finished=True)
        elif len(over) == len(self.pods):
            self.made += 1
            start = float("inf") if self.scenario.cause in ("bad image", "user stop while pending") else 3.0
            self.pods.append(SimPod(f"pod-{self.made}", self.now, start))

    def _cloud(self) -> None:
        if self.machine is Instance.TERMINATING and self.now >= self.machine_gone_at:
            self.machine = Instance.GONE

    # -- the operator looks --------------------------------------------------------------------------------------

    def observe(self) -> Observed:
        memory, now, run = self.memory, self.now, self.run
        stop = run.status.termination
        pods = tuple(self._pod(pod) for pod in self.pods)
        newest = self.pods[-1] if self.pods else None
        if newest is not None and newest.training is Training.RUNNING:
            low = self.scenario.cause == "low loss" and newest.step >= 8
            reading = Sample(loss=0.3 if low else 2.0, step=float(newest.step))
            memory.track = fold(memory.track, reading, pod_uid=newest.uid, now=now)
        answer = self._answer()
        phase = (stop.phase, stop.attempt) if stop else None
        saving = stop.id if stop and stop.phase in (Phase.SAVING, Phase.HELD, Phase.VERIFYING) else None
        crash = newest.uid if newest and newest.save and not newest.released and not stop else None
        seen = Observed(
            run=run,
            now=now,
            wall=WALL,
            track=memory.track,
            defaults=Defaults(node_removal_seconds=20),
            job=self.job,
            pods=pods,
            agent=self._report(newest),
            verified=memory.verified,
            answer=answer,
            save_failing_seconds=memory.seconds("saving", saving or crash, now) if saving or crash else 0,
            phase_seconds=memory.seconds("phase", phase, now),
            nodes=(self._node(),),
            node_seconds={n.uid: memory.seconds("node", n.phase, now) for n in run.status.nodes},
            pools=(make_pool(),),
            waiting_seconds=memory.seconds("waiting", newest.uid if newest else None, now),
        )
        verdict = inferred(seen)
        held = memory.seconds("candidate", verdict.actor if verdict else None, now)
        return replace(seen, candidate_seconds=held) if verdict else seen

    def _pod(self, pod: SimPod) -> Pod:
        bad = self.scenario.cause == "bad image"
        return Pod(
            name=pod.uid,
            uid=pod.uid,
            node="gpu-1",
            ip="10.0.0.7",
            phase=pod.phase,
            deleting=pod.deleting_since is not None,
            training=pod.training,
            exit_code=pod.exit_code,
            started_at=WALL if pod.training is not Training.NOT_STARTED else "",
            waiting_reason="ImagePullBackOff" if bad else "",
            stop=pod.stop,
            save=pod.save,
            released=pod.released,
            nudge=pod.nudge,
        )

    def _report(self, pod: SimPod | None) -> Any:
        if pod is None or pod.training is Training.NOT_STARTED or pod.phase != "Running":
            return None
        marked = self.scenario.cause == "marker" and pod.step >= 8
        return make_agent(
            pod_uid=pod.uid,
            newest=make_found(step=pod.written) if pod.written else None,
            files=3 if pod.written else 0,
            markers=(MarkerSeen(name="done", age_seconds=1),) if marked else (),
        )

    def _answer(self) -> Any:
        stop = self.run.status.termination
        if self.run.spec.checkpoint.mode is CheckpointMode.DISABLED or (
            stop is not None and stop.phase in (Phase.REQUESTED, Phase.RELEASING, Phase.DONE)
        ):
            return None
        if self.between(self.scenario.bucket_away):
            return Unreachable("Unreachable", "The bucket does not answer.")
        if self.bucket:
            self.memory.verified = self._verify(max(self.bucket, key=lambda commit: commit.order))
        pod = self.pods[-1] if self.pods else None
        asked = None
        if stop is not None and stop.phase in (Phase.SAVING, Phase.HELD, Phase.VERIFYING):
            asked = (stop.id, stop.attempt)
        elif stop is None and pod is not None and pod.save is not None and not pod.released:
            asked = (pod.save.id, pod.save.attempt)
        found = [commit for commit in self.bucket if asked and (commit.termination_id, commit.attempt) == asked]
        if not found:
            return None
        proven = self._verify(found[-1])
        if self.scenario.corrupt and found[-1].attempt == 1:
            return Mismatch(proven.key, "a byte is wrong", found[-1].termination_id, found[-1].attempt)
        return proven

    def _verify(self, commit: Commit) -> Verified:
        key = f"{BASE}commits/e{commit.epoch}-g{commit.generation:04d}.json"
        return Verified(key, f"sha256-{commit.generation}", f"s3://bucket/{BASE}", commit)

    def _node(self) -> NodeFacts:
        guests = (Occupant("team", "notebook"),) if self.between(self.scenario.neighbour) else ()
        ours = tuple(Occupant(NAMESPACE, pod.uid, RUN_UID) for pod in self.pods if pod.phase == "Running")
        return NodeFacts(
            name="gpu-1",
            uid=self.node,
            provider_id="aws:///i-1",
            labels={"pool": "a100"},
            tainted_by=self.tainted_by if self.node else None,
            occupants=(*guests, *ours),
            instance=self.machine,
        )

    # -- the operator acts ---------------------------------------------------------------------------------------

    def look(self) -> float:
        """One look: observe, decide, act, write what was observed. Returns when to look again, in seconds."""
        try:
            seen = self.observe()
            decision = decide(seen)
            for effect in decision.effects:
                self._maybe_killed("before")
                self.apply(effect)
                self.done_effects.append(type(effect).__name__)
                self._maybe_killed("after")
                self.count += 1
            shown = render(replace(seen, run=self.run))
        except StaleError:
            return 1
        except KilledError:
            self.count += 1
            self.memory = Memory()
            return 3
        self._status(**{name: getattr(shown, name) for name in OBSERVED})
        return decision.again_seconds if decision.again_seconds is not None else 10

    def _maybe_killed(self, when: str) -> None:
        if self.kills.get(self.count) == when:
            raise KilledError

    def _status(self, **changes: Any) -> None:
        self.run = replace(self.run, status=self.run.status.model_copy(update=changes))

    def apply(self, effect: do.Effect) -> None:  # noqa: C901, PLR0912 - one short arm per effect
        stop = self.run.status.termination
        match effect:
            case do.AddFinalizer():
                self.run = replace(self.run, finalizers=(names.FINALIZER,))
            case do.RemoveFinalizer():
                self.run = replace(self.run, finalizers=())
                self.exists = not self.run.deleting
            case do.CreateJob():
                self.job = self.job or Job(NAME, "job-uid", RUN_UID, backoff_limit=2**31 - 1)
            case do.Begin(termination):
                self._expect(stop is None)
                self._status(termination=termination, termination_status=termination.status)
            case do.Advance(termination, phase, attempt, completion):
                self._expect(stop is not None and (stop.phase, stop.attempt) == (phase, attempt))
                if termination.phase is Phase.DELETING:
                    for pod in self.pods:
                        self._safe_to_lose(pod)
                self._status(termination=termination, **({"completion_time": WALL} if completion else {}))
            case do.RecordNodes(nodes):
                self._status(nodes=nodes)
            case do.Annotate(_, uid, key, value):
                self._annotate(uid, key, value)
            case do.DeletePod(_, uid):
                self._delete_pod(uid)
            case do.DeleteJob():
                self.job = None
            case do.TaintNode(_, uid):
                self._expect(uid == self.node and self.tainted_by is None)
                self.tainted_by = RUN_UID
            case do.UntaintNode(_, uid):
                self._expect(uid == self.node)
                self.tainted_by = None
            case do.ReleaseMachine():
                assert not self.between(self.scenario.neighbour), "a machine with a foreign pod on it was released"
                if self.machine is Instance.RUNNING:
                    self.released.append("i-1")
                    self.machine, self.machine_gone_at = Instance.TERMINATING, self.now + 20
            case do.DeleteNode(_, uid):
                self._expect(uid == self.node and self.machine is Instance.GONE)
                self.node = None
            case do.AdoptJob() | do.EndReplacements() | do.SuspendJob():
                self._patch_job(effect)
            case do.Tell():
                pass

    def _expect(self, holds: object) -> None:
        if not holds:
            raise StaleError

    def _patch_job(self, effect: do.AdoptJob | do.EndReplacements | do.SuspendJob) -> None:
        self._expect(self.job)
        assert self.job is not None
        match effect:
            case do.AdoptJob():
                self.job = replace(self.job, owned=True)
            case do.EndReplacements():
                self.job = replace(self.job, backoff_limit=0)
            case do.SuspendJob():
                # The agent ships what came after the proof with the grace that it has.
                for pod in self.pods:
                    self._safe_to_lose(pod, with_grace=True)
                self.job = replace(self.job, suspended=True)

    def _annotate(self, uid: str, key: str, value: str) -> None:
        pod = self._find(uid)
        self._expect(pod)
        assert pod is not None
        match key:
            case names.STOP_ANNOTATION:
                pod.stop, pod.stop_at = StopRequest.model_validate_json(value), self.now
            case names.SAVE_ANNOTATION:
                pod.save, pod.save_at = SaveRequest.model_validate_json(value), self.now
            case names.RELEASED_ANNOTATION:
                self._safe_to_lose(pod)
                pod.released = True
            case names.NUDGE_ANNOTATION:
                pod.nudge = value
            case _:
                raise AssertionError(key)

    def _delete_pod(self, uid: str) -> None:
        pod = self._find(uid)
        if pod is None or pod.deleting_since is not None:
            return  # gone is success
        self._safe_to_lose(pod)
        self.deleted.append(uid)
        pod.deleting_since = self.now - 5 if pod.phase in ("Succeeded", "Failed") else self.now

    def _find(self, uid: str) -> SimPod | None:
        return next((pod for pod in self.pods if pod.uid == uid), None)

    def _safe_to_lose(self, pod: SimPod, *, with_grace: bool = False) -> None:
        """The ground truth behind I1: what the volume holds is in the bucket, or nothing was to be saved."""
        if self.run.spec.checkpoint.mode is CheckpointMode.DISABLED or not pod.written:
            return
        sound = [c for c in self.bucket if not (self.scenario.corrupt and c.attempt == 1)]
        best = max((c.checkpoint.step or 0 for c in sound if c.checkpoint and c.pod_uid == pod.uid), default=0)
        may_lag = with_grace or pod.training is Training.RUNNING
        assert best >= pod.written or (may_lag and best), f"{pod.uid} holds step {pod.written}, the bucket has {best}"

    @property
    def settled(self) -> bool:
        stop = self.run.status.termination
        done = stop is not None and stop.phase is Phase.DONE
        return done and names.FINALIZER not in self.run.finalizers

    def tell(self, looks: int = 1500) -> None:
        """Let the story happen, to its end or until patience is over."""
        for _ in range(looks):
            again = self.look()
            if self.settled:
                return
            self.advance(max(again, 0.2))


def node_phase(world: World) -> NodePhase | None:
    return world.run.status.nodes[0].phase if world.run.status.nodes else None
