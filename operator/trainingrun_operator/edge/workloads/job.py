"""The adapter of the Job that the operator creates from ``spec.template``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from trainingrun_operator.api import names
from trainingrun_operator.core.facts.workload import Workload

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trainingrun_operator.core.facts.run import Run
    from trainingrun_operator.edge.ports import Jobs

Json = dict[str, Any]

INDEX_ANNOTATION: Final = "batch.kubernetes.io/job-completion-index"
_DEFAULT_BACKOFF_LIMIT: Final = 6
_INDEX_DIGITS: Final = 5
RANKS_MAX: Final = 1024
"""A commit of 64 KiB names fewer. Users can write a Job of 2,147,483,647 completions."""


@dataclass(frozen=True)
class JobAdapter:
    """The adapter of Jobs. An Indexed Job has a rank per completion index; any other has one rank."""

    kube: Jobs

    def of(self, stored: Mapping[str, Any]) -> Workload:
        """Read a stored Job."""
        meta, spec, status = stored["metadata"], stored.get("spec") or {}, stored.get("status") or {}
        conditions = status.get("conditions") or ()
        indexed = spec.get("completionMode") == "Indexed"
        return Workload(
            api_version="batch/v1",
            kind="Job",
            name=meta["name"],
            uid=meta["uid"],
            run_uid=(meta.get("labels") or {}).get(names.RUN_UID_LABEL, ""),
            world_size=min(spec.get("completions") or 1, RANKS_MAX) if indexed else 1,
            generation=meta.get("generation", 1),
            suspended=bool(spec.get("suspend")),
            replaces=spec.get("backoffLimit", _DEFAULT_BACKOFF_LIMIT) != 0,
            failed=status.get("failed", 0),
            finished=any(c["type"] in ("Complete", "Failed") and c["status"] == "True" for c in conditions),
            deleting="deletionTimestamp" in meta,
            owned=bool(meta.get("ownerReferences")),
        )

    def rank_of(self, pod: Mapping[str, Any]) -> int:
        """The completion index that the Job controller writes; 0 without one."""
        index = str((pod["metadata"].get("annotations") or {}).get(INDEX_ANNOTATION, ""))
        return int(index) if index.isascii() and index.isdigit() and len(index) <= _INDEX_DIGITS else 0

    async def read(self, run: Run) -> Json | None:
        """Return the Job of the run's name."""
        return await self.kube.job(run.namespace, names.job_name(run.name))

    async def create(self, manifest: Json, *, dry_run: bool = False) -> Json:
        """Create the Job."""
        return await self.kube.create_job(manifest, dry_run=dry_run)

    async def suspend(self, run: Run, uid: str, generation: int) -> None:
        """Set ``spec.suspend``."""
        await self.kube.suspend_job(run.namespace, names.job_name(run.name), uid, generation, suspend=True)

    async def resume(self, run: Run, uid: str, generation: int) -> None:
        """Clear ``spec.suspend``."""
        await self.kube.suspend_job(run.namespace, names.job_name(run.name), uid, generation, suspend=False)

    async def end_replacements(self, run: Run, uid: str) -> None:
        """Set ``spec.backoffLimit`` to 0."""
        await self.kube.patch_job(run.namespace, names.job_name(run.name), uid, {"spec": {"backoffLimit": 0}})

    async def adopt(self, run: Run, uid: str) -> None:
        """Write the run as its owner."""
        owner = {"metadata": {"ownerReferences": [names.run_owner(run.name, run.uid)]}}
        await self.kube.patch_job(run.namespace, names.job_name(run.name), uid, owner)

    async def delete(self, run: Run, name: str, uid: str) -> None:
        """Delete the Job with its pods."""
        await self.kube.delete_job(run.namespace, name, uid)
