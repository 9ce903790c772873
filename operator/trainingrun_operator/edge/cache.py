"""Cache of watched objects. Objects that decide a deletion are read again from the API server."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from pydantic import ValidationError

from trainingrun_operator.api import names
from trainingrun_operator.api.pool import GPUNodePoolSpec
from trainingrun_operator.api.run import NodePoolPolicy
from trainingrun_operator.api.status import NodePhase, Phase
from trainingrun_operator.api.template import Template
from trainingrun_operator.core.facts.nodes import Pool
from trainingrun_operator.core.stop.requests import SAVING
from trainingrun_operator.edge.listed import Listed

if TYPE_CHECKING:
    from collections.abc import Mapping

Json = dict[str, Any]

log = logging.getLogger(__name__)

_KEPT_BY_PODS: Final = frozenset({NodePhase.IN_USE.value, NodePhase.WAIT_IDLE.value, NodePhase.CORDONED.value})
_READ_METADATA: Final = frozenset(
    {
        "annotations",
        "creationTimestamp",
        "deletionTimestamp",
        "finalizers",
        "generation",
        "labels",
        "name",
        "namespace",
        "ownerReferences",
        "resourceVersion",
        "uid",
    }
)
_READ_KEYS: Final = (f"{names.GROUP}/", names.KUEUE_QUEUE_LABEL)
"""Beginnings of the labels and annotations of a run that are read."""
_ASKED: Final = ("f:stop", "f:suspend")
_CONTAINERS: Final = frozenset({"containers", "initContainers", "ephemeralContainers"})
_READ_CONTAINER: Final = (
    "name",
    "image",
    "resources",
    "restartPolicy",
    "restartPolicyRules",
    "terminationMessagePolicy",
    "volumeMounts",
)
_READ_SPEC: Final = _CONTAINERS | {
    "backoffLimit",
    "completionMode",
    "completions",
    "hostNetwork",
    "nodeName",
    "parallelism",
    "restartPolicy",
    "suspend",
    "terminationGracePeriodSeconds",
}
"""Fields of pods and Jobs."""
_PAST_HANDOVER: Final = frozenset({Phase.RELEASING.value, Phase.DONE.value})


@dataclass
class Cache:
    """Filled by the watches and by newer reads and writes."""

    runs: dict[str, Json] = field(default_factory=dict)
    """By uid."""
    pods: dict[str, dict[str, Json]] = field(default_factory=dict)
    """By the run's uid, then by the pod's."""
    jobs: dict[str, Json] = field(default_factory=dict)
    """By the run's uid."""
    pools: dict[str, Pool] = field(default_factory=dict)
    """By name."""
    pools_at: float = float("-inf")
    """Time of the last list of all pools; before the first, the cache may lack existing pools."""
    listed: Listed = field(default_factory=Listed)
    """Whether the watch's first lists have brought all pods and Jobs."""

    def put_run(self, stored: Json) -> bool:
        """Store a run unless the cached one is newer. Returns whether it was stored."""
        uid = stored["metadata"]["uid"]
        known = self.runs.get(uid)
        if known is not None and version(stored) < version(known):
            return False
        self.runs[uid] = _slim(stored, known)
        return True

    def put_child(self, kind: str, stored: Json, *, deleted: bool) -> str | None:
        """Store or remove a pod, or the workload that owns the pods. Returns the uid of its run; None: it has none."""
        run_uid: str | None = (stored["metadata"].get("labels") or {}).get(names.RUN_UID_LABEL)
        if run_uid is None:
            return None
        if kind != "Pod":
            if not self._names_its_run(stored, run_uid):
                return None
            if deleted:
                self.jobs.pop(run_uid, None)
            else:
                self.jobs[run_uid] = _slim_child(stored)
            return run_uid
        pods = self.pods.setdefault(run_uid, {})
        if deleted:
            pods.pop(stored["metadata"]["uid"], None)
        else:
            pods[stored["metadata"]["uid"]] = _slim_child(stored)
        return run_uid

    def has_child(self, kind: str, stored: Json) -> bool:
        """Whether a pod or Job is cached as it is here."""
        meta = stored["metadata"]
        run_uid = (meta.get("labels") or {}).get(names.RUN_UID_LABEL, "")
        known = self.pods.get(run_uid, {}).get(meta["uid"]) if kind == "Pod" else self.jobs.get(run_uid)
        if known is None or version(known) != version(stored):
            return False
        # A cluster that was restored may give a version twice.
        slim = _slim_child(stored)
        return all(known.get(part) == slim.get(part) for part in ("metadata", "spec", "status"))

    def lists_children(self, run_uid: str) -> bool:
        """Whether a run's pods and Job are as the watch's first lists have brought them, a moment ago."""
        job = self.jobs.get(run_uid)
        # Any user can write the label, and a list may have brought the Job before its run.
        return job is not None and self.listed.is_fresh() and self._names_its_run(job, run_uid)

    def _names_its_run(self, job: Json, run_uid: str) -> bool:
        """Whether a Job has its run's namespace and name: any user can write the label."""
        run = self.runs.get(run_uid)
        if run is None:
            return True
        meta, owner = job["metadata"], run["metadata"]
        return bool(meta["namespace"] == owner["namespace"] and meta["name"] == names.job_name(owner["name"]))

    def put_children(self, run_uid: str, pods: list[Json], job: Json | None) -> None:
        """Replace a run's cached pods and Job."""
        self.pods[run_uid] = {pod["metadata"]["uid"]: _slim_child(pod) for pod in pods}
        self.jobs.pop(run_uid, None)
        if job is not None:
            self.put_child("Job", job, deleted=False)

    def put_pool(self, stored: Json, *, deleted: bool) -> None:
        """Store or remove a pool."""
        if deleted:
            self.pools.pop(stored["metadata"]["name"], None)
        elif (pool := _pool(stored)) is not None:
            self.pools[pool.name] = pool

    def put_pools(self, listed: list[Json], now: float) -> None:
        """Replace all cached pools by those listed at `now`; an invalid pool keeps its last valid version."""
        known = {stored["metadata"]["name"]: _pool(stored) for stored in listed}
        kept = ((name, pool or self.pools.get(name)) for name, pool in known.items())
        self.pools, self.pools_at = {name: pool for name, pool in kept if pool is not None}, now

    def forget_run(self, uid: str) -> None:
        """Remove a run and its children."""
        for kept in (self.runs, self.pods, self.jobs):
            kept.pop(uid, None)

    def ending_runs(self) -> frozenset[str]:
        """Return the UIDs of runs that will not release a node later: releasing, done, or with policy Never."""
        return frozenset(uid for uid, run in self.runs.items() if _releases_no_more(run))

    def nodes_in_release(self) -> frozenset[str]:
        """Return the UIDs of the nodes that runs release and that waiting pods may still keep."""
        releasing = (status for run in self.runs.values() if _is_releasing(status := run.get("status") or {}))
        return frozenset(
            node["uid"] for status in releasing for node in status.get("nodes") or () if _waits_for_pods(node)
        )


def _waits_for_pods(node: Mapping[str, Any]) -> bool:
    phase = node.get("phase", NodePhase.IN_USE.value)
    return phase in _KEPT_BY_PODS and not node.get("waitedOut")


def _pool(stored: Json) -> Pool | None:
    """Parse a pool; log and return None if it is invalid, so that other pools stay usable."""
    name = stored["metadata"]["name"]
    try:
        return Pool(name, GPUNodePoolSpec.parse(stored["spec"]))
    except ValidationError as error:
        log.error("GPUNodePool %s is invalid: %s", name, error.errors(include_url=False)[:3])  # noqa: TRY400 - the trace says nothing more
        return None


def _is_releasing(status: Mapping[str, Any]) -> bool:
    stop = status.get("termination") or {}
    return stop.get("phase") == Phase.RELEASING.value or _releases_before_rescue(stop)


def _releases_no_more(run: Mapping[str, Any]) -> bool:
    stop = (run.get("status") or {}).get("termination") or {}
    policy = (run["spec"].get("nodePool") or {}).get("policy")
    past = stop.get("phase") in _PAST_HANDOVER or _releases_before_rescue(stop)
    return past or policy == NodePoolPolicy.NEVER.value


def _releases_before_rescue(stop: Mapping[str, Any]) -> bool:
    """Whether a stop releases the run's nodes before its files are saved (`core.stop.rescue.releases_first`)."""
    rescue = stop.get("rescue")
    return rescue is not None and not rescue.get("node") and waits_for_rescue(stop)


def waits_for_rescue(stop: Mapping[str, Any]) -> bool:
    """Whether a stop, as stored, is in a phase in which a rescue Job saves: before Deleting, or in it (`core.stop.requests.rescues_late`)."""
    rescue = stop.get("rescue") or {}
    late = stop.get("phase") == Phase.DELETING.value and rescue.get("attempt") and not rescue.get("over")
    return bool(rescue) and bool(stop.get("phase") in SAVING or late)


def version(stored: Mapping[str, Any]) -> int:
    """Return an object's resourceVersion as a number, comparable between versions of one object."""
    return int(stored["metadata"].get("resourceVersion") or 0)


def _slim(stored: Json, known: Json | None) -> Json:
    """Keep of a run what is read of it: users can fill metadata and template with anything."""
    meta = {key: value for key, value in stored["metadata"].items() if key in _READ_METADATA}
    meta["managedFields"] = [
        {**entry, "fieldsV1": _request(fields)}
        for entry in stored["metadata"].get("managedFields") or ()
        if _is_persons_request(fields := entry.get("fieldsV1") or {})
    ]
    for name in ("labels", "annotations"):
        if name in meta:
            meta[name] = {key: value for key, value in (meta[name] or {}).items() if key.startswith(_READ_KEYS)}
    return {**stored, "metadata": meta, "spec": _with_template(stored, known)}


def _with_template(stored: Json, known: Json | None) -> Json:
    """Return the spec with its template as text; that of an unchanged spec is the same object, with what it remembers."""
    spec = stored["spec"]
    if not isinstance(spec.get("template"), dict | str):
        return dict(spec)
    same = known is not None and known["metadata"].get("generation") == stored["metadata"].get("generation")
    kept = known["spec"].get("template") if known is not None and same else None
    return {**spec, "template": kept if isinstance(kept, Template) else Template.of(spec["template"])}


def _slim_child(stored: Json) -> Json:
    """Keep of a pod or Job what is read of it."""
    meta = {key: value for key, value in stored["metadata"].items() if key in _READ_METADATA}
    spec = {key: value for key, value in (stored.get("spec") or {}).items() if key in _READ_SPEC}
    for name in _CONTAINERS & spec.keys():
        spec[name] = [_slim_container(one) for one in spec[name] or ()]
    return {**stored, "metadata": meta, "spec": spec}


def _slim_container(stored: Json) -> Json:
    """Keep of a container what is read of it; of its hooks, that there are any: users can fill them with anything."""
    kept: Json = {key: stored[key] for key in _READ_CONTAINER if key in stored}
    if hooks := stored.get("lifecycle"):
        kept["lifecycle"] = {name: {} for name in hooks}
    return kept


def _request(fields: Json) -> Json:
    """Keep of a managedFields entry the requests of a person."""
    annotations = (fields.get("f:metadata") or {}).get("f:annotations") or {}
    spec, abandoned = fields.get("f:spec") or {}, f"f:{names.ABANDON_RELEASE_ANNOTATION}"
    asked = {name: spec[name] for name in _ASKED if name in spec}
    return ({"f:spec": asked} if asked else {}) | (
        {"f:metadata": {"f:annotations": {abandoned: annotations[abandoned]}}} if abandoned in annotations else {}
    )


def _is_persons_request(fields: Json) -> bool:
    """Whether a managedFields entry contains a request of a person; its manager is the actor."""
    return bool(_request(fields))
