"""Does what was decided, in order. Every write is refused by the API server if the run is no longer what the decision was made from."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, assert_never

from trainingrun_operator.api import names
from trainingrun_operator.core.effects import (
    AddFinalizer,
    AdoptJob,
    Advance,
    Annotate,
    Begin,
    CreateJob,
    DeleteJob,
    DeleteNode,
    DeletePod,
    EndReplacements,
    RecordNodes,
    ReleaseMachine,
    RemoveFinalizer,
    SuspendJob,
    TaintNode,
    Tell,
    UntaintNode,
)
from trainingrun_operator.edge.kube import KubeError
from trainingrun_operator.edge.nodes import ProviderError, provider_for
from trainingrun_operator.edge.preflight import REFUSED, refused_job

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trainingrun_operator.core.effects import Effect
    from trainingrun_operator.core.observed import Observed, Run
    from trainingrun_operator.edge.cache import Cache
    from trainingrun_operator.edge.kube import Kube
    from trainingrun_operator.edge.memory import Memory

Json = dict[str, Any]

log = logging.getLogger(__name__)


class StaleError(Exception):
    """Something is not what it was when it was looked at: look again, decide again."""


@dataclass(frozen=True)
class Executor:
    """Knows everyone who can be told."""

    kube: Kube
    cache: Cache

    async def execute(self, seen: Observed, effects: Sequence[Effect], memory: Memory) -> Json | None:
        """Do each effect in order. Returns the run as the last write left it, if one was made.

        Raises:
            StaleError: a precondition failed; nothing after it was done.
            KubeError: the API server refused or could not be reached; nothing after it was done.
        """
        written: Json | None = None
        run = seen.run
        for effect in effects:
            try:
                written = await self._do(run, effect, memory, seen.wall) or written
            except KubeError as error:
                if error.conflict or error.gone:
                    raise StaleError(f"{type(effect).__name__}: {error}") from error
                raise
        return written

    async def _do(self, run: Run, effect: Effect, memory: Memory, wall: str) -> Json | None:  # noqa: C901, PLR0912 - one short arm per effect
        kube, space = self.kube, run.namespace
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
            case Begin(termination):
                return await kube.patch_run_status(
                    space, run.name, [*_unchanged(run), *_begin(run, termination.dump(), termination.status)]
                )
            case Advance():
                return await kube.patch_run_status(space, run.name, _advance(run, effect, wall))
            case RecordNodes(nodes):
                operations = [
                    *_unchanged(run),
                    *_status_exists(run),
                    {"op": "add", "path": "/status/nodes", "value": [node.dump() for node in nodes]},
                ]
                return await kube.patch_run_status(space, run.name, operations)
            case CreateJob(manifest):
                await self._create_job(manifest, memory)
            case AdoptJob(uid):
                await kube.patch_job(
                    space, names.job_name(run.name), uid, {"metadata": {"ownerReferences": [_owner(run)]}}
                )
            case EndReplacements(uid):
                await kube.patch_job(space, names.job_name(run.name), uid, {"spec": {"backoffLimit": 0}})
            case SuspendJob(uid):
                await kube.patch_job(space, names.job_name(run.name), uid, {"spec": {"suspend": True}})
            case DeleteJob(name, uid):
                await kube.delete_job(space, name, uid)
            case Annotate(pod, uid, key, value):
                await kube.annotate_pod(space, pod, uid, key, value)
            case DeletePod(name, uid):
                await kube.delete_pod(space, name, uid)
            case TaintNode(name, uid):
                await self._taint(name, uid, run.uid)
            case UntaintNode(name, uid):
                await self._taint(name, uid, None, only=run.uid)
            case ReleaseMachine(pool, provider_id):
                await self._release(pool, provider_id, memory)
            case DeleteNode(name, uid):
                await kube.delete_node(name, uid)
            case Tell(reason, message, warning):
                try:
                    await kube.tell(_reference(run), reason, message, warning=warning, wall=wall)
                except KubeError as error:
                    # The word about a deed is not the deed: a namespace that is being deleted takes no event any more.
                    log.warning("%s: could not tell %s: %s", run.key, reason, error)
            case _ as never:  # pragma: no cover - mypy proves that there is no other effect
                assert_never(never)
        return None

    async def _create_job(self, manifest: Json, memory: Memory) -> None:
        """Create the Job; ours already being there is success."""
        try:
            created = await self.kube.create_job(manifest)
        except KubeError as error:
            if error.status in REFUSED:
                memory.problem = refused_job(error)
            if error.exists:
                raise StaleError(error.message) from error
            raise
        self.cache.put_child("Job", created, deleted=False)

    async def _taint(self, name: str, uid: str, owner: str | None, *, only: str | None = None) -> None:
        """Set, or take back, our taint on the Node as it was read just now; taints of others stay as they are."""
        node = await self.kube.node(name)
        if node is None or node["metadata"]["uid"] != uid:
            raise StaleError(f"node {name} is not the one that was looked at")
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
        if wanted != taints:
            await self.kube.set_taints(name, uid, node["metadata"]["resourceVersion"], wanted)

    async def _release(self, pool_name: str, provider_id: str, memory: Memory) -> None:
        pool = self.cache.pools.get(pool_name)
        if pool is None:
            return
        try:
            await provider_for(pool).release(pool, provider_id)
            memory.provider_said.pop(provider_id, None)
        except ProviderError as error:
            memory.provider_said[provider_id] = str(error)


# -- operations ---------------------------------------------------------------------------------------------------


def _unchanged(run: Run) -> list[Json]:
    """Refuse unless the run is exactly as it was read."""
    return [
        {"op": "test", "path": "/metadata/uid", "value": run.uid},
        {"op": "test", "path": "/metadata/resourceVersion", "value": run.resource_version},
    ]


def _status_exists(run: Run) -> list[Json]:
    """A JSON patch cannot write below a parent that is not there."""
    return [] if run.has_status else [{"op": "add", "path": "/status", "value": {}}]


def _begin(run: Run, termination: Json, status: str) -> list[Json]:
    return [
        *_status_exists(run),
        {"op": "add", "path": "/status/termination", "value": termination},
        {"op": "add", "path": "/status/terminationStatus", "value": status},
    ]


def _advance(run: Run, advance: Advance, wall: str) -> list[Json]:
    """Refuse unless the stop is still where it was: what else changed in the run does not matter."""
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


def _owner(run: Run) -> Json:
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.RUN_KIND,
        "name": run.name,
        "uid": run.uid,
        "controller": False,
        "blockOwnerDeletion": False,
    }


def _reference(run: Run) -> Json:
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.RUN_KIND,
        "namespace": run.namespace,
        "name": run.name,
        "uid": run.uid,
    }
