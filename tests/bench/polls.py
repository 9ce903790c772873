"""CPU time of the operator for one poll of a run that trains: `PYTHONPATH=tests python -m bench.polls`.

The reconciler is the real one, in this process, on a clock that moves from poll to poll. What it asks are the processes of `fleet`. A poll has its look, its
requests to the pod and its share of status writes, but not the operator's watch, scheduler and proofs. Agents of an older release answer with their report alone,
so that the training's page takes a request of its own. Both kinds are polled in turn, so that other work on the machine slows both.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import time
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, field
from statistics import median
from typing import Final

from bench.fleet import POLL_SECONDS
from bench.scale import World
from builders import WALL
from fakes import FakeProvider, FakeStore

from trainingrun_operator.controller.reconciler import Reconciler
from trainingrun_operator.core.destinations import destinations_of
from trainingrun_operator.edge.apiserver.connection import Connection
from trainingrun_operator.edge.background.curve import CurveWriter
from trainingrun_operator.edge.cache import Cache
from trainingrun_operator.edge.execute import Executor
from trainingrun_operator.edge.gather.observer import Observer
from trainingrun_operator.edge.gather.pages import PodPages
from trainingrun_operator.edge.kube import Kube
from trainingrun_operator.edge.metrics.prometheus import make_session
from trainingrun_operator.edge.metrics.registry import Sources
from trainingrun_operator.edge.metrics.source import Tools
from trainingrun_operator.exporter import Telemetry
from trainingrun_operator.settings import Settings

AT_ONCE: Final = 8
WARM_ROUNDS: Final = 3
"""Before the first poll that counts: first statuses are written."""


class Clock:
    """Moves only between two rounds of polls."""

    now = 1000.0

    def monotonic(self) -> float:
        """Seconds."""
        return self.now

    def wall(self) -> str:
        """The time of the objects."""
        return WALL


@dataclass
class Polled:
    """The runs of one world, and the milliseconds of CPU time of one poll, by round."""

    reconciler: Reconciler
    clock: Clock
    spent: list[float] = field(default_factory=list)

    @classmethod
    async def open(cls, stack: AsyncExitStack, world: World) -> Polled:
        """Read the runs, as the operator's watch does."""
        cache, clock = Cache(), Clock()
        here = destinations_of([{"endpoint": "http://127.0.0.1:*"}])
        settings = Settings(agent_image="bench", release_nodes=True, allowed_destinations=here)
        kube, http = await stack.enter_async_context(Kube(Connection(world.api))), make_session()
        await stack.enter_async_context(http)
        async for run in kube.runs():
            cache.put_run(run)
        for uid, run in cache.runs.items():
            meta = run["metadata"]
            pods, job = await kube.pods_of(meta["namespace"], uid), await kube.job(meta["namespace"], meta["name"])
            cache.put_children(uid, pods, job)
        observer = Observer(
            kube,
            FakeStore(),
            PodPages(http, Sources.of(Tools(http, kube)), agent_port=int(world.agent_port)),
            cache,
            settings,
            providers=lambda _: FakeProvider(),
            recheck_seconds=300,
            relist_seconds=1e9,
            clock=clock,
        )
        executor = Executor(kube, cache, lambda: True, lambda _: FakeProvider())
        curves = CurveWriter(kube, lambda: True, settings.curve_seconds, clock.monotonic)
        seconds = settings.status_seconds
        return cls(Reconciler(kube, cache, observer, executor, Telemetry(), curves, seconds, clock=clock), clock)

    async def poll(self) -> None:
        """Look at every run once, and move the clock to the next poll."""
        uids = list(self.reconciler.cache.runs)
        gc.collect()
        before = time.process_time()
        await asyncio.gather(*(self._look_at(uids[one::AT_ONCE]) for one in range(AT_ONCE)))
        self.spent.append((time.process_time() - before) / len(uids) * 1e3)
        self.clock.now += POLL_SECONDS

    async def _look_at(self, uids: list[str]) -> None:
        for uid in uids:
            await self.reconciler.look(uid)


async def _measured(worlds: list[World], rounds: int) -> list[list[float]]:
    async with AsyncExitStack() as stack:
        kinds = [await Polled.open(stack, world) for world in worlds]
        for _ in range(WARM_ROUNDS + rounds):
            for one in kinds:
                await one.poll()
        return [one.spent[WARM_ROUNDS:] for one in kinds]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=24)
    asked = parser.parse_args()
    with ExitStack() as stack:
        worlds = [
            stack.enter_context(World.open(asked.runs, commits=False, older_agents=older)) for older in (True, False)
        ]
        two, one = asyncio.run(_measured(worlds, asked.rounds))
        assert not any(world.polls()["never"] for world in worlds)
    ratio = median(after / before for before, after in zip(two, one, strict=True))
    print(f"CPU time of a poll, {asked.rounds} rounds of {asked.runs} runs, medians and the lowest")
    print(f"two requests: {median(two):.2f} ms ({min(two):.2f})")
    print(
        f"one request:  {median(one):.2f} ms ({min(one):.2f}), {1 - ratio:.0%} less in the median of rounds side by side"
    )


if __name__ == "__main__":
    main()
