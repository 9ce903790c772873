"""What a server sends instead of a list: it is bounded before it is parsed, told, and not requested again at once."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from contextlib import contextmanager, suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.awsrequest import AWSResponse
from botocore.exceptions import HTTPClientError
from botocore.utils import parse_timestamp
from urllib3.response import HTTPResponse

from trainingrun_operator.checkpoints import answers, s3
from trainingrun_operator.checkpoints.answers import BoundedAnswers, TooMuchError, slim_list, time_of, whole
from trainingrun_operator.checkpoints.clients import Door
from trainingrun_operator.checkpoints.keys import Layout
from trainingrun_operator.core.facts.bucket import Unreachable
from trainingrun_operator.edge.gather.store import REFUSED_SECONDS, Access, Store

MIB = 2**20
ACCESS = Access(endpoint_url="http://127.0.0.1:9", access_key="key", secret_key="secret")
LAYOUT = Layout("bucket", "ml/llama/1f0c/")
HEAD = b'<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
END = b"</ListBucketResult>"


def page(keys, token=b""):
    listed = b"".join(
        b"<Contents><Key>%b</Key><Size>1</Size><Owner><ID>me</ID></Owner></Contents>" % key for key in keys
    )
    more = b"<NextContinuationToken>%b</NextContinuationToken>" % token if token else b""
    return HEAD + b"<IsTruncated>%b</IsTruncated>" % (b"true" if token else b"false") + more + listed + END


def keys(first, number):
    return [LAYOUT.commits.encode() + b"i1-g%04d.json" % (first + n) for n in range(number)]


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@contextmanager
def serving(*bodies, status=200):
    """An S3 server that answers with each of these in turn, the last one for ever; gives its address, and what it was asked."""
    left, asked, sent = list(bodies), [], []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            body = left.pop(0) if len(left) > 1 else left[0]
            self.send_response(status)
            self.end_headers()
            try:
                for piece in [body] if isinstance(body, bytes) else body():
                    self.wfile.write(piece)
                    sent.append(len(piece))
            except ConnectionError:
                return

        def log_message(self, *_):
            """Nobody reads it."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()
    # A buffer of the kernel's, and 2 MiB: twice, because a call that fails is repeated once.
    assert sum(sent) < 32 * MIB


def listed(address, *, times=1, seconds=0):
    clock = Clock()
    store = Store(threads=2, monotonic=clock)
    access = Access(endpoint_url=address, access_key="key", secret_key="secret")

    async def ask():
        found = []
        for _ in range(times):
            found.append(await store.commits(access, LAYOUT))
            clock.now += seconds
        return found

    try:
        return asyncio.run(ask())
    finally:
        store.close()


def test_a_list_of_several_pages_is_read_whole():
    with serving(page(keys(1, 1000), b"a&amp;b"), page(keys(1001, 5))) as (address, asked):
        (found,) = listed(address)
    assert found[0] == f"{LAYOUT.commits}i1-g1005.json"
    assert len(found) == 64
    assert "continuation-token=a%26b" in asked[1], "The token is what XML says, not its bytes."


def test_the_times_of_a_list_are_not_read_by_the_slow_parser(monkeypatch):
    monkeypatch.setattr(answers, "parse_timestamp", None)
    dated = page(keys(1, 1000)).replace(b"<Size>", b"<LastModified>2026-01-01T00:00:00.000Z</LastModified><Size>")
    with serving(dated) as (address, _):
        (found,) = listed(address)
    assert len(found) == 64


@pytest.mark.parametrize(
    "text",
    [
        "2026-01-01T00:00:00.000Z",
        "2026-01-01T00:00:00.123456789Z",
        "2026-01-01T02:30:00+02:30",
        "2026-01-01T00:00:00",
        "Thu, 01 Jan 2026 00:00:00 GMT",
        "1767225600",
        1767225600,
        1767225600.5,
    ],
)
def test_a_time_is_what_botocore_makes_of_it(text):
    assert (time_of(text), time_of(text).tzinfo is None) == (
        (expected := parse_timestamp(text)),
        expected.tzinfo is None,
    )


def test_what_is_no_time_is_refused():
    with pytest.raises(ValueError, match="yesterday"):
        time_of("yesterday")


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(HEAD + b"<a/>" * (2 * MIB) + END, id="8 MiB of elements that nobody asked for"),
        pytest.param(page(keys(1, 1001)), id="one key more than was asked for"),
        pytest.param(HEAD + b"<Contents><Key></Key></Contents>" * 60_000 + END, id="empty keys"),
        pytest.param(b" " * (3 * MIB), id="blanks"),
        pytest.param(lambda: iter(lambda: b"<a>" * 20_000, b""), id="no end"),
    ],
)
def test_a_server_that_sends_more_than_a_list_is_refused_and_not_read_to_its_end(body):
    with serving(body) as (address, _):
        (found,) = listed(address)
    assert isinstance(found, Unreachable)
    assert found.code == "AnswerTooLarge"


def test_an_error_of_many_bytes_is_refused():
    with serving(b"<Error>" + b"<a/>" * 100_000 + b"</Error>", status=403) as (address, _):
        (found,) = listed(address)
    assert isinstance(found, Unreachable)
    assert found.code == "AnswerTooLarge"


def test_an_error_of_few_bytes_keeps_its_code():
    with serving(b"<Error><Code>AccessDenied</Code></Error>", status=403) as (address, _):
        (found,) = listed(address)
    assert isinstance(found, Unreachable)
    assert found.code == "AccessDenied"


def test_a_list_without_end_is_requested_again_only_later(monkeypatch):
    monkeypatch.setattr(s3, "LIST_PAGES_MAX", 3)
    endless = [page(keys(1, 1000), b"page-%d" % number) for number in range(10)]
    with serving(*endless) as (address, asked):
        first, second = listed(address, times=2, seconds=REFUSED_SECONDS - 1)
        assert first == second
        assert first.code == "TooManyCommits"
        assert len(asked) == 3
        listed(address, times=2, seconds=REFUSED_SECONDS)
        assert len(asked) == 9


def test_a_list_of_as_many_pages_as_are_read_is_whole(monkeypatch):
    monkeypatch.setattr(s3, "LIST_PAGES_MAX", 5)
    pages = [page(keys(1000 * n, 1000), b"more" if n < 4 else b"") for n in range(5)]
    with serving(*pages) as (address, asked):
        (found,) = listed(address)
    assert len(asked) == 5
    assert found == tuple(f"{LAYOUT.commits}i1-g{number:04d}.json" for number in range(4999, 4999 - 64, -1))


@pytest.mark.parametrize(("others", "at_once"), [("ml", 1), ("vision", 2)])
def test_a_namespace_reads_one_long_list_at_a_time(others, at_once, monkeypatch):
    reading, most = [], []
    both = threading.Barrier(2)

    def read(found, client, pages=None):
        if pages is not None:
            return False
        reading.append(found)
        most.append(len(reading))
        with suppress(threading.BrokenBarrierError):
            # Two that are read at once meet here; of two that are not, the first waits a while for nothing.
            both.wait(60 if at_once == 2 else 0.3)
        reading.remove(found)
        return True

    monkeypatch.setattr(s3.CommitList, "read", read)
    store = Store(threads=4)

    async def ask():
        await asyncio.gather(*(store.commits(replace(ACCESS, owner=owner), LAYOUT) for owner in ("ml", others)))

    try:
        asyncio.run(ask())
    finally:
        store.close()
    assert max(most) == at_once


def test_a_list_that_failed_otherwise_is_requested_again_at_once():
    with serving(b"<Error><Code>AccessDenied</Code></Error>", status=403) as (address, asked):
        listed(address, times=3)
    assert len(asked) == 3


class Megabytes:
    """What a frame holds."""


def fail(kept, wrap):
    """Fail as botocore does: it raises an error that a frame of its traceback holds, and wraps one."""
    megabytes = Megabytes()
    kept.append(weakref.ref(megabytes))
    error = ValueError("it is too long")
    try:
        raise error
    except ValueError as cause:
        if wrap == "by botocore":
            wrapping = HTTPClientError(error=cause)
            raise wrapping from None
        if wrap == "as its cause":
            wrapping = HTTPClientError(error="")
            raise wrapping from cause
        raise


@pytest.mark.parametrize("wrap", ["not at all", "by botocore", "as its cause"])
def test_of_a_failed_call_nothing_waits_in_memory_for_a_collection_of_garbage(wrap):
    kept: list[weakref.ref[Megabytes]] = []
    nothing: Any = SimpleNamespace(client=None)
    door = Door(nothing, ACCESS, nothing, nothing, nothing)
    gc.disable()
    try:
        with pytest.raises((ValueError, HTTPClientError)):
            door.call(lambda _: fail(kept, wrap))
        assert [one() for one in kept] == [None]
    finally:
        gc.enable()


class Trickling:
    """An answer whose bytes come one by one, each after a while."""

    status = 200

    def __init__(self, clock, seconds):
        self.clock, self.seconds, self.closed = clock, seconds, False

    def read1(self, _):
        self.clock.now += self.seconds
        return b"x"

    def close(self):
        self.closed = True


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(HEAD + b"<a/>" * (2 * MIB) + END, id="an answer that is too large"),
        pytest.param(page(keys(1, 1001)), id="a page with too many keys"),
        pytest.param(page(keys(1, 3)), id="a list"),
    ],
)
def test_of_a_list_no_answer_waits_in_memory_for_a_collection_of_garbage(body):
    """Also not of the try before the last."""
    store = Store(threads=1)
    with serving(body) as (address, _):
        access = replace(ACCESS, endpoint_url=address)
        gc.collect()
        gc.disable()
        try:
            asyncio.run(store.commits(access, LAYOUT))
            # The pool's one thread lets go of a call with the next one.
            asyncio.run(store.commits(replace(ACCESS, access_key=""), LAYOUT))
            left = [type(one) for one in gc.get_objects() if type(one) in (AWSResponse, HTTPResponse, TooMuchError)]
            assert left == []
        finally:
            gc.enable()
            store.close()


def test_an_answer_is_gone_with_its_last_reader():
    """An answer that refers to itself would wait for a collection of garbage."""

    class Answer(Trickling):
        def read1(self, _):
            self.seconds -= 1
            return b"x" * self.seconds

    class Pool:
        def urlopen(self):
            return Answer(Clock(), 3)

    class Bounded(BoundedAnswers, Pool):
        pass

    gc.disable()
    try:
        answer = Bounded().urlopen()
        assert b"".join(answer.stream()) == b"xxx"
        gone = weakref.ref(answer)
        del answer
        assert gone() is None
    finally:
        gc.enable()


def test_an_answer_that_trickles_has_a_deadline(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock)
    answer: Any = Trickling(clock, 9)
    with pytest.raises(TimeoutError):
        list(whole(answer))
    assert answer.closed
    assert clock.now == 1000 + 63


@pytest.mark.parametrize("name", [b"IsTruncated", b"NextContinuationToken", b"EncodingType"])
def test_what_is_kept_of_a_page_has_no_copies(name):
    answer: dict[str, Any] = {"status_code": 200, "body": HEAD + b"<%b>true</%b>" % (name, name) * 50_000 + END}
    slim_list(answer)
    assert len(answer["body"]) < 200


def test_a_page_with_too_many_keys_is_not_parsed():
    with pytest.raises(TooMuchError, match="more than 1000 keys"):
        slim_list({"status_code": 200, "body": page(keys(1, 1001))})
