"""What the watches have brought: raw objects by kind. A cache: whatever deletion hangs on is read again."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from pydantic import ValidationError

from trainingrun_operator.api import names
from trainingrun_operator.api.pool import GPUNodePoolSpec
from trainingrun_operator.api.run import NodePoolPolicy
from trainingrun_operator.api.status import Phase
from trainingrun_operator.core.facts.nodes import Pool

if TYPE_CHECKING:
    from collections.abc import Mapping

Json = dict[str, Any]

log = logging.getLogger(__name__)

_PAST_HANDOVER: Final = frozenset({Phase.RELEASING.value, Phase.DONE.value})


@dataclass
class Cache:
    """Filled by the controller's event handlers, and by whoever has read or written something newer."""

    runs: dict[str, Json] = field(default_factory=dict)
    """By uid."""
    pods: dict[str, dict[str, Json]] = field(default_factory=dict)
    """By the run's uid, then by the pod's."""
    jobs: dict[str, Json] = field(default_factory=dict)
    """By the run's uid."""
    pools: dict[str, Pool] = field(default_factory=dict)
    """By name."""
    pools_at: float = float("-inf")
    """When all pools were last listed: before that, one that is not here may be there all the same."""

    def put_run(self, stored: Json) -> bool:
        """Keep a run unless what is kept is newer. Returns whether it was."""
        uid = stored["metadata"]["uid"]
        known = self.runs.get(uid)
        if known is not None and version(stored) < version(known):
            return False
        self.runs[uid] = _slim(stored)
        return True

    def put_child(self, kind: str, stored: Json, *, deleted: bool) -> str | None:
        """Keep, or forget, a pod or Job. Returns the uid of the run that it belongs to."""
        run_uid: str | None = (stored["metadata"].get("labels") or {}).get(names.RUN_UID_LABEL)
        if run_uid is None:
            return None
        if kind == "Job":
            if not self._names_its_run(stored, run_uid):
                return None
            if deleted:
                self.jobs.pop(run_uid, None)
            else:
                self.jobs[run_uid] = stored
            return run_uid
        pods = self.pods.setdefault(run_uid, {})
        if deleted:
            pods.pop(stored["metadata"]["uid"], None)
        else:
            pods[stored["metadata"]["uid"]] = stored
        return run_uid

    def _names_its_run(self, job: Json, run_uid: str) -> bool:
        """A label is anybody's to write: a Job elsewhere, or of another name, must not stand in for the run's own."""
        run = self.runs.get(run_uid)
        if run is None:
            return True
        meta, owner = job["metadata"], run["metadata"]
        return bool(meta["namespace"] == owner["namespace"] and meta["name"] == names.job_name(owner["name"]))

    def put_children(self, run_uid: str, pods: list[Json], job: Json | None) -> None:
        """Replace what is known of a run's pods and Job by what the API server says."""
        self.pods[run_uid] = {pod["metadata"]["uid"]: pod for pod in pods}
        self.jobs.pop(run_uid, None)
        if job is not None:
            self.put_child("Job", job, deleted=False)

    def put_pool(self, stored: Json, *, deleted: bool) -> None:
        """Keep, or forget, a pool."""
        if deleted:
            self.pools.pop(stored["metadata"]["name"], None)
        elif (pool := _pool(stored)) is not None:
            self.pools[pool.name] = pool

    def put_pools(self, listed: list[Json], now: float) -> None:
        """Replace what is known of all pools by what the API server says at `now`; one that is not understood stays as it was known."""
        known = {stored["metadata"]["name"]: _pool(stored) for stored in listed}
        kept = ((name, pool or self.pools.get(name)) for name, pool in known.items())
        self.pools, self.pools_at = {name: pool for name, pool in kept if pool is not None}, now

    def forget_run(self, uid: str) -> None:
        """The run and everything of it is gone."""
        for kept in (self.runs, self.pods, self.jobs):
            kept.pop(uid, None)

    def ending_runs(self) -> frozenset[str]:
        """UIDs of runs that will not release a node from now on: releasing already, done, or told never to."""
        return frozenset(uid for uid, run in self.runs.items() if _releases_no_more(run))


def _pool(stored: Json) -> Pool | None:
    """None, and said: a pool that this version does not understand must not keep other pools from being used."""
    name = stored["metadata"]["name"]
    try:
        return Pool(name, GPUNodePoolSpec.parse(stored["spec"]))
    except ValidationError as error:
        log.error("GPUNodePool %s is not understood: %s", name, error.errors(include_url=False)[:3])  # noqa: TRY400 - the trace says nothing more
        return None


def _releases_no_more(run: Mapping[str, Any]) -> bool:
    phase = ((run.get("status") or {}).get("termination") or {}).get("phase")
    policy = (run["spec"].get("nodePool") or {}).get("policy")
    return phase in _PAST_HANDOVER or policy == NodePoolPolicy.NEVER.value


def version(stored: Mapping[str, Any]) -> int:
    """An object's resourceVersion: comparable as a number between versions of one object."""
    return int(stored["metadata"].get("resourceVersion") or 0)


def _slim(stored: Json) -> Json:
    """Without what is only of interest to the API server, but for who asked for something by hand."""
    meta = dict(stored["metadata"])
    meta["managedFields"] = [e for e in meta.get("managedFields") or () if _is_a_persons_word(e.get("fieldsV1") or {})]
    return {**stored, "metadata": meta}


def _is_a_persons_word(fields: Json) -> bool:
    """Whether a manager's entry speaks of what a person asked for by hand: its manager is the actor."""
    annotations = (fields.get("f:metadata") or {}).get("f:annotations") or {}
    by_hand = {"f:stop", "f:suspend"} & (fields.get("f:spec") or {}).keys()
    return bool(by_hand) or f"f:{names.ABANDON_RELEASE_ANNOTATION}" in annotations
