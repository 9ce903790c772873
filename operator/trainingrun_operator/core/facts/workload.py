"""What runs the training: a Job that the operator made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from trainingrun_operator.api import names

if TYPE_CHECKING:
    from collections.abc import Mapping


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
