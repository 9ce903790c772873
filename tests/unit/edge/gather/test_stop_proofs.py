"""Proofs that a stop depends on: a look that cannot wait is put off, and takes only an answer to what it asks."""

from __future__ import annotations

import asyncio

import pytest

from trainingrun_operator.edge.gather import stop_proofs as module
from trainingrun_operator.edge.gather.stop_proofs import ProvingError, StopProofs

pytestmark = pytest.mark.looptime


class Slow:
    """A bucket whose answers the test releases."""

    def __init__(self):
        self.begun, self.cancelled, self.doors = [], [], {}

    def proof(self, name):
        async def prove():
            self.begun.append(name)
            door = self.doors[name] = asyncio.Event()
            try:
                await door.wait()
            except asyncio.CancelledError:
                self.cancelled.append(name)
                raise
            return f"{name} holds"

        return prove


@pytest.fixture
def slow():
    return Slow()


@pytest.fixture
def woken():
    return []


@pytest.fixture
def proofs(woken):
    return StopProofs[str](woken.append)


async def quick():
    return "proven"


async def put_off(proofs, slow, name, *, uid="a", namespace="ml"):
    with pytest.raises(ProvingError):
        await proofs.answer(uid, namespace, name, slow.proof(name))


async def test_a_small_proof_is_the_answer_of_its_own_look_which_nothing_wakes(proofs, woken):
    assert await proofs.answer("a", "ml", "question", quick) == "proven"
    await asyncio.sleep(60)
    assert woken == []


async def test_a_look_waits_a_second_and_is_woken_as_soon_as_a_longer_proof_ends(proofs, slow, woken):
    now = asyncio.get_running_loop().time
    began = now()
    await put_off(proofs, slow, "large")
    assert now() - began == pytest.approx(module.PATIENCE_SECONDS)
    await asyncio.sleep(100)
    assert woken == []
    slow.doors["large"].set()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert woken == ["a"]
    assert await proofs.answer("a", "ml", "large", slow.proof("large")) == "large holds"
    assert slow.begun == ["large"], "It is not made twice."
    assert now() - began == pytest.approx(100 + module.PATIENCE_SECONDS)


async def test_each_look_asks_anew_once_an_answer_was_taken(proofs):
    answers = iter(["nothing yet", "saved"])

    async def prove():
        return next(answers)

    assert [await proofs.answer("a", "ml", "question", prove) for _ in range(2)] == ["nothing yet", "saved"]


async def test_looks_during_a_proof_begin_no_other(proofs, slow):
    for _ in range(3):
        await put_off(proofs, slow, "large")
    assert (slow.begun, slow.cancelled) == (["large"], [])


async def test_another_question_ends_the_proof_for_the_one_before(proofs, slow, woken):
    await put_off(proofs, slow, "before")
    assert await proofs.answer("a", "ml", "now", quick) == "proven"
    assert slow.cancelled == ["before"]
    assert woken == []


async def test_an_answer_to_another_question_is_not_taken(proofs, slow):
    """It may say that the bucket has nothing, from before a pod has saved and ended."""
    await put_off(proofs, slow, "before")
    slow.doors["before"].set()
    await asyncio.sleep(1)
    assert await proofs.answer("a", "ml", "now", quick) == "proven"


@pytest.mark.parametrize(
    ("seconds", "answer"),
    [
        pytest.param(module.ANSWER_SECONDS, "large holds", id="fresh"),
        pytest.param(module.ANSWER_SECONDS + 1, "proven", id="too old"),
    ],
)
async def test_an_answer_that_waited_long_for_its_look_is_not_taken(proofs, slow, seconds, answer):
    await put_off(proofs, slow, "large")
    slow.doors["large"].set()
    await asyncio.sleep(seconds)
    assert await proofs.answer("a", "ml", "large", quick) == answer


async def test_a_proof_that_fails_fails_the_look_that_takes_it_and_the_next_one_asks_again(proofs, woken):
    async def fails():
        await asyncio.sleep(5)
        raise ZeroDivisionError

    with pytest.raises(ProvingError):
        await proofs.answer("a", "ml", "question", fails)
    await asyncio.sleep(5)
    assert woken == ["a"]
    with pytest.raises(ZeroDivisionError):
        await proofs.answer("a", "ml", "question", fails)
    assert await proofs.answer("a", "ml", "question", quick) == "proven"


async def test_the_proof_of_a_run_that_is_gone_is_cancelled_and_wakes_nothing(proofs, slow, woken):
    await put_off(proofs, slow, "large")
    proofs.forget("a")
    proofs.forget("a")
    await asyncio.sleep(0)
    assert (slow.cancelled, woken) == (["large"], [])


@pytest.mark.parametrize("end", ["forget_all", "close"])
async def test_all_are_cancelled_when_another_operator_leads_or_this_one_ends(proofs, slow, woken, end):
    for uid in "abc":
        await put_off(proofs, slow, uid, uid=uid)
    ended = getattr(proofs, end)()
    if ended is not None:
        await ended
    await asyncio.sleep(0)
    assert (sorted(slow.cancelled), woken) == (["a", "b", "c"], [])


async def test_a_namespace_whose_buckets_hang_leaves_room_for_the_stops_of_others(proofs, slow):
    async def asks(number):
        await put_off(proofs, slow, f"hangs-{number}", uid=f"{number}", namespace="loud")

    await asyncio.gather(*(asks(number) for number in range(100)))
    assert len(slow.begun) == module.OF_A_NAMESPACE
    assert await proofs.answer("quiet", "quiet", "question", quick) == "proven"
