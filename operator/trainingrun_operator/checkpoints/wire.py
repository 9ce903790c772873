"""One connection to an HTTP server that never blocks, for requests whose answers have no body.

A thread waits for many of them with a selector. A thread for each would spend most of its time on the interpreter's lock.
"""

from __future__ import annotations

import errno
import os
import selectors
import socket
import ssl
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from trainingrun_operator.checkpoints import http_head
from trainingrun_operator.checkpoints.http_head import END, HEAD_MAX_BYTES, RECEIVE_BYTES, BadHeadError
from trainingrun_operator.checkpoints.metadata_guard import checked

if TYPE_CHECKING:
    from collections.abc import Mapping

_FINAL: Final = 200
"""Lower statuses announce another answer."""

Address = tuple[socket.AddressFamily, Any]
"""Family and socket address."""


class BadAnswerError(OSError):
    """What arrives is no HTTP answer without a body."""


class Answer(NamedTuple):
    """Status and headers of an answer."""

    status: int
    headers: Mapping[str, str]
    """By name in lower case."""
    stays: bool
    """Whether the connection takes another request."""


class Wire:
    """A connection. Call `go_on` when the selector reports it. Every method raises OSError if the connection has failed."""

    def __init__(self, address: Address, host: str, tls: ssl.SSLContext | None) -> None:
        """Begin to connect. ``tls``: None for plain HTTP."""
        self._host, self._tls = host, tls
        self.socket = socket.socket(address[0], socket.SOCK_STREAM)
        self._connected = self._ready = False
        self._out, self._in = b"", b""
        self.answers = 0
        """Requests answered on it."""
        try:
            self.socket.setblocking(False)  # noqa: FBT003  # its only argument
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.socket.connect(address[1])
        except BlockingIOError:
            pass
        except OSError:
            self.socket.close()
            raise

    def close(self) -> None:
        """Close it."""
        self.socket.close()

    def is_quiet(self) -> bool:
        """Whether nothing has arrived since the last answer, such as the end of the connection."""
        try:
            self.socket.recv(1)
        except (ssl.SSLWantReadError, BlockingIOError):
            return True
        except OSError:
            return False
        return False

    def ask(self, request: bytes) -> None:
        """Send a request, now or once connected. The answer to the one before has arrived."""
        self._out, self._in = request, b""

    def go_on(self) -> Answer | int:
        """Connect, send and receive as far as possible. Return the answer, or the events to wait for."""
        try:
            if not self._connected and not self._is_connected():
                return selectors.EVENT_WRITE
            if not self._ready:
                self._shake_hands()
            while self._out:
                self._out = self._out[self.socket.send(self._out) :]
            return self._receive()
        except (ssl.SSLWantWriteError, InterruptedError):
            return selectors.EVENT_WRITE
        except ssl.SSLWantReadError:
            return selectors.EVENT_READ
        except BlockingIOError:
            return selectors.EVENT_WRITE if self._out else selectors.EVENT_READ

    def _is_connected(self) -> bool:
        if failed := self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise OSError(failed, os.strerror(failed))
        try:
            checked(self.socket)
        except OSError as error:
            if error.errno == errno.ENOTCONN:
                return False
            raise
        self._connected = True
        return True

    def _shake_hands(self) -> None:
        if self._tls is not None:
            if not isinstance(self.socket, ssl.SSLSocket):
                self.socket = self._tls.wrap_socket(
                    self.socket, server_hostname=self._host, do_handshake_on_connect=False
                )
            self.socket.do_handshake()
        self._ready = True

    def _receive(self) -> Answer:
        while END not in self._in:
            piece = self.socket.recv(RECEIVE_BYTES)
            if not piece:
                raise ConnectionResetError
            self._in += piece
            if len(self._in) > HEAD_MAX_BYTES:
                raise BadAnswerError
        answer = _without_body(self._in)
        self.answers += 1
        return answer


def _without_body(received: bytes) -> Answer:
    """Return an answer without a body.

    Raises:
        BadAnswerError: it has another form, or more has arrived.
    """
    head, _, more = received.partition(END)
    try:
        minor, status, headers = http_head.parsed(head)
    except BadHeadError as error:
        raise BadAnswerError from error
    if more or status < _FINAL:
        raise BadAnswerError
    said = headers.get("connection", "").lower()
    return Answer(status, headers, stays=said != "close" if minor else said == "keep-alive")
