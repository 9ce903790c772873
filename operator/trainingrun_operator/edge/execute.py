"""Executes the effects of a decision, in order. The API server refuses a write if the run has changed since the decision."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, assert_never

from trainingrun_operator.api import names
from trainingrun_operator.api.status import Phase
from trainingrun_operator.core.effects import (
    AddFinalizer,
    AdoptWorkload,
    Advance,
    Annotate,
    Begin,
    CreateDisruptionBudget,
    CreateRescue,
    CreateWorkload,
    DeleteDisruptionBudget,
    DeleteNode,
    DeletePod,
    DeleteRescue,
    DeleteRun,
    DeleteWorkload,
    EndReplacements,
    RecordEvent,
    RecordNodes,
    ReleaseMachine,
    RemoveFinalizer,
    Resume,
    ResumeWorkload,
    StartRescue,
    SuspendWorkload,
    TaintNode,
    UntaintNode,
)
from trainingrun_operator.core.facts.learned import DisruptionBudgetChanged, JobRefused, ProviderAnswered, RescueRefused
from trainingrun_operator.core.facts.nodes import NodeRef
from trainingrun_operator.edge.cache import waits_for_rescue
from trainingrun_operator.edge.gather.preflight import REFUSED, refused_job
from trainingrun_operator.edge.kube import KubeError
from trainingrun_operator.edge.nodes.provider import ProviderError
from trainingrun_operator.edge.workloads import Workloads

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from trainingrun_operator.api.status import Termination
    from trainingrun_operator.core.effects import Effect
    from trainingrun_operator.core.facts.learned import Learned
    from trainingrun_operator.core.facts.run import Run
    from trainingrun_operator.core.observed import Observed
    from trainingrun_operator.edge.cache import Cache
    from trainingrun_operator.edge.ports import Providers, Writes

Json = dict[str, Any]

NAMESPACE_ENDS: Final = "NamespaceTerminating"
"""Cause with which the API server refuses new objects in a namespace that is being deleted."""

log = logging.getLogger(__name__)


class StaleError(Exception):
    """An object has changed since it was observed: observe and decide again."""


class NotLeadingError(Exception):
    """Another process may lead now, so the effect is not done."""


class _JobRefusedError(Exception):
    def __init__(self, error: KubeError) -> None:
        super().__init__(str(error))
        self.error = error


@dataclass(frozen=True)
class Outcome:
    """The outcome of a decision's effects."""

    written: Json | None = None
    """The run after the last write; None: there was no write."""
    learned: tuple[Learned, ...] = ()
    stopped: StaleError | KubeError | NotLeadingError | None = None
    """Why execution stopped: a failed precondition, an error of the API server, or a lost Lease."""


@dataclass(frozen=True)
class Executor:
    """Executes effects."""

    kube: Writes
    cache: Cache
    leads: Callable[[], bool]
    """Whether this process leads, checked before each effect: it may have been frozen between two effects."""
    providers: Providers

    @cached_property
    def _workloads(self) -> Workloads:
        return Workloads(self.kube)

    def check_leads(self) -> None:
        """Raise NotLeadingError unless this process leads."""
        if not self.leads():
            raise NotLeadingError

    async def execute(self, seen: Observed, effects: Sequence[Effect]) -> Outcome:
        """Do each effect in order, until one fails."""
        written: Json | None = None
        learned: list[Learned] = []
        for effect in effects:
            try:
                self.check_leads()
                done = await self._do(seen.run, effect, seen.wall)
            except (StaleError, NotLeadingError) as error:
                return Outcome(written, tuple(learned), error)
            except _JobRefusedError as refused:
                learned.append(JobRefused(refused_job(refused.error)))
                return Outcome(written, tuple(learned), _stopped(effect, refused.error))
            except KubeError as error:
                return Outcome(written, tuple(learned), _stopped(effect, error))
            if isinstance(done, dict):
                written = done
            elif done is not None:
                learned.append(done)
        return Outcome(written, tuple(learned))

    async def _do(self, run: Run, effect: Effect, wall: str) -> Json | Learned | None:  # noqa: C901, PLR0912 - one short arm per effect
        kube, space, workload = self.kube, run.namespace, self._workloads.of(run)
        match effect:
            case AddFinalizer():
                operations = [
                    *_unchanged(run),
                    {"op": "add", "path": "/metadata/finalizers", "value": [*run.finalizers, names.FINALIZER]},
                ]
                return await kube.patch_run(space, run.name, operations)
            case RemoveFinalizer():
                left = [finalizer for finalizer in run.finalizers if finalizer != names.FINALIZER]
                return await kube.patch_run(
                    space,
                    run.name,
                    [*_unchanged(run), {"op": "replace", "path": "/metadata/finalizers", "value": left}],
                )
            case DeleteRun():
                await kube.delete_run(space, run.name, run.uid, run.resource_version)
            case Begin(termination):
                return await kube.patch_run_status(space, run.name, [*_unchanged(run), *_begin(run, termination)])
            case Advance():
                return await kube.patch_run_status(space, run.name, _advance(run, effect, wall))
            case Resume():
                return await kube.patch_run_status(space, run.name, _resume(run, effect))
            case RecordNodes(nodes):
                operations = [
                    *_unchanged(run),
                    *_status_exists(run),
                    {"op": "add", "path": "/status/nodes", "value": [node.dump() for node in nodes]},
                ]
                return await kube.patch_run_status(space, run.name, operations)
            case CreateWorkload(manifest):
                await self._create_workload(run, manifest)
            case AdoptWorkload(uid):
                await workload.adopt(run, uid)
            case EndReplacements(uid):
                await workload.end_replacements(run, uid)
            case SuspendWorkload(uid, generation):
                await workload.suspend(run, uid, generation)
            case ResumeWorkload(uid, generation):
                await workload.resume(run, uid, generation)
            case DeleteWorkload(name, uid):
                await workload.delete(run, name, uid)
            case Annotate(pod, uid, key, value):
                await kube.annotate_pod(space, pod, uid, key, value)
            case DeletePod(name, uid, grace_seconds):
                await kube.delete_pod(space, name, uid, grace_seconds)
            case CreateRescue():
                return await self._create_rescue(run, effect)
            case StartRescue(name, uid, generation):
                await kube.suspend_job(space, name, uid, generation, suspend=False)
            case DeleteRescue(name, uid):
                await kube.delete_job(space, name, uid)
            case CreateDisruptionBudget() | DeleteDisruptionBudget():
                return await self._guard(space, effect)
            case TaintNode(name, uid):
                await self._taint(name, uid, run.uid)
            case UntaintNode(name, uid, orphan_of):
                await self._taint(name, uid, None, only=orphan_of or run.uid)
            case ReleaseMachine():
                return await self._release(effect)
            case DeleteNode(name, uid):
                await kube.delete_node(name, uid)
            case RecordEvent():
                await self._record_event(run, effect, wall)
            case _ as never:  # pragma: no cover - mypy proves that there is no other effect
                assert_never(never)
        return None

    async def _create_workload(self, run: Run, manifest: Json) -> None:
        """Create the workload, and delete it if the run is gone: a create has no precondition on the run."""
        workload = self._workloads.of(run)
        try:
            created = await workload.create(manifest)
        except KubeError as error:
            if error.exists:
                raise StaleError(error.message) from error
            if error.status in REFUSED:
                raise _JobRefusedError(error) from error
            raise
        there = await self.kube.run(run.namespace, run.name)
        if there is None or there["metadata"]["uid"] != run.uid:
            await workload.delete(run, created["metadata"]["name"], created["metadata"]["uid"])
            raise StaleError(f"run {run.key} was gone when its workload was created")
        self.cache.put_child(manifest["kind"], created, deleted=False)

    async def _create_rescue(self, run: Run, effect: CreateRescue) -> RescueRefused | None:
        """Create the rescue Job, suspended, and delete it if its stop does not wait for it any more: a create has no precondition on the run."""
        try:
            created = await self.kube.create_job(effect.manifest)
        except KubeError as error:
            if error.exists:
                raise StaleError(error.message) from error
            if error.status in REFUSED:
                return RescueRefused(error.message)
            raise
        there = await self.kube.run(run.namespace, run.name)
        if not _waits_for_rescue(there, run.uid, effect.termination_id):
            meta = created["metadata"]
            await self.kube.delete_job(run.namespace, meta["name"], meta["uid"])
            raise StaleError(f"run {run.key} did not wait for its rescue when the Job was created")
        return None

    async def _record_event(self, run: Run, event: RecordEvent, wall: str) -> None:
        """Record an Event. A failure is only logged: an Event must not block an effect."""
        try:
            await self.kube.record_event(
                names.run_reference(run.namespace, run.name, run.uid),
                event.reason,
                event.message,
                warning=event.warning,
                wall=wall,
            )
        except KubeError as error:
            log.warning("%s: cannot record Event %s: %s", run.key, event.reason, error)
            if event.reason == "DataLoss" and any(cause.get("reason") == NAMESPACE_ENDS for cause in error.causes):
                await self._record_outside(run, event, wall)

    async def _record_outside(self, run: Run, event: RecordEvent, wall: str) -> None:
        """Record a data loss on the Namespace object: a namespace that is being deleted accepts no Events."""
        namespace = {"apiVersion": "v1", "kind": "Namespace", "name": run.namespace}
        message = f"TrainingRun {run.key}: {event.message}"
        try:
            await self.kube.record_event(namespace, event.reason, message, warning=True, wall=wall)
        except KubeError as error:
            log.warning("%s: cannot record Event %s on the Namespace: %s", run.key, event.reason, error)

    async def _guard(
        self, namespace: str, effect: CreateDisruptionBudget | DeleteDisruptionBudget
    ) -> DisruptionBudgetChanged:
        """Create or delete the disruption budget. A failure is only logged: it must not block other effects."""
        try:
            match effect:
                case CreateDisruptionBudget(manifest):
                    return DisruptionBudgetChanged(
                        (await self.kube.create_disruption_budget(manifest))["metadata"]["uid"]
                    )
                case DeleteDisruptionBudget(name, uid):
                    await self.kube.delete_disruption_budget(namespace, name, uid)
                    return DisruptionBudgetChanged("")
        except KubeError as error:
            log.warning("%s: %s: %s", namespace, type(effect).__name__, error)
            return DisruptionBudgetChanged(None)

    async def _taint(self, name: str, uid: str, owner: str | None, *, only: str | None = None) -> None:
        """Set or remove our taint on the Node; other taints stay."""
        node = await self.kube.node(name)
        if node is None or node["metadata"]["uid"] != uid:
            raise StaleError(f"node {name} has another uid than the observed one")
        taints = list(node["spec"].get("taints") or ())
        ours = [taint for taint in taints if taint["key"] == names.RELEASING_TAINT]
        if ours and ours[0].get("value") != (only or owner):
            raise StaleError(f"node {name} is being released by run {ours[0].get('value')}")
        others = [taint for taint in taints if taint["key"] != names.RELEASING_TAINT]
        wanted = (
            others
            if owner is None
            else [*others, {"key": names.RELEASING_TAINT, "value": owner, "effect": "NoSchedule"}]
        )
        # A process frozen before the read must not write; one frozen after it fails on the resourceVersion.
        self.check_leads()
        if wanted != taints:
            await self.kube.set_taints(name, uid, node["metadata"]["resourceVersion"], wanted)

    async def _release(self, effect: ReleaseMachine) -> ProviderAnswered | None:
        pool = self.cache.pools.get(effect.pool)
        if pool is None:
            return None
        node = NodeRef(effect.node, effect.node_uid, effect.provider_id)
        try:
            await self.providers(pool).release(pool, node, effect.operation)
        except ProviderError as error:
            return ProviderAnswered(effect.provider_id, error.refusal)
        return ProviderAnswered(effect.provider_id)


def _waits_for_rescue(stored: Json | None, run_uid: str, termination_id: str) -> bool:
    """Whether a stored run is in the phases of the stop in which a rescue Job saves."""
    stop = ((stored or {}).get("status") or {}).get("termination") or {}
    if stored is None or stored["metadata"]["uid"] != run_uid:
        return False
    return bool(stop.get("id") == termination_id and waits_for_rescue(stop))


def _stopped(effect: Effect, error: KubeError) -> StaleError | KubeError:
    """Return StaleError if the error means that an object has changed, else the error."""
    if not (error.conflict or error.gone):
        return error
    stale = StaleError(f"{type(effect).__name__}: {error}")
    stale.__cause__ = error
    return stale


# -- operations ---------------------------------------------------------------------------------------------------


def _unchanged(run: Run) -> list[Json]:
    """Precondition: the run is exactly as it was read."""
    return [
        {"op": "test", "path": "/metadata/uid", "value": run.uid},
        {"op": "test", "path": "/metadata/resourceVersion", "value": run.resource_version},
    ]


def _status_exists(run: Run) -> list[Json]:
    """Create ``status`` first if it is missing: a JSON patch needs the parent."""
    return [] if run.has_status else [{"op": "add", "path": "/status", "value": {}}]


def _begin(run: Run, termination: Termination) -> list[Json]:
    status = {"op": "add", "path": "/status/terminationStatus", "value": termination.status}
    return [
        *_status_exists(run),
        {"op": "add", "path": "/status/termination", "value": termination.dump()},
        *([] if termination.suspends else [status]),
    ]


def _resume(run: Run, effect: Resume) -> list[Json]:
    """Remove the suspension if its id matches and it is done."""
    return [
        {"op": "test", "path": "/metadata/uid", "value": run.uid},
        {"op": "test", "path": "/status/termination/id", "value": effect.id},
        {"op": "test", "path": "/status/termination/phase", "value": Phase.DONE.value},
        {"op": "remove", "path": "/status/termination"},
        {"op": "add", "path": "/status/nodes", "value": [node.dump() for node in effect.nodes]},
    ]


def _advance(run: Run, advance: Advance, wall: str) -> list[Json]:
    """Write the phase if the stop's id, phase and attempt are unchanged; other changes of the run do not matter."""
    operations: list[Json] = [
        {"op": "test", "path": "/metadata/uid", "value": run.uid},
        {"op": "test", "path": "/status/termination/id", "value": advance.termination.id},
        {"op": "test", "path": "/status/termination/phase", "value": advance.was_phase.value},
        {"op": "test", "path": "/status/termination/attempt", "value": advance.was_attempt},
        {"op": "replace", "path": "/status/termination", "value": advance.termination.dump()},
    ]
    if advance.completion:
        operations.append({"op": "add", "path": "/status/completionTime", "value": wall})
    return operations
