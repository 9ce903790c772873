"""One pod of a run: the state of its training, and the requests to its agent."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

from pydantic import ValidationError

from trainingrun_operator.api import names
from trainingrun_operator.api.exchange import SaveRequest, StopRequest
from trainingrun_operator.api.restored import Restored
from trainingrun_operator.core.bounds import clipped
from trainingrun_operator.core.facts.containers import OOM_KILLED, UNKNOWN_RESULT, Containers, worded

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trainingrun_operator.core.facts.containers import Ended

Request = TypeVar("Request", StopRequest, SaveRequest)

WHY_MAX: Final = 512
"""Characters of the kubelet's words about one pod."""
_OVER: Final = frozenset({"Succeeded", "Failed"})
_TOLD_TO_LEAVE: Final = frozenset(
    {
        "DeadlineExceeded",
        "Evicted",
        "NodeAffinity",
        "NodeLost",
        "NodeShutdown",
        "Preempting",
        "Shutdown",
        "Terminated",
        "UnexpectedAdmissionError",
    }
)
"""Reasons in ``status.reason`` of a pod that Kubernetes ends. Of a failed pod, any reason is one: its containers' failures leave none."""


class Training(Enum):
    """State of the training in a pod, independent of the pod's phase."""

    NOT_STARTED = "not started"
    RUNNING = "running"
    EXITED = "exited"


@dataclass(frozen=True)
class Pod:
    """One pod of the run."""

    name: str
    uid: str
    rank: int = 0
    """Its rank in the training, from 0."""
    node: str = ""
    ip: str = ""
    phase: str = "Pending"
    host_network: bool = False
    deleting: bool = False
    disruption: str = ""
    """The trace that Kubernetes leaves on a pod that it ends, such as ``Evicted: The node was low on resource: memory.``"""
    ignored: bool = False
    """If it fails, its Job does not count it (`manifests.NO_CRASHES`)."""
    training: Training = Training.NOT_STARTED
    beside_ran: bool = False
    """Whether another container of the author's has run, native sidecars included."""
    writers: tuple[str, ...] = ()
    """The author's containers beside the training that run and can write to the volume of the checkpoints."""
    trains_alone: bool = False
    """Whether nothing but its training uses up the grace of its deletion before the agent's turn (`containers.Containers`)."""
    grace_seconds: int = 0
    """Of a deletion that names no other grace; 0: not known."""
    exit_code: int | None = None
    """Of the container that trains, from its last run; None: it has none, or it is unknown."""
    exit_reason: str = ""
    """The kubelet's words for it, if they say more than the code: ``OOMKilled``, ``StartError: …``."""
    starts_again: bool = False
    """Whether the kubelet starts the training again in this pod, by the container's own restart rules."""
    failure_before_start: str = ""
    """The init container that failed, and how: ``init container fetch ended with exit code 42 (Error: …)``."""
    started_at: str = ""
    """When the training's container started last."""
    ended_at: str = ""
    """When it ended; empty: it runs, or it is unknown."""
    waiting_reason: str = ""
    """``ImagePullBackOff``, ``CreateContainerConfigError``, ``Unschedulable``, …"""
    waiting_message: str = ""
    restored: Restored | None = None
    """What its training starts from, as its restore container says; None: it has not ended, or says nothing."""
    stop: StopRequest | None = None
    save: SaveRequest | None = None
    gate_open: bool = False
    gate_left: bool = False
    """Its gate has exited; other containers may still run."""
    nudge: str = ""
    created: str = ""
    unreachable: bool = False
    """Its Node is not Ready, is being removed, or is gone."""
    lost: bool = False
    """Its machine is gone too, so nothing of it runs, whatever its status says."""

    @property
    def host(self) -> str:
        """Its address for a URL: IPv6 in brackets."""
        return f"[{self.ip}]" if ":" in self.ip else self.ip

    @property
    def terminal(self) -> bool:
        """Whether none of its containers runs, agent and gate included."""
        return self.lost or self.phase in _OVER

    @property
    def answers(self) -> bool:
        """Whether its pages may be read: on the host network they could be another pod's."""
        return bool(self.ip) and not self.terminal and not self.host_network

    @property
    def waits_behind_gate(self) -> bool:
        """Whether its training has exited and only its gate keeps it running."""
        return self.result is not None and not self.terminal

    @property
    def ran(self) -> bool:
        """Whether any of the author's containers has run: there may be files that no bucket has."""
        return self.beside_ran or self.training is not Training.NOT_STARTED

    @property
    def holds_files(self) -> bool:
        """Whether it may hold such files, and its agent can still save them."""
        return self.ran and not self.terminal

    @property
    def told_to_leave(self) -> str:
        """Why it ends whatever its training does: it was deleted, evicted, preempted, or its machine shuts down. Empty: it does not."""
        return self.disruption or ("deleted" if self.deleting else "")

    @property
    def result(self) -> int | None:
        """The exit code with which its training ended by itself; None: it did not.

        The exit code of a pod that was told to leave is no result, and neither is one after the gate was opened: it was acted on.
        """
        by_itself = not self.gate_open and not self.starts_again and not self.told_to_leave
        return self.exit_code if by_itself and self.training is Training.EXITED else None

    @property
    def exit_words(self) -> str:
        """Its exit code for people: ``exit code 137 (OOMKilled)``."""
        return f"exit code {self.exit_code}{f' ({self.exit_reason})' if self.exit_reason else ''}"

    @classmethod
    def of(cls, stored: Mapping[str, Any], *, container: str = "", rank: int = 0) -> Self:
        """Read a stored object.

        Args:
            stored: the pod as the API server has it.
            container: the one that trains; empty: the first of the author's.
            rank: which rank the pod is, as its workload says.
        """
        meta, spec, status = stored["metadata"], stored.get("spec") or {}, stored.get("status") or {}
        annotations = meta.get("annotations") or {}
        phase = status.get("phase") or "Pending"
        containers = Containers.of(spec, status, container)
        training, ended, started_at = _training(containers, over=phase in _OVER)
        waiting_reason, waiting_message = _waiting(status, containers)
        return cls(
            name=meta["name"],
            uid=meta["uid"],
            rank=rank,
            node=spec.get("nodeName") or "",
            ip=status.get("podIP") or "",
            phase=phase,
            host_network=bool(spec.get("hostNetwork")),
            deleting=bool(meta.get("deletionTimestamp")),
            disruption=clipped(_told_to_leave(status, containers), WHY_MAX),
            ignored=_is_ignored(status, containers),
            training=training,
            beside_ran=any(one.ran for one in containers.beside),
            writers=tuple(one.name for one in containers.writers) if phase not in _OVER else (),
            trains_alone=containers.trains_alone,
            grace_seconds=spec.get("terminationGracePeriodSeconds") or 0,
            exit_code=ended.code if ended is not None else None,
            exit_reason=clipped(ended.why, WHY_MAX) if ended is not None else "",
            starts_again=containers.trains.starts_again and phase not in _OVER,
            failure_before_start=_failure_before_start(containers),
            restored=_restored(containers),
            started_at=started_at,
            ended_at=ended.ended_at if ended is not None else "",
            waiting_reason=waiting_reason,
            waiting_message=waiting_message,
            stop=_request(StopRequest, annotations.get(names.STOP_ANNOTATION)),
            save=_request(SaveRequest, annotations.get(names.SAVE_ANNOTATION)),
            gate_open=names.OPEN_GATE_ANNOTATION in annotations,
            gate_left=containers.named(names.GATE_CONTAINER).ended is not None,
            nudge=annotations.get(names.NUDGE_ANNOTATION) or "",
            created=meta.get("creationTimestamp") or "",
        )


def _request(model: type[Request], annotation: str | None) -> Request | None:
    """Parse a request; an invalid annotation counts as absent and is written again."""
    try:
        return model.model_validate_json(annotation) if annotation else None
    except ValidationError:
        return None


def _told_to_leave(status: Mapping[str, Any], containers: Containers) -> str:
    """Return the trace on a pod that Kubernetes ends, whatever its containers do; empty: there is none."""
    reason, message = status.get("reason") or "", status.get("message") or ""
    if reason in _TOLD_TO_LEAVE or (reason and status.get("phase") == "Failed"):
        return worded(reason, message)
    if (condition := _disruption_target(status)) is not None:
        return worded(condition.get("reason") or "DisruptionTarget", condition.get("message") or "")
    gate, training = containers.named(names.GATE_CONTAINER).ended, containers.trains.ended
    if gate is not None and gate.code in names.GATE_KILLED and gate.reason != OOM_KILLED:
        # A limit on local storage leaves no other trace. The gate exits by itself only after its release, with 0.
        return f"the gate was ended from outside, with exit code {gate.code}"
    if training is not None and training.reason == UNKNOWN_RESULT and status.get("phase") in _OVER:
        return worded(training.reason, training.message)
    return ""


def _disruption_target(status: Mapping[str, Any]) -> Mapping[str, Any] | None:
    conditions = status.get("conditions") or ()
    told = (one for one in conditions if one.get("type") == "DisruptionTarget" and one.get("status") == "True")
    return next(told, None)


def _is_ignored(status: Mapping[str, Any], containers: Containers) -> bool:
    """Whether the rules of `manifests.NO_CRASHES` fit a failed pod."""
    gate = containers.named(names.GATE_CONTAINER).ended
    return _disruption_target(status) is not None or (gate is not None and gate.code in names.GATE_KILLED)


def _training(containers: Containers, *, over: bool) -> tuple[Training, Ended | None, str]:
    """Return state, last end and start time of the container that trains.

    Args:
        containers: of the pod.
        over: nothing of the pod runs, whatever the state of a container says.
    """
    trains = containers.trains
    if not trains.ran:
        return Training.NOT_STARTED, None, ""
    if trains.running is not None:
        return Training.EXITED if over else Training.RUNNING, None, trains.running.get("startedAt") or ""
    ended = trains.ended or trains.ended_before
    return Training.EXITED, ended, ended.started_at if ended is not None else ""


def _failure_before_start(containers: Containers) -> str:
    """Return which init container failed and how; empty: none did, or the training has started."""
    failed = None if containers.trains.ran else containers.failed_init
    if failed is None:
        return ""
    container, ended = failed
    why = worded(ended.reason, ended.message)
    return clipped(
        f"init container {container.name} ended with exit code {ended.code}{f' ({why})' if why else ''}", WHY_MAX
    )


def _restored(containers: Containers) -> Restored | None:
    """Return what the restore container says; None: nothing that this version understands."""
    ended = containers.named(names.RESTORE_CONTAINER).ended
    if ended is None or ended.code or not ended.message:
        return None
    try:
        return Restored.model_validate_json(ended.message, by_alias=True, by_name=False)
    except ValidationError:
        return None


def _waiting(status: Mapping[str, Any], containers: Containers) -> tuple[str, str]:
    """Return reason and message of what keeps the training from starting."""
    if (waiting := containers.waiting)[0]:
        return waiting
    for condition in status.get("conditions") or ():
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            return condition.get("reason") or "", condition.get("message") or ""
    return "", ""
