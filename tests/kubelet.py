"""Pods as the API server stores them, with the words of the kubelet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trainingrun_operator.api import names

if TYPE_CHECKING:
    from collections.abc import Sequence

Json = dict[str, Any]

STARTED = "2026-01-02T03:00:00Z"
LATER = "2026-01-02T03:00:09Z"


def running(at: str | None = STARTED) -> Json:
    return {"running": {"startedAt": at}}


def ended(code: int | None, at: str | None = STARTED, **fields: Any) -> Json:
    """A container that has ended; keywords are camelCase fields of its state, such as reason, message and signal."""
    said = {"exitCode": code, "reason": "Error" if code else "Completed", "startedAt": at, "finishedAt": LATER}
    return {"terminated": said | fields}


def waiting(reason: str, message: str = "") -> Json:
    return {"waiting": {"reason": reason, **({"message": message} if message else {})}}


def statuses(**states: Json) -> list[Json]:
    return [{"name": name.replace("_", "-"), "state": state, "restartCount": 0} for name, state in states.items()]


def disrupted(reason: str | None, message: str | None = "") -> Json:
    """The condition of a pod that Kubernetes ends."""
    return {"type": "DisruptionTarget", "status": "True", "reason": reason, "message": message}


def stored_pod(
    *,
    authors: Sequence[str] = ("train",),
    init: Json | None = None,
    phase: str = "Running",
    meta: Json | None = None,
    conditions: list[Json] | None = None,
    why: tuple[str, ...] | None = None,
    **states: Json,
) -> Json:
    """A pod as the operator's Job makes it, with the kubelet's words.

    Args:
        authors: names of the author's containers.
        init: states of the init containers; None: restored, and the agent runs.
        phase: of the pod.
        meta: fields of its metadata.
        conditions: of its status.
        why: reason and message of its status.
        states: by container, with ``_`` for ``-``.
    """
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "bert-x7k2p",
            "uid": "pod-uid",
            "creationTimestamp": STARTED,
            "labels": names.child_labels("bert", "run-uid"),
            **(meta or {}),
        },
        "spec": {
            "nodeName": "gpu-1",
            "initContainers": [{"name": "checkpoint-restore"}, {"name": "checkpoint-agent", "restartPolicy": "Always"}],
            "containers": [*({"name": name} for name in authors), {"name": "checkpoint-gate"}],
        },
        "status": {
            "phase": phase,
            **dict(zip(("reason", "message"), why or (), strict=False)),
            "podIP": "10.0.0.7",
            "initContainerStatuses": statuses(
                **({"checkpoint_restore": ended(0), "checkpoint_agent": running()} if init is None else init)
            ),
            "containerStatuses": statuses(**states),
            "conditions": conditions or [{"type": "PodScheduled", "status": "True"}],
        },
    }
