"""Refusal of templates and checkpoint paths that reach the volumes that the operator adds to a pod: one of them is the bucket's Secret."""

from __future__ import annotations

from posixpath import normpath
from typing import TYPE_CHECKING, Any, Final

from trainingrun_operator.api import names
from trainingrun_operator.core.bounds import clipped
from trainingrun_operator.core.facts.run import Problem

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trainingrun_operator.api.run import TrainingRunSpec

_FIELDS: Final = {
    "containers": "container",
    "initContainers": "init container",
    "ephemeralContainers": "ephemeral container",
}
_SHOWN_MAX: Final = 100


def reached(spec: TrainingRunSpec, main: str) -> Problem | None:
    """Return the first use of a volume or folder of the operator; None: there is none.

    Args:
        spec: with a template that `acceptance` could read.
        main: name of the container that trains.
    """
    pod = spec.template["spec"]
    return _defined(pod) or _used(pod) or _around_checkpoints(spec, pod, main)


def _defined(pod: Mapping[str, Any]) -> Problem | None:
    taken = names.OWN_VOLUMES.intersection(volume["name"] for volume in pod.get("volumes") or ())
    if not taken:
        return None
    return Problem(
        "InvalidTemplate",
        f"spec.template.spec.volumes: the name {min(taken)!r} is reserved for the operator. Choose another.",
    )


def _used(pod: Mapping[str, Any]) -> Problem | None:
    for field, kind in _FIELDS.items():
        for container in pod.get(field) or ():
            for uses in ("volumeMounts", "volumeDevices"):
                taken = names.OWN_VOLUMES.intersection(one["name"] for one in container.get(uses) or ())
                if taken:
                    return Problem(
                        "InvalidTemplate",
                        f"spec.template.spec.{field}: {kind} {clipped(container['name'], _SHOWN_MAX)!r} has {min(taken)!r} in {uses}, a volume that the"
                        " operator adds for its own containers. Remove it; to share files between containers, mount a volume of your own.",
                    )
    return None


def _around_checkpoints(spec: TrainingRunSpec, pod: Mapping[str, Any], main: str) -> Problem | None:
    """Refuse a checkpoint folder, or a mount that contains it, in or around the folder of the operator's mounts: the agent would ship them."""
    path = spec.checkpoint.path
    if _overlap(path, names.OWN_PATH):
        return Problem(
            "InvalidTemplate",
            f"spec.checkpoint.path is {path!r}: the operator mounts its own volumes in {names.OWN_PATH}. Choose a folder outside of it, such as /checkpoints.",
        )
    container = next(one for one in pod["containers"] if one["name"] == main)
    mounts = (str(mount["mountPath"]) for mount in container.get("volumeMounts") or ())
    around = max((one for one in mounts if _within(path, one)), key=len, default=path)
    if not _overlap(around, names.OWN_PATH):
        return None
    return Problem(
        "InvalidTemplate",
        f"spec.template.spec.containers: {clipped(main, _SHOWN_MAX)!r} mounts the volume of spec.checkpoint.path at {clipped(around, _SHOWN_MAX)!r}, and the operator"
        f" mounts its own volumes in {names.OWN_PATH} below it. Mount it elsewhere.",
    )


def _overlap(one: str, other: str) -> bool:
    """Whether one of two folders is the other, or in it."""
    return _within(one, other) or _within(other, one)


def _within(path: str, folder: str) -> bool:
    return _real(path).startswith(_real(folder))


def _real(path: str) -> str:
    """Return an absolute path with a slash at its end, without ``..``; in images, /var/run is a link to /run."""
    plain = f"{normpath(path).lstrip('/')}/".removeprefix("/")
    return plain if not plain.startswith("run/") else f"var/{plain}"
