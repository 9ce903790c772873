"""A TrainingRun as stored, and a problem with it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Self

from trainingrun_operator.api import names
from trainingrun_operator.api.run import TrainingRunSpec
from trainingrun_operator.api.status import TrainingRunStatus
from trainingrun_operator.core.bounds import clipped

if TYPE_CHECKING:
    from collections.abc import Mapping

MANAGER_MAX: Final = 128
"""The API server refuses a longer field manager."""


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
    """Whether the object has a ``status``."""
    deleting: bool = False
    created: str = ""
    stop_manager: str = ""
    """The program that set ``spec.stop``, as ``field manager '…'``: the actor of a plain patch. Any client may choose the name, so it is never shown
    as a person."""
    suspend_manager: str = ""
    """Likewise of ``spec.suspend``."""
    abandoned_by: str = ""
    """Likewise of the annotation that abandons the release of the run's nodes; empty: not abandoned."""

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> Self:
        """Read a stored object.

        Raises:
            pydantic.ValidationError: this version does not understand the spec.
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
        """``namespace/name``."""
        return f"{self.namespace}/{self.name}"


def _manager_of(field_path: tuple[str, ...], meta: Mapping[str, Any]) -> str:
    """Return the field manager of a field, quoted and named as such; empty: unknown."""
    for entry in meta.get("managedFields") or ():
        fields = entry.get("fieldsV1") or {}
        for key in field_path[:-1]:
            fields = fields.get(key) or {}
        if field_path[-1] in fields:
            name = str(entry.get("manager", ""))
            return f"field manager {clipped(name, MANAGER_MAX)!r}" if name else ""
    return ""


def _abandoned_by(meta: Mapping[str, Any]) -> str:
    name = names.ABANDON_RELEASE_ANNOTATION
    if (meta.get("annotations") or {}).get(name, "false") == "false":
        return ""
    return _manager_of(("f:metadata", "f:annotations", f"f:{name}"), meta) or "an annotation"


@dataclass(frozen=True)
class Problem:
    """Why a run is not accepted."""

    reason: str
    message: str
    permanent: bool = True
    """False: it may resolve by itself, such as an unreachable bucket."""
