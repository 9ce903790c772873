"""Proofs beside the looks: a look never waits long for one, and none is lost, repeated or in the way of others."""

from __future__ import annotations

import asyncio

import pytest

from trainingrun_operator.edge.gather import proofs
from trainingrun_operator.edge.gather.proofs import Proofs


def confirms(name):
    return name != "refuted"


class Slow:
    """A bucket whose answers the test releases."""

    def __init__(self):
        self.begun, self.cancelled = [], []
        self.doors = {}

    def proof(self, name):
        async def prove():
            self.begun.append(name)
            self.doors[name] = asyncio.Event()
            try:
                await self.doors[name].wait()
            except asyncio.CancelledError:
                self.cancelled.append(name)
                raise
            return name

        return prove


@pytest.fixture
def slow():
    return Slow()


@pytest.fixture
def woken():
    return []


@pytest.fixture
async def beside(woken):
    made: Proofs[str] = Proofs(woken.append, confirms, patience_seconds=0, quiet_seconds=0)
    yield made
    await made.close()


async def settled():
    """Let every task go as far as it can."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_look_takes_what_is_proven_at_once_and_is_not_woken(woken):
    beside: Proofs[str] = Proofs(woken.append, confirms, patience_seconds=60)

    async def prove():
        return "proven"

    assert await beside.result("a", "ml", prove, known=False, patient=True) == "proven"
    await settled()
    assert woken == []


async def test_a_look_does_not_wait_at_all_for_what_its_status_already_records(slow, woken):
    """As after a start of the operator: thousands of looks would wait, a few at a time."""
    beside: Proofs[str] = Proofs(woken.append, confirms, patience_seconds=10_000, confirmed_seconds=0, quiet_seconds=0)
    assert not beside.begun("a")
    assert await beside.result("a", "ml", slow.proof("recorded"), known=True, patient=False) is None
    assert beside.begun("a")
    await settled()
    slow.doors["recorded"].set()
    await settled()
    assert woken == ["a"]
    assert beside.begun("a"), "Its result is to be taken."
    assert await beside.result("a", "ml", slow.proof("again"), known=True, patient=False) == "recorded"
    assert not beside.begun("a")


async def test_a_proof_that_confirms_the_status_waits_for_a_look(slow, woken):
    beside: Proofs[str] = Proofs(woken.append, confirms, confirmed_seconds=10_000, quiet_seconds=0)
    await beside.result("a", "ml", slow.proof("confirmed"), known=True, patient=False)
    await settled()
    slow.doors["confirmed"].set()
    await settled()
    assert woken == []
    assert await beside.result("a", "ml", slow.proof("again"), known=True, patient=False) == "confirmed"


async def test_no_run_is_woken_for_a_result_that_a_look_has_taken(slow, woken):
    beside: Proofs[str] = Proofs(woken.append, confirms, confirmed_seconds=0, quiet_seconds=0)
    await beside.result("a", "ml", slow.proof("confirmed"), known=True, patient=False)
    await settled()
    slow.doors["confirmed"].set()
    taken = None
    while taken is None:
        taken = await beside.result("a", "ml", slow.proof("again"), known=True, patient=False)
        await asyncio.sleep(0)
    await settled()
    assert woken == []


@pytest.mark.looptime
async def test_proofs_of_recorded_checkpoints_begin_after_the_first_looks(woken):
    """After a start of the operator, looks at thousands of runs ask for one each."""
    now, begun = asyncio.get_running_loop().time, []
    beside: Proofs[str] = Proofs(woken.append, confirms)
    start = now()

    async def prove():
        begun.append(now() - start)
        return "confirmed"

    for number in range(40):
        await beside.result(f"run-{number}", f"ns-{number}", prove, known=True, patient=False)
        await asyncio.sleep(0.5)
    assert begun == []
    await asyncio.sleep(1)
    assert begun == [pytest.approx(19.5 + proofs.QUIET_SECONDS)] * 40
    await beside.close()


@pytest.mark.looptime
async def test_looks_that_never_pause_delay_proofs_of_recorded_checkpoints_no_longer_than_this(woken):
    now, begun = asyncio.get_running_loop().time, []
    beside: Proofs[str] = Proofs(woken.append, confirms)
    start = now()

    async def prove():
        begun.append(now() - start)
        return "confirmed"

    for number in range(300):
        await beside.result(f"run-{number}", f"ns-{number}", prove, known=True, patient=False)
        await asyncio.sleep(0.5)
    assert proofs.QUIET_MAX_SECONDS <= begun[0] <= proofs.QUIET_MAX_SECONDS + proofs.QUIET_SECONDS
    await beside.close()


@pytest.mark.looptime
async def test_the_proof_of_a_new_checkpoint_waits_for_no_looks(woken):
    beside: Proofs[str] = Proofs(woken.append, confirms)

    async def prove():
        return "proven"

    await beside.result("recorded", "ml", prove, known=True, patient=False)
    assert await beside.result("new", "ml", prove, known=False, patient=True) == "proven"
    await beside.close()


async def fails():
    raise ZeroDivisionError


@pytest.mark.parametrize("known", [True, False])
async def test_what_contradicts_the_status_or_is_new_wakes_the_run_at_once(slow, woken, known):
    beside: Proofs[str] = Proofs(woken.append, confirms, patience_seconds=0, confirmed_seconds=10_000, quiet_seconds=0)
    await beside.result("refuted", "ml", slow.proof("refuted"), known=known, patient=not known)
    await beside.result("failed", "dl", fails, known=True, patient=False)
    await beside.result("new", "rl", slow.proof("new"), known=False, patient=True)
    await settled()
    assert woken == ["failed"]
    slow.doors["new"].set()
    slow.doors["refuted"].set()
    await settled()
    assert sorted(woken) == ["failed", "new", "refuted"]
    assert await beside.result("refuted", "ml", slow.proof("again"), known=known, patient=not known) == "refuted"
    with pytest.raises(ZeroDivisionError):
        await beside.result("failed", "dl", fails, known=True, patient=False)
    beside.forget_all()


async def test_a_look_does_not_wait_and_is_woken_once_for_the_result(beside, slow, woken):
    assert await beside.result("a", "ml", slow.proof("first"), known=False, patient=True) is None
    await settled()
    assert await beside.result("a", "ml", slow.proof("again"), known=False, patient=True) is None
    slow.doors["first"].set()
    await settled()
    assert woken == ["a"]
    assert await beside.result("a", "ml", slow.proof("again"), known=False, patient=True) == "first"
    assert slow.begun == ["first"], "A proof that is being made is not made twice."


async def test_a_newer_checkpoint_does_not_cancel_the_proof_of_an_older(beside, slow):
    await beside.result("a", "ml", slow.proof("older"), known=False, patient=True)
    await settled()
    assert await beside.result("a", "ml", slow.proof("newer"), known=False, patient=True) is None
    slow.doors["older"].set()
    await settled()
    assert await beside.result("a", "ml", slow.proof("newer"), known=False, patient=True) == "older"
    assert await beside.result("a", "ml", slow.proof("newer"), known=False, patient=True) is None
    await settled()
    assert slow.begun == ["older", "newer"]


async def test_a_proof_that_fails_fails_its_own_look(beside):
    async def prove():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await beside.result("a", "ml", prove, known=False, patient=True)
    with pytest.raises(ZeroDivisionError):
        await beside.result("a", "ml", prove, known=False, patient=True)


async def test_the_proof_of_a_run_that_is_gone_is_cancelled_and_wakes_nothing(beside, slow, woken):
    await beside.result("a", "ml", slow.proof("a"), known=False, patient=True)
    await settled()
    beside.forget("a")
    beside.forget("a")
    await settled()
    assert slow.cancelled == ["a"]
    assert woken == []


async def test_all_are_cancelled_when_another_operator_leads(beside, slow, woken):
    for uid in "abc":
        await beside.result(uid, "ml", slow.proof(uid), known=False, patient=True)
    await settled()
    beside.forget_all()
    await settled()
    assert (slow.cancelled, woken) == (["a", "b", "c"], [])


async def test_a_namespace_whose_buckets_hang_leaves_room_for_others(beside, slow):
    for number in range(100):
        await beside.result(f"hangs-{number}", "loud", slow.proof(f"hangs-{number}"), known=False, patient=True)
    await settled()
    assert len(slow.begun) == proofs.OF_A_NAMESPACE
    await beside.result("quiet", "quiet", slow.proof("quiet"), known=False, patient=True)
    await settled()
    assert slow.begun[-1] == "quiet"


async def test_so_many_are_made_at_once(beside, slow):
    for number in range(200):
        await beside.result(f"{number}", f"ns-{number}", slow.proof(f"{number}"), known=False, patient=True)
    await settled()
    assert len(slow.begun) == proofs.AT_ONCE


async def test_what_the_status_records_as_verified_is_proven_again_in_its_turn(beside, slow):
    """As after a start of the operator: new checkpoints do not wait for all the old ones."""
    for number in range(50):
        await beside.result(f"known-{number}", f"ns-{number}", slow.proof(f"known-{number}"), known=True, patient=False)
    await beside.result("new", "ns-0", slow.proof("new"), known=False, patient=True)
    await settled()
    assert slow.begun == ["known-0", "known-1", "new"]
    slow.doors["known-0"].set()
    await settled()
    assert slow.begun[-1] == "known-2"
