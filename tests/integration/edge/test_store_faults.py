"""Faults between the operator's proof and the store: an answer that did not arrive is no verdict, and the proof is made once it does."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
import s3server
from botocore.compat import get_current_datetime
from botocore.crt import auth
from integration.agent.proxy import Cut, Do, Strikes, between
from shipment import RUN, Shipment

from trainingrun_operator.checkpoints import clients, heads
from trainingrun_operator.checkpoints.keys import Layout
from trainingrun_operator.core.facts.bucket import Mismatch, Unreachable, Verified
from trainingrun_operator.edge.gather.store import Access, Store

if TYPE_CHECKING:
    from integration.agent.proxy import Proxy, Request

pytestmark = [pytest.mark.s3, pytest.mark.asyncio(loop_scope="module")]

BUCKET = "runs"
IMPATIENT_SECONDS = 0.3
_number = itertools.count()

READS = {
    "the list": lambda request: request.method == "GET" and "list-type" in request.query,
    "the commit": lambda request: request.method == "GET" and "/commits/" in request.path,
    "the manifest": lambda request: request.method == "GET" and request.path.endswith(".manifest.json"),
    "sizes and checksums": lambda request: request.method == "HEAD",
}
WITHIN_HEAD = (Cut.FIRST_LINE, Cut.HEAD, Cut.HEAD_END)


@dataclass
class Place:
    """A run's shipment of 20 files behind a proxy, and the operator's way to it."""

    proxy: Proxy
    shipment: Shipment
    access: Access
    store: Store

    async def find(self, store: Store | None = None):
        """Prove the newest commit, as a stop does. Nothing of an earlier proof is known: it was another namespace's."""
        access = replace(self.access, owner=f"namespace-{next(_number)}")
        return await (store or self.store).find(access, self.shipment.layout, lambda _: True)

    async def assert_proven(self):
        """Nothing is between any more: it is the commit that was shipped, and nothing was ever written or deleted."""
        found = await self.find()
        assert isinstance(found, Verified)
        assert (found.key, len(self.shipment.files)) == (self.shipment.commit_key, found.commit.total_files)
        assert {request.method for request in self.proxy.seen} <= {"GET", "HEAD"}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with s3server.running(tmp_path_factory.mktemp("s3") / "buckets") as running:
        yield running


@pytest.fixture(scope="module")
def client(server):
    made = server.client()
    made.create_bucket(Bucket=BUCKET)
    yield made
    made.close()


@pytest.fixture(scope="module")
def proxy(server):
    with between(server.endpoint_url) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def store():
    made = Store(threads=8)
    yield made
    made.close()


@pytest.fixture(scope="module")
def access(server, proxy):
    return Access(
        endpoint_url=proxy.url, region=server.region, access_key=server.access_key, secret_key=server.secret_key
    )


@pytest.fixture(scope="module")
def impatient(access):
    """It waits for each answer for a moment only."""
    made = Store(threads=8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clients, "ANSWER_SECONDS", IMPATIENT_SECONDS)
        asyncio.run(made.probe(access, Layout(BUCKET, "")))
    yield made
    made.close()


@pytest.fixture
def place(client, proxy, access, store, monkeypatch):
    # A second try comes at once; that there is one is botocore's.
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0)
    layout = Layout.of(f"s3://{BUCKET}/{next(_number)}", RUN.namespace, RUN.name, RUN.uid)
    shipment = Shipment(
        client, layout, files={f"checkpoint-1200/{number}.safetensors": b"x" * number for number in range(20)}
    )
    shipment.send()
    proxy.seen.clear()
    yield Place(proxy, shipment, access, store)
    mend(proxy)


def mend(proxy: Proxy):
    fresh = type(proxy)(proxy.target)
    for name in ("rule", "cut", "delay", "headers", "asks", "answer", "sends", "answers"):
        setattr(proxy, name, getattr(fresh, name))


@pytest.mark.parametrize("do", [Do.CUT_ANSWER, Do.RESET], ids=["cut", "reset"])
@pytest.mark.parametrize("fits", READS.values(), ids=READS)
async def test_an_answer_that_ends_early_is_no_verdict(place, fits, do):
    struck = Strikes(fits)
    place.proxy.rule = lambda request: do if struck(request) else Do.PASS
    for at in WITHIN_HEAD if fits is READS["sizes and checksums"] else Cut:
        place.proxy.cut = lambda _, at=at: at
        struck.requests.clear()
        found = await place.find()
        assert isinstance(found, Unreachable), f"cut {at.value}: {found}"
        assert found.code == "Unreachable"
        assert struck.requests
    mend(place.proxy)
    await place.assert_proven()


@pytest.mark.parametrize("fits", READS.values(), ids=READS)
async def test_a_connection_that_ends_once_is_opened_again(place, fits):
    struck = Strikes(fits, times=1)
    place.proxy.rule = lambda request: Do.REFUSE if struck(request) else Do.PASS
    await place.assert_proven()


@pytest.mark.parametrize("fits", READS.values(), ids=READS)
async def test_a_store_that_asks_for_fewer_requests_is_asked_again(place, fits):
    refused = Strikes(fits)
    place.proxy.answer = lambda request: (503, "SlowDown") if refused(request) else None
    found = await place.find()
    assert isinstance(found, Unreachable)
    assert (found.code, "they are retried" in found.message) == ("SlowDown", True)
    mend(place.proxy)
    place.proxy.seen.clear()
    once = Strikes(fits, times=1)
    place.proxy.answer = lambda request: (503, "SlowDown") if once(request) else None
    await place.assert_proven()


@pytest.mark.parametrize("fits", READS.values(), ids=READS)
async def test_a_store_that_hangs_is_left_in_time(place, impatient, fits, monkeypatch):
    monkeypatch.setattr(heads, "ANSWER_SECONDS", IMPATIENT_SECONDS)
    place.proxy.rule = lambda request: Do.HANG if fits(request) else Do.PASS
    found = await place.find(impatient)
    assert isinstance(found, Unreachable)
    assert found.code == "Timeout"
    mend(place.proxy)
    await place.assert_proven()


def flipped(body: bytes, place: int) -> bytes:
    return body[:place] + bytes([body[place] ^ 1]) + body[place + 1 :]


@pytest.mark.parametrize("times", [1, None], ids=["once", "each time"])
@pytest.mark.parametrize(
    ("what", "found_at"),
    [
        pytest.param("the list", b"ListBucketResult", id="a tag of the list"),
        pytest.param("the list", b"<IsTruncated>", id="whether it is the whole list"),
        pytest.param("the list", b"false</IsTruncated>", id="that it is the whole list"),
        pytest.param("the list", RUN.uid.encode() + b"/commits/i2", id="the run's uid in a key of the list"),
        pytest.param("the commit", b"{", id="the first byte of the commit"),
        pytest.param("the commit", b"stop-1", id="what the commit answers"),
        pytest.param("the commit", b'"sha256":"', id="a name in the commit"),
        pytest.param("the manifest", b"{", id="the first byte of the manifest"),
        pytest.param("the manifest", b"checkpoint-1200/7.safetensors", id="the name of a file"),
        pytest.param("the manifest", b"AAAAAA", id="a checksum in the manifest"),
    ],
)
async def test_a_byte_that_is_flipped_on_its_way_is_no_verdict(place, what, found_at, times):
    struck = Strikes(READS[what], times)

    def flip(request: Request, body: bytes) -> bytes:
        if not struck(request):
            return body
        assert found_at in body, body
        return flipped(body, body.index(found_at))

    place.proxy.answers = flip
    found = await place.find()
    assert struck.requests
    if times is None:
        assert isinstance(found, Unreachable), found
        assert found.code in ("BadAnswer", "InternalError")
    else:
        assert isinstance(found, Unreachable | Verified), found
    mend(place.proxy)
    await place.assert_proven()


async def test_a_flipped_digit_in_a_key_of_the_list_names_a_commit_that_is_not_there(place):
    place.proxy.answers = lambda request, body: body.replace(b"g0007", b"g0003") if READS["the list"](request) else body
    found = await place.find()
    assert isinstance(found, Mismatch), "Another upload is asked for: that costs time, and no byte."
    assert (found.key, found.curable) == (place.shipment.commit_key.replace("g0007", "g0003"), True)
    mend(place.proxy)
    await place.assert_proven()


@pytest.mark.parametrize("name", ["x-amz-checksum-crc64nvme", "content-length"])
async def test_size_and_checksum_of_an_object_that_differ_once_are_asked_for_again(place, name):
    # Not the first object: botocore asks for that one.
    struck = Strikes(lambda request: request.method == "HEAD" and request.path.endswith("/7.safetensors"), times=1)

    def headers(request: Request, given: list[tuple[str, str]]) -> list[tuple[str, str]]:
        wrong = struck(request)
        return [
            (one, value.translate({65: 66, 49: 50}) if wrong and one.lower() == name else value) for one, value in given
        ]

    place.proxy.headers = headers
    await place.assert_proven()
    assert struck.requests


async def test_a_clock_that_is_wrong_is_said_and_nothing_is_held_against_the_checkpoint(place, monkeypatch):
    """The store refuses the signature of a request itself: it is 16 minutes old."""
    monkeypatch.setattr(auth, "get_current_datetime", lambda **how: get_current_datetime(**how) - timedelta(minutes=16))
    found = await place.find()
    assert isinstance(found, Unreachable)
    assert found.code == "RequestTimeTooSkewed"
    assert "the clocks of operator and store differ" in found.message
    monkeypatch.setattr(auth, "get_current_datetime", get_current_datetime)
    await place.assert_proven()
