"""The training's metrics page in the agent's answer, with real sockets: the one of its configuration, whole and as it was served, or none."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from contextlib import contextmanager

import pytest
from cpu import quiet_seconds
from prometheus_client import CollectorRegistry, Gauge, start_http_server

from trainingrun_operator.agent import relay, serve
from trainingrun_operator.api.exchange import PAGE_HEADER, PAGE_MAX_BYTES, REPORT_BYTES_HEADER

REPORT = '{"podUid":"a"}'
PAGE = b"training_loss 0.25\ntraining_step 7\n"


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    """A busy machine cuts no page."""
    monkeypatch.setattr(relay, "SECONDS", 60)
    monkeypatch.setattr(serve, "REQUEST_SECONDS", 60)


def ok(body=PAGE, *headers, length=None):
    lines = (b"HTTP/1.1 200 OK", *headers, b"Content-Length: %d" % (len(body) if length is None else length))
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


@contextmanager
def training(answer, host="127.0.0.1", *, ends=True):
    """A training whose page is these bytes; gives its port and what it was sent. Without an end the connection stays open."""
    sent: list[bytes] = []
    done = threading.Event()

    def answer_all():
        while True:
            try:
                there, _ = listening.accept()
            except OSError:
                return
            with there:
                sent.append(there.recv(65536))
                if answer:
                    there.sendall(answer)
                if not ends:
                    done.wait()

    with socket.create_server((host, 0)) as listening:
        thread = threading.Thread(target=answer_all)
        thread.start()
        try:
            yield listening.getsockname()[1], sent
        finally:
            done.set()
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()


@contextmanager
def agent(relayed, page=lambda: REPORT):
    """An agent whose configuration names this page."""
    served = serve.start(0, page, relayed=relay.page(relayed))
    try:
        yield served
    finally:
        served.close()


def asked(port, wanted, *, path="/progress", method="GET", host="127.0.0.1"):
    """Status, and report and page of the answer; None: it is the report alone."""
    there = http.client.HTTPConnection(host, port, timeout=10)
    try:
        there.request(method, path, headers={PAGE_HEADER: wanted})
        answer = there.getresponse()
        body, length = answer.read(), answer.headers[REPORT_BYTES_HEADER]
        return answer.status, *((body, None) if length is None else (body[: int(length)], body[int(length) :]))
    finally:
        there.close()


def test_the_page_comes_behind_the_report_byte_by_byte():
    page = b'\xff\x00 loss{a="{}"} 1\r\n\r\n' + PAGE
    with training(ok(page)) as (port, sent), agent(f"{port}/metrics") as served:
        assert asked(served.port, f"{port}/metrics") == (200, REPORT.encode(), page)
        assert sent[0].startswith(b"GET /metrics HTTP/1.1\r\n")
        assert f"Host: 127.0.0.1:{port}\r\n".encode() in sent[0]


def test_the_page_of_prometheus_client_is_relayed():
    registry = CollectorRegistry()
    Gauge("training_loss", "Loss", registry=registry).set(0.25)
    server, thread = start_http_server(0, addr="127.0.0.1", registry=registry)
    try:
        with agent(f"{server.server_port}/metrics") as served:
            assert b"\ntraining_loss 0.25\n" in asked(served.port, f"{server.server_port}/metrics")[2]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_each_answer_has_the_page_of_its_own_moment():
    with training(ok()) as (port, sent), agent(f"{port}/metrics") as served:
        for number in (1, 2, 3):
            asked(served.port, f"{port}/metrics")
            assert len(sent) == number, "Nothing is read ahead, and nothing is kept."


def test_the_largest_page_is_relayed():
    page = b"a" * PAGE_MAX_BYTES
    with training(ok(page)) as (port, _), agent(f"{port}/metrics") as served:
        assert asked(served.port, f"{port}/metrics")[2] == page


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"", id="a connection that is closed at once"),
        pytest.param(b"HTTP/1.1 200 OK\r\n\r\n" + PAGE, id="a page without its length, which may end too early"),
        pytest.param(ok(length=len(PAGE) + 1), id="a page that ends too early"),
        pytest.param(ok(PAGE, b"Content-Length: 3"), id="two lengths"),
        pytest.param(ok(length=PAGE_MAX_BYTES + 1), id="more than a page may have"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n", id="a length of many digits"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", id="a negative length"),
        pytest.param(ok(PAGE, b"Transfer-Encoding: chunked"), id="chunks"),
        pytest.param(ok(PAGE, b"content-encoding: gzip"), id="compression"),
        pytest.param(ok().replace(b"200 OK", b"503 Busy"), id="an error"),
        pytest.param(ok().replace(b"200 OK", b"2000 OK"), id="a status of four digits"),
        pytest.param(ok(PAGE, b"Location: /other").replace(b"200 OK", b"302 Found"), id="a redirect"),
        pytest.param(b"HTTP/1.1 100 Continue\r\n\r\n" + ok(), id="an answer before the answer"),
        pytest.param(b"SSH-2.0-OpenSSH_9.6\r\n", id="another protocol"),
        pytest.param(b"HTTP/1.1 200 OK\r\nX: " + b"a" * 100_000 + b"\r\n\r\n", id="a head that is too long"),
    ],
)
def test_what_is_not_certainly_a_whole_page_is_left_to_the_operator(answer):
    with training(answer) as (port, sent), agent(f"{port}/metrics") as served:
        assert asked(served.port, f"{port}/metrics") == (200, REPORT.encode(), None)
        assert sent


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Le", id="half a head"),
        pytest.param(ok(length=1000), id="half a page"),
    ],
)
def test_a_page_that_hangs_does_not_keep_the_report(answer, monkeypatch):
    monkeypatch.setattr(relay, "SECONDS", 0.2)
    with training(answer, ends=False) as (port, _), agent(f"{port}/metrics") as served:
        assert asked(served.port, f"{port}/metrics") == (200, REPORT.encode(), None)


def test_a_port_where_nothing_listens_keeps_the_report():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with agent(f"{port}/metrics") as served:
        assert asked(served.port, f"{port}/metrics") == (200, REPORT.encode(), None)


def test_what_listens_on_loopback_alone_stays_the_pods_own():
    """The page is asked for at the address at which the operator has come: another one than 127.0.0.1, in a pod."""
    with training(ok()) as (port, sent), agent(f"{port}/metrics") as served:
        assert asked(served.port, f"{port}/metrics", host="127.0.0.9")[2] is None
        assert not sent
    with training(ok(), host="127.0.0.9") as (port, _), agent(f"{port}/metrics") as served:
        assert asked(served.port, f"{port}/metrics", host="127.0.0.9")[2] == PAGE


def test_a_page_is_read_over_ipv6():
    if not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as listening:
        port, answered = listening.getsockname()[1], []

        def answer():
            there, _ = listening.accept()
            with there:
                answered.append(there.recv(65536))
                there.sendall(ok())

        thread = threading.Thread(target=answer)
        thread.start()
        with agent(f"{port}/metrics") as served:
            assert asked(served.port, f"{port}/metrics", host="::1")[2] == PAGE
        thread.join()
        assert f"Host: [::1]:{port}\r\n".encode() in answered[0]


NO_PLAIN_PAGES = (
    "",
    "{port}",
    "/metrics",
    "{port}metrics",
    "{port}/metrics?a=b",
    "{port}/metrics#a",
    "{port}/a b",
    "{port}/%0d%0a",
    "{port}/a\tb",
    "{port}/é",
    "{port}/a\\b",
    "{port}@10.0.0.1/metrics",
    "10.0.0.1:{port}/metrics",
    "http://127.0.0.1:{port}/metrics",
    "0{port}/metrics",
    "-{port}/metrics",
    "{port}, {port}/metrics",
    "{port}/metrics, {port}/metrics",
    "0/metrics",
    "65536/metrics",
    "99999/metrics",
    "{port}/" + "a" * 255,
)


@pytest.mark.parametrize(
    "wanted",
    [
        *NO_PLAIN_PAGES,
        pytest.param("{port}/other", id="another path"),
        pytest.param("{port}/metrics/", id="a slash more"),
        pytest.param("{port}//metrics", id="two slashes"),
        pytest.param("{port}/metric", id="a shorter path"),
        pytest.param("{port}/metrics/../admin", id="a path that leads elsewhere"),
        pytest.param("{port}/Metrics", id="capitals"),
        pytest.param("{other}/metrics", id="another port"),
        pytest.param("{other}/", id="another port's root"),
    ],
)
def test_no_other_page_is_read_than_the_one_that_the_configuration_names(wanted):
    """Whoever may connect to the agent would read what the pod's other ports serve, past a NetworkPolicy that closes them."""
    with training(ok()) as (port, sent), training(ok()) as (other, heard), agent(f"{port}/metrics") as served:
        said = wanted.format(port=port, other=other).encode("latin-1")
        assert asked(served.port, said) == (200, REPORT.encode(), None)
        assert not sent + heard


@pytest.mark.parametrize(
    "relayed", [None, *NO_PLAIN_PAGES, "{port}/metrics\n", " {port}/metrics", "\u0663{port}/metrics"]
)
def test_an_agent_whose_configuration_names_no_page_reads_none(relayed):
    """As that of a Job that an older release has made, a rescue, or a pod on its node's network."""
    with training(ok()) as (port, sent), agent(relayed and relayed.format(port=port)) as served:
        for wanted in (f"{port}/metrics", f"{port}/", "", "None"):
            assert asked(served.port, wanted) == (200, REPORT.encode(), None)
        assert not sent


@pytest.mark.parametrize(
    ("lines", "relays"),
    [
        pytest.param("{header}: {page}\r\n", True, id="as it is written"),
        pytest.param("{header}:{page}\r\n", True, id="no blank"),
        pytest.param("{header}:\t {page} \t\r\n", True, id="many blanks"),
        pytest.param("Host: a\r\n{lower}: {page}\r\nAccept: */*\r\n", True, id="lower case, between others"),
        pytest.param("{header}: {page}\r\n{header}: {page}\r\n", False, id="twice"),
        pytest.param("{header}: {page}\r\n{header}: 1/other\r\n", False, id="and another page"),
        pytest.param("{header}: 1/other\r\n{lower}: {page}\r\n", False, id="behind another page"),
        pytest.param("X-{header}: {page}\r\n", False, id="another header"),
        pytest.param("{header}-Not: {page}\r\n", False, id="a longer header"),
        pytest.param("X: {header}: {page}\r\n", False, id="in another header"),
        pytest.param("{header} {page}\r\n", False, id="no colon"),
    ],
)
def test_the_page_is_asked_for_by_one_header(lines, relays):
    with training(ok()) as (port, _), agent(f"{port}/metrics") as served:
        text = lines.format(header=PAGE_HEADER, lower=PAGE_HEADER.lower(), page=f"{port}/metrics")
        with socket.create_connection(("127.0.0.1", served.port), timeout=10) as there:
            there.sendall(f"GET /progress HTTP/1.1\r\n{text}\r\n".encode())
            answer = there.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.endswith(PAGE if relays else REPORT.encode())


@pytest.mark.parametrize("path", ["/metrics", "/", "//169.254.169.254/latest", "/a/../b", "/" + "a" * 254])
def test_a_path_is_asked_for_as_it_is(path):
    with training(ok()) as (port, sent), agent(f"{port}{path}") as served:
        assert asked(served.port, f"{port}{path}")[2] == PAGE
        assert sent[0].startswith(f"GET {path} HTTP/1.1\r\n".encode())


@pytest.mark.parametrize(("path", "method"), [("/healthz", "GET"), ("/other", "GET"), ("/progress", "POST")])
def test_only_with_the_report_a_page_is_read(path, method):
    with training(ok()) as (port, sent), agent(f"{port}/metrics") as served:
        assert asked(served.port, f"{port}/metrics", path=path, method=method)[2] is None
        assert not sent


def test_an_agent_does_not_ask_itself():
    made = []

    def page():
        made.append(REPORT)
        return REPORT

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    served = serve.start(port, page, relayed=relay.page(f"{port}/progress"))
    try:
        assert asked(port, f"{port}/progress") == (200, REPORT.encode(), None)
    finally:
        served.close()
    assert len(made) == 1


def test_a_report_that_cannot_be_made_is_an_error_with_and_without_a_page():
    with training(ok()) as (port, _), agent(f"{port}/metrics", lambda: json.dumps({1, 2})) as served:
        status, body, page = asked(served.port, f"{port}/metrics")
    assert (status, page) == (500, None)
    assert PAGE not in body


def test_beyond_two_pages_at_once_an_answer_is_the_report_alone():
    """Pages take memory of the training's pod, and any pod may ask."""
    with socket.create_server(("127.0.0.1", 0)) as slow, agent(page := f"{slow.getsockname()[1]}/metrics") as served:
        head = f"GET /progress HTTP/1.1\r\n{PAGE_HEADER}: {page}\r\n\r\n".encode()
        strangers = [socket.create_connection(("127.0.0.1", served.port)) for _ in range(serve.RELAYS)]
        pages = []
        for one in strangers:
            one.sendall(head)
            pages.append(slow.accept()[0])
        assert asked(served.port, page) == (200, REPORT.encode(), None)
        for one in pages:
            one.close()
        for one in strangers:
            assert one.makefile("rb").read().endswith(REPORT.encode())
            one.close()
        with socket.create_connection(("127.0.0.1", served.port)) as later:
            later.sendall(head)
            with slow.accept()[0] as there:
                there.recv(65536)
                there.sendall(ok())
            assert later.makefile("rb").read().endswith(REPORT.encode() + PAGE), "Their places are free again."


def test_requests_for_other_pages_take_no_place_of_the_operators():
    with training(b"", ends=False) as (slow, _), training(ok()) as (port, _), agent(f"{port}/metrics") as served:
        for _ in range(serve.RELAYS + 1):
            assert asked(served.port, f"{slow}/metrics") == (200, REPORT.encode(), None)
        assert asked(served.port, f"{port}/metrics")[2] == PAGE


def test_a_head_of_blanks_is_looked_through_once():
    """The server answers on one thread, and any pod may ask."""
    head = b"GET /progress HTTP/1.1\r\n" + PAGE_HEADER.encode() + b":" + b" " * 8000 + b"a\n\r\n\r\n"
    page = relay.page("8000/metrics")
    assert page is not None
    assert not page.is_asked_for(head)
    assert quiet_seconds(lambda: page.is_asked_for(head)) < 0.005
