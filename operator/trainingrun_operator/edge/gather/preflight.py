"""Checks of a new run against bucket and API server, before anything is created and at intervals while it is refused."""

from __future__ import annotations

from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from pydantic import ValidationError

from trainingrun_operator.api import names
from trainingrun_operator.api.run import CheckpointMode
from trainingrun_operator.checkpoints.s3 import Listed
from trainingrun_operator.core import acceptance, manifests, overlaps, restoring
from trainingrun_operator.core.destinations import layout_of
from trainingrun_operator.core.facts.bucket import Mismatch, Unreachable, Verified
from trainingrun_operator.core.facts.gathered import Source
from trainingrun_operator.core.facts.run import Problem, Run
from trainingrun_operator.edge.kube import KubeError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trainingrun_operator.checkpoints.s3 import Access
    from trainingrun_operator.core.defaults import Defaults
    from trainingrun_operator.core.facts.workload import Workload
    from trainingrun_operator.core.memory import Memory
    from trainingrun_operator.core.restoring import Origin
    from trainingrun_operator.edge.cache import Cache
    from trainingrun_operator.edge.gather.bucket import BucketReader
    from trainingrun_operator.edge.ports import BucketStore
    from trainingrun_operator.edge.workloads import Workloads

REFUSED: frozenset[int] = frozenset({400, 403, 422})
"""Statuses with which the API server refuses the object itself."""
ORIGIN_DEPTH: Final = 64
"""Commits of another run that are considered to start from; the newest ones."""


@dataclass(frozen=True)
class Checked:
    """The result of the checks; empty for a run that has a Job."""

    problem: Problem | None = None
    ended_before: Verified | None = None
    """Commit of an earlier stop of this run."""
    origin: Origin | None = None
    """The other run from which this one starts."""
    read: bool = False
    """The checks ran now."""


@dataclass(frozen=True)
class Preflight:
    """Runs the checks."""

    workloads: Workloads
    store: BucketStore
    bucket_reader: BucketReader
    cache: Cache
    defaults: Defaults
    recheck_seconds: float

    async def check(
        self,
        run: Run,
        workload: Workload | None,
        memory: Memory,
        now: float,
        namespace_labels: Mapping[str, str] | None,
    ) -> Checked:
        """Return why the Job cannot be created, from memory or from new checks."""
        if (
            workload is not None
            or run.status.termination is not None
            or run.status.workload is not None
            or run.deleting
        ):
            return Checked()
        recent = (
            run.generation == memory.problem_generation and memory.age(Source.PREFLIGHT, now) < self.recheck_seconds
        )
        if memory.problem is not None and recent:
            return Checked(memory.problem)
        return await self._look(run, namespace_labels)

    async def _look(self, run: Run, namespace_labels: Mapping[str, str] | None) -> Checked:
        pools = tuple(self.cache.pools.values())
        if found := acceptance.complaint(run, pools, self.defaults, namespace_labels):
            return Checked(found, read=True)
        if found := overlaps.with_runs(run, self.cache.runs.values()):
            return Checked(found, read=True)
        before, origin = None, None
        if run.spec.checkpoint.mode is not CheckpointMode.DISABLED:
            access = await self.bucket_reader.access(run)
            if isinstance(access, Problem):
                return Checked(access, read=True)
            if (refusal := await self.store.probe(access, layout_of(run))) is not None:
                return Checked(Problem(refusal.code, refusal.message, permanent=False), read=True)
            if (found := await self._in_a_folder(run, access)) is not None:
                return Checked(found, read=True)
            ended = await self._ended_before(run, access)
            if isinstance(ended, Problem):
                return Checked(ended, read=True)
            before = ended
            found_origin = await self._origin(run, access)
            if isinstance(found_origin, Problem):
                return Checked(found_origin, read=True)
            origin = found_origin
        return Checked(await self._dry_run(run, origin), before, origin, read=True)

    async def _in_a_folder(self, run: Run, access: Access) -> Problem | None:
        """Return the problem of a destination in a run's folder, also of a run that the cluster does not have any more."""
        for folder in overlaps.folders_around(run):
            claims = replace(layout_of(run), base=folder).claims(0)
            # What these credentials may not list is not known to be a run's.
            listed = await self.store.ages(access, layout_of(run), claims)
            if isinstance(listed, Listed) and listed.ages:
                return overlaps.with_folder(run, folder)
        return None

    async def _origin(self, run: Run, access: Access) -> Origin | Problem | None:
        """Return the other run from which this one starts, once it has a proven checkpoint."""
        named = restoring.named(run)
        origin = restoring.resolved(run, self._run(*named) if named else None, self.defaults.allowed_destinations)
        if origin is None or isinstance(origin, Problem):
            return origin
        there = replace(
            access,
            endpoint_url=origin.endpoint_url,
            region=origin.region,
            expected_bucket_owner=origin.expected_bucket_owner,
            requester_pays=origin.requester_pays,
        )
        if origin.commit is not None:
            # Commits of its generation may be older than those that a search reads.
            exact = await self.store.verify(there, origin.layout, origin.commit)
            if isinstance(exact, Verified) and origin.will_do(exact.commit):
                return origin
        match await self.store.find(there, origin.layout, origin.will_do, depth=ORIGIN_DEPTH, fall_back=True):
            case Verified():
                return origin
            case Unreachable(code, message):
                return Problem(code, f"{restoring.FIELD}: {message}", permanent=False)
            case Mismatch(complaint=complaint):
                return restoring.nothing_there(run, origin, f"its checkpoints do not verify: {complaint}")
            case None:
                return restoring.nothing_there(run, origin, depth=ORIGIN_DEPTH)

    def _run(self, namespace: str, name: str) -> Run | None:
        """Return a run from the watch; None: there is none, or this operator does not watch it or cannot read it."""
        for stored in self.cache.runs.values():
            if (stored["metadata"]["namespace"], stored["metadata"]["name"]) == (namespace, name):
                try:
                    return Run.of(stored)
                except ValidationError:
                    return None
        return None

    async def _ended_before(self, run: Run, access: Access) -> Verified | Problem | None:
        """Return the commit of an earlier stop of this run; a cluster restored from a backup may lack the stop."""
        stop_id = names.stop_id(run.uid)
        found = await self.store.find(access, layout_of(run), lambda c: c.termination_id == stop_id, fall_back=True)
        match found:
            case Verified() | None:
                return found
            case Unreachable(code, message):
                return Problem(code, message, permanent=False)
            case Mismatch(complaint=complaint):
                said = f"This run already ended, and the commit of its stop does not verify: {complaint}"
                return Problem("EndedBefore", said, permanent=False)

    async def _dry_run(self, run: Run, origin: Origin | None) -> Problem | None:
        try:
            await self.workloads.of(run).create(manifests.job(run, self.defaults, origin), dry_run=True)
        except KubeError as error:
            if error.exists:
                return await self._name_taken(run)
            if error.status in REFUSED:
                return refused_job(error)
            raise
        return None

    async def _name_taken(self, run: Run) -> Problem | None:
        adapter = self.workloads.of(run)
        found = await adapter.read(run)
        if found is None or adapter.of(found).run_uid == run.uid:
            return None
        message = f"Job {run.name!r} exists and belongs to another owner: delete it, or rename the run."
        return Problem("JobNameTaken", message, permanent=False)


def refused_job(error: KubeError) -> Problem:
    """Return the problem of a Job that the API server refuses."""
    message = f"The API server refuses the Job of spec.template: {error.message}"
    # A quota or policy may change.
    return Problem("InvalidTemplate", message, permanent=error.status != HTTPStatus.FORBIDDEN)
