"""The volume of a run's checkpoints, if it outlives its pods: what it is, and where its files are."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from trainingrun_operator.core import acceptance, manifests
from trainingrun_operator.core.bounds import clipped

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trainingrun_operator.core.facts.run import Run

_OF_THE_POD: Final = frozenset({"csi", "emptyDir", "ephemeral", "image"})
"""Kinds of volumes that begin empty with a pod. An inline CSI volume is one of them, even if its driver keeps the files."""
_SHARED: Final = frozenset({"azureFile", "cephfs", "glusterfs", "nfs"})
"""Kinds of inline volumes that Pods on several Nodes can mount at once. The others are disks."""
_DETAILS: Final = (
    "server",
    "monitors",
    "shareName",
    "path",
    "driver",
    "volumeID",
    "diskName",
    "pdName",
    "targetPortal",
)
"""Fields of an inline volume that say where it is. None of them is a secret."""
_DETAIL_MAX: Final = 200


@dataclass(frozen=True)
class KeptVolume:
    """A volume with checkpoints that outlives its pods."""

    claim: str = ""
    """Name of its PersistentVolumeClaim; empty: it is written in the template itself."""
    unmountable: str = ""
    """Why no other pod can find the files in it; empty: one can."""
    words: str = ""
    """What it is."""
    source: Mapping[str, Any] = field(default_factory=dict)
    """The volume of a template without a claim, without its name."""
    shared: bool = False
    """Whether it is no claim, and Pods on several Nodes can mount it at once."""
    on_host: bool = False
    """Whether it is a folder of the last pod's Node."""
    of_pod: bool = False
    """Whether the claim is deleted with its pod object."""


def kept_volume(run: Run, pod: str = "") -> KeptVolume | None:
    """Return the volume with the checkpoints; None: it ends with its pod, or it is not known.

    Args:
        run: as stored.
        pod: name of the last pod; empty: not known. A generic ephemeral volume has a claim of its own for each pod.
    """
    mount, volume = _checkpoints(run)
    if volume is None:
        return None
    path = mount.get("subPathExpr") or ""
    unmountable = (
        f"its folder in the volume is {path!r} (subPathExpr), which only the dead pod could resolve"
        if "$(" in path
        else ""
    )
    kind = _kind(volume)
    if kind == "persistentVolumeClaim":
        return _of_claim(str(volume[kind].get("claimName")), unmountable)
    if kind == "ephemeral" and pod:
        return replace(_of_claim(f"{pod}-{volume['name']}", unmountable), of_pod=True)
    if kind in _OF_THE_POD:
        return None
    source = {key: value for key, value in volume.items() if key != "name"}
    words = f"the {kind} volume {volume['name']!r}{_details(volume[kind])} of the template"
    return KeptVolume("", unmountable, words, source, shared=kind in _SHARED, on_host=kind == "hostPath")


def ended_volume(run: Run) -> str:
    """Return what the volume with the checkpoints is that ends with its pod; empty: there is none."""
    mount, volume = _checkpoints(run)
    if volume is None:
        return "an emptyDir of the operator (the template mounts no volume at spec.checkpoint.path)" if mount else ""
    kind = _kind(volume)
    return f"the {kind} volume {volume['name']!r} of the template" if kind in _OF_THE_POD else ""


def _checkpoints(run: Run) -> tuple[Mapping[str, Any], Mapping[str, Any] | None]:
    return manifests.checkpoint_volume(run) if acceptance.has_usable_template(run.spec) else ({}, None)


def _of_claim(name: str, unmountable: str) -> KeptVolume:
    return KeptVolume(name, unmountable, f"PersistentVolumeClaim {name}")


def _kind(volume: Mapping[str, Any]) -> str:
    """Return the kind of a volume, such as nfs. One without any is an emptyDir."""
    return next((key for key, value in volume.items() if key != "name" and isinstance(value, dict)), "emptyDir")


def _details(source: Mapping[str, Any]) -> str:
    said = [f"{key} {source[key]}" for key in _DETAILS if source.get(key)]
    return f" ({clipped(', '.join(said), _DETAIL_MAX)})" if said else ""
