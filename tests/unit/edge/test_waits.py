"""What counts as a look's wait for a tenant."""

from __future__ import annotations

import asyncio

from trainingrun_operator.checkpoints.keys import Layout
from trainingrun_operator.edge import waits
from trainingrun_operator.edge.gather.store import Access, Store


async def wait(seconds):
    with waits.for_tenant():
        await asyncio.sleep(seconds)


def test_a_look_has_the_longest_wait_of_its_tasks():
    async def look():
        with waits.measured() as seen:
            await asyncio.gather(wait(0.001), wait(0.05))
            await wait(0.001)
        return seen

    seen = asyncio.run(look())
    assert seen.number == 3
    assert seen.longest >= 0.05


def test_looks_that_go_on_at_once_have_their_own_waits():
    async def look(seconds):
        with waits.measured() as seen:
            await wait(seconds)
        return seen

    async def both():
        return await asyncio.gather(look(0.05), look(0))

    slow, fast = asyncio.run(both())
    assert (slow.number, fast.number) == (1, 1)
    assert slow.longest > fast.longest


def test_a_wait_outside_of_a_look_is_measured_by_nobody():
    asyncio.run(wait(0))


def test_a_request_to_a_bucket_is_a_wait():
    store = Store(threads=1)

    async def look():
        with waits.measured() as seen:
            await store.probe(
                Access(endpoint_url="http://127.0.0.1:9", access_key="k", secret_key="s"), Layout("b", "x/")
            )
        return seen

    try:
        assert asyncio.run(look()).number == 1
    finally:
        store.close()
