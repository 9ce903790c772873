"""A provider is asked when it said it may be, is given up when it does not answer, and whatever it raises has a kind."""

from __future__ import annotations

import asyncio

import pytest
from builders import MACHINE, OPERATION, make_pool
from fakes import FakeProvider

from trainingrun_operator.api.status import RefusalKind
from trainingrun_operator.core.facts.nodes import Instance, NodeRef
from trainingrun_operator.edge.nodes import patient as module
from trainingrun_operator.edge.nodes.patient import Patient
from trainingrun_operator.edge.nodes.provider import Denied, Refused, Retryable

POOL = make_pool()


class Place:
    def __init__(self):
        self.now, self.cloud = 1000.0, FakeProvider()
        self.provider = Patient("Example", self.cloud, lambda: self.now)

    def instance(self, node=MACHINE, pool=POOL):
        return self.provider.instance(pool, node)

    def release(self):
        return self.provider.release(POOL, MACHINE, OPERATION)


@pytest.fixture
def place():
    return Place()


async def refused(call):
    with pytest.raises(Retryable) as caught:
        await call
    return caught.value


async def test_what_is_asked_is_passed_on(place):
    assert await place.instance() is Instance.RUNNING
    assert await place.provider.at_minimum(POOL, MACHINE) is False
    await place.release()
    assert place.cloud.released == [("a100", MACHINE.provider_id, OPERATION)]


@pytest.mark.parametrize(
    ("after", "minimum", "waits"),
    [
        pytest.param(0, 1, True, id="it has just begun to lead"),
        pytest.param(179, 1, True, id="not yet as long as a call and its effect may take"),
        pytest.param(180, 1, False, id="long enough"),
        pytest.param(0, 0, False, id="the pool has no minimum"),
    ],
)
async def test_in_a_handover_a_pool_with_a_minimum_waits_for_what_the_former_leader_may_have_begun(
    place, after, minimum, waits
):
    pool = make_pool(minNodes=minimum)
    place.provider.begin()
    place.now += after
    if waits:
        assert (await refused(place.provider.release(pool, MACHINE, OPERATION))).after == 180 - after
        assert place.cloud.released == []
        place.now += 180 - after
    await place.provider.release(pool, MACHINE, OPERATION)
    assert len(place.cloud.released) == 1


async def test_who_is_to_come_back_later_is_answered_without_asking_until_then(place):
    place.cloud.trouble = Retryable("Throttled.", after=30)
    assert (await refused(place.release())).after == 30
    place.now += 29
    again = await refused(place.release())
    assert (str(again), again.after, again.kind) == ("Throttled.", 1, RefusalKind.RETRYABLE)
    assert place.cloud.asked == 1
    place.cloud.trouble = None
    place.now += 1
    await place.release()
    assert place.cloud.released == [("a100", MACHINE.provider_id, OPERATION)]


async def test_only_that_call_about_that_machine_waits(place):
    place.cloud.trouble = Retryable("Throttled.", after=30)
    await refused(place.release())
    place.cloud.trouble = None
    assert await place.instance() is Instance.RUNNING
    place.cloud.trouble = Retryable("Throttled.", after=30)
    await refused(place.instance())
    place.cloud.trouble = None
    another = NodeRef("gpu-2", "another", "aws:///us-east-1a/i-0fedcba9876543210")
    assert await place.instance(another) is Instance.RUNNING
    assert await place.instance(pool=make_pool("b")) is Instance.RUNNING


@pytest.mark.parametrize("trouble", [Refused("Not one of the pool's."), Denied("Not permitted.")])
async def test_other_refusals_are_asked_about_again(place, trouble):
    place.cloud.trouble = trouble
    for _ in range(2):
        with pytest.raises(type(trouble), match=str(trouble)):
            await place.release()
    assert place.cloud.asked == 2


async def test_nobody_is_waited_for_longer_than_ten_minutes(place):
    place.cloud.trouble = Retryable("Come back tomorrow.", after=86_400)
    await refused(place.release())
    place.now += module.WAIT_MAX_SECONDS
    await refused(place.release())
    assert place.cloud.asked == 2


async def test_what_is_no_refusal_is_one_and_its_words_are_in_the_log_alone(place, caplog):
    place.cloud.trouble = KeyError("password-of-the-cloud")
    error = await refused(place.instance())
    assert (str(error), error.after) == (
        "The provider Example failed (KeyError) for node gpu-1 of GPUNodePool a100: see the operator's log.",
        module.BROKEN_SECONDS,
    )
    assert "password-of-the-cloud" in caplog.text
    await refused(place.instance())
    assert place.cloud.asked == 1, "A provider that is broken is not asked at every look."


async def test_a_provider_that_does_not_answer_is_given_up(place, monkeypatch):
    monkeypatch.setattr(module, "CALL_SECONDS", 0.02)

    async def never(*_):
        await asyncio.Event().wait()

    place.cloud.instance = never
    assert "did not answer within" in str(await refused(place.instance()))


async def test_who_stops_waiting_is_not_told_that_the_provider_failed(place):
    place.cloud.trouble = asyncio.CancelledError()
    with pytest.raises(asyncio.CancelledError):
        await place.instance()
    place.cloud.trouble = None
    assert await place.instance() is Instance.RUNNING


async def test_what_is_waited_for_is_forgotten_in_time(place):
    place.cloud.trouble = Retryable("Throttled.", after=10)
    for number in range(5):
        await refused(place.instance(NodeRef("gpu", "uid", str(number))))
        place.now += 11
    assert len(place.provider._until) == 1


async def test_a_provider_that_cannot_be_closed_keeps_nobody(place, caplog):
    async def close():
        raise OSError("busy")

    place.cloud.close = close
    await place.provider.close()
    assert "cannot close node provider Example" in caplog.text


# -- the minimum ------------------------------------------------------------------------------------------------


class Group:
    """A group of machines whose size is its provider's only knowledge; a release does not look at it."""

    def __init__(self, *machines, shown_after=0):
        self.state = dict.fromkeys(machines, Instance.RUNNING)
        self.size, self.at_once, self.most_at_once = len(machines), 0, 0
        self.shown_after, self.released = shown_after, []

    async def instance(self, pool, node):
        if node.provider_id in self.released and self.shown_after:
            self.shown_after -= 1
            return Instance.RUNNING
        if node.provider_id in self.released:
            self.state[node.provider_id] = Instance.TERMINATING
        return self.state[node.provider_id]

    async def at_minimum(self, pool, node):
        still = len(self.released) if not self.shown_after else 0
        left = self.size - still
        await asyncio.sleep(0)
        return left <= pool.spec.min_nodes

    async def release(self, pool, node, operation):
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(0)
        self.released.append(node.provider_id)
        self.at_once -= 1

    async def close(self):
        pass


def node_of(machine):
    return NodeRef(f"node-{machine}", f"uid-{machine}", machine)


async def released_at_once(provider, pool, *machines):
    calls = (provider.release(pool, node_of(one), f"op-{one}") for one in machines)
    return await asyncio.gather(*calls, return_exceptions=True)


@pytest.mark.parametrize(("minimum", "left"), [(0, 0), (1, 1), (2, 2), (3, 3)])
async def test_runs_that_end_at_once_leave_the_pools_minimum(minimum, left):
    cloud = Group("a", "b", "c")
    provider, pool = Patient("Example", cloud, lambda: 0.0), make_pool(minNodes=minimum)
    answers = await released_at_once(provider, pool, "a", "b", "c")
    assert (cloud.size - len(cloud.released), cloud.most_at_once) == (left, min(3 - left, 1))
    refused = [answer for answer in answers if answer is not None]
    assert [type(one) for one in refused] == [Refused] * left
    assert all("GPUNodePool a100 is at its minimum: the node node-" in str(one) for one in refused)


async def test_a_release_that_the_cloud_does_not_show_yet_counts():
    now, cloud = [0.0], Group("a", "b", "c", shown_after=1)
    provider, pool = Patient("Example", cloud, lambda: now[0]), make_pool(minNodes=2)
    first, second = await released_at_once(provider, pool, "a", "b")
    assert (first, type(second), second.after) == (None, Retryable, module.VISIBLE_SECONDS)
    assert "does not show yet that node node-a goes" in str(second)
    now[0] += module.VISIBLE_SECONDS
    with pytest.raises(Refused, match="at its minimum"):
        await provider.release(pool, node_of("b"), "op-b")
    assert cloud.released == ["a"]


async def test_a_cloud_that_never_shows_a_release_does_not_keep_the_others_for_ever():
    now, cloud = [0.0], Group("a", "b", "c", shown_after=99)
    provider, pool = Patient("Example", cloud, lambda: now[0]), make_pool(minNodes=1)
    await provider.release(pool, node_of("a"), "op-a")
    now[0] += module.ACCEPTED_SECONDS
    await provider.release(pool, node_of("b"), "op-b")
    assert cloud.released == ["a", "b"]


async def test_a_machine_whose_release_was_accepted_is_not_kept_by_the_minimum_that_it_left():
    now, cloud = [0.0], Group("a", "b")
    provider, pool = Patient("Example", cloud, lambda: now[0]), make_pool(minNodes=1)
    await provider.release(pool, node_of("a"), "op-a")
    assert not await provider.at_minimum(pool, node_of("a"))
    assert await provider.at_minimum(pool, node_of("b"))
    await provider.release(pool, node_of("a"), "op-a")
    now[0] += module.ACCEPTED_SECONDS
    assert await provider.at_minimum(pool, node_of("a")), "The answer of the provider counts again."


async def test_pools_do_not_wait_for_each_other(place):
    held = asyncio.Event()

    async def slow(pool, node, operation):
        if pool.name == "slow":
            await held.wait()
        place.cloud.released.append(pool.name)

    place.cloud.release = slow
    waiting = asyncio.create_task(place.provider.release(make_pool("slow"), MACHINE, OPERATION))
    await asyncio.sleep(0)
    await place.provider.release(make_pool("fast"), MACHINE, OPERATION)
    assert place.cloud.released == ["fast"]
    held.set()
    await waiting
