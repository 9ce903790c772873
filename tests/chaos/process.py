"""One operator process in the small world: the real watch, reconciler, observer and executor over the edge of `chaos/edge.py`."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Final

from chaos.edge import ApiServer, Bucket, Cloud, Pages
from chaos.loop import loop
from chaos.objects import stored_job
from chaos.world import RELEASE_SECONDS

from trainingrun_operator.controller.front import Watch
from trainingrun_operator.controller.reconciler import Reconciler
from trainingrun_operator.core.defaults import Defaults
from trainingrun_operator.core.memory import Memory
from trainingrun_operator.edge.background.curve import CurveWriter
from trainingrun_operator.edge.cache import Cache, version
from trainingrun_operator.edge.execute import Executor
from trainingrun_operator.edge.gather.observer import Observer
from trainingrun_operator.exporter import Telemetry

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from chaos.world import SimRun, World

    from trainingrun_operator.core.observed import Observed

DEFAULTS: Final = Defaults(node_removal_seconds=RELEASE_SECONDS)
RELIST_SECONDS: Final = 300.0
Json = dict[str, Any]


class Due:
    """When each run is to be looked at next: the scheduler, as the watch knows it."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.at: dict[str, float] = {}

    def wake(self, uid: str) -> None:
        self.at[uid] = self._world.now

    def forget(self, uid: str) -> None:
        self.at.pop(uid, None)


class Process:
    """What it knows is gone when it is killed."""

    def __init__(self, world: World, strike: Callable[[str, str], Awaitable[None]], leads: Callable[[], bool]) -> None:
        self.world, self.due, self.cache = world, Due(world), Cache()
        self.api, cloud = ApiServer(world, strike), Cloud(world, strike)
        self.observer = Observer(
            self.api,
            Bucket(world),
            Pages(world),
            self.cache,
            DEFAULTS,
            recheck_seconds=30,
            relist_seconds=RELIST_SECONDS,
            providers=lambda _: cloud,
            clock=world,
            wake=self.due.wake,
            # In a story no second passes while looks are made.
            quiet_seconds=0,
        )
        executor = Executor(self.api, self.cache, leads, lambda _: cloud)
        # Nobody writes the curves: they are the background's, and no part of a story.
        curves = CurveWriter(self.api, leads, 60)  # type: ignore[arg-type]
        self.reconciler = Reconciler(
            self.api, self.cache, self.observer, executor, _telemetry(), curves, status_seconds=60, clock=world
        )
        self._watch = Watch(self.cache, self.due, self.reconciler, self.api)  # type: ignore[arg-type]
        self._listed = False
        self._heard: dict[str, int] = {}
        self._job: dict[str, Json | None] = {}
        self._pods: dict[str, dict[str, Json]] = {}

    def hear(self) -> None:
        """Take in what the watches bring: everything at first, then what has changed."""
        world = self.world
        if world.during("api_away") or (self._listed and world.during("stale")):
            return
        for sim in world.runs:
            if world.now >= sim.created_at and self._heard.get(sim.uid) != sim.changed:
                self._heard[sim.uid] = sim.changed
                self._hear_of(sim)
        self._listed = True

    def _hear_of(self, sim: SimRun) -> None:
        known = self.cache.runs.get(sim.uid)
        if not sim.exists:
            if known is not None:
                self._tell(self._watch.on_run, "DELETED", sim.stored)
            return
        # The echo of its own write brings nothing new.
        if known is None or version(known) < version(sim.stored):
            self._tell(self._watch.on_run, "MODIFIED", sim.stored)
        self._hear_of_job(self._job.get(sim.uid), sim)
        self._hear_of_pods(self._pods.get(sim.uid, {}), sim)

    def _hear_of_job(self, before: Json | None, sim: SimRun) -> None:
        job = self._job[sim.uid] = stored_job(sim)
        if before is not None and (job is None or job["metadata"]["uid"] != before["metadata"]["uid"]):
            self._tell(self._watch.on_job, "DELETED", before)
        if job is not None and job != before:
            self._tell(self._watch.on_job, "MODIFIED", job)

    def _hear_of_pods(self, before: dict[str, Json], sim: SimRun) -> None:
        pods = self._pods[sim.uid] = {pod.uid: self.api.show(sim, pod) for pod in sim.pods}
        for uid, pod in pods.items():
            if pod != before.get(uid):
                self._tell(self._watch.on_pod, "MODIFIED", pod)
        for uid, pod in before.items():
            if uid not in pods:
                self._tell(self._watch.on_pod, "DELETED", pod)

    def _tell(self, handler: Callable[..., Any], kind: str, stored: Json) -> None:
        try:
            handler({"type": kind, "object": stored}).send(None)
        except StopIteration:
            return
        raise AssertionError("a handler waits")

    def first_look(self, sim: SimRun) -> Observed:
        """What an operator that starts now sees of a run."""
        self.hear()
        return loop().now(self.observer.observe(self.cache.runs[sim.uid], Memory()))[1]


@cache
def _telemetry() -> Telemetry:
    """One for all processes of a campaign: making its instruments takes longer than a look, and no story reads them."""
    return Telemetry()
