"""Keeps each run's loss curve in a ConfigMap, beside the looks: what fails or hangs here is tried again, and nobody waits for it.

Nothing is decided by a curve. It belongs to the run's namespace, and whoever may write ConfigMaps there may spoil it; an operator that is killed takes at
most the points of one interval along.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from trainingrun_operator.api import names
from trainingrun_operator.api.curve import Curve
from trainingrun_operator.core import curve as core
from trainingrun_operator.core.curve import Thinned
from trainingrun_operator.edge.background import loop
from trainingrun_operator.edge.clock import SystemClock
from trainingrun_operator.edge.kube import KubeError

if TYPE_CHECKING:
    from collections.abc import Callable

    from trainingrun_operator.core.observed import Observed
    from trainingrun_operator.edge.kube import Kube

Json = dict[str, Any]

AT_ONCE: Final = 4

log = logging.getLogger(__name__)


class TakenError(Exception):
    """There is a ConfigMap of that name, and it is not the run's."""

    def __init__(self, name: str, *, leftover: bool) -> None:
        super().__init__(
            f"The loss curve is not kept: ConfigMap {name} is there and does not belong to this run. Delete or rename it."
        )
        self.leftover = leftover
        """Of an earlier run of this name: the garbage collector has not come by yet."""


@dataclass
class _Kept:
    """One run's curve, and what of it is written."""

    namespace: str
    name: str
    run_uid: str
    line: Thinned = field(default_factory=Thinned)
    uid: str = ""
    """Of the ConfigMap; empty while it is not known."""
    read: bool = False
    """What an operator before this one wrote is part of the line."""
    written: tuple[int, int] | None = None
    ended: bool = False
    """Or suspended: nothing is added for now."""
    done: bool = False
    """Written after the run had ended."""
    due: float = float("-inf")
    failures: int = 0
    complaint: str = ""
    told: bool = False

    @property
    def changed(self) -> bool:
        """The newest point alone is no reason to write, but at the end."""
        return not self.done and (self.ended or self.line.shape != self.written)

    @property
    def key(self) -> str:
        """For logs."""
        return f"{self.namespace}/{self.name}"


class Curves:
    """All runs' curves. `run` it beside the looks; `note` what they see."""

    def __init__(
        self, kube: Kube, leads: Callable[[], bool], seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`seconds`: between two writes of one run's curve, at least. `leads`: whether this process may write."""
        self._kube, self._leads, self._seconds, self._clock = kube, leads, seconds, clock
        self._kept: dict[str, _Kept] = {}
        self._alarm = asyncio.Event()

    def note(self, seen: Observed) -> None:
        """Take in what a look saw. Waits for nothing."""
        run = seen.run
        if run.deleting:
            # Its curve would go with it.
            self.forget(run.uid)
            return
        kept = self._kept.get(run.uid)
        ended = run.status.termination is not None
        if kept is None or (kept.done and not ended):
            # A suspended run that goes on: what is written is read again.
            kept = _Kept(run.namespace, run.name, run.uid)
        if kept.done:
            return
        kept.line = core.observed(kept.line, seen)
        if not kept.line.count:
            return
        self._kept[run.uid] = kept
        if ended and not kept.ended:
            kept.due = float("-inf")
            self._alarm.set()
        kept.ended = ended

    def forget(self, uid: str) -> None:
        """The run is gone."""
        self._kept.pop(uid, None)

    def forget_all(self) -> None:
        """Somebody else looks at the runs."""
        self._kept.clear()

    async def run(self) -> None:
        """Write until cancelled."""
        await loop.work_on(self.write, self._alarm)

    async def write(self) -> None:
        """Write what is due, a few at once."""
        slots, now = asyncio.Semaphore(AT_ONCE), self._clock()
        due = [kept for kept in self._kept.values() if kept.due <= now and kept.changed]
        await asyncio.gather(*(self._write(kept, slots) for kept in due))

    async def _write(self, kept: _Kept, slots: asyncio.Semaphore) -> None:
        async with slots:
            if not self._leads() or self._kept.get(kept.run_uid) is not kept:
                return
            try:
                await self._put(kept)
            except TakenError as error:
                await self._tell(kept, error)
                self._later(kept, str(error))
            except KubeError as error:
                # Deleted by somebody, or made anew: it is looked for again.
                kept.uid = "" if error.gone or error.conflict else kept.uid
                self._later(kept, str(error))
            except Exception:
                # A bug must cost this curve alone.
                log.exception("%s: the loss curve cannot be written", kept.key)
                self._later(kept, kept.complaint)

    async def _put(self, kept: _Kept) -> None:
        if not kept.uid:
            await self._find(kept)
        line, ended = kept.line, kept.ended
        curve = line.curve
        if kept.uid:
            name = names.curve_name(kept.name)
            await self._kube.patch_config_map(kept.namespace, name, kept.uid, {"data": core.data(curve)})
        else:
            manifest = core.config_map(kept.namespace, kept.name, kept.run_uid, curve)
            kept.uid = (await self._kube.create_config_map(manifest))["metadata"]["uid"]
        kept.written, kept.failures, kept.complaint = line.shape, 0, ""
        kept.due = self._clock() + self._seconds
        if ended:
            # Thousands of runs that have ended are known: their curves are not kept in memory.
            kept.done, kept.line = True, Thinned()

    async def _find(self, kept: _Kept) -> None:
        """Learn whether there is a ConfigMap already, and go on from what it holds.

        Raises:
            TakenError: it is somebody else's.
        """
        found = await self._kube.config_map(kept.namespace, names.curve_name(kept.name))
        if found is not None:
            owners = found["metadata"].get("ownerReferences") or ()
            if kept.run_uid not in {owner["uid"] for owner in owners}:
                leftover = any((owner["kind"], owner["name"]) == (names.RUN_KIND, kept.name) for owner in owners)
                raise TakenError(found["metadata"]["name"], leftover=leftover)
            kept.uid = found["metadata"]["uid"]
            if not kept.read:
                kept.line = core.joined(_written_before(kept, found), kept.line)
        kept.read = True

    def _later(self, kept: _Kept, complaint: str) -> None:
        if complaint != kept.complaint:
            log.warning("%s: the loss curve is written later: %s", kept.key, complaint)
        kept.complaint, kept.failures = complaint, kept.failures + 1
        kept.due = self._clock() + loop.backoff(kept.failures)

    async def _tell(self, kept: _Kept, taken: TakenError) -> None:
        """An Event on the run, once."""
        if taken.leftover or kept.told:
            return
        involved = names.run_reference(kept.namespace, kept.name, kept.run_uid)
        try:
            await self._kube.tell(involved, "CurveNotKept", str(taken), warning=True, wall=SystemClock().wall())
        except KubeError as error:
            log.warning("%s: could not tell CurveNotKept: %s", kept.key, error)
            return
        kept.told = True


def _written_before(kept: _Kept, found: Json) -> Thinned:
    """What a ConfigMap of the run's holds; what is not understood is not gone on from."""
    text = (found.get("data") or {}).get(names.CURVE_KEY)
    if text is None:
        return Thinned()
    try:
        return core.resumed(Curve.model_validate_json(text))
    except ValueError as error:
        log.warning("%s: the loss curve begins anew: what is written is not understood: %s", kept.key, error)
        return Thinned()
