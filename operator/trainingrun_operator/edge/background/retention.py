"""Deletes old checkpoints of runs with `spec.checkpoint.keepLast`, in the background and a few at a time.

Every round starts from what is in the bucket, so that an operator that is killed in between leaves nothing that the next one does not find: a commit
goes first, then the objects that only its manifests name, and each manifest last. A commit in the bucket therefore never lacks an object.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final

from trainingrun_operator.api import names
from trainingrun_operator.api.run import CheckpointMode
from trainingrun_operator.api.status import Phase
from trainingrun_operator.checkpoints import sweep
from trainingrun_operator.checkpoints.keys import order_of_commit, order_of_manifest
from trainingrun_operator.checkpoints.proof import BadCommitError
from trainingrun_operator.checkpoints.s3 import STORE_ERRORS, Access
from trainingrun_operator.core import retention
from trainingrun_operator.core.destinations import layout_of
from trainingrun_operator.core.facts.bucket import Mismatch, Verified
from trainingrun_operator.core.facts.run import Problem
from trainingrun_operator.core.retention import Kept
from trainingrun_operator.edge.background import loop
from trainingrun_operator.edge.clock import SystemClock
from trainingrun_operator.edge.kube import KubeError

if TYPE_CHECKING:
    from collections.abc import Callable

    from trainingrun_operator.checkpoints.keys import Layout
    from trainingrun_operator.core.facts.run import Run
    from trainingrun_operator.core.observed import Observed
    from trainingrun_operator.edge.gather.bucket import BucketReader
    from trainingrun_operator.edge.gather.store import Store
    from trainingrun_operator.edge.kube import Kube

ROUND_SECONDS: Final = 3600.0
"""Between two rounds of a run in which nothing more is to be done."""
COMMITS: Final = 16
"""Commits, manifests and uploads of one round, of each at most."""
OBJECTS: Final = 10 * sweep.BATCH
"""Objects of one round."""

log = logging.getLogger(__name__)


class _UnknownError(Exception):
    """Something in the bucket cannot be understood, so nothing is deleted."""


@dataclass
class _Kept:
    """A run with `keepLast`."""

    run: Run
    proven: tuple[str, ...]
    due: float = float("-inf")
    failures: int = 0
    complaint: str = ""
    told: bool = False
    settled: bool = False
    """The run has ended, and nothing in the bucket will ever be retired."""
    known: dict[str, Kept] = field(default_factory=dict)
    """Commits by key: they never change."""

    @property
    def ended(self) -> bool:
        """Whether the run has ended for good."""
        stop = self.run.status.termination
        return stop is not None and stop.phase is Phase.DONE and not stop.suspends


class Retention:
    """The retention of all runs. `run` works in the background; `note` takes what a look has seen."""

    def __init__(
        self,
        kube: Kube,
        store: Store,
        reader: BucketReader,
        leads: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._kube, self._store, self._reader, self._leads, self._clock = kube, store, reader, leads, clock
        self._kept: dict[str, _Kept] = {}
        self._alarm = asyncio.Event()

    def note(self, seen: Observed) -> None:
        """Take the newest proof of a run, without waiting."""
        run, stop = seen.run, seen.run.status.termination
        checkpoint = run.spec.checkpoint
        if run.deleting or checkpoint.keep_last is None or checkpoint.mode is CheckpointMode.DISABLED:
            self.forget(run.uid)
            return
        if stop is not None and stop.phase is not Phase.DONE:
            # A stop reads what is in the bucket: nothing is deleted meanwhile.
            self.forget(run.uid)
            return
        proven = retention.proven_of(seen)
        before = self._kept.get(run.uid)
        if before is None:
            self._kept[run.uid] = _Kept(run, proven)
            return
        if (proven, checkpoint.keep_last) != (before.proven, before.run.spec.checkpoint.keep_last):
            before.due, before.settled = float("-inf"), False
            self._alarm.set()
        before.run, before.proven = run, proven

    def forget(self, uid: str) -> None:
        """Drop a run."""
        self._kept.pop(uid, None)

    def forget_all(self) -> None:
        """Drop all runs: another replica leads."""
        self._kept.clear()

    async def run(self) -> None:
        """Work until cancelled."""
        await loop.work_on(self.work, self._alarm)

    async def work(self) -> None:
        """Do one round of every run that is due, one after another: each holds the keys of some manifests in memory."""
        for kept in [one for one in self._kept.values() if one.due <= self._clock() and not one.settled]:
            if self._may(kept):
                await self._round(kept)

    def _may(self, kept: _Kept) -> bool:
        """Whether this process may still delete for a run: it leads, and no stop has begun."""
        return self._leads() and self._kept.get(kept.run.uid) is kept

    async def _round(self, kept: _Kept) -> None:
        try:
            more = await _Round(self._store, self._reader, kept, self._may).work()
        except sweep.RefusedError as refused:
            await self._tell(kept, str(refused))
            kept.due = self._clock() + ROUND_SECONDS
            return
        except (*STORE_ERRORS, KubeError, BadCommitError, _UnknownError) as error:
            self._later(kept, f"{type(error).__name__}: {error}")
            return
        except Exception:
            # A bug must affect this run alone.
            log.exception("%s: failed to delete old checkpoints", kept.run.key)
            self._later(kept, kept.complaint)
            return
        kept.failures, kept.complaint = 0, ""
        kept.due = self._clock() + (0 if more else ROUND_SECONDS)

    def _later(self, kept: _Kept, complaint: str) -> None:
        if complaint != kept.complaint:
            log.warning("%s: old checkpoints are kept for now: %s", kept.run.key, complaint)
        kept.complaint, kept.failures = complaint, kept.failures + 1
        kept.due = self._clock() + loop.backoff(kept.failures)

    async def _tell(self, kept: _Kept, code: str) -> None:
        """Record one Event on the run. Nothing else changes: old checkpoints stay."""
        if kept.told:
            return
        run = kept.run
        message = (
            f"spec.checkpoint.keepLast is {run.spec.checkpoint.keep_last}, but the operator may not delete in the bucket ({code}): all checkpoints are"
            " kept. Allow s3:DeleteObject and s3:AbortMultipartUpload on the destination (kubectl trainingrun policy s3://… --keep-last), or remove keepLast."
        )
        log.warning("%s: %s", run.key, message)
        involved = names.run_reference(run.namespace, run.name, run.uid)
        try:
            await self._kube.record_event(
                involved, "CheckpointsNotDeleted", message, warning=True, wall=SystemClock().wall()
            )
        except KubeError as error:
            log.warning("%s: could not record the Event CheckpointsNotDeleted: %s", run.key, error)
            return
        kept.told = True


class _Round:
    """One round of one run."""

    def __init__(self, store: Store, reader: BucketReader, kept: _Kept, may: Callable[[_Kept], bool]) -> None:
        self._store, self._reader, self._kept, self._may = store, reader, kept, may
        self._layout: Layout = layout_of(kept.run)
        self._access = Access()
        self._proven = kept.proven
        self._whole = False
        """Whether the last proven commit has verified in this round."""

    async def work(self) -> bool:
        """Delete what is due, up to a limit. Return whether there is more."""
        access = await self._reader.access(self._kept.run)
        if isinstance(access, Problem):
            raise _UnknownError(access.message)
        self._access = access
        commits, ages = await self._commits()
        old = retention.older(commits, self._proven, self._kept.run.spec.checkpoint.keep_last or len(commits) + 1)
        due = retention.retired(old, ages)
        gone = due[:COMMITS]
        if gone and await self._last_is_whole():
            await self._delete([one.key for one in gone])
            commits = [one for one in commits if one not in gone]
            old = tuple(one for one in old if one not in gone)
        swept, lost = await self._sweep(commits)
        aborted, begun = await self._abort()
        self._kept.settled = self._kept.ended and not (old or lost or begun)
        return len(due) > COMMITS or swept or aborted

    # -- commits ---------------------------------------------------------------------------------------

    async def _commits(self) -> tuple[list[Kept], dict[str, float]]:
        """Read all commits. Return them and their ages."""
        ages = await self._ages(self._layout.commits, flat=True)
        keys = [key for key in ages if (order := order_of_commit(key)) and key == self._layout.commit(order)]
        self._kept.known = {key: known for key, known in self._kept.known.items() if key in ages}
        for key in keys:
            if key not in self._kept.known:
                commit = await self._store.read_commit(self._access, self._layout, key)
                self._kept.known[key] = Kept.of(key, commit)
        return [self._kept.known[key] for key in keys], ages

    async def _last_is_whole(self) -> bool:
        """Prove the last proven commit again, before the first deletion of a round."""
        if not self._whole:
            answer = await self._store.verify(self._access, self._layout, self._proven[0])
            if not isinstance(answer, Verified):
                said = answer.complaint if isinstance(answer, Mismatch) else answer.message
                raise _UnknownError(f"the last proven checkpoint does not verify: {said}")
            self._whole = True
        return self._whole

    # -- manifests and objects -----------------------------------------------------------------------------

    async def _sweep(self, commits: list[Kept]) -> tuple[bool, bool]:
        """Delete manifests that no commit names, with their objects. Return whether there are more now, and whether any is left, now or for later."""
        ages: dict[str, float] = {}
        for rank in await self._store.call(self._access, partial(sweep.ranks, self._layout)):
            found = await self._ages(self._layout.rank(rank), flat=True)
            ages.update({key: age for key, age in found.items() if order_of_manifest(key)})
        lost = retention.orphans(self._layout, ages, commits, self._proven)
        due = [key for key in lost if retention.is_old(ages, key)]
        if not due or not await self._last_is_whole():
            return False, bool(lost)
        left = OBJECTS
        for victim in due[:COMMITS]:
            # What another manifest lists stays until that one goes, be it in a commit or not.
            objects = await self._only_of(victim, [key for key in ages if key not in due])
            await self._delete(objects[:left])
            left -= len(objects)
            if left < 0:
                return True, True
            await self._delete([victim])
        return len(due) > COMMITS, len(lost) > len(due[:COMMITS])

    async def _only_of(self, victim: str, others: list[str]) -> list[str]:
        """Return the objects that a manifest lists, that no other manifest lists, and that are old enough."""
        mine: set[str] = set()
        async for keys in self._store.keys_of(self._access, self._layout, victim):
            mine.update(key for key in keys if self._layout.folder_of(key))
        for other in others:
            if not mine:
                break
            async for keys in self._store.keys_of(self._access, self._layout, other):
                mine.difference_update(keys)
        found: list[str] = []
        for folder in sorted({self._layout.folder_of(key) for key in mine}):
            ages = await self._ages(folder)
            found.extend(key for key in ages if key in mine and retention.is_old(ages, key))
        return sorted(found)

    # -- uploads ----------------------------------------------------------------------------------------------

    async def _abort(self) -> tuple[bool, bool]:
        """Abort what dead agents have begun to upload. Return whether there is more now, and whether any is left, now or for later."""
        found = await self._store.call(self._access, partial(sweep.uploads, self._layout))
        if not found:
            return False, False
        newest: dict[int, int] = {}
        for rank in {rank for one in found if (rank := self._layout.rank_of(one.key)) is not None}:
            newest[rank] = await self._store.call(self._access, partial(sweep.claimed, self._layout, rank))
        chosen = sweep.dead(self._layout, found, newest, ended=self._kept.ended, youngest=retention.YOUNGEST_SECONDS)
        self._check()
        await self._store.call(self._access, partial(sweep.abort, self._layout, chosen[:COMMITS]))
        return len(chosen) > COMMITS, len(found) > len(chosen[:COMMITS])

    # -- calls ------------------------------------------------------------------------------------------------

    async def _ages(self, prefix: str, *, flat: bool = False) -> dict[str, float]:
        return await self._store.call(self._access, partial(sweep.ages, self._layout, prefix, flat=flat))

    async def _delete(self, keys: list[str]) -> None:
        for start in range(0, len(keys), sweep.BATCH):
            self._check()
            await self._store.call(self._access, partial(sweep.delete, self._layout, keys[start : start + sweep.BATCH]))

    def _check(self) -> None:
        """Stop before a deletion if another process leads, or a stop has begun."""
        if not self._may(self._kept):
            raise _UnknownError("a stop has begun, or another operator leads")
