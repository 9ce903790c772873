"""One connection to an HTTP server that never blocks, for requests whose answers have no body.

A thread waits for many of them with a selector. A thread for each would spend most of its time on the interpreter's lock.
"""

from __future__ import annotations

import errno
import os
import re
import selectors
import socket
import ssl
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from trainingrun_operator.checkpoints.metadata_guard import checked

if TYPE_CHECKING:
    from collections.abc import Mapping

HEAD_MAX_BYTES: Final = 64 * 2**10
"""Of an answer's status line and headers."""
_RECEIVE_BYTES: Final = 2**14
_STATUS: Final = re.compile(rb"HTTP/1\.([01]) (\d{3})(?: [^\r\n]*)?\r\n")
_ONCE: Final = frozenset({b"content-length", b"x-amz-checksum-crc64nvme"})
_FINAL: Final = 200
"""Lower statuses announce another answer."""
_HEADER: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]++):[ \t]*+([^\r\n]*+)\r\n")

Address = tuple[socket.AddressFamily, Any]
"""Family and socket address."""


class BadAnswerError(OSError):
    """What arrives is no HTTP answer without a body."""


class Answer(NamedTuple):
    """Status and headers of an answer."""

    status: int
    headers: Mapping[bytes, bytes]
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
        while b"\r\n\r\n" not in self._in:
            piece = self.socket.recv(_RECEIVE_BYTES)
            if not piece:
                raise ConnectionResetError
            self._in += piece
            if len(self._in) > HEAD_MAX_BYTES:
                raise BadAnswerError
        answer = parsed(self._in)
        self.answers += 1
        return answer


def parsed(head: bytes) -> Answer:
    """Parse an answer without a body.

    Raises:
        BadAnswerError: it has another form, or a header twice.
    """
    status = _STATUS.match(head)
    if status is None:
        raise BadAnswerError
    headers: dict[bytes, bytes] = {}
    at = status.end()
    while (found := _HEADER.match(head, at)) is not None:
        name = found[1].lower()
        if name in headers and name in _ONCE:
            raise BadAnswerError
        headers[name] = found[2].rstrip(b" \t")
        at = found.end()
    if head[at:] != b"\r\n" or int(status[2]) < _FINAL:
        raise BadAnswerError
    said = headers.get(b"connection", b"").lower()
    stays = said != b"close" if status[1] == b"1" else said == b"keep-alive"
    return Answer(int(status[2]), headers, stays)
