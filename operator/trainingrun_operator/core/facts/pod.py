"""One pod of a run: the state of its training, and the requests to its agent."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Self, TypeVar

from pydantic import ValidationError

from trainingrun_operator.api import names
from trainingrun_operator.api.exchange import SaveRequest, StopRequest

if TYPE_CHECKING:
    from collections.abc import Mapping

Request = TypeVar("Request", StopRequest, SaveRequest)


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
    training: Training = Training.NOT_STARTED
    exit_code: int | None = None
    """Of the container that trains."""
    started_at: str = ""
    waiting_reason: str = ""
    """``ImagePullBackOff``, ``CreateContainerConfigError``, ``Unschedulable``, …"""
    waiting_message: str = ""
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
        return self.lost or self.phase in ("Succeeded", "Failed")

    @property
    def answers(self) -> bool:
        """Whether its pages may be read: on the host network they could be another pod's."""
        return bool(self.ip) and not self.terminal and not self.host_network

    @property
    def waits_behind_gate(self) -> bool:
        """Whether its training has exited and only its gate keeps it running."""
        return self.training is Training.EXITED and not self.gate_open and not self.terminal and not self.deleting

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
        phase = status.get("phase", "Pending")
        training, exit_code, started_at = _training(spec, status, container)
        waiting_reason, waiting_message = _waiting(status)
        return cls(
            name=meta["name"],
            uid=meta["uid"],
            rank=rank,
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
            gate_open=names.OPEN_GATE_ANNOTATION in annotations,
            gate_left="terminated" in _state(status, names.GATE_CONTAINER),
            nudge=annotations.get(names.NUDGE_ANNOTATION, ""),
            created=meta.get("creationTimestamp", ""),
        )


def _request(model: type[Request], annotation: str | None) -> Request | None:
    """Parse a request; an invalid annotation counts as absent and is written again."""
    try:
        return model.model_validate_json(annotation) if annotation else None
    except ValidationError:
        return None


def _training(spec: Mapping[str, Any], status: Mapping[str, Any], container: str) -> tuple[Training, int | None, str]:
    """Return state, exit code and start time of the container that trains."""
    authors = (c["name"] for c in spec.get("containers") or () if c["name"] not in names.OWN_CONTAINERS)
    state = _state(status, container or next(authors, ""))
    if (running := state.get("running")) is not None:
        return Training.RUNNING, None, running.get("startedAt") or ""
    if (ended := state.get("terminated")) is not None:
        return Training.EXITED, int(ended["exitCode"]), ended.get("startedAt") or ""
    return Training.NOT_STARTED, None, ""


def _state(status: Mapping[str, Any], container: str) -> Mapping[str, Any]:
    """Return the state of one container; empty: not reported yet."""
    stated = (s.get("state") or {} for s in status.get("containerStatuses") or () if s["name"] == container)
    return next(stated, {})


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
