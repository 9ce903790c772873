"""Tells one story: operators look at the world and are struck by faults until everything has settled, then the truth is counted."""

from __future__ import annotations

import traceback
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from chaos.process import ApiError, Look, Process
from chaos.scenario import ENDS, Scenario
from chaos.world import SimRun, World

from trainingrun_operator.core.decide import decide
from trainingrun_operator.edge.memory import Memory

if TYPE_CHECKING:
    from collections.abc import Callable

    from trainingrun_operator.core.observed import Observed

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


@dataclass
class Actor:
    """An operator process on its machine."""

    name: str
    process: Process
    back_at: float = 0
    """Killed or paused until then."""
    halted: tuple[SimRun, Look, float] | None = None
    """Paused in the middle of this look, for so long."""
    due: dict[str, float] = field(default_factory=dict)
    knows: dict[str, int] = field(default_factory=dict)
    number: int = -1
    """Of the effect in hand."""

    def restart(self, world: World, at: float) -> None:
        self.process, self.back_at, self.halted = Process(world), at, None
        self.due.clear()
        self.knows.clear()


class Story:
    """One scenario from its beginning to its end."""

    def __init__(self, scenario: Scenario, say: Callable[[str], None] | None = None) -> None:
        self.scenario = scenario
        self.world = World(scenario)
        self.actors = [Actor("operator", Process(self.world)), Actor("second operator", Process(self.world))]
        self.standby_until = 0.0
        self.faults = dict(scenario.faults)
        self.effects: list[str] = []
        self.faulted: Counter[str] = Counter()
        self._tell = say

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
            if effects := decide(self._fresh_look(sim)).effects:
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

    def _fresh_look(self, sim: SimRun) -> Observed:
        process = Process(self.world)
        process.views[sim.run.uid] = sim.run
        return process.observe(sim, Memory())

    # -- operators -----------------------------------------------------------------------------------------------

    def _beat(self) -> None:
        """Whoever is due looks; then time goes on to whatever comes next."""
        world = self.world
        for actor in self.actors:
            if actor is self.actors[0] or self._second_is_up():
                self._act(actor)
            elif actor.halted is None and actor.due:
                actor.restart(world, world.now)
        due = min((at for actor in self.actors for at in actor.due.values()), default=0.0)
        world.tick(min(5.0 if world.calm else 1.0, max(0.1, due - world.now)))

    def _second_is_up(self) -> bool:
        return self.world.during("two_operators") or self.world.now < self.standby_until

    def _act(self, actor: Actor) -> None:
        world = self.world
        if world.now < actor.back_at:
            return
        if actor.halted is not None:
            sim, look, seconds = actor.halted
            actor.halted = None
            self._say(actor, sim, "goes on with what it had decided")
            # What was on its way is done; before the next effect it would find that its Lease has run out.
            self._drive(actor, sim, look, effects=1 if seconds >= LEASE_SECONDS else None)
        for sim in world.runs:
            uid = sim.run.uid
            news = actor.knows.get(uid) != sim.changed and not world.during("stale")
            if world.now >= sim.created_at and (news or world.now >= actor.due.get(uid, 0.0)):
                actor.knows[uid] = sim.changed
                self._drive(actor, sim, actor.process.look(sim))
            if world.now < actor.back_at:
                return

    def _drive(self, actor: Actor, sim: SimRun, look: Look, effects: int | None = None) -> None:
        """Go on with a look until it ends, a fault ends it, or it has had so many effects."""
        error: Exception | None = None
        try:
            while True:
                when, effect = look.throw(error) if error is not None else next(look)
                error = None
                if when == "after" and effects:
                    effects -= 1
                # Taking back a Job whose run is gone belongs to creating it.
                if when == "before" and effects == 0 and effect != "DeleteJob":
                    look.close()
                    actor.due[sim.run.uid] = self.world.now + 1
                    return
                if when == "before":
                    actor.number = len(self.effects)
                    self.effects.append(effect)
                if self._tell is not None and when == "after":
                    self._say(actor, sim, effect)
                fault = self.faults.get(actor.number)
                kind = fault.kind if fault is not None else ""
                if fault is None or when != STRIKES[kind]:
                    continue
                self.faults.pop(actor.number)
                self.faulted[kind] += 1
                self._say(actor, sim, f"{kind} ({effect}, number {actor.number}), for {fault.seconds:.0f} s")
                if kind in ("refused", "answer lost"):
                    error = ApiError(f"429 for {effect}")
                    continue
                self._away(actor, sim, look, fault.seconds, killed=kind != "paused")
                return
        except StopIteration as done:
            actor.due[sim.run.uid] = self.world.now + max(float(done.value), 0.1)

    def _away(self, actor: Actor, sim: SimRun, look: Look, seconds: float, *, killed: bool) -> None:
        world = self.world
        if killed:
            look.close()
            actor.restart(world, world.now + seconds)
            return
        actor.halted, actor.back_at = (sim, look, seconds), world.now + seconds
        if actor is self.actors[0]:
            self.actors[1].back_at = max(self.actors[1].back_at, world.now + min(seconds, LEASE_SECONDS))
            self.standby_until = max(self.standby_until, world.now + seconds + LEASE_SECONDS)

    def _say(self, actor: Actor, sim: SimRun, what: str) -> None:
        if self._tell is not None:
            stop = sim.run.status.termination
            phase = f"{stop.status}/{stop.phase.value}" if stop else "-"
            self._tell(f"{self.world.now:7.1f} s  {actor.name:15}  {sim.name:4}  {phase:24}  {what}")
