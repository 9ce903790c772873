"""Writes each run's story beside its commits, in the background: `log.txt.gz` once the training has exited, `curve.json` and `run.json` after the end.

No stop waits for it and no decision reads it. Each object is created once: an operator that is killed in between writes what is missing, and what is
there stays. After some failures it is given up, which is said once.
"""

from __future__ import annotations

import asyncio
import gzip
import logging
import time
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from trainingrun_operator.api import names
from trainingrun_operator.api.curve import Curve
from trainingrun_operator.api.run import CheckpointMode
from trainingrun_operator.checkpoints import s3
from trainingrun_operator.checkpoints import story as objects
from trainingrun_operator.checkpoints.s3 import STORE_ERRORS
from trainingrun_operator.core import manifests
from trainingrun_operator.core import story as core
from trainingrun_operator.core.destinations import layout_of
from trainingrun_operator.core.facts.pod import Training
from trainingrun_operator.core.facts.run import Problem
from trainingrun_operator.edge.background import loop
from trainingrun_operator.edge.clock import SystemClock
from trainingrun_operator.edge.kube import KubeError

if TYPE_CHECKING:
    from collections.abc import Callable

    from trainingrun_operator.api.status import TrainingRunStatus
    from trainingrun_operator.checkpoints.keys import Layout
    from trainingrun_operator.checkpoints.s3 import Access
    from trainingrun_operator.core.facts.run import Run
    from trainingrun_operator.core.observed import Observed
    from trainingrun_operator.edge.gather.bucket import BucketReader
    from trainingrun_operator.edge.gather.store import Store
    from trainingrun_operator.edge.kube import Kube

LOG_BYTES: Final = 10 * 10**6
"""Of the end of a log, before it is compressed."""
TRIES: Final = 8
"""Of one run; with the pauses between them, some ten minutes."""
CURVE_SECONDS: Final = 5.0
"""Time after the end in which the curve's last points are stored."""
NEWS_SECONDS: Final = 24 * 3600.0
"""A run that ended earlier, by the wall clock, is not told any more: after a restart there are thousands of them."""
WAITING: Final = 512
"""Deleted runs whose stories are still to be written."""

log = logging.getLogger(__name__)


class _RefusedError(Exception):
    """The bucket does not take the story."""


@dataclass
class _Tale:
    """The story of one run."""

    run: Run
    pod: str = ""
    """Pod whose log is read; empty: none, or it is kept already."""
    log_done: bool = False
    status: TrainingRunStatus | None = None
    """As it was at the end; None: the run has not ended."""
    deleted: bool = False
    done: bool = False
    due: float = 0.0
    tries: int = 0
    complaint: str = ""

    @property
    def waits(self) -> bool:
        """Whether there is something to write."""
        return not self.done and (bool(self.pod) or self.status is not None)


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
        self._kube, self._store, self._reader, self._leads, self._clock = kube, store, reader, leads, clock
        self._tales: dict[str, _Tale] = {}
        self._alarm = asyncio.Event()

    def note(self, seen: Observed, whole: TrainingRunStatus) -> None:
        """Take a run that is ending or has ended, without waiting."""
        run, stop = seen.run, whole.termination
        if stop is None or stop.suspends or run.spec.checkpoint.mode is CheckpointMode.DISABLED:
            self._tales.pop(run.uid, None)
            return
        if whole.completion_time and seen.seconds_since(whole.completion_time) > NEWS_SECONDS:
            return
        tale = self._tales.setdefault(run.uid, _Tale(run))
        if tale.done:
            return
        tale.run = run
        exited = seen.ranks[0].pod
        if not tale.log_done and exited is not None and exited.training is Training.EXITED:
            tale.pod = exited.name
            self._alarm.set()
        if core.is_told(run, whole) and tale.status is None:
            tale.status, tale.due = whole, self._clock() + CURVE_SECONDS

    def forget(self, uid: str) -> None:
        """Drop a run that is gone; the story of one that has ended is still written."""
        tale = self._tales.get(uid)
        if tale is None:
            return
        if tale.status is None or tale.done or sum(one.deleted for one in self._tales.values()) >= WAITING:
            del self._tales[uid]
            return
        tale.deleted, tale.due = True, self._clock()
        self._alarm.set()

    def forget_all(self) -> None:
        """Drop all runs: another replica leads."""
        self._tales.clear()

    async def run(self) -> None:
        """Work until cancelled."""
        await loop.work_on(self.work, self._alarm)

    async def work(self) -> None:
        """Write what is due, one run after another: each may hold a log in memory."""
        now = self._clock()
        for uid, tale in [(uid, tale) for uid, tale in self._tales.items() if tale.waits and tale.due <= now]:
            if self._leads() and self._tales.get(uid) is tale:
                await self._tell(tale)
            if tale.deleted and tale.done:
                self._tales.pop(uid, None)

    async def _tell(self, tale: _Tale) -> None:
        try:
            await self._write(tale)
        except _RefusedError as refused:
            await self._give_up(tale, str(refused))
        except (*STORE_ERRORS, KubeError) as error:
            # Codes only: a store may answer with anything.
            code = f"{error.status} {error.reason}" if isinstance(error, KubeError) else s3.code_of(error)
            await self._later(tale, code)
        except Exception:
            # A bug must affect this run alone.
            log.exception("%s: failed to write its story", tale.run.key)
            await self._later(tale, "an error of the operator, which its log has")

    async def _write(self, tale: _Tale) -> None:
        access = await self._reader.access(tale.run)
        if isinstance(access, Problem):
            raise _RefusedError(access.message)
        layout = layout_of(tale.run)
        try:
            if tale.pod:
                await self._put_log(tale, access, layout)
            if tale.status is not None:
                await self._put_curve(tale, access, layout)
                await self._put(access, layout, layout.story, core.story(tale.run, tale.status), "application/json")
                tale.done, tale.status = True, None
        except STORE_ERRORS as error:
            if (code := s3.code_of(error)) in {"AccessDenied", "NoCredentials", "MethodNotAllowed"}:
                raise _RefusedError(f"{layout.uri(layout.base)} may not be written ({code})") from error
            raise
        tale.tries, tale.complaint = 0, ""

    async def _put_log(self, tale: _Tale, access: Access, layout: Layout) -> None:
        """Keep the end of the training's log, if it may be read."""
        if not await self._store.call(access, partial(objects.exists, layout, layout.log)):
            container = manifests.main_container(tale.run.spec)
            try:
                end = await self._kube.log_end(tale.run.namespace, tale.pod, container, most_bytes=LOG_BYTES)
            except KubeError as error:
                if error.status not in {HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND, HTTPStatus.BAD_REQUEST}:
                    raise
                log.info("%s: the log of pod %s is not kept: %s", tale.run.key, tale.pod, error.reason)
                end = b""
            if end:
                packed = await asyncio.to_thread(gzip.compress, end, mtime=0)
                await self._put(access, layout, layout.log, packed, "application/gzip")
        tale.pod, tale.log_done = "", True

    async def _put_curve(self, tale: _Tale, access: Access, layout: Layout) -> None:
        """Keep the loss curve as its ConfigMap has it, if there is one of this run."""
        found = await self._kube.config_map(tale.run.namespace, names.curve_name(tale.run.name))
        owners = {owner.get("uid") for owner in (found or {}).get("metadata", {}).get("ownerReferences") or ()}
        if found is None or tale.run.uid not in owners:
            return
        try:
            curve = Curve.model_validate_json((found.get("data") or {}).get(names.CURVE_KEY) or "")
        except ValueError:
            return
        body = curve.model_dump_json(by_alias=True, exclude_none=True).encode()
        await self._put(access, layout, layout.curve, body, "application/json")

    async def _put(self, access: Access, layout: Layout, key: str, body: bytes, kind: str) -> None:
        await self._store.call(access, partial(objects.create, layout, key, body, kind))

    async def _later(self, tale: _Tale, complaint: str) -> None:
        tale.tries += 1
        if tale.tries >= TRIES or tale.deleted:
            await self._give_up(tale, complaint)
            return
        if complaint != tale.complaint:
            log.info("%s: writing its story is retried: %s", tale.run.key, complaint)
        tale.complaint = complaint
        tale.due = self._clock() + loop.backoff(tale.tries)

    async def _give_up(self, tale: _Tale, why: str) -> None:
        """Say once that the story is not kept. The run's end and its checkpoints do not depend on it."""
        if tale.status is None:
            # The run has not ended: only its log was due.
            tale.pod, tale.log_done, tale.tries = "", True, 0
            return
        tale.done, tale.status = True, None
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
