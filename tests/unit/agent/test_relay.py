"""The training's metrics page in the agent's answer, with real sockets: whole and as it was served, or not at all."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from contextlib import contextmanager

import pytest
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
def agent(page=lambda: REPORT, *, relays=True):
    served = serve.start(0, page, relays=relays)
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
    with training(ok(page)) as (port, sent), agent() as served:
        assert asked(served.port, f"{port}/metrics") == (200, REPORT.encode(), page)
        assert sent[0].startswith(b"GET /metrics HTTP/1.1\r\n")
        assert f"Host: 127.0.0.1:{port}\r\n".encode() in sent[0]


def test_the_page_of_prometheus_client_is_relayed():
    registry = CollectorRegistry()
    Gauge("training_loss", "Loss", registry=registry).set(0.25)
    server, thread = start_http_server(0, addr="127.0.0.1", registry=registry)
    try:
        with agent() as served:
            assert b"\ntraining_loss 0.25\n" in asked(served.port, f"{server.server_port}/metrics")[2]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_each_answer_has_the_page_of_its_own_moment():
    with training(ok()) as (port, sent), agent() as served:
        for number in (1, 2, 3):
            asked(served.port, f"{port}/metrics")
            assert len(sent) == number, "Nothing is read ahead, and nothing is kept."


def test_the_largest_page_is_relayed():
    page = b"a" * PAGE_MAX_BYTES
    with training(ok(page)) as (port, _), agent() as served:
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
    with training(answer) as (port, sent), agent() as served:
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
    with training(answer, ends=False) as (port, _), agent() as served:
        assert asked(served.port, f"{port}/metrics") == (200, REPORT.encode(), None)


def test_a_port_where_nothing_listens_keeps_the_report():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with agent() as served:
        assert asked(served.port, f"{port}/metrics") == (200, REPORT.encode(), None)


def test_what_listens_on_loopback_alone_stays_the_pods_own():
    """The page is asked for at the address at which the operator has come: another one than 127.0.0.1, in a pod."""
    with training(ok()) as (port, sent), agent() as served:
        assert asked(served.port, f"{port}/metrics", host="127.0.0.9")[2] is None
        assert not sent
    with training(ok(), host="127.0.0.9") as (port, _), agent() as served:
        assert asked(served.port, f"{port}/metrics", host="127.0.0.9")[2] == PAGE


def test_a_page_is_read_over_ipv6():
    if not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as listening, agent() as served:
        port, answered = listening.getsockname()[1], []

        def answer():
            there, _ = listening.accept()
            with there:
                answered.append(there.recv(65536))
                there.sendall(ok())

        thread = threading.Thread(target=answer)
        thread.start()
        assert asked(served.port, f"{port}/metrics", host="::1")[2] == PAGE
        thread.join()
        assert f"Host: [::1]:{port}\r\n".encode() in answered[0]


@pytest.mark.parametrize(
    "wanted",
    [
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
        "0/metrics",
        "65536/metrics",
        "99999/metrics",
        "{port}/" + "a" * 255,
    ],
)
def test_what_is_no_port_with_a_plain_path_is_not_asked_for(wanted):
    with training(ok()) as (port, sent), agent() as served:
        status, report, page = asked(served.port, wanted.format(port=port).encode("latin-1"))
        assert (status, report, page) == (200, REPORT.encode(), None)
        assert not sent


@pytest.mark.parametrize("path", ["/metrics", "/", "//169.254.169.254/latest", "/a/../b", "/" + "a" * 254])
def test_a_path_is_asked_for_as_it_is(path):
    with training(ok()) as (port, sent), agent() as served:
        assert asked(served.port, f"{port}{path}")[2] == PAGE
        assert sent[0].startswith(f"GET {path} HTTP/1.1\r\n".encode())


@pytest.mark.parametrize(("path", "method"), [("/healthz", "GET"), ("/other", "GET"), ("/progress", "POST")])
def test_only_with_the_report_a_page_is_read(path, method):
    with training(ok()) as (port, sent), agent() as served:
        assert asked(served.port, f"{port}/metrics", path=path, method=method)[2] is None
        assert not sent


def test_an_agent_on_its_nodes_network_reads_no_page():
    with training(ok()) as (port, sent), agent(relays=False) as served:
        assert asked(served.port, f"{port}/metrics") == (200, REPORT.encode(), None)
        assert not sent


def test_an_agent_does_not_ask_itself():
    made = []

    def page():
        made.append(REPORT)
        return REPORT

    with agent(page) as served:
        assert asked(served.port, f"{served.port}/progress") == (200, REPORT.encode(), None)
    assert len(made) == 1


def test_a_report_that_cannot_be_made_is_an_error_with_and_without_a_page():
    with training(ok()) as (port, _), agent(lambda: json.dumps({1, 2})) as served:
        status, body, page = asked(served.port, f"{port}/metrics")
    assert (status, page) == (500, None)
    assert PAGE not in body


def test_beyond_two_pages_at_once_an_answer_is_the_report_alone():
    """Pages take memory of the training's pod, and any pod may ask."""
    with training(ok()) as (port, _), socket.create_server(("127.0.0.1", 0)) as slow, agent() as served:
        head = f"GET /progress HTTP/1.1\r\n{PAGE_HEADER}: {slow.getsockname()[1]}/metrics\r\n\r\n".encode()
        strangers = [socket.create_connection(("127.0.0.1", served.port)) for _ in range(serve.RELAYS)]
        pages = []
        for one in strangers:
            one.sendall(head)
            pages.append(slow.accept()[0])
        assert asked(served.port, f"{port}/metrics") == (200, REPORT.encode(), None)
        for one in pages:
            one.close()
        for one in strangers:
            assert one.makefile("rb").read().endswith(REPORT.encode())
            one.close()
        assert asked(served.port, f"{port}/metrics")[2] == PAGE, "Their places are free again."
