"""First looks wait for the watch's first lists while these come, and for nothing else."""

from __future__ import annotations

import asyncio

import pytest

from trainingrun_operator.edge import listed as module
from trainingrun_operator.edge.listed import Listed

pytestmark = pytest.mark.looptime

PODS, JOBS = ("", "pods"), ("", "jobs")


def now():
    return asyncio.get_running_loop().time()


class Watched(Listed):
    """Lists of pods and Jobs, by the time of the test's loop."""

    def __init__(self):
        super().__init__(now)
        self.expects([PODS, JOBS])


async def seconds(waiting):
    """How long this takes."""
    began = now()
    await waiting
    return now() - began


async def after(delay, listed, of, *, more=False):
    await asyncio.sleep(delay)
    listed.page(of, more=more)


async def test_without_a_watch_no_look_waits_and_nothing_was_listed():
    listed = Listed(now)
    assert await seconds(listed.wait()) == 0
    assert not listed.is_fresh()


async def test_a_look_waits_until_all_pods_and_all_jobs_are_there():
    listed = Watched()
    pages = asyncio.gather(
        after(1, listed, PODS, more=True), after(2, listed, JOBS), after(3, listed, PODS), return_exceptions=True
    )
    first, second = await asyncio.gather(seconds(listed.wait()), seconds(listed.wait()))
    assert (first, second) == (3, 3)
    assert listed.is_fresh()
    assert await seconds(listed.wait()) == 0
    await pages


@pytest.mark.parametrize(
    ("pages", "waited"),
    [
        pytest.param([], module.STALLED_SECONDS, id="none comes"),
        pytest.param([4], 4 + module.STALLED_SECONDS, id="the second does not come"),
        pytest.param(range(1, 100, 4), 1 + module.WAIT_MAX_SECONDS, id="they come and do not end"),
    ],
)
async def test_a_list_that_does_not_end_holds_up_no_look_for_long(pages, waited):
    listed = Watched()
    coming = [asyncio.create_task(after(delay, listed, PODS, more=True)) for delay in pages]
    assert await seconds(listed.wait()) == pytest.approx(waited)
    assert not listed.is_fresh(), "What a part of a list does not show may be there."
    for page in coming:
        page.cancel()


async def test_what_was_listed_long_ago_counts_no_longer():
    """A standby takes over hours after its start."""
    listed = Watched()
    await after(0, listed, PODS, more=True)
    await after(10, listed, PODS)
    await after(0, listed, JOBS)
    assert listed.is_fresh()
    await asyncio.sleep(module.FRESH_SECONDS - 10)
    assert not listed.is_fresh(), "A list is as old as its first page."


async def test_a_watch_that_lists_again_makes_nothing_fresh_and_lets_no_look_wait():
    listed = Watched()
    await after(0, listed, PODS)
    await after(0, listed, JOBS)
    await after(module.FRESH_SECONDS, listed, PODS, more=True)
    assert not listed.is_fresh()
    assert await seconds(listed.wait()) == 0
