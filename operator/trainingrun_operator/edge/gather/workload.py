"""A run's Job, its pods, and the budget that keeps them from being evicted, as the API server or the watch has them."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from trainingrun_operator.api import names
from trainingrun_operator.core import manifests
from trainingrun_operator.core.facts.pod import Pod
from trainingrun_operator.core.facts.workload import Job
from trainingrun_operator.edge.kube import KubeError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trainingrun_operator.core.facts.run import Run
    from trainingrun_operator.core.observed import Observed
    from trainingrun_operator.edge.cache import Cache
    from trainingrun_operator.edge.ports import Reads

Json = dict[str, Any]
Children = tuple[tuple[Pod, ...], Job | None]

log = logging.getLogger(__name__)


def watched(run: Run, cache: Cache) -> Children:
    """Return pods and Job as the watches have brought them."""
    return _own(run, list(cache.pods.get(run.uid, {}).values()), cache.jobs.get(run.uid))


async def read(kube: Reads, run: Run, cache: Cache) -> Children:
    """Return pods and Job as the API server itself has them."""
    pods, job = await _read(kube, run)
    cache.put_children(run.uid, pods, job)
    return _own(run, pods, job)


async def confirms(kube: Reads, seen: Observed, cache: Cache) -> bool:
    """Whether pods and Job are, in the API server itself, what a decision to end the run was made from."""
    pods, job = await _read(kube, seen.run)
    if _gist(*_own(seen.run, pods, job)) == _gist(seen.pods, seen.job):
        return True
    # An event was missed, or is still on its way: the next look must not see the same again.
    cache.put_children(seen.run.uid, pods, job)
    return False


async def budget(kube: Reads, run: Run) -> str | None:
    """Return the budget's uid; empty if there is none of ours; None if it cannot be read, which nothing else may wait for."""
    try:
        found = await kube.budget(run.namespace, manifests.budget_name(run.name))
    except KubeError as error:
        log.warning("%s: the disruption budget cannot be read: %s", run.key, error)
        return None
    ours = found is not None and (found["metadata"].get("labels") or {}).get(names.RUN_UID_LABEL) == run.uid
    return found["metadata"]["uid"] if found and ours else ""


async def _read(kube: Reads, run: Run) -> tuple[list[Json], Json | None]:
    return await asyncio.gather(kube.pods_of(run.namespace, run.uid), kube.job(run.namespace, names.job_name(run.name)))


def _own(run: Run, pods: list[Json], stored: Json | None) -> Children:
    """The run's Job, and the pods that this Job owns, oldest first: a label is anybody's to write."""
    job = Job.of(stored) if stored else None
    job = job if job is not None and job.run_uid == run.uid else None
    owners = {job.uid if job else None, run.status.workload.uid if run.status.workload else None} - {None}
    owned = [pod for pod in pods if _owners(pod) & owners and pod["metadata"]["namespace"] == run.namespace]
    owned.sort(key=lambda pod: (pod["metadata"].get("creationTimestamp", ""), pod["metadata"]["name"]))
    return tuple(Pod.of(pod) for pod in owned), job


def _owners(pod: Json) -> set[str]:
    return {owner["uid"] for owner in pod["metadata"].get("ownerReferences") or ()}


def _gist(pods: Sequence[Pod], job: Job | None) -> tuple[object, ...]:
    return (job.uid if job else None, *((pod.uid, pod.ip, pod.training, pod.exit_code) for pod in pods))
