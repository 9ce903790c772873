"""One pod of a run: where its training stands, and what was asked of its agent."""

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
    def host(self) -> str:
        """Its address as a URL has it: IPv6 in brackets."""
        return f"[{self.ip}]" if ":" in self.ip else self.ip

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
