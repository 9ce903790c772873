"""A small world in memory: API server, Job controller, kubelet, trainings, agents, bucket, nodes and cloud. It holds the truth.

Only as true as it must be for the stories told in it; the same stories are told against the real things in tests/e2e. Operators reach it through its edge
(`edge.py`); what it counts, no operator can talk away.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any, Final

from builders import NAMESPACE, checkpoint_spec, make_run, template
from chaos.objects import POD_GRACE_SECONDS, tainted_by
from chaos.scenario import NEVER, Scenario
from fakes import stored_run

from trainingrun_operator.api import names
from trainingrun_operator.api.exchange import AgentReport, SaveRequest, StopRequest
from trainingrun_operator.api.run import CheckpointMode
from trainingrun_operator.api.status import NodePhase, Phase, Termination, TrainingRunStatus
from trainingrun_operator.checkpoints.documents import Checkpoint, Commit, RunRef
from trainingrun_operator.core.destinations import layout_of
from trainingrun_operator.core.facts.nodes import Instance
from trainingrun_operator.core.facts.pod import Training
from trainingrun_operator.core.facts.run import Run
from trainingrun_operator.core.release import SETTLED

Json = dict[str, Any]

STEP_SECONDS: Final = 5.0
CHECKPOINT_STEPS: Final = 4
STEP_BYTES: Final = 1000
TRAINING_GRACE_SECONDS: Final = 30
LAST_SECONDS: Final = 2.0
"""What a kubelet leaves a sidecar behind containers that have used up the grace."""
LEAVING_SECONDS: Final = 5.0
"""From the deletion of a pod until all its containers have ended on SIGTERM."""
ENDING_SECONDS: Final = 4.0
"""From the SIGTERM of a kubelet to the end of the last container."""
MACHINE_SECONDS: Final = 15.0
"""To boot one, and to terminate one."""
RELEASE_SECONDS: Final = 20.0
"""How long a rescue waits for the release of the run's nodes."""
EVICTION_SECONDS: Final = 60.0
"""How long pods are left alone on a Node that has fallen silent."""
ORDER: Final = {
    Phase.REQUESTED: 0, Phase.DRAINING: 1, Phase.SAVING: 2, Phase.VERIFYING: 2, Phase.HELD: 2,
    Phase.DELETING: 3, Phase.RELEASING: 4, Phase.DONE: 5,
}  # fmt: skip


@dataclass(eq=False)
class Machine:
    """A machine, and the Node that it is known by."""

    id: str
    name: str
    uid: str
    ready_at: float
    state: Instance = Instance.RUNNING
    gone_at: float = NEVER
    has_node: bool = True
    taints: tuple[Json, ...] = ()
    changes: int = 0
    """Of its taints, so far."""

    @property
    def tainted_by(self) -> str | None:
        return tainted_by(self.taints)

    @property
    def provider_id(self) -> str:
        return f"aws:///zone/{self.id}"


@dataclass(eq=False)
class SimPod:
    """A pod, with what lies in its volume. Steps stand for bytes."""

    uid: str
    job_uid: str = ""
    created: str = ""
    machine: Machine | None = None
    ready_at: float = NEVER
    began: float = NEVER
    restored: int = 0
    step: int = 0
    written: int = 0
    """Step of the newest complete checkpoint in the volume."""
    training: Training = Training.NOT_STARTED
    exit_code: int | None = None
    exited_at: float = NEVER
    phase: str = "Pending"
    counted: bool = False
    deleting_since: float | None = None
    grace_seconds: int = POD_GRACE_SECONDS
    """Of its deletion. A kubelet that has begun to end a pod does not look at it again."""
    told_to_leave_at: float | None = None
    """When the kubelet has begun to end it."""
    ended_by_us: bool = False
    loss_told: bool = False
    """A status said, after this pod was there, that files are lost. That of a suspension goes when the run is resumed."""
    trained_when_told: bool = False
    """The operator that ended it had seen its training run: what came after the proven checkpoint is shipped with the pod's grace, as far as it goes."""
    after_proof: bool = False
    """It replaced another pod while pods were being deleted, on a proven checkpoint from which it went on."""
    proven_first: bool = False
    """It trained when deleting it was decided, on a proven checkpoint: what it made since may be cut off by others, even after it has left."""
    seen: bool = False
    """An operator has seen it train, or that it had."""
    annotations: dict[str, str] = field(default_factory=dict)
    stop: StopRequest | None = None
    stop_at: float = 0
    save: SaveRequest | None = None
    save_at: float = 0
    answered: SaveRequest | None = None
    upload: tuple[SaveRequest | None, int, float] | None = None
    """What it is for, the step that it is of, when it is done."""
    newest_commit: Commit | None = None
    upload_took: float = 0
    """Seconds of its last upload."""
    said: tuple[Any, AgentReport] | None = None
    """What its agent has said last, and about what."""
    gate_open: bool = False

    @property
    def over(self) -> bool:
        return self.phase in ("Succeeded", "Failed")


@dataclass(frozen=True)
class SimJob:
    """The Job of a run, as its controller keeps it."""

    name: str
    uid: str
    run_uid: str
    generation: int = 1
    suspended: bool = False
    backoff_limit: int = 0
    failed: int = 0
    finished: bool = False
    deleting: bool = False
    owned: bool = False


@dataclass(eq=False)
class SimRescue:
    """A rescue Job, with its pod once there is one."""

    uid: str
    termination_id: str
    started_at: float = NEVER
    suspended: bool = True
    generation: int = 1
    pod: SimPod | None = None


@dataclass(eq=False)
class SimRun:
    """A run as the API server has it, and everything that belongs to it."""

    name: str
    cause: str
    created_at: float
    stored: Json
    job: SimJob | None = None
    jobs: int = 0
    pods: list[SimPod] = field(default_factory=list)
    all_pods: list[SimPod] = field(default_factory=list)
    bucket: list[Commit] = field(default_factory=list)
    exists: bool = True
    disruption_budget: str = ""
    """uid of its PodDisruptionBudget; empty: there is none."""
    disruption_budgets: int = 0
    deletes_since: float = NEVER
    """When its stop came to Deleting."""
    changed: int = 0
    """Counts what a watch would tell."""
    rescue: SimRescue | None = None
    rescues: int = 0
    lost: list[tuple[SimPod, int]] = field(default_factory=list)
    """Volumes that went with steps that no sound commit has."""
    _run: tuple[Json, Run] | None = None

    def __post_init__(self) -> None:
        self.uid: str = self.stored["metadata"]["uid"]
        self.layout = layout_of(make_run(name=self.name, uid=self.uid))

    @property
    def run(self) -> Run:
        """As it is stored now."""
        if self._run is None or self._run[0] is not self.stored:
            self._run = (self.stored, Run.of(self.stored))
        return self._run[1]

    @property
    def version(self) -> str:
        return str(self.stored["metadata"]["resourceVersion"])

    @property
    def must_have_job(self) -> SimJob:
        assert self.job is not None
        return self.job

    @property
    def saves(self) -> bool:
        return self.run.spec.checkpoint.mode is not CheckpointMode.DISABLED

    @property
    def settled(self) -> bool:
        stop = self.run.status.termination
        done = stop is not None and stop.phase is Phase.DONE
        goes = self.run.spec.ttl_seconds_after_finished is not None
        return not self.exists or (done and not goes and names.FINALIZER not in self.run.finalizers and not self.pods)

    def find(self, uid: str) -> SimPod | None:
        rescues = [self.rescue.pod] if self.rescue is not None and self.rescue.pod is not None else []
        return next((pod for pod in (*self.pods, *rescues) if pod.uid == uid), None)

    @property
    def in_claim(self) -> int:
        """Step of the newest checkpoint that any pod has written, which a claim keeps."""
        return max((pod.written for pod in self.all_pods), default=0)


class World:
    """Everything but the operators."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.now = 0.0
        self.runs = [self._new_run("bert", scenario.cause, 0.0)]
        if scenario.second_run is not None:
            self.runs.append(self._new_run("gpt", *scenario.second_run))
        self.machines: list[Machine] = []
        self.guest_on: Machine | None = None
        self.guest_came = False
        self.struck: set[str] = set()
        self.deletions: Counter[str] = Counter()
        self.releases: Counter[str] = Counter()
        self.complaints: list[str] = []
        """What must never happen, and did."""

    def _new_run(self, name: str, cause: str, created_at: float) -> SimRun:
        spec: dict[str, Any] = {
            "completion": {"settleSeconds": 20},
            "shutdown": {"graceSeconds": TRAINING_GRACE_SECONDS},
            "stopMode": self.scenario.stop_mode,
            "suspend": self.scenario.suspended[0] <= 0 < self.scenario.suspended[1],
        }
        if self.scenario.claim:
            spec["template"] = with_volume(self.scenario.claim, f"{name}-checkpoints")
        if self.scenario.goes_after is not None:
            spec["ttlSecondsAfterFinished"] = self.scenario.goes_after
        if self.scenario.mode != "Upload":
            spec["checkpoint"] = {"mode": self.scenario.mode}
        elif self.scenario.proceed:
            spec["checkpoint"] = checkpoint_spec(onFailure="Proceed")
        stored = stored_run(spec=spec, name=name, uid=f"{name}-uid", finalizers=[], resourceVersion="1")
        return SimRun(name, cause, created_at, stored)

    # -- the clock that all operators read -----------------------------------------------------------------------

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> str:
        seconds = int(self.now)
        return f"2026-01-02T{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}Z"

    @property
    def settled(self) -> bool:
        return all(sim.settled for sim in self.runs)

    @property
    def calm(self) -> bool:
        """Nothing moves by itself from second to second."""
        return not any(sim.rescue is not None or any(_moves(pod) for pod in sim.pods) for sim in self.runs)

    def during(self, name: str) -> bool:
        """Whether a trouble of the scenario lasts now."""
        start, end = getattr(self.scenario, name)
        return bool(start <= self.now < end)

    def once(self, name: str) -> bool:
        """Whether a trouble of the scenario strikes now: it does so once."""
        at: float = getattr(self.scenario, name)
        return bool(at) and self.now >= at and name not in self.struck

    # -- time --------------------------------------------------------------------------------------------------

    def tick(self, seconds: float = 1.0) -> None:
        """Let time pass."""
        self.now += seconds
        self._people()
        self._guest()
        for machine in self.machines:
            self._cloud(machine)
        for sim in self.runs:
            for pod in list(sim.pods):
                self._kubelet(sim, pod)
            self._job_controller(sim)
            self._rescue(sim)

    def _people(self) -> None:
        for sim in self.runs:
            age = self.now - sim.created_at
            stops_at = {"user stop": 40.0, "user stop while pending": 4.0}.get(sim.cause, NEVER)
            if sim.exists and age >= stops_at and not sim.run.spec.stop:
                self._edit(sim, stop=True)
            suspend = self.scenario.suspended[0] <= age < self.scenario.suspended[1]
            if sim.exists and suspend != bool(sim.run.spec.suspend):
                self._edit(sim, suspend=suspend)
            if (sim.cause == "delete" and age >= 40) or (self.scenario.deleted_at and age >= self.scenario.deleted_at):
                self.delete_run(sim)

    def _edit(self, sim: SimRun, **spec: Any) -> None:
        """A person changes the spec."""
        meta = sim.stored["metadata"]
        self.write(
            sim,
            {
                **sim.stored,
                "metadata": {**meta, "generation": meta["generation"] + 1},
                "spec": {**sim.stored["spec"], **spec},
            },
        )

    def delete_run(self, sim: SimRun) -> None:
        """Somebody deletes it; it goes once it has no finalizer."""
        meta = sim.stored["metadata"]
        if sim.exists and "deletionTimestamp" not in meta:
            self.write(sim, {**sim.stored, "metadata": {**meta, "deletionTimestamp": self.wall()}})
            self.forget_if_free(sim)

    def forget_if_free(self, sim: SimRun) -> None:
        """What is deleted and has no finalizer is gone, and the garbage collector takes its Job if that is owned."""
        meta = sim.stored["metadata"]
        if sim.exists and "deletionTimestamp" in meta and names.FINALIZER not in meta["finalizers"]:
            sim.exists = False
            sim.changed += 1
            if sim.job is not None and sim.job.owned:
                self.delete_job(sim)

    def _guest(self) -> None:
        if self.guest_on is not None and (not self.during("guest") or self.guest_on.state is Instance.GONE):
            self.guest_on = None
        if self.during("guest") and not self.guest_came:
            self.guest_came = True
            self.guest_on = next((machine for machine in self.machines if self._takes_pods(machine)), None)

    def _takes_pods(self, machine: Machine) -> bool:
        return machine.has_node and machine.state is Instance.RUNNING and not machine.tainted_by

    # -- machines ----------------------------------------------------------------------------------------------

    def _cloud(self, machine: Machine) -> None:
        if machine.state is Instance.TERMINATING and self.now >= machine.gone_at:
            self._gone(machine)
        tidies = self.scenario.cloud_tidies
        if machine.state is Instance.GONE and machine.has_node and tidies and self.now >= machine.gone_at + 30:
            machine.has_node = False
        if not machine.has_node:
            # The garbage collector: a pod whose Node is gone.
            for sim in self.runs:
                for pod in [pod for pod in sim.pods if pod.machine is machine and self.now >= machine.gone_at + 20]:
                    self._vanish(sim, pod)

    def _gone(self, machine: Machine) -> None:
        machine.state, machine.gone_at = Instance.GONE, self.now
        if self.guest_on is machine:
            self.guest_on = None

    def node(self, name: str) -> Machine | None:
        """The Node of this name, if there is one."""
        return next((m for m in reversed(self.machines) if m.name == name and m.has_node), None)

    def _schedule(self, sim: SimRun, pod: SimPod) -> None:
        machine = next((m for m in self.machines if self._takes_pods(m)), None)
        if machine is None:
            number = len(self.machines) + 1
            free = [m.name for m in self.machines if self.node(m.name) is None]
            name = free[0] if free and self.scenario.same_name else f"gpu-{number}"
            machine = Machine(f"i-{number}", name, f"node-{number}", self.now + (MACHINE_SECONDS if number > 1 else 0))
            self.machines.append(machine)
        if self.now >= machine.ready_at:
            pod.machine, pod.ready_at = machine, self.now + 3
            sim.changed += 1

    # -- pods --------------------------------------------------------------------------------------------------

    def _kubelet(self, sim: SimRun, pod: SimPod) -> None:
        if self._struck_by_others(sim, pod):
            return
        if pod.machine is None:
            self._schedule(sim, pod)
            return
        if pod.machine.state is Instance.GONE:
            if self.now >= pod.machine.gone_at + EVICTION_SECONDS:
                self.tell_to_go(sim, pod)  # and it stays, Terminating, for as long as its Node does
            return
        if (
            pod.phase == "Pending"
            and pod.deleting_since is None
            and pod.told_to_leave_at is None
            and self.now >= pod.ready_at
        ):
            self._start(sim, pod)
        if pod.training is Training.RUNNING:
            self._train(sim, pod)
        self._agent(sim, pod)
        if pod.told_to_leave_at is not None and not pod.over and self.now >= pod.told_to_leave_at + ENDING_SECONDS:
            self._end_from_outside(sim, pod)
        if pod.training is Training.EXITED and pod.gate_open and not pod.over:
            pod.phase = "Failed" if pod.exit_code else "Succeeded"
            sim.changed += 1
        if pod.deleting_since is not None and self._has_left(sim, pod, pod.deleting_since):
            self._sigterm(sim, pod)
            self._vanish(sim, pod)

    def _has_left(self, sim: SimRun, pod: SimPod, told_at: float) -> bool:
        """Let a deleted pod end as its kubelet does: its training on SIGTERM, then its agent, and what still runs when the grace is over."""
        if pod.over or not (self.scenario.ignores_sigterm or self._saves_slowly):
            return self.now >= told_at + LEAVING_SECONDS
        if self._saves_slowly and pod.training is Training.RUNNING and self.now >= told_at + self.scenario.saves_for:
            self._exit(sim, pod, 143)
        if self.now >= told_at + pod.grace_seconds:
            self._check_grace(sim, pod, told_at)
            return True
        exited = pod.training is not Training.RUNNING
        newest = self.step_of(pod.newest_commit) if pod.newest_commit else pod.restored
        saved = not sim.saves or (pod.upload is None and pod.written <= newest)
        return exited and saved and self.now >= told_at + LEAVING_SECONDS

    @property
    def _saves_slowly(self) -> bool:
        return self.scenario.saves_when_told and self.scenario.saves_for > 0 and not self.scenario.ignores_sigterm

    def _check_grace(self, sim: SimRun, pod: SimPod, told_at: float) -> None:
        """No grace cuts off a save that the training begins on SIGTERM, or its upload."""
        if self.scenario.ignores_sigterm or pod.training is Training.NOT_STARTED:
            return
        if pod.training is Training.RUNNING:
            self.complaints.append(
                f"{sim.name}: {pod.uid} was killed while it saved, {pod.grace_seconds} s after SIGTERM"
            )
        spans = [self.scenario.agent_away, self.scenario.bucket_away]
        away = any(start < self.now and end > told_at for start, end in spans)
        in_time = pod.exited_at <= told_at + TRAINING_GRACE_SECONDS + 1
        if sim.saves and not away and in_time:
            self.complaints.append(f"{sim.name}: {pod.uid} was killed while its last checkpoint was sent")

    def _struck_by_others(self, sim: SimRun, pod: SimPod) -> bool:
        if sim is not self.runs[0] or pod is not sim.pods[-1]:
            return False
        if self.once("evicted_at"):
            self.struck.add("evicted_at")
            self._vanish(sim, pod)
            return True
        if self.once("pod_deleted_at"):
            self.struck.add("pod_deleted_at")
            self.tell_to_go(sim, pod)
            return pod not in sim.pods
        if self.once("told_to_leave_at") and pod.machine is not None and not pod.over:
            self.struck.add("told_to_leave_at")
            pod.told_to_leave_at = self.now
            if pod.training is Training.RUNNING and not self.scenario.ignores_sigterm:
                self._exit(sim, pod, self.scenario.leaves_with)
            sim.changed += 1
        if self.once("orphan_taint_at") and pod.machine is not None and not pod.machine.tainted_by:
            self.struck.add("orphan_taint_at")
            orphan = {"key": names.RELEASING_TAINT, "value": "a-run-that-is-gone", "effect": "NoSchedule"}
            pod.machine.taints, pod.machine.changes = (*pod.machine.taints, orphan), pod.machine.changes + 1
        if self.once("node_lost_at") and pod.machine is not None:
            self.struck.add("node_lost_at")
            self._gone(pod.machine)
        return self._struck_in_deleting(sim, pod)

    def _struck_in_deleting(self, sim: SimRun, pod: SimPod) -> bool:
        if self.scenario.lost_in_deleting is None or "lost_in_deleting" in self.struck or pod.machine is None:
            return False
        how, seconds = self.scenario.lost_in_deleting
        if self.now < sim.deletes_since + seconds:
            return False
        self.struck.add("lost_in_deleting")
        if how == "dies":
            self._gone(pod.machine)
            return False
        self._vanish(sim, pod)
        return True

    def _end_from_outside(self, sim: SimRun, pod: SimPod) -> None:
        """The last container of a pod ends that the kubelet ends without a deletion. Its Job does not count it."""
        self._sigterm(sim, pod)
        if pod.training is Training.RUNNING:
            pod.training, pod.exit_code = Training.EXITED, 137
        pod.phase, pod.counted = "Failed", True
        sim.changed += 1
        if (missing := pod.written - self.covered(sim, pod)) > 0 and sim.saves and not self.scenario.claim:
            sim.lost.append((pod, missing))

    def _start(self, sim: SimRun, pod: SimPod) -> None:
        if sim.cause in ("bad image", "user stop while pending"):
            return
        if sim.saves and self.during("bucket_away"):
            return  # the init container that restores tries on
        there = sim.in_claim if self.scenario.claim else 0
        pod.restored = pod.step = pod.written = max(there, *(self.step_of(c) for c in self.sound(sim)), 0)
        pod.phase, pod.training, pod.began = "Running", Training.RUNNING, self.now
        sim.changed += 1

    def _train(self, sim: SimRun, pod: SimPod) -> None:
        age = self.now - pod.began
        pod.step = pod.restored + int(age // STEP_SECONDS)
        pod.written = max(pod.written, pod.step - pod.step % CHECKPOINT_STEPS)
        if pod.stop is not None and self.now >= pod.stop_at + self.scenario.leaves_after:
            self._exit(sim, pod, self.scenario.leaves_with)
        elif sim.cause == "exit" and age >= 60:
            self._exit(sim, pod, 0)
        elif sim.cause == "crashes" and age >= 45:
            self._exit(sim, pod, 1)

    def _exit(self, sim: SimRun, pod: SimPod, code: int) -> None:
        pod.written = pod.step
        pod.training, pod.exit_code, pod.exited_at = Training.EXITED, code, self.now
        sim.changed += 1

    def _vanish(self, sim: SimRun, pod: SimPod) -> None:
        sim.pods.remove(pod)
        sim.changed += 1
        if not pod.over and sim.job is not None and not sim.job.suspended and not sim.job.finished and not pod.counted:
            sim.job = replace(sim.job, failed=sim.job.failed + 1)
        missing = pod.written - self.covered(sim, pod)
        stop = sim.run.status.termination
        if stop is not None and stop.phase is Phase.DELETING and pod.training is Training.RUNNING:
            # Its checkpoint is proven and it was to go: what the training has made since may be cut off, whoever ends it.
            pod.ended_by_us = pod.trained_when_told = True
        if (
            missing > 0
            and sim.saves
            and not self.scenario.claim
            and not (pod.over and pod.told_to_leave_at is not None)
        ):
            sim.lost.append((pod, missing))

    def tell_to_go(self, sim: SimRun, pod: SimPod, grace_seconds: int | None = None) -> None:
        """Delete a pod, with its grace if anything of it may run, or with another one."""
        if pod.deleting_since is not None:
            return
        pod.deleting_since = self.now
        pod.grace_seconds = pod.grace_seconds if grace_seconds is None else grace_seconds
        reached = pod.machine is not None and pod.machine.state is not Instance.GONE
        at_once = self.scenario.saves_when_told and not (self.scenario.ignores_sigterm or self._saves_slowly)
        if at_once and reached and pod.training is Training.RUNNING:
            pod.written = pod.step
        sim.changed += 1
        if pod.over or pod.machine is None:
            self._vanish(sim, pod)  # the API server waits for no kubelet

    # -- agent and bucket --------------------------------------------------------------------------------------

    @staticmethod
    def step_of(commit: Commit) -> int:
        return commit.checkpoint.step or 0 if commit.checkpoint else 0

    def sound(self, sim: SimRun) -> list[Commit]:
        """Those commits that verify."""
        return [commit for commit in sim.bucket if commit.generation not in self.scenario.spoilt]

    def covered(self, sim: SimRun, pod: SimPod) -> int:
        """The newest step of this volume that the bucket has, whole."""
        return max((self.step_of(c) for c in self.sound(sim) if c.pod_uid == pod.uid), default=pod.restored)

    def _agent(self, sim: SimRun, pod: SimPod) -> None:
        if not sim.saves or pod.over or pod.training is Training.NOT_STARTED:
            return
        if self.during("agent_away") or self.during("bucket_away"):
            pod.upload = None
            return
        if pod.upload is not None:
            asked, step, done_at = pod.upload
            if self.now >= done_at:
                self._commit(sim, pod, asked, step)
            return
        asked = pod.save if pod.save != pod.answered and self.now >= pod.save_at + 1 else None
        wanted = asked is not None and (asked.ended or pod.written)
        committed = self.step_of(pod.newest_commit) if pod.newest_commit else pod.restored
        if wanted or pod.written > committed:
            pod.upload = (asked if wanted else None, pod.written, self.now + self.scenario.upload_seconds)

    def _sigterm(self, sim: SimRun, pod: SimPod) -> None:
        """The agent's last word, with the grace that the pod has: it is final, also if nothing was written since the last commit.

        Behind a training that ignores SIGTERM little of the grace is left.
        """
        away = self.during("agent_away") or self.during("bucket_away") or not sim.saves
        newest = pod.newest_commit
        said = newest is not None and newest.final and pod.written <= self.covered(sim, pod)
        behind = self.scenario.ignores_sigterm and pod.training is Training.RUNNING
        late = behind and self.scenario.upload_seconds > LAST_SECONDS and pod.written > self.covered(sim, pod)
        if not away and pod.training is not Training.NOT_STARTED and not said and not late:
            self._commit(sim, pod, SaveRequest(id="", attempt=0, ended=True), pod.written)

    def _commit(self, sim: SimRun, pod: SimPod, asked: SaveRequest | None, step: int) -> None:
        found = Checkpoint(dir=f"checkpoint-{step}", step=step, complete=True, evidence="written") if step else None
        pod.newest_commit = Commit(
            run=RunRef(namespace=NAMESPACE, name=sim.name, uid=sim.run.uid),
            incarnation=sim.all_pods.index(pod) + 1 if pod in sim.all_pods else len(sim.all_pods) + sim.rescues,
            generation=len(sim.bucket),
            reason="save" if asked else "checkpoint",
            termination_id=asked.id if asked else None,
            attempt=asked.attempt if asked else 0,
            final=bool(asked and asked.ended),
            checkpoint=found,
            pod_uid=pod.uid,
            total_files=3 if step else 0,
        )
        sim.bucket.append(pod.newest_commit)
        pod.upload, pod.answered = None, asked or pod.answered
        pod.upload_took = self.scenario.upload_seconds

    # -- Job ---------------------------------------------------------------------------------------------------

    def _job_controller(self, sim: SimRun) -> None:
        job = sim.job
        if job is None or job.finished:
            return
        if job.suspended:
            for pod in list(sim.pods):
                if not pod.over:
                    self.tell_to_go(sim, pod)
            return
        over = [pod for pod in sim.pods if pod.over]
        failed = job.failed
        for pod in over:
            if not pod.counted:
                failed += pod.phase == "Failed"
                pod.counted = True
        finished = any(pod.phase == "Succeeded" for pod in over) or failed > job.backoff_limit
        if failed != job.failed or finished:
            sim.job = replace(job, failed=failed, finished=finished)
            sim.changed += 1
        if not finished and len(over) == len(sim.pods):
            pod = SimPod(f"{sim.name}-pod-{len(sim.all_pods) + 1}", job.uid, self.wall())
            stop = sim.run.status.termination
            pod.after_proof = stop is not None and stop.phase is Phase.DELETING and stop.saved is not None
            sim.pods.append(pod)
            sim.all_pods.append(pod)
            sim.changed += 1

    def delete_job(self, sim: SimRun) -> None:
        sim.job = None
        sim.changed += 1
        for pod in list(sim.pods):
            self.tell_to_go(sim, pod)

    def _rescue(self, sim: SimRun) -> None:
        """The rescue Job makes a pod, whose agent saves what lies in the claim."""
        rescue = sim.rescue
        if rescue is None:
            return
        if rescue.pod is None and self.now >= rescue.started_at + 3:
            rescue.pod = SimPod(f"{rescue.uid}-pod", rescue.uid, self.wall(), phase="Running", training=Training.EXITED)
            sim.changed += 1
        if rescue.pod is not None:
            rescue.pod.written = sim.in_claim
            self._agent(sim, rescue.pod)

    def create_rescue(self, sim: SimRun, manifest: Json) -> None:
        """Store the rescue Job; one that is not suspended starts at once."""
        sim.rescues += 1
        labels = manifest["metadata"]["labels"]
        sim.rescue = SimRescue(f"{sim.name}-rescue-{sim.rescues}", labels[names.RESCUE_LABEL])
        sim.changed += 1
        if not manifest["spec"].get("suspend"):
            self.start_rescue(sim)
        pod = manifest["spec"]["template"]["spec"]
        if "gpu" in str(pod["containers"]) or any(not mount.get("readOnly") for mount in _of_claim(pod)):
            self.complaints.append(f"{sim.name}: a rescue wants a GPU, or writes to the claim")
        bound = "affinity" in pod and "'In'" in str(pod["affinity"])
        here = [
            m.id for m in self.machines if m.state is Instance.RUNNING and any(p.machine is m for p in sim.all_pods)
        ]
        if self.scenario.claim in ("shared", "network") and here and not self._release_may_wait(sim):
            self.complaints.append(f"{sim.name}: a rescue begins before {', '.join(here)} is released")
        if self.scenario.claim in ("disk", "folder") and not bound:
            self.complaints.append(f"{sim.name}: a rescue may run where the disk is not")

    def start_rescue(self, sim: SimRun) -> None:
        """Let the rescue Job make its pod; complain if its stop is over, or if a GPU is still in use."""
        assert sim.rescue is not None
        sim.rescue.suspended, sim.rescue.started_at = False, self.now
        sim.rescue.generation += 1
        sim.changed += 1
        stop = sim.run.status.termination
        if stop is None or stop.id != sim.rescue.termination_id or ORDER[stop.phase] > ORDER[Phase.DELETING]:
            self.complaints.append(f"{sim.name}: the rescue of {sim.rescue.termination_id} begins after that is over")
        busy = [
            pod.uid
            for pod in sim.pods
            if not pod.over and (pod.machine is None or pod.machine.state is Instance.RUNNING)
        ]
        if busy:
            self.complaints.append(f"{sim.name}: a rescue begins while {', '.join(busy)} may use a GPU")

    def _release_may_wait(self, sim: SimRun) -> bool:
        """Whether others keep a node from being released, or it has had its time."""
        stop = sim.run.status.termination
        hours, minutes, seconds = (int(part) for part in (stop.phase_at if stop else self.wall())[11:19].split(":"))
        return (
            self.now - (hours * 3600 + minutes * 60 + seconds) >= RELEASE_SECONDS
            or any(getattr(self.scenario, name) != (0, 0) for name in ("guest", "cloud_away", "api_away"))
            or len(self.runs) > 1
        )

    # -- what an operator does -----------------------------------------------------------------------------------

    def write(self, sim: SimRun, after: Json) -> None:
        """Store another version of a run; what the schema's transition rules forbid is complained of."""
        before = sim.run.status
        meta = {**after["metadata"], "resourceVersion": str(int(sim.version) + 1)}
        sim.stored = {**after, "metadata": meta}
        sim.changed += 1
        self._check(sim, before, sim.run.status)

    def create_job(self, sim: SimRun, manifest: Json) -> None:
        sim.jobs += 1
        uid, limit = f"{sim.name}-job-{sim.jobs}", manifest["spec"]["backoffLimit"]
        sim.job = SimJob(manifest["metadata"]["name"], uid, sim.uid, backoff_limit=limit)
        sim.changed += 1

    def change_job(self, sim: SimRun, **fields: Any) -> None:
        sim.job = replace(sim.must_have_job, **fields)
        sim.changed += 1

    def annotate(self, sim: SimRun, pod: SimPod, key: str, value: str) -> None:
        """Tell agent and gate something. The kubelet projects nothing any more into a pod that is being deleted."""
        pod.annotations[key] = value
        sim.changed += 1
        if pod.deleting_since is not None:
            return
        match key:
            case names.STOP_ANNOTATION:
                pod.stop_at = self.now if pod.stop is None else pod.stop_at
                pod.stop = StopRequest.model_validate_json(value)
            case names.SAVE_ANNOTATION:
                pod.save, pod.save_at = SaveRequest.model_validate_json(value), self.now
            case names.OPEN_GATE_ANNOTATION:
                pod.gate_open = True
            case names.NUDGE_ANNOTATION:
                pass
            case _:
                raise AssertionError(key)

    def machine(self, provider_id: str) -> Machine:
        return next(machine for machine in self.machines if machine.provider_id == provider_id)

    def release(self, provider_id: str) -> None:
        """Terminate a machine; nothing if it is on its way out already."""
        machine = self.machine(provider_id)
        if machine.state is not Instance.RUNNING:
            return
        self.releases[machine.id] += 1
        machine.state, machine.gone_at = Instance.TERMINATING, self.now + MACHINE_SECONDS
        pods = [pod.uid for sim in self.runs for pod in sim.pods if pod.machine is machine and not pod.over]
        pods += ["the guest"] if self.guest_on is machine else []
        if pods:
            self.complaints.append(f"machine {machine.id} was released with {', '.join(pods)} on it")

    def _check(self, sim: SimRun, before: TrainingRunStatus, after: TrainingRunStatus) -> None:
        was, stop = before.termination, after.termination
        rested = was is not None and was.suspends and was.phase is Phase.DONE
        if stop == was or (stop is None and (was is None or rested)):
            return
        if stop is None:
            self.complaints.append(f"{sim.name}: the stop was forgotten")
            return
        if (
            not rested
            and was is not None
            and (
                (stop.id, stop.status, stop.message) != (was.id, was.status, was.message)
                or ORDER[stop.phase] < ORDER[was.phase]
            )
        ):
            self.complaints.append(f"{sim.name}: {was.status} in {was.phase} became {stop.status} in {stop.phase}")
        if stop.data_loss:
            for pod in sim.all_pods:
                pod.loss_told = True
        if stop.phase is Phase.DELETING and was is not None and was.saved != stop.saved:
            self._check_record(sim, stop)
        if stop.phase is Phase.DELETING and (was is None or was.phase is not Phase.DELETING):
            self._check_record(sim, stop)
            sim.deletes_since = self.now
            for pod in sim.pods:
                pod.proven_first = pod.training is Training.RUNNING

    def _check_record(self, sim: SimRun, stop: Termination) -> None:
        """I1: what deletion rests on is a commit that verifies, or words about why there is none."""
        keys = {sim.layout.commit(commit.order) for commit in self.sound(sim)}
        if stop.saved is None or not (stop.saved.commit in keys or (not stop.saved.commit and stop.saved.note)):
            self.complaints.append(f"{sim.name}: deletes without a proven checkpoint: {stop.saved}")

    # -- what is left ------------------------------------------------------------------------------------------

    def lost_bytes(self) -> int:
        """Bytes that no verified commit has: gone by our doing, or gone by themselves without a word in the status."""
        in_pods = sum(missing * STEP_BYTES for sim in self.runs for pod, missing in sim.lost if self._counts(sim, pod))
        return in_pods + sum(self._left_in_claim(sim) * STEP_BYTES for sim in self.runs)

    def _left_in_claim(self, sim: SimRun) -> int:
        """Steps that only a claim has, and no word tells of them."""
        last = max(sim.all_pods, key=lambda pod: pod.written, default=None)
        if not self.scenario.claim or not sim.saves or last is None or last.loss_told:
            return 0
        return 0 if not last.seen else max(0, sim.in_claim - max((self.step_of(c) for c in self.sound(sim)), default=0))

    def _counts(self, sim: SimRun, pod: SimPod) -> bool:
        told = pod.loss_told
        went_on = any(
            later.training is not Training.NOT_STARTED for later in sim.all_pods[sim.all_pods.index(pod) + 1 :]
        )
        if pod.ended_by_us:
            # A person may give up bytes (Proceed); what a training makes after its checkpoint was proven may be cut off, and is given up for a broken bucket.
            given_up = told and (pod.proven_first or pod.after_proof or self.scenario.proceed)
            return not (pod.trained_when_told or given_up or (self.scenario.proceed and went_on))
        # Of a pod that lived and went while nobody looked, after the final commit of another, no trace is left.
        traceless = not pod.seen and any(commit.final for commit in sim.bucket)
        return not (told or went_on or pod.proven_first or traceless)

    def look_back(self) -> None:
        """Complain about whatever must not be left behind."""
        for sim in self.runs:
            if sim.pods:
                self.complaints.append(f"{sim.name}: pods are left: {[pod.uid for pod in sim.pods]}")
            if (not sim.exists and sim.job is not None) or sim.rescue is not None:
                self.complaints.append(f"{sim.name}: is over, and a Job is left")
            for node in sim.run.status.nodes:
                machine = next(m for m in self.machines if m.uid == node.uid)
                if node.phase is NodePhase.RELEASED and (machine.state is not Instance.GONE or machine.has_node):
                    self.complaints.append(f"{sim.name}: says that {node.name} is released, but it is not")
                if node.phase not in SETTLED:
                    self.complaints.append(f"{sim.name}: ends with node {node.name} in {node.phase}")
        recorded = {node.uid for sim in self.runs for node in sim.run.status.nodes}
        for machine in self.machines:
            if machine.uid in recorded and machine.state is Instance.RUNNING:
                self.complaints.append(f"machine {machine.id} still runs, and nobody uses it")
            if machine.tainted_by and machine.state is Instance.RUNNING:
                self.complaints.append(f"node {machine.name} keeps the taint of {machine.tainted_by}")


INLINE: Final = {
    "network": {"nfs": {"server": "nfs.example", "path": "/exports"}},
    "folder": {"hostPath": {"path": "/data"}},
}
"""Volumes that the template itself has."""


def with_volume(kind: str, claim: str) -> Json:
    """A pod template with the checkpoints in a volume that outlives its pods."""
    source = INLINE.get(kind) or {"persistentVolumeClaim": {"claimName": claim}}
    made = template(volumes=[{"name": "data", **source}])
    made["spec"]["containers"][0]["volumeMounts"] = [{"name": "data", "mountPath": "/checkpoints"}]
    return made


def _of_claim(pod: Json) -> list[Json]:
    kinds = {"persistentVolumeClaim", "nfs", "hostPath"}
    claims = {volume["name"] for volume in pod["volumes"] if kinds.intersection(volume)}
    assert claims
    mounts = [mount for container in pod["containers"] for mount in container["volumeMounts"]]
    return [mount for mount in mounts if mount["name"] in claims]


def _moves(pod: SimPod) -> bool:
    if pod.machine is None or pod.machine.state is Instance.GONE:
        return False
    ending = pod.deleting_since is not None or (pod.gate_open and not pod.over)
    return ending or pod.training is Training.RUNNING or pod.upload is not None
