"""The edge of the small world: API server, bucket, pod pages and cloud, as one operator reaches them.

Implements the Protocols of `edge/ports.py` and `edge/nodes/provider.py`. Every call fails while what it asks is away. Every write is announced before it
is done and after, by the kind of effect that it is: there a fault may strike.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from builders import make_agent, make_found, make_reading
from chaos.objects import (
    FailedTestError,
    patched,
    stored_claim,
    stored_guest,
    stored_job,
    stored_node,
    stored_pod,
    stored_rescue,
    stored_rescue_pod,
    stored_volume,
    tainted_by,
)
from chaos.world import STEP_BYTES, World

from trainingrun_operator.api import names
from trainingrun_operator.api.exchange import AgentReport, CommitSeen, MarkerSeen, Upload
from trainingrun_operator.checkpoints.s3 import Listed
from trainingrun_operator.core.facts.bucket import Mismatch, Unreachable, Verified
from trainingrun_operator.core.facts.nodes import Instance
from trainingrun_operator.core.facts.pod import Training
from trainingrun_operator.core.facts.reading import Failure
from trainingrun_operator.core.status import WRITTEN_BY_THE_STOP
from trainingrun_operator.edge.kube import KubeError
from trainingrun_operator.edge.nodes.provider import Retryable
from trainingrun_operator.edge.ports import LogPiece

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from chaos.world import SimPod, SimRun

    from trainingrun_operator.checkpoints.documents import Commit
    from trainingrun_operator.checkpoints.keys import Layout
    from trainingrun_operator.checkpoints.s3 import Access
    from trainingrun_operator.core.facts.nodes import NodeRef, Pool
    from trainingrun_operator.core.facts.pod import Pod
    from trainingrun_operator.core.facts.reading import Reading
    from trainingrun_operator.core.facts.run import Run

Json = dict[str, Any]
T = TypeVar("T")

SECRET = {names.ACCESS_KEY: b"key", names.SECRET_KEY: b"secret"}
POOL = {
    "metadata": {"name": "a100"},
    "spec": {"nodeSelector": {"pool": "a100"}, "awsAutoScaling": {"region": "us-east-1", "groups": ["gpu-a100"]}},
}
RESCUE = "-rescue"
AWAY = Unreachable("Unreachable", "The bucket does not answer.")


class ApiServer:
    """Answers as `edge/kube.py` does."""

    def __init__(self, world: World, strike: Callable[[str, str], Awaitable[None]]) -> None:
        self.world = world
        self.strike = strike
        self.shown: dict[str, Training] = {}
        """By pod uid, where its training stood when this operator saw it last."""

    # -- reading -------------------------------------------------------------------------------------------------

    def reach(self) -> None:
        if self.world.during("api_away"):
            raise KubeError(0, "Unreachable", "the API server does not answer")

    def show(self, sim: SimRun, pod: SimPod) -> Json:
        """A pod, which this operator has seen from now on."""
        pod.seen = pod.seen or pod.training is not Training.NOT_STARTED
        self.shown[pod.uid] = pod.training
        return stored_pod(sim, pod, self.world.scenario.trace)

    async def run(self, namespace: str, name: str) -> Json | None:
        self.reach()
        sim = self._sim(name)
        return sim.stored if sim.exists else None

    async def runs(self, selector: str = "", namespace: str = "") -> AsyncIterator[Json]:
        self.reach()
        for sim in self.world.runs:
            if sim.exists:
                yield sim.stored

    async def pods_of(self, namespace: str, run_uid: str) -> list[Json]:
        self.reach()
        rescues = [stored_rescue_pod(sim) for sim in self.world.runs if sim.uid == run_uid]
        own = [self.show(sim, pod) for sim in self.world.runs if sim.uid == run_uid for pod in sim.pods]
        return [*own, *(pod for pod in rescues if pod is not None)]

    async def job(self, namespace: str, name: str) -> Json | None:
        self.reach()
        if name.endswith(RESCUE):
            return stored_rescue(self._sim(name.removesuffix(RESCUE)))
        return stored_job(self._sim(name))

    async def claim(self, namespace: str, name: str) -> Json | None:
        self.reach()
        kind = self.world.scenario.claim
        return stored_claim(self._sim(name.removesuffix("-checkpoints")), kind, name) if kind else None

    async def volume(self, name: str) -> Json | None:
        self.reach()
        return stored_volume(self._sim(name.removesuffix("-volume")), self.world.scenario.claim)

    async def disruption_budget(self, namespace: str, name: str) -> Json | None:
        self.reach()
        sim = self._sim(name.removesuffix("-checkpoint"))
        labels = names.child_labels(sim.name, sim.uid)
        return (
            {"metadata": {"name": name, "uid": sim.disruption_budget, "labels": labels}}
            if sim.disruption_budget
            else None
        )

    async def secret(self, namespace: str, name: str) -> dict[str, bytes]:
        self.reach()
        return SECRET

    async def log_tail(self, namespace: str, name: str, container: str, *, lines: int, most_bytes: int) -> str | None:
        return None if self.world.during("api_away") else "CUDA out of memory"

    async def log_new(
        self,
        namespace: str,
        name: str,
        container: str,
        *,
        since_seconds: int | None,
        lines: int,
        most_bytes: int,
        stamped: bool = False,
    ) -> LogPiece:
        self.reach()
        return LogPiece(b"", cut=False, behind=False)

    async def namespace_labels(self, name: str) -> dict[str, str]:
        self.reach()
        return {}

    async def namespace_ends(self, name: str) -> bool:
        self.reach()
        return False

    async def node(self, name: str) -> Json | None:
        self.reach()
        machine = self.world.node(name)
        return stored_node(machine, self.world.now) if machine is not None else None

    async def pods_on(self, node: str) -> list[Json]:
        self.reach()
        guest = self.world.guest_on
        there = self._pods(lambda pod: pod.machine is not None and pod.machine.name == node)
        return [*([stored_guest(guest)] if guest is not None and guest.name == node else []), *there]

    async def pending_pods(self) -> list[Json]:
        self.reach()
        return self._pods(lambda pod: pod.machine is None)

    async def pools(self) -> list[Json]:
        self.reach()
        return [POOL]

    def _pods(self, wanted: Callable[[SimPod], bool]) -> list[Json]:
        return [
            stored_pod(sim, pod, self.world.scenario.trace)
            for sim in self.world.runs
            for pod in sim.pods
            if wanted(pod)
        ]

    def _sim(self, name: str) -> SimRun:
        return next(sim for sim in self.world.runs if sim.name == name)

    # -- the run -------------------------------------------------------------------------------------------------

    async def patch_run(self, namespace: str, name: str, operations: Sequence[Json]) -> Json:
        adds = any(names.FINALIZER in one["value"] for one in operations if one["path"] == "/metadata/finalizers")
        effect = "AddFinalizer" if adds else "RemoveFinalizer"
        return await self._write(effect, lambda: self._patch(self._sim(name), operations))

    async def patch_run_status(self, namespace: str, name: str, operations: Sequence[Json]) -> Json:
        doings = {one["path"]: one["op"] for one in operations if one["op"] != "test"}
        kinds = {"add": "Begin", "replace": "Advance", "remove": "Resume", None: "RecordNodes"}
        effect = kinds[doings.get("/status/termination")]
        return await self._write(effect, lambda: self._patch(self._sim(name), operations))

    async def apply_run_status(self, namespace: str, name: str, uid: str, resource_version: str, status: Json) -> Json:
        def apply() -> Json:
            sim = self._existing(name)
            if (uid, resource_version) != (sim.uid, sim.version):
                raise KubeError(409, "Conflict", "the object has been modified")
            kept = {k: v for k, v in sim.stored.get("status", {}).items() if k in WRITTEN_BY_THE_STOP}
            self.world.write(sim, {**sim.stored, "status": status | kept})
            return sim.stored

        return await self._write("status", apply)

    async def delete_run(self, namespace: str, name: str, uid: str, resource_version: str) -> None:
        def delete() -> None:
            sim = self._sim(name)
            if not sim.exists or sim.uid != uid:
                return
            if sim.version != resource_version:
                raise KubeError(409, "Conflict", "the object has been modified")
            self.world.delete_run(sim)

        await self._write("DeleteRun", delete)

    async def record_event(self, involved: Json, reason: str, message: str, *, warning: bool, wall: str) -> None:
        await self._write("RecordEvent", lambda: None)

    def _patch(self, sim: SimRun, operations: Sequence[Json]) -> Json:
        sim = self._existing(sim.name)
        try:
            self.world.write(sim, patched(sim.stored, operations))
        except FailedTestError as error:
            raise KubeError(422, "Invalid", str(error)) from error
        self.world.forget_if_free(sim)
        return sim.stored

    def _existing(self, name: str) -> SimRun:
        sim = self._sim(name)
        if not sim.exists:
            raise KubeError(404, "NotFound", f"run {name} is gone")
        return sim

    # -- Job, pods and budget ------------------------------------------------------------------------------------

    async def create_job(self, manifest: Json, *, dry_run: bool = False) -> Json:
        def create() -> Json:
            sim = self._sim(manifest["metadata"]["name"])
            if sim.job is not None:
                raise KubeError(409, "AlreadyExists", "there is such a Job")
            if dry_run:
                return manifest
            self.world.create_job(sim, manifest)
            made = stored_job(sim)
            assert made is not None
            return made

        def rescue() -> Json:
            sim = self._sim(manifest["metadata"]["name"].removesuffix(RESCUE))
            if sim.rescue is not None:
                raise KubeError(409, "AlreadyExists", "there is such a Job")
            self.world.create_rescue(sim, manifest)
            return stored_rescue(sim) or {}

        if dry_run:
            self.reach()
            return create()
        if manifest["metadata"]["name"].endswith(RESCUE):
            return await self._write("CreateRescue", rescue)
        return await self._write("CreateWorkload", create)

    async def patch_job(self, namespace: str, name: str, uid: str, patch: Json) -> Json:
        effect = "AdoptWorkload" if "ownerReferences" in patch.get("metadata", {}) else "EndReplacements"

        def change() -> Json:
            job = self._job(name, uid)
            if effect == "AdoptWorkload":
                self.world.change_job(job, owned=True)
            else:
                limit = patch["spec"]["backoffLimit"]
                self.world.change_job(job, backoff_limit=limit, generation=job.must_have_job.generation + 1)
            return stored_job(job) or {}

        return await self._write(effect, change)

    async def suspend_job(self, namespace: str, name: str, uid: str, generation: int, *, suspend: bool) -> Json:
        def start() -> Json:
            sim = self._sim(name.removesuffix(RESCUE))
            if sim.rescue is None:
                raise KubeError(404, "NotFound", f"Job {name} is gone")
            if (sim.rescue.uid, sim.rescue.generation) != (uid, generation):
                raise KubeError(422, "Invalid", "testing /metadata/uid or /metadata/generation failed")
            self.world.start_rescue(sim)
            return stored_rescue(sim) or {}

        if name.endswith(RESCUE):
            return await self._write("StartRescue", start)

        def change() -> Json:
            sim = self._job(name, uid)
            if sim.must_have_job.generation != generation:
                raise KubeError(422, "Invalid", "testing /metadata/generation failed")
            self.world.change_job(sim, suspended=suspend, generation=generation + 1)
            if suspend:
                for pod in sim.pods:
                    if not pod.over and pod.deleting_since is None:
                        self._ended_by_us(pod)
                        self.world.deletions[pod.uid] += 1
            return stored_job(sim) or {}

        return await self._write("SuspendWorkload" if suspend else "ResumeWorkload", change)

    async def delete_job(self, namespace: str, name: str, uid: str) -> None:
        def delete() -> None:
            sim = self._sim(name)
            if sim.job is not None and sim.job.uid == uid:
                self.world.delete_job(sim)

        def end() -> None:
            sim = self._sim(name.removesuffix(RESCUE))
            if sim.rescue is not None and sim.rescue.uid == uid:
                sim.rescue = None
                sim.changed += 1

        if name.endswith(RESCUE):
            await self._write("DeleteRescue", end)
        else:
            await self._write("DeleteWorkload", delete)

    async def annotate_pod(self, namespace: str, name: str, uid: str, key: str, value: str) -> None:
        def annotate() -> None:
            sim, pod = self._pod(uid)
            if pod is None:
                raise KubeError(404, "NotFound", f"pod {name} is gone")
            self.world.annotate(sim, pod, key, value)
            if key == names.OPEN_GATE_ANNOTATION:
                self._ended_by_us(pod)

        await self._write("Annotate", annotate)

    async def delete_pod(self, namespace: str, name: str, uid: str, grace_seconds: int | None = None) -> None:
        def delete() -> None:
            sim, pod = self._pod(uid)
            if pod is not None and pod.deleting_since is None:
                self._ended_by_us(pod)
                self.world.tell_to_go(sim, pod, grace_seconds)
                if pod.told_to_leave_at is None:
                    self.world.deletions[uid] += 1

        await self._write("DeletePod", delete)

    async def create_disruption_budget(self, manifest: Json) -> Json:
        def create() -> Json:
            sim = self._sim(manifest["metadata"]["name"].removesuffix("-checkpoint"))
            if sim.disruption_budget:
                raise KubeError(409, "AlreadyExists", "there is such a budget")
            sim.disruption_budgets += 1
            sim.disruption_budget = f"{sim.name}-budget-{sim.disruption_budgets}"
            return {"metadata": {"uid": sim.disruption_budget}}

        return await self._write("CreateDisruptionBudget", create)

    async def delete_disruption_budget(self, namespace: str, name: str, uid: str) -> None:
        def delete() -> None:
            sim = self._sim(name.removesuffix("-checkpoint"))
            sim.disruption_budget = "" if sim.disruption_budget == uid else sim.disruption_budget

        await self._write("DeleteDisruptionBudget", delete)

    def _job(self, name: str, uid: str) -> SimRun:
        sim = self._sim(name)
        if sim.job is None:
            raise KubeError(404, "NotFound", f"Job {name} is gone")
        if sim.job.uid != uid:
            raise KubeError(422, "Invalid", "another uid", [{"field": "metadata.uid"}])
        return sim

    def _pod(self, uid: str) -> tuple[SimRun, SimPod | None]:
        found = ((sim, pod) for sim in self.world.runs if (pod := sim.find(uid)) is not None)
        return next(found, (self.world.runs[0], None))

    def _ended_by_us(self, pod: SimPod) -> None:
        if pod.machine is not None and pod.machine.state is Instance.GONE:
            return  # its volume was lost before
        if pod.told_to_leave_at is not None:
            return
        pod.ended_by_us = True
        pod.trained_when_told = self.shown.get(pod.uid) is Training.RUNNING

    # -- nodes ---------------------------------------------------------------------------------------------------

    async def set_taints(self, name: str, uid: str, resource_version: str, taints: Sequence[Json]) -> None:
        def taint() -> None:
            machine = self.world.node(name)
            if machine is None or machine.uid != uid:
                raise KubeError(404, "NotFound", f"Node {name} is gone")
            if str(machine.changes) != resource_version:
                raise KubeError(409, "Conflict", "the object has been modified")
            machine.taints, machine.changes = tuple(taints), machine.changes + 1

        await self._write("TaintNode" if tainted_by(taints) is not None else "UntaintNode", taint)

    async def delete_node(self, name: str, uid: str) -> None:
        def delete() -> None:
            machine = self.world.node(name)
            if machine is None or machine.uid != uid:
                return
            if machine.state is not Instance.GONE:
                self.world.complaints.append(f"Node {name} was deleted while its machine is {machine.state}")
            machine.has_node = False

        await self._write("DeleteNode", delete)

    async def _write(self, effect: str, do: Callable[[], T]) -> T:
        await self.strike("before", effect)
        self.reach()
        done = do()
        await self.strike("after", effect)
        return done


class Pages:
    """What pods serve, as `edge/gather/pages.py` reads it."""

    def __init__(self, world: World) -> None:
        self.world = world

    async def report(self, pod: Pod) -> AgentReport | None:
        sim, there = self._serving(pod)
        return None if there is None or self.world.during("agent_away") else _report(sim, there)

    async def poll(self, run: Run, pod: Pod) -> tuple[AgentReport | None, Reading | Failure]:
        return await self.report(pod), self._reading(pod)

    def _reading(self, pod: Pod) -> Reading | Failure:
        sim, there = self._serving(pod)
        if there is None or there.training is not Training.RUNNING:
            return Failure("Timeout", "The pod does not answer.")
        low = sim.cause == "low loss" and there.step >= 8
        return make_reading(loss=(0.3 if low else 2.0) - there.step / 1e6, step=float(there.step))

    def _serving(self, pod: Pod) -> tuple[SimRun, SimPod | None]:
        found = ((sim, there) for sim in self.world.runs if (there := sim.find(pod.uid)) is not None)
        sim, there = next(found, (self.world.runs[0], None))
        if there is not None and sim.rescue is not None and there is sim.rescue.pod:
            return sim, there
        dead = there is None or there.machine is None or there.machine.state is Instance.GONE or there.over
        return sim, None if dead or there is None or there.training is Training.NOT_STARTED else there


class Bucket:
    """The runs' buckets, as `edge/gather/store.py` proves them."""

    def __init__(self, world: World) -> None:
        self.world = world

    async def probe(self, access: Access, layout: Layout) -> Unreachable | None:
        return AWAY if self.world.during("bucket_away") else None

    async def ages(self, access: Access, layout: Layout, prefix: str) -> Listed | Unreachable:
        return AWAY if self.world.during("bucket_away") else Listed((), more=False)

    async def verify(self, access: Access, layout: Layout, commit_key: str) -> Verified | Mismatch | Unreachable:
        if self.world.during("bucket_away"):
            return AWAY
        return self._proof(layout, next(c for c in self._commits(layout) if layout.commit(c.order) == commit_key))

    async def find(
        self,
        access: Access,
        layout: Layout,
        wanted: Callable[[Commit], bool],
        *,
        depth: int = 8,
        max_age_seconds: float = 300,
        fall_back: bool = False,
    ) -> Verified | Mismatch | Unreachable | None:
        if self.world.during("bucket_away"):
            return AWAY
        complaint: Mismatch | None = None
        for commit in sorted(filter(wanted, self._commits(layout)), key=lambda c: c.order, reverse=True):
            found = self._proof(layout, commit)
            if isinstance(found, Verified) or not fall_back:
                return found
            complaint = complaint or found
        return complaint

    def _commits(self, layout: Layout) -> list[Commit]:
        return next(sim.bucket for sim in self.world.runs if sim.layout == layout)

    def _proof(self, layout: Layout, commit: Commit) -> Verified | Mismatch:
        key = layout.commit(commit.order)
        if commit.generation in self.world.scenario.spoilt:
            return Mismatch(key, "a byte is wrong", commit.termination_id, commit.attempt)
        return Verified(key, f"sha256-{commit.generation}", f"s3://bucket/{key}", commit)


class Cloud:
    """Where the machines are, as a provider answers."""

    def __init__(self, world: World, strike: Callable[[str, str], Awaitable[None]]) -> None:
        self.world, self.strike = world, strike

    async def instance(self, pool: Pool, node: NodeRef) -> Instance:
        self._reach()
        return self.world.machine(node.provider_id).state

    async def at_minimum(self, pool: Pool, node: NodeRef) -> bool:
        self._reach()
        return False

    async def release(self, pool: Pool, node: NodeRef, operation: str) -> None:
        try:
            await self.strike("before", "ReleaseMachine")
            self._reach()
            self.world.release(node.provider_id)
            await self.strike("after", "ReleaseMachine")
        except KubeError as error:
            raise Retryable(str(error)) from error

    async def close(self) -> None:
        """Nothing was opened."""

    def _reach(self) -> None:
        if self.world.during("cloud_away"):
            raise Retryable("Throttling")


def _report(sim: SimRun, pod: SimPod) -> AgentReport:
    """What the agent says. It says the same until something has changed in its volume."""
    commit = pod.newest_commit
    marked = sim.cause == "marker" and pod.step >= 8
    about = (pod.written, commit, marked)
    if pod.said is None or pod.said[0] != about:
        pod.said = (about, _made(sim, pod, commit, marked=marked))
    return pod.said[1]


def _made(sim: SimRun, pod: SimPod, commit: Commit | None, *, marked: bool) -> AgentReport:
    return make_agent(
        pod_uid=pod.uid,
        unsaved_bytes=(pod.written - (World.step_of(commit) if commit else pod.restored)) * STEP_BYTES,
        newest=make_found(step=pod.written, dir=f"checkpoint-{pod.written}", bytes=STEP_BYTES) if pod.written else None,
        files=3 if pod.written else 0,
        temporary_files=0,
        uploads=(Upload(incarnation=1, generation=1, bytes=STEP_BYTES, seconds=pod.upload_took),) if commit else (),
        markers=(MarkerSeen(name="done", age_seconds=1),) if marked else (),
        commit=CommitSeen(
            key=sim.layout.commit(commit.order),
            incarnation=commit.incarnation,
            generation=commit.generation,
            step=World.step_of(commit),
        )
        if commit
        else None,
    )
