"""Writes each run's story beside its commits, in the background: the logs once the training has exited, `curve.json` and `run.json` after the end.

No stop waits for it and no decision reads it. Some stories are written at once, each for a limited time, so that a bucket that does not answer
delays no other run's. After some failures a story is given up, which is said once. `telling` writes one story.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from typing import TYPE_CHECKING, Final

from trainingrun_operator.api import names
from trainingrun_operator.api.run import CheckpointMode
from trainingrun_operator.checkpoints import s3
from trainingrun_operator.checkpoints.s3 import STORE_ERRORS
from trainingrun_operator.core import story as core
from trainingrun_operator.core.facts.pod import Training
from trainingrun_operator.edge.background import loop
from trainingrun_operator.edge.background.telling import RefusedError, Tale, Teller
from trainingrun_operator.edge.clock import SystemClock
from trainingrun_operator.edge.kube import KubeError

if TYPE_CHECKING:
    from collections.abc import Callable

    from trainingrun_operator.api.status import TrainingRunStatus
    from trainingrun_operator.core.observed import Observed
    from trainingrun_operator.edge.gather.bucket import BucketReader
    from trainingrun_operator.edge.gather.store import Store
    from trainingrun_operator.edge.kube import Kube

TRIES: Final = 8
"""Of one run, without a new object in the bucket; with the pauses between them, some ten minutes."""
AT_ONCE: Final = 4
"""Stories that are written at once. Each may hold a log in memory."""
NAMESPACE_AT_ONCE: Final = 2
"""The same of one namespace."""
TURN_SECONDS: Final = 90.0
"""Time for one attempt. What it has not written is left for the next one."""
CURVE_SECONDS: Final = 5.0
"""Time after the end in which the curve's last points are stored."""
NEWS_SECONDS: Final = 24 * 3600.0
"""Age, by the wall clock, of an end whose story is no longer written: after a restart there are thousands of ended runs."""
WAITING: Final = 512
"""Deleted runs whose stories are still to be written."""

log = logging.getLogger(__name__)


class Story:
    """The stories of all runs. `run` works in the background; `note` takes what a look has seen."""

    def __init__(
        self,
        kube: Kube,
        store: Store,
        reader: BucketReader,
        leads: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._kube, self._leads, self._clock = kube, leads, clock
        self._teller = Teller(kube, store, reader)
        self._tales: dict[str, Tale] = {}
        """Stories that are not complete, by run uid."""
        self._busy: Counter[str] = Counter()
        """Stories that are being written now, by namespace."""
        self._failing: Counter[str] = Counter()
        """Attempts that have failed since the last that succeeded, by namespace."""
        self._over: set[str] = set()
        """Runs whose story is written or given up. There are thousands."""
        self._alarm = asyncio.Event()

    def note(self, seen: Observed, whole: TrainingRunStatus) -> None:
        """Take a run that is ending or has ended, without waiting."""
        run, stop = seen.run, whole.termination
        if stop is None or stop.suspends or run.spec.checkpoint.mode is CheckpointMode.DISABLED:
            self._tales.pop(run.uid, None)
            return
        if whole.completion_time and seen.seconds_since(whole.completion_time) > NEWS_SECONDS:
            return
        if run.uid in self._over:
            return
        tale = self._tales.setdefault(run.uid, Tale(run))
        tale.run, tale.ranks = run, max(tale.ranks, len(seen.ranks))
        exited = {
            rank.number: rank.pod.name
            for rank in seen.ranks
            if rank.pod is not None and rank.pod.training is Training.EXITED
        }
        if tale.take(exited):
            self._alarm.set()
        if core.is_told(run, whole) and tale.status is None:
            tale.status, tale.due = whole, self._clock() + CURVE_SECONDS

    def forget(self, uid: str) -> None:
        """Drop a run that is gone; the story of one that has ended is still written."""
        self._over.discard(uid)
        tale = self._tales.get(uid)
        if tale is None:
            return
        if tale.status is None or sum(one.deleted for one in self._tales.values()) >= WAITING:
            del self._tales[uid]
            return
        tale.deleted, tale.due = True, self._clock()
        self._alarm.set()

    def forget_all(self) -> None:
        """Drop all runs: another replica leads."""
        self._tales.clear()
        self._failing.clear()
        self._over.clear()

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(loop.work_on(self.work, self._alarm))

    async def work(self) -> None:
        """Write what is due, one story after another, beside the others who do the same."""
        while (tale := self._next()) is not None:
            namespace = tale.run.namespace
            tale.busy = True
            self._busy[namespace] += 1
            try:
                await self._tell(tale)
            finally:
                tale.busy = False
                self._busy -= Counter((namespace,))

    def _next(self) -> Tale | None:
        """Return the story to write next: of the namespace with the fewest in progress, then with the fewest failures; of its stories, likewise."""
        if not self._leads():
            return None
        now = self._clock()
        due = (
            tale
            for tale in self._tales.values()
            if tale.waits and tale.due <= now and self._busy[tale.run.namespace] < NAMESPACE_AT_ONCE
        )
        return min(due, key=self._order, default=None)

    def _order(self, tale: Tale) -> tuple[int, int, int, float]:
        namespace = tale.run.namespace
        return self._busy[namespace], self._failing[namespace], tale.tries, tale.due

    async def _tell(self, tale: Tale) -> None:
        settled = tale.settled
        try:
            async with asyncio.timeout(TURN_SECONDS):
                await self._teller.write(tale)
        except RefusedError as refused:
            await self._give_up(tale, str(refused))
        except (*STORE_ERRORS, KubeError) as error:
            # Codes only: a store may answer with anything.
            code = f"{error.status} {error.reason}" if isinstance(error, KubeError) else s3.code_of(error)
            await self._later(tale, code, progressed=tale.settled > settled)
        except Exception:
            # A bug must affect this run alone.
            log.exception("%s: failed to write its story", tale.run.key)
            await self._later(tale, "an error of the operator, which its log has")
        else:
            tale.tries, tale.complaint = 0, ""
            self._failing.pop(tale.run.namespace, None)
            if tale.told:
                self._close(tale)

    async def _later(self, tale: Tale, complaint: str, *, progressed: bool = False) -> None:
        tale.tries = 1 if progressed else tale.tries + 1
        self._failing[tale.run.namespace] += not progressed
        if tale.tries >= TRIES and tale.pods:
            # The logs may be what fails: the rest is tried without them.
            log.info("%s: the logs of %d ranks are not kept: %s", tale.run.key, len(tale.pods), complaint)
            tale.drop_logs()
            tale.tries = TRIES // 2
        if tale.tries >= TRIES or (tale.deleted and not progressed):
            await self._give_up(tale, complaint)
            return
        if complaint != tale.complaint:
            log.info("%s: writing its story is retried: %s", tale.run.key, complaint)
        tale.complaint = complaint
        tale.due = self._clock() + loop.backoff(tale.tries)

    async def _give_up(self, tale: Tale, why: str) -> None:
        """Say once that the story is not kept. The run's end and its checkpoints do not depend on it."""
        if tale.status is None:
            # The run has not ended: only logs were due.
            tale.drop_logs()
            tale.tries = 0
            return
        self._close(tale)
        message = (
            f"The run's story (run.json, curve.json, log.txt.gz) is not kept in the bucket: {why}. Its checkpoints are. To keep it, allow s3:PutObject"
            " on these objects (kubectl trainingrun policy s3://… --for operator)."
        )
        log.warning("%s: %s", tale.run.key, message)
        involved = names.run_reference(tale.run.namespace, tale.run.name, tale.run.uid)
        try:
            await self._kube.record_event(involved, "StoryNotKept", message, warning=True, wall=SystemClock().wall())
        except KubeError as error:
            log.info("%s: could not record the Event StoryNotKept: %s", tale.run.key, error.reason)

    def _close(self, tale: Tale) -> None:
        """Forget a story that is written or given up, and remember the run."""
        uid = tale.run.uid
        if self._tales.get(uid) is tale:
            del self._tales[uid]
            if not tale.deleted:
                self._over.add(uid)
