"""A proxy in front of the S3 server that loses answers, refuses and delays on demand, and writes down what passed."""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import struct
import threading
import time
from dataclasses import dataclass, field
from enum import Enum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HOP_BY_HOP = {"connection", "transfer-encoding", "keep-alive"}


class Request(NamedTuple):
    method: str
    path: str
    query: str

    @property
    def is_part(self) -> bool:
        return self.method == "PUT" and "partNumber=" in self.query

    @property
    def is_begin(self) -> bool:
        return self.method == "POST" and self.query == "uploads"

    @property
    def is_completion(self) -> bool:
        return self.method == "POST" and "uploadId=" in self.query


class Do(Enum):
    PASS = "pass"
    REFUSE = "refuse"
    """Closed before the server sees it."""
    LOSE_ANSWER = "lose"
    """The server has done it; nobody hears of it."""
    CUT_REQUEST = "cut request"
    """Closed after the server has a piece of it; see `Cut`."""
    CUT_ANSWER = "cut answer"
    """Closed after the client has a piece of it; see `Cut`."""
    RESET = "reset"
    """Likewise, and reset."""
    HANG = "hang"
    """Never answered: over once the client closes its connection."""


class Cut(Enum):
    """Where a request or an answer is cut."""

    FIRST_LINE = "in its first line"
    HEAD = "in its head"
    """Between two headers."""
    HEAD_END = "before the end of its head"
    """All headers are there."""
    AT_0 = "at byte 0"
    AT_1 = "at byte 1"
    HALF = "at half"
    LAST = "one byte short"

    def of(self, head: bytes, body: bytes) -> bytes:
        """The piece that is passed on."""
        lines = head.splitlines(keepends=True)
        pieces = {
            Cut.FIRST_LINE: lines[0][:-4],
            Cut.HEAD: b"".join(lines[: len(lines) // 2]),
            Cut.HEAD_END: head[:-2],
            Cut.AT_0: head,
            Cut.AT_1: head + body[:1],
            Cut.HALF: head + body[: len(body) // 2],
            Cut.LAST: head + body[:-1],
        }
        return pieces[self]


class Strikes:
    """Whether a fault strikes a request: the first ones of a kind, or all of them. It keeps those that it has struck."""

    def __init__(self, fits: Callable[[Request], bool], times: int | None = None) -> None:
        self._fits, self._times, self._lock = fits, times, threading.Lock()
        self.requests: list[Request] = []

    def __call__(self, request: Request) -> bool:
        with self._lock:
            if not self._fits(request) or (self._times is not None and len(self.requests) >= self._times):
                return False
            self.requests.append(request)
            return True


@dataclass
class Proxy:
    target: str
    rule: Callable[[Request], Do] = lambda _: Do.PASS
    cut: Callable[[Request], Cut] = lambda _: Cut.HALF
    """Where a request is cut, or its answer."""
    delay: Callable[[Request], float] = lambda _: 0.0
    lost: Callable[[], None] = lambda: None
    """Called when the server has answered and the answer is about to be lost."""
    headers: Callable[[Request, list[tuple[str, str]]], list[tuple[str, str]]] = lambda _, headers: headers
    """The headers of the server's answer, as they are passed on."""
    asks: Callable[[str, str, list[tuple[str, str]]], list[tuple[str, str]]] = lambda _method, _path, headers: headers
    """The headers of the client's request, as they are passed on; a `PermissionError` is answered with 403."""
    answer: Callable[[Request], tuple[int, str] | None] = lambda _: None
    """Status and S3's code of an answer that is given without asking the server."""
    sends: Callable[[Request, bytes], bytes] = lambda _, body: body
    """The body of the client's request, as it is passed on."""
    answers: Callable[[Request, bytes], bytes] = lambda _, body: body
    """The body of the server's answer, as it is passed on."""
    seen: list[Request] = field(default_factory=list)
    under_way: list[Request] = field(default_factory=list)
    """Requests that came in and are not over, also those of a client that was killed."""
    url: str = ""

    def count(self, fits: Callable[[Request], bool]) -> int:
        return sum(fits(request) for request in list(self.seen))


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request, client_address):
        """A killed client is part of the test."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: Proxy

    def handle_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        split = urlsplit(self.path)
        request = Request(self.command, split.path, split.query)
        self.proxy.under_way.append(request)
        try:
            self.handle_one(request, body)
        finally:
            self.proxy.under_way.remove(request)

    def handle_one(self, request: Request, body: bytes) -> None:
        time.sleep(self.proxy.delay(request))
        do = self.proxy.rule(request)
        if do is Do.REFUSE:
            self.close_connection = True
            return
        if do is Do.HANG:
            self.connection.recv(1)
            self.close_connection = True
            return
        if do is Do.CUT_REQUEST:
            self.forward(body, cut=self.proxy.cut(request))
            self.close_connection = True
            return
        status, headers, content = 0, list[tuple[str, str]](), b""
        if (said := self.proxy.answer(request)) is not None:
            status, content = said[0], f"<Error><Code>{said[1]}</Code></Error>".encode()
        else:
            status, headers, content = self.forward(self.proxy.sends(request, body))
            content = self.proxy.answers(request, content)
        self.proxy.seen.append(request)
        if do is Do.LOSE_ANSWER:
            self.proxy.lost()
            self.close_connection = True
            return
        self.send_response_only(status)
        for name, value in self.proxy.headers(request, headers):
            if name.lower() not in HOP_BY_HOP | ({"content-length"} if self.command != "HEAD" else set()):
                self.send_header(name, value)
        if self.command != "HEAD":
            self.send_header("Content-Length", str(len(content)))
        else:
            content = b""
        if do in (Do.CUT_ANSWER, Do.RESET):
            self.break_off(request, content, do)
            return
        self.end_headers()
        self.wfile.write(content)

    def break_off(self, request: Request, content: bytes, do: Do) -> None:
        """End the connection after a piece of the answer whose headers are written."""
        buffer: list[bytes] = vars(self).pop("_headers_buffer")
        self.wfile.write(self.proxy.cut(request).of(b"".join([*buffer, b"\r\n"]), content))
        if do is Do.RESET:
            # Closed without waiting for what is sent, a connection is reset.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            os.close(self.connection.detach())
        self.close_connection = True

    def forward(self, body: bytes, *, cut: Cut | None = None) -> tuple[int, list[tuple[str, str]], bytes]:
        host = urlsplit(self.proxy.target).netloc
        with contextlib.closing(http.client.HTTPConnection(host, timeout=30)) as server:
            server.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            try:
                asked = self.proxy.asks(self.command, self.path, list(self.headers.items()))
            except PermissionError as refused:
                return 403, [], f"<Error><Code>{refused}</Code></Error>".encode()
            for name, value in asked:
                if name.lower() not in HOP_BY_HOP | {"expect"}:
                    server.putheader(name, value)
            if cut is not None:
                head = b"\r\n".join([*server._buffer, b"", b""])  # type: ignore[attr-defined]  # of http.client
                server.connect()
                server.send(cut.of(head, body))
                return 0, [], b""
            server.endheaders(body or None)
            answer = server.getresponse()
            return answer.status, answer.getheaders(), answer.read()

    def __getattr__(self, name: str) -> Callable[[], None]:
        if name.startswith("do_"):
            return self.handle_any
        raise AttributeError(name)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # http.server's name
        """The test looks at what it needs."""


@contextlib.contextmanager
def between(target: str) -> Iterator[Proxy]:
    proxy = Proxy(target)
    server = _Quiet(("127.0.0.1", 0), type("Handler", (_Handler,), {"proxy": proxy}))
    proxy.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()
