"""Two candidates for one Lease of the real API server: its compare-and-swap decides, and its times are ones that Kubernetes takes."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from trainingrun_operator.controller.lease import Lease
from trainingrun_operator.edge.kube import KubeError

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

SECONDS = 6
SOON = 100
"""Many tests share two cores."""


class Operator:
    """A candidate; it says when it leads."""

    def __init__(self, kube, namespace, name):
        self.lease = Lease(kube, namespace, "operators", SECONDS, machine=name)
        self.leads, self.stands_by = asyncio.Event(), asyncio.Event()
        self.terms = 0

    def _begin(self):
        self.terms += 1
        self.leads.set()

    async def _end(self):
        self.stands_by.set()

    @contextlib.asynccontextmanager
    async def running(self):
        task = asyncio.create_task(self.lease.run(self._begin, self._end))
        try:
            yield self
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def first_of(*operators):
    """The one that leads, and the other."""
    waits = {asyncio.create_task(operator.leads.wait()): operator for operator in operators}
    done, pending = await asyncio.wait(waits, timeout=SOON, return_when=asyncio.FIRST_COMPLETED)
    for wait in pending:
        wait.cancel()
    (leader,) = [waits[wait] for wait in done]
    (other,) = [operator for operator in operators if operator is not leader]
    return leader, other


async def stored(kube, namespace):
    return (await kube.lease(namespace, "operators"))["spec"]


async def test_of_two_that_ask_at_once_one_has_it_and_the_other_takes_over_when_it_is_given_back(kube, namespace):
    async with contextlib.AsyncExitStack() as stack:
        stacks = {}
        operators = [Operator(kube, namespace, name) for name in ("a", "b")]
        for operator in operators:
            stacks[operator] = await stack.enter_async_context(contextlib.AsyncExitStack())
            await stacks[operator].enter_async_context(operator.running())
        leader, other = await first_of(*operators)
        spec = await stored(kube, namespace)
        assert (spec["holderIdentity"], spec["leaseDurationSeconds"]) == (leader.lease.identity, SECONDS)
        assert other.terms == 0
        await stacks[leader].aclose()
        await asyncio.wait_for(other.leads.wait(), SOON)
        after = await stored(kube, namespace)
        assert after["holderIdentity"] == other.lease.identity
        assert after["leaseTransitions"] == spec["leaseTransitions"] + 1
        assert after["acquireTime"] > spec["acquireTime"]
    assert "holderIdentity" not in await stored(kube, namespace)


async def test_a_holder_that_is_silent_is_followed_after_the_lease_and_finds_out_that_it_was(kube, namespace):
    loop = asyncio.get_running_loop()
    silent = await kube.create_lease(
        namespace,
        "operators",
        {
            "holderIdentity": "gone",
            "leaseDurationSeconds": SECONDS,
            # By this clock it has a hundred years left.
            "renewTime": "2126-01-01T00:00:00.000000Z",
            "acquireTime": "2126-01-01T00:00:00.000000Z",
            "leaseTransitions": 7,
        },
    )
    began = loop.time()
    async with Operator(kube, namespace, "a").running() as operator:
        await asyncio.wait_for(operator.leads.wait(), SOON)
        assert loop.time() - began >= SECONDS
        assert (await stored(kube, namespace))["leaseTransitions"] == 8
        with pytest.raises(KubeError) as caught:
            await kube.patch_lease(
                namespace, "operators", silent["metadata"]["resourceVersion"], {"holderIdentity": "gone"}
            )
        assert caught.value.status == 409


async def test_who_finds_another_name_in_it_leaves_it_alone(kube, namespace):
    async with Operator(kube, namespace, "a").running() as operator:
        await asyncio.wait_for(operator.leads.wait(), SOON)
        while True:
            read = await kube.lease(namespace, "operators")
            thief = {"holderIdentity": "thief", "leaseDurationSeconds": 3600}
            with contextlib.suppress(KubeError):
                await kube.patch_lease(namespace, "operators", read["metadata"]["resourceVersion"], thief)
                break
        await asyncio.wait_for(operator.stands_by.wait(), SOON)
    assert (await stored(kube, namespace))["holderIdentity"] == "thief"
