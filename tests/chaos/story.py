"""Tells one story: operators look at the world and are struck by faults until everything has settled, then the truth is counted."""

from __future__ import annotations

import traceback
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from chaos.loop import loop
from chaos.process import RELIST_SECONDS, Process
from chaos.scenario import ENDS, NEVER, Scenario
from chaos.world import SimRun, World

from trainingrun_operator.core.decide import decide
from trainingrun_operator.edge.kube import KubeError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from chaos.scenario import Fault

PATIENCE_SECONDS: Final = 7200.0
REST_SECONDS: Final = 60
STRIKES: Final = {
    "killed before": "before",
    "killed after": "after",
    "refused": "before",
    "answer lost": "after",
    "paused": "before",
}
LEASE_SECONDS: Final = 15.0
SPANS: Final = ("bucket_away", "agent_away", "api_away", "cloud_away", "stale", "guest", "two_operators")


@dataclass(frozen=True)
class Account:
    """What came of a story."""

    faults: int = 0
    effects: int = 0
    lost_bytes: int = 0
    double_deletes: int = 0
    double_releases: int = 0
    complaints: tuple[str, ...] = ()
    """Why it has not come to the end that it should."""

    @property
    def good(self) -> bool:
        return not (self.lost_bytes or self.double_deletes or self.double_releases or self.complaints)


class KilledError(BaseException):
    """The process ends here. No code of the operator may catch it."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = seconds


@dataclass
class Actor:
    """An operator process on its machine."""

    name: str
    process: Process
    back_at: float = 0
    """Killed or paused until then."""
    halted: tuple[asyncio.Task[float | None], float] | None = None
    """Paused in the middle of this look, for so long."""
    looks_at: SimRun | None = None
    number: int = -1
    """Of the effect in hand."""
    leads: bool = True


class Story:
    """One scenario from its beginning to its end."""

    def __init__(self, scenario: Scenario, say: Callable[[str], None] | None = None) -> None:
        self.scenario = scenario
        self.world = World(scenario)
        self.actors = [self._actor("operator"), self._actor("second operator")]
        self.standby_until = 0.0
        self.faults = dict(scenario.faults)
        self.effects: list[str] = []
        self.faulted: Counter[str] = Counter()
        self._tell = say

    def _actor(self, name: str) -> Actor:
        actor = Actor(name, None)  # type: ignore[arg-type]
        self._start(actor)
        return actor

    def _start(self, actor: Actor) -> None:
        """A new process, which knows nothing."""
        actor.process = Process(self.world, lambda when, effect: self._strike(actor, when, effect), lambda: actor.leads)
        actor.halted, actor.looks_at, actor.leads = None, None, True

    def tell(self) -> Account:
        """Let it happen, to its end or until patience is over."""
        world = self.world
        try:
            while world.now < PATIENCE_SECONDS and not self._at_an_end():
                self._beat()
            rest = world.now + REST_SECONDS
            while world.now < rest or world.during("api_away"):
                world.tick()
            self._look_back()
        except Exception:  # noqa: BLE001 - a story that breaks something is a bad story, not the end of the campaign
            world.complaints.append(traceback.format_exc(limit=-4))
        started = [name for name in SPANS if self._began(name)]
        return Account(
            faults=self.faulted.total() + len(started) + len(world.struck),
            effects=len(self.effects),
            lost_bytes=world.lost_bytes(),
            double_deletes=sum(count - 1 for count in world.deletions.values()),
            double_releases=sum(count - 1 for count in world.releases.values()),
            complaints=tuple(world.complaints),
        )

    def _began(self, name: str) -> bool:
        start, end = getattr(self.scenario, name)
        return bool(start < end and self.world.now >= start)

    def _at_an_end(self) -> bool:
        return self.world.settled and all(actor.halted is None for actor in self.actors)

    def _look_back(self) -> None:
        world = self.world
        if not world.settled:
            where = [f"{s.name}: {stop.phase if (stop := s.run.status.termination) else 'no stop'}" for s in world.runs]
            world.complaints.append(f"stuck: {', '.join(where)}")
            return
        world.look_back()
        for sim in world.runs:
            self._look_back_at(sim)

    def _look_back_at(self, sim: SimRun) -> None:
        complaints, status, scenario = self.world.complaints, sim.run.status, self.scenario
        if sim.exists:
            fresh = self._actor("a new operator").process.first_look(sim)
            if effects := decide(fresh).effects:
                complaints.append(f"{sim.name}: does not rest: {[type(effect).__name__ for effect in effects]}")
            if status.completion_time is None:
                complaints.append(f"{sim.name}: is done and has no completion time")
        stop = status.termination
        if stop is None:
            return
        may = {ENDS[sim.cause]} | ({"deleted"} if scenario.deleted_at else set())
        may |= {"failed"} if scenario.evicted_at or scenario.pod_deleted_at or scenario.node_lost_at else set()
        if status.termination_status != stop.status or stop.status not in may:
            complaints.append(f"{sim.name}: ended as {status.termination_status} ({stop.message}), not as {may}")

    # -- operators -----------------------------------------------------------------------------------------------

    def _beat(self) -> None:
        """Whoever is due looks; then time goes on to whatever comes next."""
        world = self.world
        first, second = self.actors
        self._act(first)
        # One that stands still goes on however late it is.
        if self._second_is_up() or second.halted is not None:
            self._act(second)
        elif second.process.due.at:
            self._start(second)
        due = min((at for actor in self.actors for at in actor.process.due.at.values()), default=0.0)
        world.tick(min(5.0 if world.calm else 1.0, max(0.1, due - world.now)))

    def _second_is_up(self) -> bool:
        return self.world.during("two_operators") or self.world.now < self.standby_until

    def _act(self, actor: Actor) -> None:
        world = self.world
        if world.now < actor.back_at:
            return
        if actor.halted is not None:
            task, seconds = actor.halted
            actor.halted = None
            self._say(actor, "goes on with what it had decided")
            # What was on its way is done; before the next effect it finds that its Lease has run out.
            actor.leads = seconds < LEASE_SECONDS
            loop().go_on(task)
            self._looked(actor, task)
        actor.process.hear()
        for sim in world.runs:
            if world.now < actor.back_at:
                return
            if actor.process.due.at.get(sim.uid, NEVER) <= world.now:
                actor.looks_at = sim
                self._looked(actor, loop().begin(actor.process.reconciler.look(sim.uid)))

    def _looked(self, actor: Actor, task: asyncio.Task[float | None]) -> None:
        """See what became of a look: it ended, it halted, or its process was killed."""
        world, sim = self.world, actor.looks_at
        assert sim is not None
        if not task.done():
            self._halts(actor, task)
            return
        try:
            again = task.result()
        except KilledError as killed:
            self._start(actor)
            actor.back_at = world.now + killed.seconds
            return
        if not actor.leads:
            # The Lease is lost: what was remembered has grown old. It takes the Lease again soon.
            actor.process.reconciler.forget_all()
            actor.leads, again = True, 1.0
        # Without a time of its own a run waits for an event, or for the next list.
        actor.process.due.at[sim.uid] = world.now + (RELIST_SECONDS if again is None else max(again, 0.1))

    def _halts(self, actor: Actor, task: asyncio.Task[float | None]) -> None:
        seconds = actor.back_at - self.world.now
        actor.halted = (task, seconds)
        if actor is self.actors[0]:
            self.actors[1].back_at = max(self.actors[1].back_at, self.world.now + min(seconds, LEASE_SECONDS))
            self.standby_until = max(self.standby_until, self.world.now + seconds + LEASE_SECONDS)

    # -- faults --------------------------------------------------------------------------------------------------

    async def _strike(self, actor: Actor, when: str, effect: str) -> None:
        """An operator is about to do an effect, or has done it: let a fault happen here."""
        if when == "before":
            actor.number = len(self.effects)
            self.effects.append(effect)
        elif self._tell is not None:
            self._say(actor, effect)
        fault = self.faults.get(actor.number)
        if fault is not None and when == STRIKES[fault.kind]:
            self.faults.pop(actor.number)
            self.faulted[fault.kind] += 1
            self._say(actor, f"{fault.kind} ({effect}, number {actor.number}), for {fault.seconds:.0f} s")
            await self._suffer(actor, fault, effect)

    async def _suffer(self, actor: Actor, fault: Fault, effect: str) -> None:
        match fault.kind:
            case "refused":
                raise KubeError(429, "TooManyRequests", f"{effect} was not processed")
            case "answer lost":
                raise KubeError(0, "Unreachable", f"{effect}: the connection was reset")
            case "paused":
                actor.back_at = self.world.now + fault.seconds
                await loop().halt()
            case _:
                raise KilledError(fault.seconds)

    def _say(self, actor: Actor, what: str) -> None:
        sim = actor.looks_at
        if self._tell is not None and sim is not None:
            stop = sim.run.status.termination
            phase = f"{stop.status}/{stop.phase.value}" if stop else "-"
            self._tell(f"{self.world.now:7.1f} s  {actor.name:15}  {sim.name:4}  {phase:24}  {what}")
