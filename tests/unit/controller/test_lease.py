"""Who acts: one at a time, the next one soon, and nobody by another machine's clock."""

from __future__ import annotations

import asyncio
import contextlib
import re
from copy import deepcopy
from typing import Any, cast

import pytest

from trainingrun_operator.controller import lease as module
from trainingrun_operator.controller.lease import Lease
from trainingrun_operator.edge.kube import KubeError

pytestmark = pytest.mark.looptime

AWAY = KubeError(0, "Unreachable", "no route")
MICRO_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
LONG_AGO, FAR_AHEAD = "1999-01-01T00:00:00.000000Z", "2099-01-01T00:00:00.000000Z"


class Clock:
    """The loop's clock, which jumps; `ahead` of it after a process was stopped."""

    ahead = 0.0

    def monotonic(self):
        return asyncio.get_running_loop().time() + self.ahead


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def now():
    return round(asyncio.get_running_loop().time(), 3)


class Leases:
    """The API server's one Lease, by the three calls that are made about it."""

    def __init__(self, **spec):
        self.stored: Any = None
        self.version, self.written = 0, []
        self.trouble: KubeError | None = None
        self.lasts = 0.0
        """Seconds that each call takes, its effect in the middle."""
        self.meanwhile = lambda call: None
        """Called between a call's effect and its answer."""
        if spec:
            self.put(**spec)

    @property
    def spec(self):
        return self.stored["spec"]

    @property
    def holder(self):
        return self.spec.get("holderIdentity", "").partition("_")[0]

    def put(self, **spec):
        self.version += 1
        self.stored = {"metadata": {"resourceVersion": str(self.version)}, "spec": spec}

    async def lease(self, namespace, name):
        assert (namespace, name) == ("operators", "trainingrun-operator")
        return await self._call("get", lambda: self.stored)

    async def create_lease(self, namespace, name, spec):
        def create():
            if self.stored is not None:
                raise KubeError(409, "AlreadyExists", "there already")
            return self._write(spec)

        return await self._call("create", create)

    async def patch_lease(self, namespace, name, resource_version, spec):
        def patch():
            if self.stored is None:
                raise KubeError(404, "NotFound", "gone")
            if resource_version != self.stored["metadata"]["resourceVersion"]:
                raise KubeError(409, "Conflict", "modified")
            merged = self.spec | spec
            return self._write({key: value for key, value in merged.items() if value is not None})

        return await self._call("patch", patch)

    def _write(self, spec):
        self.put(**spec)
        self.written.append((now(), deepcopy(spec)))
        return self.stored

    async def _call(self, name, effect):
        await asyncio.sleep(self.lasts / 2)
        if self.trouble is not None:
            raise self.trouble
        answer = deepcopy(effect())
        self.meanwhile(name)
        await asyncio.sleep(self.lasts / 2)
        return answer


class Operator:
    """A candidate, and what became of it when."""

    def __init__(self, leases, name="a", seconds=15, **named):
        who = named or {"machine": name}
        self.lease = Lease(cast("Any", leases), "operators", "trainingrun-operator", seconds, **who)
        self.leases, self.story = leases, []
        self.ending = 0.0

    def _begin(self):
        self.story.append(("leads", now()))

    async def _end(self):
        await asyncio.sleep(self.ending)
        assert not self.lease.held()
        self.story.append(("stands by", now()))

    @contextlib.asynccontextmanager
    async def running(self):
        task = asyncio.create_task(self.lease.run(self._begin, self._end))
        try:
            yield self
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


def held_by(name, **changes):
    """A Lease as another operator wrote it."""
    usual = {
        "holderIdentity": f"{name}_12345678",
        "leaseDurationSeconds": 15,
        "acquireTime": LONG_AGO,
        "renewTime": LONG_AGO,
        "leaseTransitions": 4,
    }
    return usual | changes


# -- taking it ------------------------------------------------------------------------------------------------------


async def test_a_lease_that_is_not_there_is_made():
    leases = Leases()
    async with Operator(leases, pod="pod-1", machine="one").running() as operator:
        await asyncio.sleep(1)
        assert operator.story == [("leads", 0)]
        assert operator.lease.held()
    spec = leases.written[0][1]
    assert re.fullmatch(r"pod-1_[0-9a-f]{8}", spec["holderIdentity"])
    assert MICRO_TIME.fullmatch(spec["acquireTime"])
    assert MICRO_TIME.fullmatch(spec["renewTime"])
    assert (spec["leaseDurationSeconds"], spec["leaseTransitions"]) == (15, 0)


async def test_two_processes_of_one_machine_are_two_candidates():
    leases = Leases()
    async with Operator(leases, "one").running() as first, Operator(leases, "one").running() as second:
        await asyncio.sleep(60)
        assert (len(first.story), len(second.story)) == (1, 0)


@pytest.mark.parametrize(
    ("holder", "since"),
    [
        pytest.param("pod-1_0123abcd", 0, id="killed in this very pod"),
        pytest.param("pod-10_0123abcd", 15, id="of a pod whose name begins alike"),
        pytest.param("pod-1_0123abcd_0123abcd", 15, id="of another making"),
        pytest.param("pod-1", 15, id="of a name alone"),
    ],
)
async def test_an_operator_that_is_started_again_in_its_pod_does_not_wait_for_the_one_that_was_killed(holder, since):
    leases = Leases(**held_by("b", holderIdentity=holder))
    async with Operator(leases, pod="pod-1").running() as operator:
        await asyncio.sleep(20)
        assert operator.story == [("leads", since)]
        assert leases.spec["leaseTransitions"] == 5


async def test_a_lease_that_was_given_back_is_taken_at_once():
    given_back = held_by("b", leaseDurationSeconds=1) | {"holderIdentity": ""}
    leases = Leases(**given_back)
    async with Operator(leases).running() as operator:
        await asyncio.sleep(1)
        assert operator.story == [("leads", 0)]
    spec = leases.written[0][1]
    assert (spec["leaseDurationSeconds"], spec["leaseTransitions"]) == (15, 5)
    assert spec["acquireTime"] != LONG_AGO


@pytest.mark.parametrize("written", [LONG_AGO, FAR_AHEAD])
async def test_a_holder_that_is_silent_is_waited_for_from_when_it_was_first_seen_whatever_its_clock_wrote(written):
    leases = Leases(**held_by("b", renewTime=written, acquireTime=written))
    async with Operator(leases).running() as operator:
        await asyncio.sleep(20)
        assert operator.story == [("leads", 15)]
        assert (leases.holder, leases.spec["leaseTransitions"]) == ("a", 5)


async def test_it_is_waited_for_as_long_as_the_holder_wrote():
    async with Operator(Leases(**held_by("b", leaseDurationSeconds=40))).running() as operator:
        await asyncio.sleep(60)
        assert operator.story == [("leads", 40)]


async def test_a_lease_that_is_renewed_is_never_taken():
    leases = Leases(**held_by("b"))
    async with Operator(leases).running() as operator:
        for beat in range(20):
            await asyncio.sleep(14)
            leases.put(**held_by("b", renewTime=f"beat {beat}"))
        assert (operator.story, leases.written) == ([], [])
        assert operator.lease.described() == "standby: the Lease is held by b_12345678"


async def test_after_silence_of_its_own_a_candidate_waits_anew_for_a_holder_that_renewed_meanwhile():
    leases = Leases(**held_by("b"))
    async with Operator(leases).running() as operator:
        await asyncio.sleep(1)
        leases.trouble = AWAY
        await asyncio.sleep(29)
        leases.put(**held_by("b", renewTime="meanwhile"))
        leases.trouble = None
        await asyncio.sleep(10)
        assert operator.story == []


@pytest.mark.parametrize(
    "stored", [pytest.param({}, id="none is there"), pytest.param(held_by("c"), id="one has run out")]
)
async def test_of_two_candidates_that_ask_at_once_the_api_server_lets_one_have_it(stored):
    leases = Leases(**stored)
    leases.lasts = 0.2
    async with Operator(leases, "a").running() as first, Operator(leases, "b").running() as second:
        await asyncio.sleep(40)
        assert sorted(len(operator.story) for operator in (first, second)) == [0, 1]
        (leader,) = [operator for operator in (first, second) if operator.story]
        assert leases.spec["holderIdentity"] == leader.lease.identity


# -- keeping it -----------------------------------------------------------------------------------------------------


async def test_it_is_renewed_every_two_seconds_and_says_since_when_it_is_held():
    leases = Leases(**held_by("") | {"holderIdentity": ""})
    async with Operator(leases).running() as operator:
        await asyncio.sleep(9)
        assert operator.lease.described() == "leading"
    assert [at for at, _ in leases.written[:5]] == [0, 2, 4, 6, 8]
    held = [spec for _, spec in leases.written[:5]]
    assert len({spec["renewTime"] for spec in held}) == 5
    assert {(spec["acquireTime"], spec["leaseTransitions"]) for spec in held} == {(held[0]["acquireTime"], 5)}


async def test_a_shorter_lease_is_renewed_as_much_sooner():
    leases = Leases()
    async with Operator(leases, seconds=3).running():
        await asyncio.sleep(1)
    assert [at for at, _ in leases.written[:3]] == [0, 0.4, 0.8]


async def test_while_the_api_server_is_away_the_holder_acts_until_two_thirds_have_passed_and_leads_again_when_it_is_back():
    leases = Leases()
    async with Operator(leases).running() as operator:
        await asyncio.sleep(5)  # renewed at 4
        leases.trouble = AWAY
        await asyncio.sleep(8.9)
        assert operator.lease.held()
        await asyncio.sleep(0.2)
        assert not operator.lease.held()
        assert operator.lease.described() == "standby: the Lease could not be renewed in time"
        await asyncio.sleep(30)
        leases.trouble = None
        await asyncio.sleep(3)
        assert operator.story[:2] == [("leads", 0), ("stands by", 14)]
        assert [word for word, _ in operator.story[2:]] == ["leads"]
        assert leases.spec["leaseTransitions"] == 0, "Nobody else has had it."


async def test_who_cannot_reach_the_api_server_stops_before_another_may_begin():
    leases, cut_off = Leases(), Leases()
    async with Operator(leases, "a").running() as first, Operator(leases, "b").running() as second:
        await asyncio.sleep(5)
        cut_off.trouble = AWAY
        first.lease._kube = cast("Any", cut_off)
        await asyncio.sleep(60)
        assert first.story == [("leads", 0), ("stands by", 14)]
        ((word, at),) = second.story
        assert word == "leads"
        assert 19 <= at <= 21, "It asks every two seconds, and may have seen the last renewal that much later."


async def test_a_call_that_hangs_leaves_time_for_another():
    leases = Leases()
    async with Operator(leases).running() as operator:
        await asyncio.sleep(1)
        leases.lasts = 1e6
        await asyncio.sleep(6.5)  # asked at 2, given up at 7
        leases.lasts = 0.0
        await asyncio.sleep(30)
        assert operator.story == [("leads", 0)]


async def test_a_candidate_whose_call_hangs_asks_again():
    leases = Leases()
    leases.lasts = 1e6
    async with Operator(leases).running() as operator:
        await asyncio.sleep(1)
        leases.lasts = 0.0
        await asyncio.sleep(10)
        assert operator.story == [("leads", 7)]


@pytest.mark.parametrize(
    ("trouble", "lasts"),
    [pytest.param(None, 1e6, id="calls that hang"), pytest.param(AWAY, 0.6, id="calls that fail slowly")],
)
async def test_who_cannot_renew_stops_when_it_runs_out_whatever_call_is_on_its_way(trouble, lasts):
    leases = Leases()
    async with Operator(leases).running() as operator:
        await asyncio.sleep(5)  # renewed at 4
        leases.trouble, leases.lasts = trouble, lasts
        await asyncio.sleep(20)
        assert operator.story == [("leads", 0), ("stands by", 14)]


async def test_a_first_term_counts_from_when_it_was_asked_for():
    leases = Leases()
    leases.lasts = 2.0
    async with Operator(leases).running() as operator:
        await asyncio.sleep(4.5)
        leases.trouble = AWAY
        await asyncio.sleep(20)
        assert operator.story == [("leads", 4), ("stands by", 10)]


async def test_a_renewal_counts_from_when_it_was_asked_for():
    leases = Leases()
    async with Operator(leases).running() as operator:
        await asyncio.sleep(1)
        leases.lasts = 2.0  # read from 2 to 4, written from 4 to 6
        await asyncio.sleep(6)
        leases.trouble = AWAY
        await asyncio.sleep(20)
        assert operator.story == [("leads", 0), ("stands by", 12)]


async def test_a_renewal_whose_answer_is_lost_is_no_loss():
    leases = Leases()
    lost = [AWAY]

    def lose(call):
        if call == "patch" and lost:
            raise lost.pop()

    leases.meanwhile = lose
    async with Operator(leases).running() as operator:
        await asyncio.sleep(30)
        assert not lost
        assert operator.story == [("leads", 0)]


async def test_a_lease_that_somebody_deleted_is_made_again():
    leases = Leases()
    async with Operator(leases).running() as operator:
        await asyncio.sleep(1)
        leases.stored = None
        await asyncio.sleep(30)
        assert operator.story == [("leads", 0)]
        assert leases.holder == "a"


async def test_a_label_that_somebody_added_between_reading_and_writing_costs_nothing():
    leases = Leases()
    async with Operator(leases).running() as operator:
        await asyncio.sleep(1)
        touched: list[float] = []

        def touch(call):
            if call == "get" and not touched:
                touched.append(now())
                leases.put(**leases.spec)

        leases.meanwhile = touch
        await asyncio.sleep(2)
        assert touched == [2]
        assert [at for at, _ in leases.written] == [0, 2]
        assert operator.story == [("leads", 0)]


# -- losing it ------------------------------------------------------------------------------------------------------


async def test_who_finds_another_name_in_it_stops_and_does_not_write_over_it():
    leases = Leases()
    async with Operator(leases).running() as operator:
        await asyncio.sleep(1)
        leases.put(**held_by("b"))
        await asyncio.sleep(4)
        assert operator.story == [("leads", 0), ("stands by", 2)]
        assert leases.holder == "b"
        await asyncio.sleep(20)
        assert operator.story[2:] == [("leads", 17)], "It is a candidate again."


async def test_another_name_that_came_between_reading_and_writing_is_found():
    leases = Leases()
    async with Operator(leases).running() as operator:
        await asyncio.sleep(1)
        leases.meanwhile = lambda call: leases.put(**held_by("b")) if call == "get" else None
        await asyncio.sleep(2)
        assert operator.story == [("leads", 0), ("stands by", 2)]


async def test_a_process_that_was_stopped_knows_without_asking_that_it_holds_nothing(clock):
    async with Operator(Leases()).running() as operator:
        await asyncio.sleep(1)
        clock.ahead = 8.9
        assert operator.lease.held()
        clock.ahead = 9.1
        assert not operator.lease.held()
        await asyncio.sleep(1.5)
        assert operator.story[:2] == [("leads", 0), ("stands by", 2)]


async def test_an_answer_that_waited_while_the_process_was_stopped_does_not_bring_it_back(clock):
    leases = Leases()

    def stop(call):
        if call == "patch" and now() == 2:
            clock.ahead = 60

    async with Operator(leases).running() as operator:
        leases.meanwhile = stop
        await asyncio.sleep(3)
        assert [word for word, _ in operator.story] == ["leads", "stands by", "leads"]


async def test_trouble_is_said_once(caplog):
    leases = Leases()
    leases.trouble = KubeError(403, "Forbidden", "leases is forbidden")
    async with Operator(leases).running() as operator:
        await asyncio.sleep(60)
        assert not operator.lease.known
    said = [record.message for record in caplog.records if "cannot acquire or renew" in record.message]
    assert said == [
        "cannot acquire or renew the Lease operators/trainingrun-operator: 403 Forbidden: leases is forbidden"
    ]


async def test_the_beat_turns_whoever_holds_it_and_whatever_happens():
    leases = Leases(**held_by("b"))
    async with Operator(leases).running() as operator:
        for trouble in (None, AWAY):
            leases.trouble = trouble
            await asyncio.sleep(100)
            assert now() - operator.lease.beat <= 2


# -- giving it back -------------------------------------------------------------------------------------------------


async def test_who_leaves_gives_it_back_after_its_last_look_and_the_other_takes_over_at_once():
    leases = Leases()
    async with contextlib.AsyncExitStack() as first_stack:
        first = await first_stack.enter_async_context(Operator(leases, "a").running())
        await asyncio.sleep(1)
        async with Operator(leases, "b").running() as second:
            await asyncio.sleep(4)
            first.ending = 1.5
            await first_stack.aclose()
            assert first.story == [("leads", 0), ("stands by", 6.5)]
            released = leases.written[-1]
            assert released[0] == 6.5
            assert "holderIdentity" not in released[1]
            assert released[1]["leaseDurationSeconds"] == 1
            await asyncio.sleep(2)
            ((word, at),) = second.story
            assert word == "leads"
            assert 6.5 <= at <= 8.5
            assert leases.spec["leaseTransitions"] == 1


async def test_who_waits_gives_nothing_back():
    leases = Leases(**held_by("b"))
    async with Operator(leases).running():
        await asyncio.sleep(3)
    assert (leases.holder, leases.written) == ("b", [])


async def test_who_leaves_before_it_knows_that_it_has_it_gives_it_back_all_the_same():
    leases = Leases()
    leases.lasts = 1.0
    async with Operator(leases).running() as operator:
        await asyncio.sleep(1.7)  # created at 1.5, answered at 2
        assert leases.holder == "a"
    assert operator.story == []
    assert leases.spec.get("holderIdentity") is None


@pytest.mark.parametrize("hangs", [False, True])
async def test_what_cannot_be_given_back_runs_out_and_keeps_nobody(caplog, hangs):
    leases = Leases()
    async with Operator(leases).running():
        await asyncio.sleep(1)
        leases.trouble, leases.lasts = (None, 1e6) if hangs else (AWAY, 0.0)
    assert now() == (6 if hangs else 1)
    assert leases.holder == "a"
    assert "failed to release the Lease, it will expire" in caplog.text
