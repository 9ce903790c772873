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
    assert place.cloud.asked == 2


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
        "The provider Example failed (KeyError): see the operator's log.",
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
