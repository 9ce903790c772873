"""Faults between agent or restore and the store: each is found, nothing is ever deleted, and the bytes are equal in the end."""

from __future__ import annotations

import itertools
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from integration.agent.checkpoints import MIB, hf_checkpoint
from integration.agent.pods import wait_for
from integration.agent.proxy import Cut, Do, Strikes
from integration.agent.test_restore import checkpoint, prove, save, tree

from trainingrun_operator.core.facts.bucket import Verified

if TYPE_CHECKING:
    from collections.abc import Callable

    from integration.agent.proxy import Proxy, Request

pytestmark = pytest.mark.s3

TIMES = 6
"""More than one call: twice without the SDK if its connection was a kept one, then three times by the SDK."""


PLACES = (Cut.HEAD, Cut.AT_0, Cut.AT_1, Cut.HALF, Cut.LAST)
"""Where requests and answers are cut, one after the other."""


@dataclass
class Fault:
    """Happens to the first requests of a kind."""

    do: Do = Do.PASS
    answer: tuple[int, str] | None = None
    flips: bool = False

    def put(self, proxy: Proxy, fits: Callable[[Request], bool]) -> list[Request]:
        """Put it between; returns the list of the requests to which it has happened. Each is cut at another place."""
        now, cuts = Strikes(fits, TIMES), itertools.cycle(PLACES)
        proxy.cut = lambda _: next(cuts)

        def flipped(request: Request, body: bytes) -> bytes:
            return bytes([body[0] ^ 1]) + body[1:] if body and now(request) else body

        if self.flips:
            proxy.sends = proxy.answers = flipped
        elif self.answer is not None:
            proxy.answer = lambda request: self.answer if now(request) else None
        else:
            proxy.rule = lambda request: self.do if now(request) else Do.PASS
        return now.requests

    @property
    def least(self) -> int:
        """How often it must happen for a test to be one."""
        return len(PLACES) if self.do in (Do.CUT_REQUEST, Do.CUT_ANSWER) else 1


ANSWERS = {
    "503 SlowDown": Fault(answer=(503, "SlowDown")),
    "500 InternalError": Fault(answer=(500, "InternalError")),
    "credentials that have expired, then renewed": Fault(answer=(400, "ExpiredToken")),
    "a clock that is wrong, then right": Fault(answer=(403, "RequestTimeTooSkewed")),
    "no right, then granted": Fault(answer=(403, "AccessDenied")),
}
WRITES = ANSWERS | {
    "a flipped bit": Fault(flips=True),
    "a request that is cut": Fault(Do.CUT_REQUEST),
    "an answer that is cut": Fault(Do.CUT_ANSWER),
    "an answer that is lost": Fault(Do.LOSE_ANSWER),
    "a closed connection": Fault(Do.REFUSE),
}
ALWAYS = {("an answer that is cut", what) for what in ("the list", "the commit", "the manifest", "a file")}
"""Read as whole, they would be no checkpoint, or another one."""
READS = ANSWERS | {
    "a flipped bit": Fault(flips=True),
    "an answer that is cut": Fault(Do.CUT_ANSWER),
    "a closed connection": Fault(Do.REFUSE),
}
WRITTEN = {
    "a small file": (1000, lambda request: request.path.endswith("model.safetensors")),
    "a part": (17 * MIB, lambda request: request.is_part),
    "the manifest": (1000, lambda request: request.path.endswith(".manifest.json")),
    "the commit": (1000, lambda request: "/commits/" in request.path and request.method == "PUT"),
}


READ = {
    "a file": lambda request: request.path.endswith("weights.dat"),
    "the manifest": lambda request: request.path.endswith(".manifest.json"),
    "the list": lambda request: "list-type" in request.query,
    "the commit": lambda request: "/commits/" in request.path,
}


def pairs(faults, objects):
    """Every fault with every object. `make test` has each fault once and each object several times; `make exhaustive` has all."""
    return [
        pytest.param(
            happens,
            about,
            id=f"{fault}-{what}",
            marks=() if at == number % len(objects) or (fault, what) in ALWAYS else pytest.mark.exhaustive,
        )
        for number, (fault, happens) in enumerate(faults.items())
        for at, (what, about) in enumerate(objects.items())
    ]


def deletions(proxy: Proxy) -> int:
    return proxy.count(lambda request: request.method == "DELETE")


@pytest.mark.parametrize(("fault", "written"), pairs(WRITES, WRITTEN))
def test_a_fault_while_it_is_saved_costs_time_and_no_byte(make_pod, store, proxy, fault, written):
    size, fits = written
    if fault.flips:
        happened = fault.put(proxy, lambda request: request.method == "PUT" and fits(request))
    else:
        happened = fault.put(proxy, lambda request: request.method in {"PUT", "POST"} and fits(request))
    pod = make_pod(endpoint=proxy.url)
    files = hf_checkpoint(pod.volume, 100, size)
    pod.start()
    (commit,) = wait_for(store.commits)
    assert store.content(commit) == files
    assert isinstance(prove(store), Verified)
    assert deletions(proxy) == 0
    pod.reports(lambda report: report.commit and report.error is None)
    assert len(happened) >= fault.least


@pytest.mark.parametrize(("fault", "fits"), pairs(READS, READ))
def test_a_fault_while_it_is_restored_costs_time_and_no_byte(make_pod, store, proxy, fault, fits):
    pod = make_pod()
    checkpoint(pod.volume, 100, 20 * MIB)
    pod.start()
    save(pod, store, 1)
    pod.kill()
    happened = fault.put(proxy, lambda request: request.method == "GET" and fits(request))
    other = make_pod("llm-1", folder="other-node", endpoint=proxy.url)
    assert other.restore() == 0
    assert len(happened) >= fault.least
    assert tree(other.volume) == tree(pod.volume)
    assert deletions(proxy) == 0


@pytest.mark.parametrize("fits", [fits for _, fits in WRITTEN.values()], ids=WRITTEN)
def test_a_store_that_hangs_keeps_the_report_from_nobody(make_pod, store, proxy, fits):
    hangs, let_go = threading.Event(), threading.Event()

    def rule(request: Request) -> Do:
        if let_go.is_set() or request.method != "PUT" or not fits(request):
            return Do.PASS
        hangs.set()
        let_go.wait(timeout=120)
        return Do.REFUSE

    proxy.rule = rule
    pod = make_pod(endpoint=proxy.url)
    files = hf_checkpoint(pod.volume, 100, 17 * MIB)
    pod.start()
    wait_for(hangs.is_set)
    report = pod.reports(lambda report: report.newest is not None)
    assert report.commit is None
    assert store.commits() == []
    let_go.set()
    (commit,) = wait_for(store.commits)
    assert store.content(commit) == files
    assert isinstance(prove(store), Verified)
    assert deletions(proxy) == 0


def test_a_clock_that_is_wrong_is_said_and_all_is_saved_once_it_is_right(make_pod, store, proxy):
    """The store itself refuses the agent's requests: they are signed 16 minutes late."""
    pod = make_pod(endpoint=proxy.url)
    files = hf_checkpoint(pod.volume, 100, 17 * MIB)
    pod.set_clock(-16 * 60)
    pod.start(has_clock=True)
    report = pod.reports(lambda report: report.error)
    assert report.error.code == "RequestTimeTooSkewed"
    assert store.keys() == []
    pod.set_clock(0)
    (commit,) = wait_for(store.commits)
    assert store.content(commit) == files
    assert isinstance(prove(store), Verified)
    assert deletions(proxy) == 0
    pod.reports(lambda report: report.commit and report.error is None)
