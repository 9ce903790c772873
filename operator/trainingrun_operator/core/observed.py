"""`Observed`: one frozen snapshot of a run, its children, its samples and the bucket. Everything that `decide` may look at.

Seconds are floats on the monotonic clock of the process that observed; they are only ever subtracted. `wall` is for people.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum, StrEnum
from typing import TYPE_CHECKING, Any, Self, TypeVar

from pydantic import ValidationError

from trainingrun_operator.api import names
from trainingrun_operator.api.exchange import SaveRequest, StopRequest
from trainingrun_operator.api.run import TrainingRunSpec
from trainingrun_operator.api.status import TrainingRunStatus
from trainingrun_operator.core.defaults import Defaults

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trainingrun_operator.api.exchange import AgentReport
    from trainingrun_operator.api.manifest import Commit
    from trainingrun_operator.api.pool import GPUNodePoolSpec
    from trainingrun_operator.core.track import Track

Request = TypeVar("Request", StopRequest, SaveRequest)


@dataclass(frozen=True)
class Run:
    """A TrainingRun as stored."""

    namespace: str
    name: str
    uid: str
    resource_version: str
    generation: int
    spec: TrainingRunSpec
    status: TrainingRunStatus
    labels: Mapping[str, str] = field(default_factory=dict)
    finalizers: tuple[str, ...] = ()
    has_status: bool = False
    """Whether anything was ever written under ``status``."""
    deleting: bool = False
    created: str = ""
    stop_manager: str = ""
    """Field manager that set ``spec.stop``: the actor of a plain patch."""
    suspend_manager: str = ""
    """Likewise of ``spec.suspend``."""
    abandoned_by: str = ""
    """Field manager that annotated the run to give up on releasing its nodes; empty: nobody did."""

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> Self:
        """Read a stored object.

        Raises:
            pydantic.ValidationError: the spec is not one that this version understands.
        """
        meta = stored["metadata"]
        return cls(
            namespace=meta["namespace"],
            name=meta["name"],
            uid=meta["uid"],
            resource_version=meta.get("resourceVersion", ""),
            generation=meta.get("generation", 1),
            spec=TrainingRunSpec.parse(stored["spec"]),
            status=TrainingRunStatus.parse(stored.get("status") or {}),
            labels=meta.get("labels") or {},
            finalizers=tuple(meta.get("finalizers") or ()),
            has_status="status" in stored,
            deleting="deletionTimestamp" in meta,
            created=meta.get("creationTimestamp", ""),
            stop_manager=_manager_of(("f:spec", "f:stop"), meta),
            suspend_manager=_manager_of(("f:spec", "f:suspend"), meta),
            abandoned_by=_abandoned_by(meta),
        )

    @property
    def key(self) -> str:
        """``namespace/name``, as people say it."""
        return f"{self.namespace}/{self.name}"


def _manager_of(field_path: tuple[str, ...], meta: Mapping[str, Any]) -> str:
    """Who wrote a field, as the API server keeps it; empty if it does not say."""
    for entry in meta.get("managedFields") or ():
        fields = entry.get("fieldsV1") or {}
        for key in field_path[:-1]:
            fields = fields.get(key) or {}
        if field_path[-1] in fields:
            return str(entry.get("manager", ""))
    return ""


def _abandoned_by(meta: Mapping[str, Any]) -> str:
    name = names.ABANDON_RELEASE_ANNOTATION
    if (meta.get("annotations") or {}).get(name, "false") == "false":
        return ""
    return _manager_of(("f:metadata", "f:annotations", f"f:{name}"), meta) or "an annotation"


@dataclass(frozen=True)
class Job:
    """The Job that the operator made."""

    name: str
    uid: str
    run_uid: str
    generation: int = 1
    """Of its spec: who was away while it was suspended and resumed does neither a second time."""
    suspended: bool = False
    backoff_limit: int = 0
    failed: int = 0
    finished: bool = False
    deleting: bool = False
    owned: bool = False
    """The garbage collector may have it once the run is deleted."""

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> Self:
        """Read a stored object."""
        meta, spec, status = stored["metadata"], stored.get("spec") or {}, stored.get("status") or {}
        conditions = status.get("conditions") or ()
        return cls(
            name=meta["name"],
            uid=meta["uid"],
            run_uid=(meta.get("labels") or {}).get(names.RUN_UID_LABEL, ""),
            generation=meta.get("generation", 1),
            suspended=bool(spec.get("suspend")),
            backoff_limit=spec.get("backoffLimit", 6),
            failed=status.get("failed", 0),
            finished=any(c["type"] in ("Complete", "Failed") and c["status"] == "True" for c in conditions),
            deleting="deletionTimestamp" in meta,
            owned=bool(meta.get("ownerReferences")),
        )


class Training(Enum):
    """Where the training in a pod stands, whatever the pod's own phase says."""

    NOT_STARTED = "not started"
    RUNNING = "running"
    EXITED = "exited"


@dataclass(frozen=True)
class Pod:
    """One pod of the run."""

    name: str
    uid: str
    node: str = ""
    ip: str = ""
    phase: str = "Pending"
    host_network: bool = False
    deleting: bool = False
    training: Training = Training.NOT_STARTED
    exit_code: int | None = None
    """Of the training container, or of whichever of the author's containers failed."""
    started_at: str = ""
    waiting_reason: str = ""
    """``ImagePullBackOff``, ``CreateContainerConfigError``, ``Unschedulable``, …"""
    waiting_message: str = ""
    stop: StopRequest | None = None
    save: SaveRequest | None = None
    released: bool = False
    nudge: str = ""
    created: str = ""
    unreachable: bool = False
    """Its Node has fallen silent, is being removed, or is gone."""
    lost: bool = False
    """And its machine is gone: nothing of it runs, although nobody is left to say so."""

    @property
    def terminal(self) -> bool:
        """Nothing of it runs any more, agent and gate included."""
        return self.lost or self.phase in ("Succeeded", "Failed")

    @property
    def waits_behind_gate(self) -> bool:
        """Its training has ended, and nothing but its gate keeps it."""
        return self.training is Training.EXITED and not self.released and not self.terminal and not self.deleting

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> Self:
        """Read a stored object."""
        meta, spec, status = stored["metadata"], stored.get("spec") or {}, stored.get("status") or {}
        annotations = meta.get("annotations") or {}
        phase = status.get("phase", "Pending")
        training, exit_code, started_at = _training(spec, status)
        waiting_reason, waiting_message = _waiting(status)
        return cls(
            name=meta["name"],
            uid=meta["uid"],
            node=spec.get("nodeName", ""),
            ip=status.get("podIP", ""),
            phase=phase,
            host_network=bool(spec.get("hostNetwork")),
            deleting="deletionTimestamp" in meta,
            training=training,
            exit_code=exit_code,
            started_at=started_at,
            waiting_reason=waiting_reason,
            waiting_message=waiting_message,
            stop=_request(StopRequest, annotations.get(names.STOP_ANNOTATION)),
            save=_request(SaveRequest, annotations.get(names.SAVE_ANNOTATION)),
            released=names.RELEASED_ANNOTATION in annotations,
            nudge=annotations.get(names.NUDGE_ANNOTATION, ""),
            created=meta.get("creationTimestamp", ""),
        )


def _request(model: type[Request], annotation: str | None) -> Request | None:
    """Read what was asked; an annotation that somebody broke counts as not asked, and is written again."""
    try:
        return model.model_validate_json(annotation) if annotation else None
    except ValidationError:
        return None


def _training(spec: Mapping[str, Any], status: Mapping[str, Any]) -> tuple[Training, int | None, str]:
    """Whether the author's containers run; with the exit code that speaks for all of them, and when the first started."""
    authors = [c["name"] for c in spec.get("containers") or () if c["name"] not in names.OWN_CONTAINERS]
    states = {s["name"]: s.get("state") or {} for s in status.get("containerStatuses") or ()}
    ended = [states[name]["terminated"] for name in authors if "terminated" in states.get(name, {})]
    running = [states[name]["running"] for name in authors if "running" in states.get(name, {})]
    started_at = min((s["startedAt"] for s in (*running, *ended) if s.get("startedAt")), default="")
    if running:
        return Training.RUNNING, None, started_at
    if ended and len(ended) == len(authors):
        codes = [int(s["exitCode"]) for s in ended]
        return Training.EXITED, next((code for code in codes if code), 0), started_at
    return Training.NOT_STARTED, None, ""


_WAITING_IS_NORMAL = frozenset({"", "ContainerCreating", "PodInitializing"})


def _waiting(status: Mapping[str, Any]) -> tuple[str, str]:
    for container in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
        waiting = (container.get("state") or {}).get("waiting") or {}
        if waiting.get("reason", "") not in _WAITING_IS_NORMAL:
            return waiting["reason"], waiting.get("message", "")
    for condition in status.get("conditions") or ():
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return condition.get("reason", ""), condition.get("message", "")
    return "", ""


# -- the bucket -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Verified:
    """A commit whose manifests and objects were all read back and matched."""

    key: str
    digest: str
    uri: str
    commit: Commit


@dataclass(frozen=True)
class Mismatch:
    """A commit that did not verify."""

    key: str
    complaint: str
    id: str | None = None
    attempt: int = 0


@dataclass(frozen=True)
class Unreachable:
    """The bucket could not be asked, or refused."""

    code: str
    message: str


Answer = Verified | Mismatch | Unreachable
"""What the bucket says to a save request; None is also an answer: nothing yet."""


# -- nodes ----------------------------------------------------------------------------------------------------


class Instance(StrEnum):
    """What the cloud says about a machine."""

    RUNNING = "Running"
    TERMINATING = "Terminating"
    GONE = "Gone"
    UNKNOWN = "Unknown"


@dataclass(frozen=True)
class Occupant:
    """A pod that keeps a node."""

    namespace: str
    name: str
    run_uid: str = ""
    """Of the TrainingRun that it belongs to, if any."""

    @property
    def key(self) -> str:
        """``namespace/name``, as people say it."""
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True)
class NodeFacts:
    """One node as it is now."""

    name: str
    uid: str | None = None
    """None: there is no Node of this name and uid."""
    provider_id: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    tainted_by: str | None = None
    """The run uid in our taint, if it carries one."""
    occupants: tuple[Occupant, ...] | None = None
    """None: could not be listed, which counts as occupied."""
    demand: tuple[Occupant, ...] = ()
    """Pods that wait for a node like this one."""
    instance: Instance = Instance.UNKNOWN
    at_minimum: bool = False
    problem: str = ""
    """What the provider answered, if it refused."""


@dataclass(frozen=True)
class Pool:
    """A GPUNodePool."""

    name: str
    spec: GPUNodePoolSpec

    def selects(self, labels: Mapping[str, str]) -> bool:
        """Whether a node with these labels belongs to the pool."""
        return all(labels.get(key) == value for key, value in self.spec.node_selector.items())

    def allows(self, namespace_labels: Mapping[str, str] | None) -> bool:
        """Whether runs of a namespace with these labels may use the pool."""
        selector = self.spec.namespace_selector
        return selector is None or (namespace_labels is not None and selector.fits(namespace_labels))


# -- all of it ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Problem:
    """Why a run cannot be acted on."""

    reason: str
    message: str
    permanent: bool = True
    """False: it may pass by itself (a bucket that cannot be reached)."""


@dataclass(frozen=True)
class Observed:
    """Everything known about a run at one moment."""

    run: Run
    now: float
    wall: str
    """RFC 3339, UTC."""
    track: Track
    defaults: Defaults = field(default_factory=Defaults)
    job: Job | None = None
    pods: tuple[Pod, ...] = ()
    """Oldest first."""
    agent: AgentReport | None = None
    """Of the newest pod; None if it did not answer."""
    verified: Verified | None = None
    """The newest commit of the run that verified, if the bucket was asked."""
    answer: Answer | None = None
    """To the save request in hand."""
    save_failing_seconds: float = 0
    """How long saving has been asked for without an answer."""
    phase_seconds: float = 0
    """How long this process has seen the stop in its present phase."""
    nodes: tuple[NodeFacts, ...] = ()
    """In the order of ``status.nodes``."""
    node_seconds: Mapping[str, float] = field(default_factory=dict)
    """How long this process has seen each node, by uid, in its present phase."""
    gate_seconds: Mapping[str, float] = field(default_factory=dict)
    """How long, by uid, what its phase waits through has been so: empty, tainted, its machine gone (`release.gate_holds`)."""
    ending_runs: frozenset[str] = frozenset()
    """UIDs of runs that will not release a node after this one: finished, releasing, or told never to."""
    pools: tuple[Pool, ...] = ()
    namespace_labels: Mapping[str, str] | None = None
    """Of the run's namespace; None: not read, because no pool is chosen by them now."""
    namespace_ends: bool = False
    """The run's namespace is being deleted; known only where its Job is gone, or nobody is left who could save."""
    problem: Problem | None = None
    """Found on the way to the first Job: unknown secret, refused template, missing bucket."""
    ended_before: Verified | None = None
    """What a stop of this very run left in the bucket, although the cluster knows of no stop: its state is older than the bucket."""
    log_tail: str = ""
    """Last lines of a training that crashed."""
    waiting_seconds: float = 0
    """How long the newest pod has been lacking the same thing, in the words of `completion.lacks`."""
    budget: str | None = None
    """uid of the budget that keeps the run's pods from being evicted; empty: there is none; None: not known."""
    proven_seconds: float | None = None
    """How long everything in the volume has been proven, as `disruption.all_proven` says; None if it is not."""
    candidate_seconds: float | None = None
    """How long a completion has been inferred without interruption; None if it is not."""

    @property
    def pod(self) -> Pod | None:
        """The newest pod."""
        return self.pods[-1] if self.pods else None

    def seconds_since(self, stamp: str) -> float:
        """By the wall clock, since a moment that was written down."""
        return (datetime.fromisoformat(self.wall) - datetime.fromisoformat(stamp)).total_seconds()

    @property
    def live_pods(self) -> tuple[Pod, ...]:
        """Those of which anything still runs."""
        return tuple(pod for pod in self.pods if not pod.terminal)
