"""Who is looked at when: in the order of due times, one look per run at a time, a bounded number at once, and nobody is ever forgotten."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import Counter
from math import ceil
from types import SimpleNamespace

import looptime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainingrun_operator.controller import scheduler as module
from trainingrun_operator.controller.scheduler import NEW_SECONDS, RECENT_SECONDS, Scheduler
from trainingrun_operator.edge import waits

pytestmark = pytest.mark.looptime


def now():
    return asyncio.get_running_loop().time()


@pytest.fixture(autouse=True)
def one_clock(monkeypatch):
    """The scheduler's clock is the loop's, which jumps."""
    for one in (module, waits):
        monkeypatch.setattr(one, "time", SimpleNamespace(monotonic=now))


class World:
    """Runs named `namespace/name`; each look waits `lasts` seconds for its pod and says `again`. Rules that hold always are checked at every look."""

    def __init__(self, *, slots=4, lasts=0.0):
        self.lasts, self.default = {}, lasts
        self.again = {}
        self.quiet: set[str] = set()
        """Their looks wait for neither pod nor bucket."""
        self.began: list[tuple[str, float]] = []
        self.late: list[float] = []
        self.slots, self.most = slots, 0
        self.now_looking: Counter[str] = Counter()
        self.scheduler = Scheduler(self.look, self.namespace, self.late.append, slots=slots)
        self.scheduler.start(())

    @staticmethod
    def namespace(uid):
        return uid.partition("/")[0]

    async def look(self, uid):
        self.now_looking[uid] += 1
        assert self.now_looking[uid] == 1, "two looks at one run at once"
        in_namespace = sum(n for one, n in self.now_looking.items() if self.namespace(one) == self.namespace(uid))
        # Half by those that respond, half of the rest by the new, and of what is left a third by the slow; of a slot that would be cut, all of it.
        left = self.slots
        for part in (2, 2, 3):
            left -= ceil(left / part)
        assert in_namespace <= self.slots - left
        self.most = max(self.most, self.now_looking.total())
        assert self.now_looking.total() <= self.slots
        self.began.append((uid, round(now(), 3)))
        try:
            with waits.for_tenant() if uid not in self.quiet else contextlib.nullcontext():
                await asyncio.sleep(self.lasts.get(uid, self.default))
            again = self.again.get(uid)
            if isinstance(again, list):
                again = again.pop(0) if again else None
            if isinstance(again, Exception):
                raise again
            return again
        finally:
            self.now_looking[uid] -= 1

    def looks(self, uid):
        return [at for one, at in self.began if one == uid]

    @contextlib.asynccontextmanager
    async def running(self):
        task = asyncio.create_task(self.scheduler.run())
        try:
            yield self.scheduler
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


async def test_looks_are_handed_out_in_the_order_of_their_due_times():
    world = World()
    async with world.running() as scheduler:
        scheduler.wake("a/late", 3)
        scheduler.wake("b/soon", 1)
        scheduler.wake("c/between", 2)
        await asyncio.sleep(5)
    assert world.began == [("b/soon", 1), ("c/between", 2), ("a/late", 3)]


async def test_what_a_look_returns_is_when_it_is_due_again():
    world = World(lasts=0.5)
    world.again = {"a/1": 10}
    async with world.running() as scheduler:
        scheduler.wake("a/1")
        await asyncio.sleep(25)
    assert world.looks("a/1") == [0, 10.5, 21]


async def test_none_means_at_the_next_wake():
    world = World()
    async with world.running() as scheduler:
        scheduler.wake("a/1")
        await asyncio.sleep(100)
        scheduler.wake("a/1")
        await asyncio.sleep(1)
    assert world.looks("a/1") == [0, 100]


async def test_waking_a_run_earlier_than_it_is_due_replaces_its_due_time():
    world = World()
    async with world.running() as scheduler:
        scheduler.wake("a/1", 60)
        scheduler.wake("a/1", 5)
        await asyncio.sleep(100)
    assert world.looks("a/1") == [5]


async def test_waking_a_run_later_than_it_is_due_changes_nothing():
    world = World()
    async with world.running() as scheduler:
        scheduler.wake("a/1", 5)
        scheduler.wake("a/1", 60)
        await asyncio.sleep(100)
    assert world.looks("a/1") == [5]


async def test_waking_a_run_many_times_before_its_look_is_one_look():
    world = World()
    async with world.running() as scheduler:
        for _ in range(10):
            scheduler.wake("a/1")
        await asyncio.sleep(5)
    assert world.looks("a/1") == [0]


async def test_a_wake_during_a_look_is_one_more_look_right_after_it():
    world = World(lasts=3)
    async with world.running() as scheduler:
        scheduler.wake("a/1")
        await asyncio.sleep(1)
        scheduler.wake("a/1")
        scheduler.wake("a/1")
        await asyncio.sleep(20)
    assert world.looks("a/1") == [0, 3]


async def test_a_wake_during_a_look_goes_before_what_the_look_returns():
    world = World(lasts=3)
    world.again = {"a/1": [30]}
    async with world.running() as scheduler:
        scheduler.wake("a/1")
        await asyncio.sleep(1)
        scheduler.wake("a/1")
        await asyncio.sleep(50)
    assert world.looks("a/1") == [0, 3]


async def test_a_wake_that_comes_due_during_a_look_waits_for_its_end():
    world = World(lasts=3)
    async with world.running() as scheduler:
        scheduler.wake("a/1")
        await asyncio.sleep(1)
        scheduler.wake("a/1", 1)
        await asyncio.sleep(20)
    assert world.looks("a/1") == [0, 3]


async def test_no_more_looks_at_once_than_there_are_slots():
    world = World(slots=3, lasts=2)
    async with world.running() as scheduler:
        for i in range(9):
            scheduler.wake(f"namespace-{i}/1")
        await asyncio.sleep(10)
    assert world.most == 3
    assert [at for _, at in world.began] == [0, 0, 0, 2, 2, 2, 4, 4, 4]


async def test_a_namespace_gets_half_of_the_slots_and_others_go_on():
    world = World(slots=4, lasts=100)
    world.lasts = {"quiet/1": 1}
    async with world.running() as scheduler:
        for i in range(20):
            scheduler.wake(f"busy/{i}")
        scheduler.wake("quiet/1", 5)
        await asyncio.sleep(50)
    assert sum(uid.startswith("busy") for uid, _ in world.began) == 2
    assert world.looks("quiet/1") == [5]


async def test_though_two_namespaces_are_full_of_slow_looks_a_third_is_looked_at_at_once():
    world = World(slots=8, lasts=100)
    world.lasts = {"quiet/1": 1}
    async with world.running() as scheduler:
        for i in range(20):
            scheduler.wake(f"busy/{i}")
            scheduler.wake(f"busy-too/{i}")
        scheduler.wake("quiet/1", 5)
        await asyncio.sleep(50)
    assert world.looks("quiet/1") == [5]


async def test_slow_looks_do_not_delay_the_others_of_their_namespace():
    world = World(slots=8, lasts=20)
    world.lasts = {"busy/fine": 0.1}
    world.again = {f"busy/{i}": 0 for i in range(20)} | {"busy/fine": 4.9}
    async with world.running() as scheduler:
        for i in range(20):
            scheduler.wake(f"busy/{i}")
        # Who is slow shows by its first look.
        await asyncio.sleep(120)
        scheduler.wake("busy/fine")
        await asyncio.sleep(50)
    assert world.looks("busy/fine") == list(range(120, 170, 5))


async def test_new_runs_do_not_delay_those_that_are_known_to_respond():
    world = World(slots=8, lasts=20)
    world.lasts = {"busy/fine": 0.1}
    world.again = {f"busy/{i}": 0 for i in range(20)} | {"busy/fine": 4.9}
    async with world.running() as scheduler:
        scheduler.wake("busy/fine")
        await asyncio.sleep(NEW_SECONDS + 6)
        for i in range(20):
            scheduler.wake(f"busy/{i}")
        await asyncio.sleep(100)
        until = now()
    assert world.looks("busy/fine") == list(range(0, int(until) + 1, 5))


@pytest.mark.parametrize("short", [1, 5])
async def test_looks_that_wait_for_nobody_do_not_make_a_slow_run_responsive(short):
    # Between two slow looks are some for an Event, or for a status that was written.
    world = World(slots=8)
    world.lasts = {"busy/fine": 0.125}
    world.again = {f"busy/{i}": 0 for i in range(20)} | {"busy/fine": 4.875}
    turns = dict.fromkeys(world.again, 0)

    async def look(uid):
        turns[uid] += 1
        if uid != "busy/fine":
            waits_now = turns[uid] % (short + 1) == 0
            world.lasts[uid] = 20 if waits_now else 0.125
            (world.quiet.discard if waits_now else world.quiet.add)(uid)
        return await world.look(uid)

    world.scheduler._look = look
    async with world.running() as scheduler:
        for uid in world.again:
            scheduler.wake(uid)
        await asyncio.sleep(200)
        since = now()
        await asyncio.sleep(100)
    late = [at for at in world.looks("busy/fine") if at > since]
    assert max(b - a for a, b in itertools.pairwise(late)) == 5


async def test_looks_that_are_slow_for_another_reason_do_not_make_a_run_slow():
    # The API server was slow, or the machine.
    world = World(slots=8, lasts=20)
    world.lasts = {"busy/fine": 3}
    world.quiet = {"busy/fine"}
    world.again = {f"busy/{i}": 0 for i in range(20)} | {"busy/fine": 1}
    async with world.running() as scheduler:
        scheduler.wake("busy/fine")
        for i in range(20):
            scheduler.wake(f"busy/{i}", 1)
        await asyncio.sleep(200)
    late = [at for at in world.looks("busy/fine") if at > 60]
    assert max(b - a for a, b in itertools.pairwise(late)) == 4


async def test_of_the_slow_those_that_respond_now_go_first():
    world = World(slots=8, lasts=20)
    world.lasts = {"busy/fine": 0}
    world.again = {f"busy/{i}": 0 for i in range(20)} | {"busy/fine": 2}
    async with world.running() as scheduler:
        for uid in world.again:
            scheduler.wake(uid)
        await asyncio.sleep(200)
        world.lasts["busy/fine"] = 3
        await asyncio.sleep(8)
        world.lasts["busy/fine"] = 0
        since = now()
        await asyncio.sleep(RECENT_SECONDS)
    late = [since, *(at for at in world.looks("busy/fine") if at > since), now()]
    assert max(b - a for a, b in itertools.pairwise(late)) <= 20, "It waits for one of them, not for all."


async def test_a_slow_run_is_like_the_others_after_a_minute_of_short_looks():
    world = World(slots=4, lasts=20)
    world.lasts = {"busy/fine": 3}
    world.again = {f"busy/{i}": 0 for i in range(4)} | {"busy/fine": 1}
    async with world.running() as scheduler:
        scheduler.wake("busy/fine")
        await asyncio.sleep(2)
        world.lasts["busy/fine"] = 0
        await asyncio.sleep(RECENT_SECONDS + 5)
        since = now()
        for i in range(4):
            scheduler.wake(f"busy/{i}")
        await asyncio.sleep(90)
    late = [at for at in world.looks("busy/fine") if at > since]
    assert max(b - a for a, b in itertools.pairwise(late)) == 1, "They are slow, it is not."


async def test_one_slow_look_after_short_ones_is_excused():
    world = World(slots=4, lasts=20)
    world.lasts = {"busy/fine": 0}
    world.again = {f"busy/{i}": 0 for i in range(4)} | {"busy/fine": 1}
    async with world.running() as scheduler:
        scheduler.wake("busy/fine")
        for i in range(4):
            scheduler.wake(f"busy/{i}", 5)
        await asyncio.sleep(200)
        world.lasts["busy/fine"] = 3
        await asyncio.sleep(2)
        world.lasts["busy/fine"] = 0
        await asyncio.sleep(20)
    late = [at for at in world.looks("busy/fine") if at > 200]
    assert max(b - a for a, b in itertools.pairwise(late)) <= 4, "It did not wait among the slow."


async def test_whoever_was_slow_and_is_gone_is_not_remembered():
    world = World(slots=4, lasts=20)
    # As with the reconciler: the next look finds that it is gone.
    world.again = {"a/1": [1, None]}
    async with world.running() as scheduler:
        scheduler.wake("a/1")
        await asyncio.sleep(5)
        scheduler.forget("a/1")
        await asyncio.sleep(15.5)
        world.lasts["a/1"] = 0
        assert set(scheduler._past) == {"a/1"}
        await asyncio.sleep(60)
        assert not scheduler._past


async def test_a_lone_slot_is_everybodys():
    world = World(slots=1, lasts=1)
    async with world.running() as scheduler:
        scheduler.wake("a/1")
        scheduler.wake("a/2")
        await asyncio.sleep(5)
    assert world.began == [("a/1", 0), ("a/2", 1)]


async def test_a_parked_run_is_looked_at_when_a_slot_of_its_namespace_frees():
    world = World(slots=4, lasts=7)
    async with world.running() as scheduler:
        for i in range(5):
            scheduler.wake(f"busy/{i}")
        await asyncio.sleep(30)
    assert world.began == [("busy/0", 0), ("busy/1", 0), ("busy/2", 7), ("busy/3", 7), ("busy/4", 14)]


async def test_who_has_been_parked_longest_goes_first():
    world = World(slots=2, lasts=10)
    async with world.running() as scheduler:
        scheduler.wake("busy/first")
        for i, name in enumerate(("second", "third", "fourth")):
            scheduler.wake(f"busy/{name}", i + 1)
        await asyncio.sleep(60)
    assert [uid for uid, _ in world.began] == ["busy/first", "busy/second", "busy/third", "busy/fourth"]


async def test_a_parked_run_that_is_woken_again_is_looked_at_once():
    world = World(slots=2, lasts=10)
    async with world.running() as scheduler:
        scheduler.wake("busy/first")
        scheduler.wake("busy/second", 1)
        await asyncio.sleep(5)
        scheduler.wake("busy/second")
        await asyncio.sleep(60)
    assert world.looks("busy/second") == [10]


async def test_forgetting_the_run_that_a_free_slot_was_promised_to_promises_it_to_the_next():
    world = World(slots=2, lasts=10)

    async def look(uid):
        again = await world.look(uid)
        if uid == "busy/first":
            # Between the end of this look and the next turn of the loop.
            asyncio.get_running_loop().call_soon(world.scheduler.forget, "busy/second")
        return again

    world.scheduler._look = look
    async with world.running() as scheduler:
        scheduler.wake("busy/first")
        scheduler.wake("busy/second", 1)
        scheduler.wake("busy/third", 2)
        await asyncio.sleep(60)
    assert world.began == [("busy/first", 0), ("busy/third", 10)]


async def test_a_failing_look_costs_only_its_run(caplog):
    world = World(slots=2, lasts=1)
    world.again = {"a/broken": [RuntimeError("a bug")], "b/fine": 10}
    async with world.running() as scheduler:
        scheduler.wake("a/broken")
        scheduler.wake("b/fine")
        await asyncio.sleep(20)
    assert world.looks("b/fine") == [0, 11]
    assert world.looks("a/broken") == [0, 2], "looked at again after a second"
    assert "observation failed" in caplog.text
    assert "a bug" in caplog.text


async def test_a_failing_look_gives_its_slot_back():
    world = World(slots=2, lasts=1)
    world.again = {f"a/{i}": [RuntimeError()] for i in range(3)}
    async with world.running() as scheduler:
        for i in range(3):
            scheduler.wake(f"a/{i}")
        await asyncio.sleep(60)
    assert all(len(world.looks(f"a/{i}")) == 2 for i in range(3))


async def test_lateness_is_how_long_a_run_waited_for_a_slot():
    world = World(slots=1, lasts=10)
    async with world.running() as scheduler:
        scheduler.wake("a/1")
        scheduler.wake("b/1", 4)
        await asyncio.sleep(30)
    assert world.late == pytest.approx([0, 6])


async def test_lateness_counts_the_time_that_a_run_was_parked():
    world = World(slots=4, lasts=10)
    async with world.running() as scheduler:
        for i in range(3):
            scheduler.wake(f"busy/{i}")
        await asyncio.sleep(30)
    assert world.late == pytest.approx([0, 0, 10])


async def test_a_forgotten_run_is_not_looked_at():
    world = World(slots=2, lasts=10)
    async with world.running() as scheduler:
        scheduler.wake("a/due", 5)
        scheduler.wake("a/looking")
        scheduler.wake("a/parked", 1)
        await asyncio.sleep(2)
        scheduler.wake("a/looking")
        for uid in ("a/due", "a/looking", "a/parked", "a/never-known"):
            scheduler.forget(uid)
        await asyncio.sleep(60)
    assert world.began == [("a/looking", 0)]


async def test_before_it_is_started_nobody_is_looked_at_and_then_everybody_is_at_once():
    world = World()
    world.scheduler = Scheduler(world.look, world.namespace, world.late.append, slots=4)
    async with world.running() as scheduler:
        scheduler.wake("a/1")
        await asyncio.sleep(10)
        assert world.began == []
        scheduler.start(("a/1", "b/1"))
        await asyncio.sleep(1)
    assert world.began == [("a/1", 10), ("b/1", 10)]
    assert max(world.late) < 1, "What came before does not count as late."


async def test_stopping_cancels_looks_on_their_way_and_returns_when_they_have_ended():
    world, ended = World(slots=4), []

    async def look(uid):
        world.began.append((uid, now()))
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.5)
            ended.append((uid, now()))

    world.scheduler = Scheduler(look, world.namespace, slots=2)
    async with world.running() as scheduler:
        # Two look, one waits for a slot, one is parked by its namespace, one is due later.
        scheduler.start(("a/1", "b/1", "a/2", "c/1"))
        scheduler.wake("d/1", 3)
        await asyncio.sleep(1)
        scheduler.wake("a/1")
        await scheduler.stop()
        assert ended == [("a/1", 1.5), ("b/1", 1.5)]
        scheduler.wake("a/1")
        await asyncio.sleep(100)
        assert len(world.began) == 2


async def test_a_look_that_had_no_time_to_begin_leaves_no_trace_when_it_is_stopped():
    world = World(slots=1)
    async with world.running() as scheduler:
        await asyncio.sleep(0)
        scheduler.start(("a/1",))
        scheduler._hand_out()
        await scheduler.stop()
        assert world.began == []
        scheduler.start(("b/1", "a/1"))
        await asyncio.sleep(1)
    assert [uid for uid, _ in world.began] == ["b/1", "a/1"]


async def test_started_again_everybody_is_looked_at_again():
    world = World(lasts=0.5)
    world.again = {"a/1": 10}
    async with world.running() as scheduler:
        scheduler.wake("a/1")
        await asyncio.sleep(0.2)
        await scheduler.stop()
        await asyncio.sleep(49.8)
        scheduler.start(("a/1",))
        await asyncio.sleep(15)
    assert world.looks("a/1") == [0, 50, 60.5]


async def test_the_beat_turns_though_nothing_is_due():
    world = World()
    async with world.running() as scheduler:
        await asyncio.sleep(100)
        assert now() - scheduler.beat <= 1


async def test_the_beat_turns_though_every_slot_is_taken():
    world = World(slots=1, lasts=1000)
    async with world.running() as scheduler:
        scheduler.wake("a/1")
        scheduler.wake("a/2")
        await asyncio.sleep(100)
        assert now() - scheduler.beat <= 1


async def test_a_loop_that_has_ended_beats_no_more():
    world = World()
    async with world.running() as scheduler:
        await asyncio.sleep(5)
    await asyncio.sleep(60)
    assert now() - scheduler.beat >= 60


UIDS = [f"{namespace}/{i}" for namespace in "ab" for i in range(4)]
ACTIONS = st.lists(
    st.tuples(
        st.sampled_from([0.0, 0.0, 0.5, 1.0, 2.0]),
        st.sampled_from(["wake", "wake", "wake later", "forget"]),
        st.sampled_from(UIDS),
    ),
    max_size=40,
)
HABITS = st.dictionaries(
    st.sampled_from(UIDS), st.tuples(st.sampled_from([0.0, 0.5, 3.0]), st.sampled_from([None, 0, 1, "bug"]))
)


@settings(max_examples=40, deadline=None)
@given(actions=ACTIONS, habits=HABITS, slots=st.integers(1, 5))
def test_whatever_happens_in_whatever_order_every_woken_run_is_looked_at(actions, habits, slots):
    asked: dict[str, float] = {}

    async def story():
        world = World(slots=slots)
        world.lasts = {uid: lasts for uid, (lasts, _) in habits.items()}
        world.again = {uid: [RuntimeError() if again == "bug" else again] * 3 for uid, (_, again) in habits.items()}
        async with world.running() as scheduler:
            for pause, what, uid in actions:
                await asyncio.sleep(pause)
                if what == "forget":
                    scheduler.forget(uid)
                    asked.pop(uid, None)
                else:
                    scheduler.wake(uid, after := 2 if what == "wake later" else 0)
                    asked[uid] = max(asked.get(uid, 0), now()) if not after else asked.get(uid, 0)
            await asyncio.sleep(60)
        for uid, since in asked.items():
            assert any(at >= round(since, 3) for at in world.looks(uid)), f"{uid}, woken at {since}, was lost"

    with contextlib.closing(looptime.new_event_loop()) as loop:
        loop.setup_looptime(start=0)
        loop.run_until_complete(story())
