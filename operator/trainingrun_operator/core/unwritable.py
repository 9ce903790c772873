"""Refusal of a checkpoint path that no training could write to, as far as the template shows it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from trainingrun_operator.core import manifests
from trainingrun_operator.core.bounds import clipped
from trainingrun_operator.core.facts.run import Problem

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trainingrun_operator.core.facts.run import Run

_READ_ONLY: Final = ("configMap", "downwardAPI", "image", "projected", "secret")
"""Kinds of volumes that the kubelet mounts read-only."""
_FOLDERS: Final = ("", "Directory", "DirectoryOrCreate")
"""Types of a hostPath that can be a folder."""
_SHOWN_MAX: Final = 100


def complaint(run: Run) -> Problem | None:
    """Return why the checkpoint path cannot be written; None: the template does not show it."""
    mount, volume = manifests.checkpoint_volume(run)
    path, name = run.spec.checkpoint.path, clipped(str(mount["name"]), _SHOWN_MAX)
    why = "the mount of the container that trains has readOnly: true" if mount.get("readOnly") is True else ""
    why = why or (_of_volume(volume) if volume is not None else "")
    if not why:
        return None
    return Problem(
        "InvalidTemplate",
        f"spec.checkpoint.path is {path!r} in volume {name!r}, to which nothing can be written: {why}. Checkpoints could be neither saved nor restored"
        " there. Make it writable, name another spec.checkpoint.path, or set spec.checkpoint.mode: Disabled.",
    )


def _of_volume(volume: Mapping[str, Any]) -> str:
    for kind, source in volume.items():
        if kind in _READ_ONLY:
            return f"a volume of kind {kind} is read-only"
        if isinstance(source, dict) and source.get("readOnly") is True:
            return f"its {clipped(kind, _SHOWN_MAX)} has readOnly: true"
        if kind == "hostPath" and isinstance(source, dict) and source.get("type", "") not in _FOLDERS:
            return f"its hostPath is of type {clipped(str(source['type']), _SHOWN_MAX)}, which is no folder"
    return ""
