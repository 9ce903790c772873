"""One run's story: what is known of it, and its objects in the bucket.

Each object is created once: an operator that is killed in between writes what is missing, and what is there stays. `run.json` is the last one.
"""

from __future__ import annotations

import asyncio
import gzip
import logging
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from trainingrun_operator.api import names
from trainingrun_operator.api.curve import Curve
from trainingrun_operator.checkpoints import s3
from trainingrun_operator.checkpoints import story as objects
from trainingrun_operator.checkpoints.s3 import STORE_ERRORS
from trainingrun_operator.core import curve as curves
from trainingrun_operator.core import manifests
from trainingrun_operator.core import story as core
from trainingrun_operator.core.destinations import layout_of
from trainingrun_operator.core.facts.run import Problem
from trainingrun_operator.edge.kube import KubeError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trainingrun_operator.api.status import TrainingRunStatus
    from trainingrun_operator.checkpoints.keys import Layout
    from trainingrun_operator.checkpoints.s3 import Access
    from trainingrun_operator.core.facts.run import Run
    from trainingrun_operator.edge.gather.bucket import BucketReader
    from trainingrun_operator.edge.gather.store import Store
    from trainingrun_operator.edge.kube import Kube

_UNREADABLE: Final = {HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND, HTTPStatus.BAD_REQUEST}
"""Answers of the API server that a retry does not change."""
_REFUSALS: Final = frozenset({"AccessDenied", "NoCredentials", "MethodNotAllowed"})

log = logging.getLogger(__name__)


class RefusedError(Exception):
    """The bucket does not take the story."""


@dataclass
class Tale:
    """The story of one run."""

    run: Run
    ranks: int = 1
    """Number of ranks of the run."""
    pods: dict[int, str] = field(default_factory=dict)
    """Pods whose logs are to be kept, by rank."""
    logs: set[int] = field(default_factory=set)
    """Ranks whose logs are kept or left out."""
    no_logs: bool = False
    """No more logs are kept: they may not be read, or the bucket did not take them."""
    status: TrainingRunStatus | None = None
    """As it was at the end; None: the run has not ended."""
    told: bool = False
    """Whether `run.json` is there."""
    deleted: bool = False
    busy: bool = False
    due: float = 0.0
    tries: int = 0
    asked: Counter[int] = field(default_factory=Counter)
    """Attempts to keep a log, by rank."""
    complaint: str = ""
    settled: int = 0
    """Objects that this process has written, found or left out: a larger number is progress."""

    @property
    def waits(self) -> bool:
        """Whether there is something to write, and it is not being written."""
        return not self.busy and (bool(self.pods) or self.status is not None)

    def take(self, exited: Mapping[int, str]) -> bool:
        """Take the pods of ranks whose training has exited. Return whether there are new ones."""
        if self.no_logs:
            return False
        new = {rank: pod for rank, pod in exited.items() if rank not in self.logs and self.pods.get(rank) != pod}
        self.pods.update(new)
        return bool(new)

    def has_log(self, rank: int) -> None:
        """Record that a rank's log is kept or left out."""
        self.pods.pop(rank, None)
        self.logs.add(rank)
        self.settled += 1

    def drop_logs(self) -> None:
        """Keep no more logs."""
        self.pods.clear()
        self.no_logs = True


class Teller:
    """Writes the objects of one story after another."""

    def __init__(self, kube: Kube, store: Store, reader: BucketReader) -> None:
        self._kube, self._store, self._reader = kube, store, reader

    async def write(self, tale: Tale) -> None:
        """Write what is due of a story and missing in the bucket.

        Raises:
            RefusedError: the bucket does not take it.
            STORE_ERRORS: the bucket cannot be reached, or fails.
            KubeError: the API server cannot be reached, or fails.
        """
        access = await self._reader.access(tale.run)
        if isinstance(access, Problem):
            raise RefusedError(access.message)
        layout, status = layout_of(tale.run), tale.status
        try:
            await self._put_logs(tale, access, layout)
            if status is not None:
                await self._put_curve(tale, access, layout)
                await self._put(tale, access, layout, layout.story, core.story(tale.run, status), "application/json")
                tale.told = True
        except STORE_ERRORS as error:
            if (code := s3.code_of(error)) in _REFUSALS:
                raise RefusedError(f"{layout.uri(layout.base)} may not be written ({code})") from error
            raise

    async def _put_logs(self, tale: Tale, access: Access, layout: Layout) -> None:
        """Keep the logs of all ranks: rank 0's first, and last those that have failed. One that cannot be read delays no other."""
        failed: KubeError | None = None
        for rank, pod in sorted(tale.pods.items(), key=lambda one: (tale.asked[one[0]], one[0])):
            if tale.no_logs:
                return
            tale.asked[rank] += 1
            try:
                await self._put_log(tale, rank, pod, access, layout)
            except KubeError as error:
                failed = error
        if failed is not None:
            raise failed

    async def _put_log(self, tale: Tale, rank: int, pod: str, access: Access, layout: Layout) -> None:
        """Keep the end of one rank's log, if it may be read."""
        key = layout.log(rank)
        try:
            if not await self._store.call(access, partial(objects.exists, layout, key)):
                end = await self._log_end(tale, rank, pod)
                if end:
                    packed = await asyncio.to_thread(gzip.compress, end, mtime=0)
                    await self._store.call(access, partial(objects.create, layout, key, packed, "application/gzip"))
        except STORE_ERRORS as error:
            if (code := s3.code_of(error)) not in _REFUSALS:
                raise
            # The right to put the rest may be there: an earlier policy names fewer objects.
            log.info("%s: %s and further logs are not kept: the bucket refuses (%s)", tale.run.key, key, code)
            tale.drop_logs()
        tale.has_log(rank)

    async def _log_end(self, tale: Tale, rank: int, pod: str) -> bytes:
        """Return the end of a rank's log; empty: there is none, or it cannot be read."""
        run, container = tale.run, manifests.main_container(tale.run.spec)
        most_bytes = core.log_bytes(rank, tale.ranks)
        try:
            return await self._kube.log_end(run.namespace, pod, container, most_bytes=most_bytes)
        except KubeError as error:
            if error.status not in _UNREADABLE:
                raise
            log.info("%s: the log of pod %s is not kept: %s", run.key, pod, error.reason)
            if error.status == HTTPStatus.FORBIDDEN:
                tale.drop_logs()
            return b""

    async def _put_curve(self, tale: Tale, access: Access, layout: Layout) -> None:
        """Keep the curves as its ConfigMap has it, if there is one of this run."""
        found = await self._kube.config_map(tale.run.namespace, names.curve_name(tale.run.name))
        owners = {owner.get("uid") for owner in (found or {}).get("metadata", {}).get("ownerReferences") or ()}
        if found is None or tale.run.uid not in owners:
            return
        try:
            curve = Curve.model_validate_json((found.get("data") or {}).get(names.CURVE_KEY) or "")
        except ValueError:
            return
        body = curves.data(curve)[names.CURVE_KEY].encode()
        await self._put(tale, access, layout, layout.curve, body, "application/json")

    async def _put(self, tale: Tale, access: Access, layout: Layout, key: str, body: bytes, kind: str) -> None:
        if await self._store.call(access, partial(objects.create, layout, key, body, kind)):
            tale.settled += 1
