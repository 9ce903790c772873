"""The agent's port, with real sockets: in spite of hostile connections, an operator is answered and the training keeps its threads."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from contextlib import ExitStack, contextmanager, suppress

import pytest

from trainingrun_operator.agent import serve

ATTACKER = "127.0.0.2"
"""Loopback has more than one address; the operator is 127.0.0.1."""
DEADLINE = 0.6


@pytest.fixture
def port(monkeypatch):
    """The port of a server whose page is ``{}``."""
    with serving() as served:
        yield served.port


@contextmanager
def serving(page=lambda: "{}", port=0):
    served = serve.start(port, page)
    try:
        yield served
    finally:
        served.close()


@pytest.fixture
def hasty(monkeypatch):
    monkeypatch.setattr(serve, "REQUEST_SECONDS", DEADLINE)


def connected(port, source="127.0.0.1"):
    there = socket.create_connection(("127.0.0.1", port), timeout=5, source_address=(source, 0))
    there.settimeout(5)
    return there


def asked(port, path="/progress", method="GET"):
    """What the operator gets: status, content type and body."""
    http_there = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        http_there.request(method, path)
        answer = http_there.getresponse()
        return answer.status, answer.headers["Content-Type"], answer.read().decode()
    finally:
        http_there.close()


def closed_after(there, since):
    """Seconds until the server closes a connection."""
    try:
        while there.recv(65536):
            pass
    except ConnectionResetError:
        pass
    return time.monotonic() - since


def is_open(there):
    there.settimeout(0)
    try:
        return there.recv(1) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        pytest.param("GET", "/progress", (200, "application/json", "{}"), id="the page"),
        pytest.param("GET", "/healthz", (200, "text/plain", "ok\n"), id="liveness"),
        pytest.param("GET", "/", (404, "text/plain", "There are /progress and /healthz.\n"), id="another path"),
        pytest.param("POST", "/progress", (405, "text/plain", "Only GET is answered.\n"), id="another method"),
    ],
)
def test_what_is_asked_is_answered_and_nothing_else(port, method, path, expected):
    assert asked(port, path, method) == expected


def test_it_answers_over_ipv6_where_the_pod_has_it(port):
    if not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")
    with socket.create_connection(("::1", port), timeout=5) as there:
        there.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert there.makefile("rb").read().endswith(b"\r\n\r\nok\n")


def test_a_port_in_use_is_an_error_at_the_start(port):
    with pytest.raises(OSError, match="in use"):
        serve.start(port, lambda: "{}")


def drip(there, stop):
    """A byte at a time, each well within any limit on a single read."""
    head = b"GET /progress HTTP/1.1\r\nX-Long: " + b"a" * 4000
    for at in range(len(head)):
        if stop.wait(0.05):
            return
        try:
            there.sendall(head[at : at + 1])
        except OSError:
            return


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(None, id="a byte at a time"),
        pytest.param(b"", id="nothing"),
        pytest.param(b"GET /progress HTTP/1.1\r\nHost: x\r\n", id="half a head"),
    ],
)
def test_a_request_that_is_not_whole_in_time_is_cut(port, hasty, sent):
    stop = threading.Event()
    began = time.monotonic()
    with connected(port) as there:
        if sent is None:
            threading.Thread(target=drip, args=(there, stop), daemon=True).start()
        else:
            there.sendall(sent)
        took = closed_after(there, began)
        stop.set()
    assert DEADLINE * 0.8 < took < DEADLINE + 2


@pytest.mark.parametrize(
    "tail", [pytest.param(b"a" * 100_000, id="long line"), pytest.param(b"a: b\r\n" * 20_000, id="many lines")]
)
def test_a_head_that_is_too_long_is_cut_at_once(port, tail):
    began = time.monotonic()
    with connected(port) as there:
        with suppress(OSError):
            there.sendall(b"GET /progress HTTP/1.1\r\n" + tail)
        assert closed_after(there, began) < serve.REQUEST_SECONDS / 2


def test_an_answer_that_is_not_taken_is_cut(hasty):
    with serving(lambda: "x" * 50_000_000) as served, connected(served.port) as there:
        there.sendall(b"GET /progress HTTP/1.1\r\nHost: x\r\n\r\n")
        time.sleep(DEADLINE + 0.5)
        began, got = time.monotonic(), 0
        try:
            while piece := there.recv(1 << 20):
                got += len(piece)
        except ConnectionResetError:
            pass
        assert got < 50_000_000
        assert time.monotonic() - began < 2


def test_many_connections_take_no_more_than_a_few_places_and_threads(port):
    before = threading.active_count()
    with ExitStack() as all_open:
        many = [all_open.enter_context(connected(port, ATTACKER)) for _ in range(300)]
        assert asked(port)[0] == 200
        until = time.monotonic() + 10  # the last ones may not have been accepted yet
        while sum(map(is_open, many)) > serve.CONNECTIONS and time.monotonic() < until:
            time.sleep(0.05)
        assert sum(map(is_open, many)) <= serve.CONNECTIONS
        assert threading.active_count() <= before + serve.MAKERS


def test_who_connects_again_and_again_does_not_take_the_operators_place(port):
    """The operator's connection is open and has sent nothing yet while another address opens hundreds."""
    with connected(port) as operator, ExitStack() as all_open:
        for _ in range(200):
            all_open.enter_context(connected(port, ATTACKER))
        operator.sendall(b"GET /progress HTTP/1.1\r\nHost: x\r\n\r\n")
        assert operator.makefile("rb").read().endswith(b"\r\n\r\n{}")


def test_the_operator_is_answered_each_time_under_a_flood(port):
    stop, opened = threading.Event(), []

    def flood():
        while not stop.is_set():
            try:
                opened.append(connected(port, ATTACKER))
            except OSError:
                return
            if len(opened) > 100:
                opened.pop(0).close()
            time.sleep(0.002)

    flooding = threading.Thread(target=flood)
    flooding.start()
    try:
        assert [asked(port)[0] for _ in range(20)] == [200] * 20
    finally:
        stop.set()
        flooding.join()
        for there in opened:
            there.close()


def test_addresses_that_hold_one_connection_each_make_room_for_a_new_one(port):
    with ExitStack() as all_open:
        many = [all_open.enter_context(connected(port, f"127.0.1.{n + 1}")) for n in range(serve.CONNECTIONS * 2)]
        assert asked(port)[0] == 200
        assert is_open(many[-1])
        assert not is_open(many[0])


def test_a_page_that_hangs_stops_neither_liveness_nor_the_pages_after_it(hasty):
    """As when the volume with the marker files does not answer."""
    hangs = threading.Event()
    with serving(lambda: str(hangs.wait(20))) as served:
        with ExitStack() as all_open:
            waiting = [all_open.enter_context(connected(served.port)) for _ in range(serve.MAKERS * 3)]
            for there in waiting:
                there.sendall(b"GET /progress HTTP/1.1\r\nHost: x\r\n\r\n")
            began = time.monotonic()
            assert asked(served.port, "/healthz")[0] == 200
            assert all(closed_after(there, began) < DEADLINE + 2 for there in waiting)
            pages = [thread for thread in threading.enumerate() if thread.name == "serve-page"]
            assert len(pages) == serve.MAKERS
        hangs.set()
        assert asked(served.port) == (200, "application/json", "True")


def test_a_page_that_fails_is_said_to_fail_and_the_next_one_is_answered(caplog):
    pages = iter([ValueError("no such field"), "{}"])

    def page():
        made = next(pages)
        if isinstance(made, Exception):
            raise made
        return made

    with serving(page) as served:
        assert asked(served.port)[0] == 500
        assert asked(served.port)[2] == "{}"
    assert "no such field" in caplog.text


def test_each_page_is_made_after_it_was_asked_for():
    """A training may write its marker and exit at once: what is asked then must tell of it."""
    counted = iter(range(100))
    with serving(lambda: json.dumps(next(counted))) as served:
        assert [asked(served.port)[2] for _ in range(5)] == ["0", "1", "2", "3", "4"]


def test_the_training_s_numbers_have_a_page_of_their_own():
    served = serve.start(0, lambda: "{}", lambda: '{"podUid": "u"}')
    try:
        assert asked(served.port, "/measured") == (200, "application/json", '{"podUid": "u"}')
        assert asked(served.port, "/other")[::2] == (404, "There are /progress, /measured and /healthz.\n")
    finally:
        served.close()


@contextmanager
def taking(answer):
    """A server that takes posts, and what it was posted."""
    posts = []

    def take(body):
        posts.append(body)
        return answer

    served = serve.start(0, lambda: "{}", None, take)
    try:
        yield served.port, posts
    finally:
        served.close()


def post(port, body, *, source="127.0.0.1", path="/push", head=""):
    with connected(port, source) as there:
        there.sendall(
            f"POST {path} HTTP/1.1\r\nHost: x\r\n{head or f'Content-Length: {len(body)}'}\r\n\r\n".encode() + body
        )
        answer = there.makefile("rb").read()
    return int(answer.split()[1])


def test_a_training_posts_its_numbers():
    with taking(True) as (port, posts):
        assert post(port, b'{"loss": 0.5}') == 200
        assert post(port, b"", head="content-length:0") == 200
        assert posts == [b'{"loss": 0.5}', b""]
    with taking(False) as (port, _):
        assert post(port, b"x") == 400


def test_other_pods_post_nothing_and_a_post_is_bounded():
    with taking(True) as (port, posts):
        assert post(port, b'{"loss": 0.5}', source=ATTACKER) == 403
        assert post(port, b"", head=f"Content-Length: {serve.PUSH_MAX + 1}") == 411
        assert post(port, b"", head="Transfer-Encoding: chunked") == 411
        assert post(port, b"x", path="/progress") == 405
        assert posts == []
    with serving() as served:
        assert post(served.port, b"x") == 405
