"""Writes each run's curves, of the loss and of other values, to a ConfigMap in the background; failed or hanging writes are retried and delay nothing else.

No decision uses a curve. Everyone who may write ConfigMaps in the run's namespace can change it; an operator that is killed loses
at most the points of one interval.
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
from trainingrun_operator.core import value_curves
from trainingrun_operator.core.curve import Thinned
from trainingrun_operator.core.value_curves import ValueLines
from trainingrun_operator.edge.background import loop
from trainingrun_operator.edge.clock import SystemClock
from trainingrun_operator.edge.kube import KubeError

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from trainingrun_operator.core.observed import Observed
    from trainingrun_operator.edge.kube import Kube

Json = dict[str, Any]

AT_ONCE: Final = 4
AGE_SHARE: Final = 20
"""A curve is written again after a twentieth of the time that it covers: 30 s more do not show on a picture of an hour."""
INTERVAL_MAX_SECONDS: Final = 300.0
"""The longest time between two writes for that reason."""

log = logging.getLogger(__name__)


class TakenError(Exception):
    """A ConfigMap with this name exists and does not belong to the run."""

    def __init__(self, name: str, *, leftover: bool) -> None:
        super().__init__(
            f"The loss curve is not stored: ConfigMap {name} exists and does not belong to this run. Delete or rename it."
        )
        self.leftover = leftover
        """Whether it belongs to an earlier run of this name, not yet garbage-collected."""


@dataclass
class _Kept:
    """The curve of a run, and how much of it is stored."""

    namespace: str
    name: str
    run_uid: str
    line: Thinned = field(default_factory=Thinned)
    values: ValueLines = field(default_factory=ValueLines)
    rules: frozenset[str] = frozenset()
    """The values that stop rules name."""
    uid: str = ""
    """UID of the ConfigMap; empty while unknown."""
    read: bool = False
    """Whether points stored by an earlier operator are merged."""
    written: Hashable = None
    """Shape of what is stored."""
    ended: bool = False
    """Whether the run has ended or is suspended: no points are added."""
    done: bool = False
    """Whether the curve was stored after the end of the run."""
    due: float = float("-inf")
    failures: int = 0
    complaint: str = ""
    told: bool = False

    @property
    def changed(self) -> bool:
        """Whether there is enough new data for a write; a single new point is written only at the end."""
        return not self.done and (self.ended or self.shape != self.written)

    @property
    def shape(self) -> Hashable:
        """Changes with each point that stays."""
        return self.line.shape, self.values.shape

    @property
    def key(self) -> str:
        """Namespace and name, for logs."""
        return f"{self.namespace}/{self.name}"


class CurveWriter:
    """The curves of all runs. `run` works in the background; `note` adds readings."""

    def __init__(
        self, kube: Kube, leads: Callable[[], bool], seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`seconds`: minimum time between two writes of a curve, more of a long one. `leads`: whether this process may write."""
        self._kube, self._leads, self._seconds, self._clock = kube, leads, seconds, clock
        self._kept: dict[str, _Kept] = {}
        self._alarm = asyncio.Event()

    def note(self, seen: Observed) -> None:
        """Add the reading of an observation, without waiting."""
        run = seen.run
        if run.deleting:
            # The curve would be deleted with the run.
            self.forget(run.uid)
            return
        kept = self._kept.get(run.uid)
        ended = run.status.termination is not None
        if kept is None or (kept.done and not ended):
            # A resumed run: read the stored points again.
            kept = _Kept(run.namespace, run.name, run.uid)
        if kept.done:
            return
        kept.line = core.observed(kept.line, seen)
        kept.values, kept.rules = value_curves.observed(kept.values, seen), value_curves.rules_of(seen)
        if not kept.line.count and not kept.values.lines:
            return
        self._kept[run.uid] = kept
        if ended and not kept.ended:
            kept.due = float("-inf")
            self._alarm.set()
        kept.ended = ended

    def forget(self, uid: str) -> None:
        """Drop a deleted run."""
        self._kept.pop(uid, None)

    def forget_all(self) -> None:
        """Drop all runs: another replica leads."""
        self._kept.clear()

    async def run(self) -> None:
        """Write until cancelled."""
        await loop.work_on(self.write, self._alarm)

    async def write(self) -> None:
        """Write the curves that are due, a few at once."""
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
                # The ConfigMap was deleted or replaced: look it up again.
                kept.uid = "" if error.gone or error.conflict else kept.uid
                self._later(kept, str(error))
            except Exception:
                # A bug must affect this curve alone.
                log.exception("%s: failed to write the loss curve", kept.key)
                self._later(kept, kept.complaint)

    async def _put(self, kept: _Kept) -> None:
        if not kept.uid:
            await self._find(kept)
        line, shape, ended = kept.line, kept.shape, kept.ended
        curve = line.curve.model_copy(update={"values": kept.values.stored})
        if kept.uid:
            name = names.curve_name(kept.name)
            await self._kube.patch_config_map(kept.namespace, name, kept.uid, {"data": core.data(curve)})
        else:
            manifest = core.config_map(kept.namespace, kept.name, kept.run_uid, curve)
            kept.uid = (await self._kube.create_config_map(manifest))["metadata"]["uid"]
        kept.written, kept.failures, kept.complaint = shape, 0, ""
        kept.due = self._clock() + self._interval(line)
        if ended:
            # There are thousands of ended runs: free their curves.
            kept.done, kept.line, kept.values = True, Thinned(), ValueLines()

    def _interval(self, line: Thinned) -> float:
        """Return the seconds to the next write."""
        return max(self._seconds, min(INTERVAL_MAX_SECONDS, line.covered_seconds / AGE_SHARE))

    async def _find(self, kept: _Kept) -> None:
        """Look up the ConfigMap and merge its points.

        Raises:
            TakenError: it does not belong to the run.
        """
        found = await self._kube.config_map(kept.namespace, names.curve_name(kept.name))
        if found is not None:
            owners = found["metadata"].get("ownerReferences") or ()
            if kept.run_uid not in {owner["uid"] for owner in owners}:
                leftover = any((owner["kind"], owner["name"]) == (names.RUN_KIND, kept.name) for owner in owners)
                raise TakenError(found["metadata"]["name"], leftover=leftover)
            kept.uid = found["metadata"]["uid"]
            if not kept.read:
                line, values = _written_before(kept, found)
                kept.line = core.joined(line, kept.line)
                kept.values = value_curves.joined(values, kept.values, kept.rules)
        kept.read = True

    def _later(self, kept: _Kept, complaint: str) -> None:
        if complaint != kept.complaint:
            log.warning("%s: writing the loss curve is retried: %s", kept.key, complaint)
        kept.complaint, kept.failures = complaint, kept.failures + 1
        kept.due = self._clock() + loop.backoff(kept.failures)

    async def _tell(self, kept: _Kept, taken: TakenError) -> None:
        """Record one Event on the run."""
        if taken.leftover or kept.told:
            return
        involved = names.run_reference(kept.namespace, kept.name, kept.run_uid)
        try:
            await self._kube.record_event(involved, "CurveNotKept", str(taken), warning=True, wall=SystemClock().wall())
        except KubeError as error:
            log.warning("%s: could not record the Event CurveNotKept: %s", kept.key, error)
            return
        kept.told = True


def _written_before(kept: _Kept, found: Json) -> tuple[Thinned, ValueLines]:
    """Curves stored in the run's ConfigMap; empty if they are invalid."""
    text = (found.get("data") or {}).get(names.CURVE_KEY)
    if text is None:
        return Thinned(), ValueLines()
    try:
        stored = Curve.model_validate_json(text)
        return core.resumed(stored), value_curves.resumed(stored.values)
    except ValueError as error:
        log.warning("%s: the loss curve restarts: the stored points are invalid: %s", kept.key, error)
        return Thinned(), ValueLines()
