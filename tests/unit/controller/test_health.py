"""The kubelet's probes: whether a restart would help, and whether there is something to be ready with."""

from __future__ import annotations

import asyncio
import contextlib
from types import SimpleNamespace
from typing import Any

import pytest

from trainingrun_operator.controller import front
from trainingrun_operator.controller import main as module
from trainingrun_operator.controller.main import Health, Term, candidate
from trainingrun_operator.edge.kube import KubeError
from trainingrun_operator.settings import Settings

NOW = 5000.0


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: NOW))


def health(*, beat=0.0, asked=0.0, proof=0.0, listed=True, known=True, described="leading"):
    """`beat`, `asked` and `proof` are seconds ago."""
    watch: Any = SimpleNamespace(proven=NOW - proof, listed=listed)
    scheduler: Any = SimpleNamespace(beat=NOW - beat)
    lease: Any = SimpleNamespace(beat=NOW - asked, seconds=15, known=known, described=lambda: described)
    return Health(watch, scheduler, lease, list_seconds=300)


@pytest.mark.parametrize(
    ("ago", "status", "text"),
    [
        pytest.param({}, 200, "ok: scheduler 0.0 s ago, watch proven 0 s ago\n", id="all is well"),
        pytest.param(
            {"beat": 29, "asked": 44, "proof": 929},
            200,
            "ok: scheduler 29.0 s ago, watch proven 929 s ago\n",
            id="just in time",
        ),
        pytest.param({"beat": 31}, 503, "the scheduler has been stuck for 31 s\n", id="a stuck scheduler is not alive"),
        pytest.param(
            {"asked": 46}, 503, "the Lease has not been requested for 46 s\n", id="a stuck candidate is not alive"
        ),
        pytest.param(
            {"known": False, "described": "standby: the Lease is held by b"},
            200,
            "ok: scheduler 0.0 s ago, watch proven 0 s ago\n",
            id="a standby is alive",
        ),
        pytest.param(
            {"proof": 931},
            503,
            "no event and no list that matches the events for 931 s\n",
            id="a watch silent for three lists is not alive",
        ),
        pytest.param(
            {"beat": 99, "proof": 999}, 503, "the scheduler has been stuck for 99 s\n", id="the scheduler is said first"
        ),
        pytest.param(
            {"listed": False},
            200,
            "ok: scheduler 0.0 s ago, watch proven 0 s ago\n",
            id="an API server that is away is no reason to restart",
        ),
    ],
)
async def test_live(ago, status, text):
    answer = await health(**ago).live(None)
    assert (answer.status, answer.text) == (status, text)


@pytest.mark.parametrize(
    ("facts", "status", "text"),
    [
        pytest.param({}, 200, "ok: leading\n", id="ready once the runs were listed"),
        pytest.param({"listed": False}, 503, "the TrainingRuns have not been listed yet\n", id="not ready before"),
        pytest.param(
            {"described": "standby: the Lease is held by b"},
            200,
            "ok: standby: the Lease is held by b\n",
            id="a standby is ready",
        ),
        pytest.param(
            {"known": False}, 503, "the Lease has not been read yet\n", id="who may not read the Lease is not ready"
        ),
    ],
)
async def test_ready(facts, status, text):
    answer = await health(**facts).ready(None)
    assert (answer.status, answer.text) == (status, text)


@pytest.mark.looptime
@pytest.mark.parametrize(
    ("left_out", "left_at"),
    [
        pytest.param((), None, id="nothing was left out: it stays"),
        pytest.param(("vision", "nlp"), 600, id="one may be read at the second look: it leaves, to be started anew"),
    ],
)
async def test_a_namespace_that_may_be_read_by_now_makes_the_operator_start_anew(monkeypatch, left_out, left_at):
    loop, looks = asyncio.get_running_loop(), iter([(), ("nlp",)])

    async def readable(_, names):
        assert names == left_out
        return next(looks)

    monkeypatch.setattr(front, "readable", readable)
    leading = asyncio.create_task(asyncio.Event().wait())
    kube: Any = None
    await module._readable_by_now(kube, left_out, 300, leading)
    await asyncio.wait({leading}, timeout=1)
    assert leading.cancelled() is (left_at is not None)
    assert round(loop.time()) == (left_at or 1)
    leading.cancel()


def test_nothing_to_watch_is_a_sentence():
    assert str(module.NothingToWatchError("a,b")).startswith("TRAININGRUN_WATCH_NAMESPACES is 'a,b'")


@pytest.mark.looptime
@pytest.mark.parametrize(
    ("trouble", "expected"),
    [
        pytest.param([], [0, 300, 600], id="every so often"),
        pytest.param([KubeError(0, "Unreachable", "away")] * 2, [0, 5, 10, 310], id="sooner while it cannot be asked"),
    ],
)
async def test_the_runs_are_listed_at_the_start_and_then(trouble, expected):
    at = []

    async def relist():
        at.append(round(asyncio.get_running_loop().time()))
        if trouble:
            raise trouble.pop()

    watch: Any = SimpleNamespace(relist=relist)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(expected[-1] + 1):
            await module._relist(watch, 300)
    assert at == expected


# -- the Lease --------------------------------------------------------------------------------------------------


async def test_with_the_lease_all_runs_are_looked_at_and_without_it_none_and_nothing_is_remembered():
    told = []

    class Told:
        def start(self, uids):
            told.append(("start", *uids))

        def begin(self):
            told.append(("begin",))

        async def stop(self):
            told.append(("stop",))

        known = dict.fromkeys(str(number) for number in range(100))
        forgotten = 0

        def forget(self, _):
            self.forgotten += 1

        def forget_all(self):
            told.append(("forget_all",))

    both: Any = Told()
    cache: Any = SimpleNamespace(runs={"one": {}, "two": {}})
    term = Term(cache, both, both, both)
    term.begin()
    ending, most = asyncio.create_task(term.end()), 0
    while not ending.done():
        before = both.forgotten
        await asyncio.sleep(0)
        most = max(most, both.forgotten - before)
    assert both.forgotten == 100
    assert most <= 16, "Others get their turn: the memory of thousands of runs takes a while to free."
    assert told == [("begin",), ("start", "one", "two"), ("stop",), ("forget_all",)]


@pytest.mark.parametrize(
    ("chosen", "in_pod", "namespace"),
    [
        pytest.param("operators", "elsewhere", "operators", id="as set"),
        pytest.param("", "elsewhere", "elsewhere", id="the pod's own"),
        pytest.param("", None, "default", id="outside of a pod"),
    ],
)
async def test_where_the_lease_lies(monkeypatch, tmp_path, chosen, in_pod, namespace):
    file = tmp_path / "namespace"
    if in_pod is not None:
        file.write_text(in_pod)
    monkeypatch.setattr(module, "NAMESPACE_FILE", file)
    asked, was_asked = [], asyncio.Event()

    async def lease(*where):
        asked.append(where)
        was_asked.set()
        raise KubeError(0, "Unreachable", "away")

    kube: Any = SimpleNamespace(lease=lease)
    it = candidate(kube, Settings(lease_namespace=chosen, lease_name="one", lease_seconds=7))
    task = asyncio.create_task(it.run(lambda: None, lambda: asyncio.sleep(0)))
    await was_asked.wait()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert set(asked) == {(namespace, "one")}
    assert it.seconds == 7


def test_a_candidate_has_the_name_of_its_pod_or_machine(monkeypatch):
    monkeypatch.setattr(module, "socket", SimpleNamespace(gethostname=lambda: "machine"))
    kube: Any = None
    assert candidate(kube, Settings(pod_name="operator-x7k2p")).identity.startswith("operator-x7k2p_")
    assert candidate(kube, Settings()).identity.startswith("machine_")
