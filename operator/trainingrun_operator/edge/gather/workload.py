"""Reads of a run's workload, pods and disruption budget, from the API server or the watch."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from trainingrun_operator.api import names
from trainingrun_operator.core import manifests
from trainingrun_operator.core.facts.pod import Pod
from trainingrun_operator.edge.kube import KubeError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trainingrun_operator.core.facts.run import Run
    from trainingrun_operator.core.facts.workload import Workload
    from trainingrun_operator.core.observed import Observed
    from trainingrun_operator.edge.cache import Cache
    from trainingrun_operator.edge.ports import Reads
    from trainingrun_operator.edge.workloads.adapter import WorkloadAdapter

Json = dict[str, Any]
Children = tuple[tuple[Pod, ...], "Workload | None"]

log = logging.getLogger(__name__)


def watched(adapter: WorkloadAdapter, run: Run, cache: Cache) -> Children:
    """Return pods and workload from the watch."""
    return _own(adapter, run, list(cache.pods.get(run.uid, {}).values()), cache.jobs.get(run.uid))


async def read(kube: Reads, adapter: WorkloadAdapter, run: Run, cache: Cache) -> Children:
    """Return pods and workload from the API server."""
    pods, stored = await _read(kube, adapter, run)
    cache.put_children(run.uid, pods, stored)
    return _own(adapter, run, pods, stored)


async def confirms(kube: Reads, adapter: WorkloadAdapter, seen: Observed, cache: Cache) -> bool:
    """Return whether the API server still has the pods and workload of a decision to end the run."""
    pods, stored = await _read(kube, adapter, seen.run)
    if _gist(*_own(adapter, seen.run, pods, stored)) == _gist(seen.pods, seen.workload):
        return True
    # A watch event is missing or late: update the cache for the next look.
    cache.put_children(seen.run.uid, pods, stored)
    return False


async def disruption_budget(kube: Reads, run: Run) -> str | None:
    """Return the budget's uid; empty: there is none of this run; None: it cannot be read, which blocks nothing else."""
    try:
        found = await kube.disruption_budget(run.namespace, manifests.disruption_budget_name(run.name))
    except KubeError as error:
        log.warning("%s: the disruption budget cannot be read: %s", run.key, error)
        return None
    ours = found is not None and (found["metadata"].get("labels") or {}).get(names.RUN_UID_LABEL) == run.uid
    return found["metadata"]["uid"] if found and ours else ""


async def _read(kube: Reads, adapter: WorkloadAdapter, run: Run) -> tuple[list[Json], Json | None]:
    return await asyncio.gather(kube.pods_of(run.namespace, run.uid), adapter.read(run))


def _own(adapter: WorkloadAdapter, run: Run, pods: list[Json], stored: Json | None) -> Children:
    """Return the run's workload and its pods, by rank, oldest first. Ownership decides: any user can write the label."""
    found = adapter.of(stored) if stored else None
    workload = found if found is not None and found.run_uid == run.uid else None
    owners = {workload.uid if workload else None, run.status.workload.uid if run.status.workload else None} - {None}
    owned = [pod for pod in pods if _owners(pod) & owners and pod["metadata"]["namespace"] == run.namespace]
    owned.sort(key=lambda pod: (pod["metadata"].get("creationTimestamp", ""), pod["metadata"]["name"]))
    # Without pods nothing is known of the template yet: it may be one that is refused.
    container = manifests.main_container(run.spec) if owned else ""
    own = (Pod.of(pod, container=container, rank=adapter.rank_of(pod)) for pod in owned)
    return tuple(sorted(own, key=lambda pod: pod.rank)), workload


def _owners(pod: Json) -> set[str]:
    return {owner["uid"] for owner in pod["metadata"].get("ownerReferences") or ()}


def _gist(pods: Sequence[Pod], workload: Workload | None) -> tuple[object, ...]:
    return (
        workload.uid if workload else None,
        *((pod.uid, pod.ip, pod.training, pod.exit_code, pod.result, pod.told_to_leave) for pod in pods),
    )
