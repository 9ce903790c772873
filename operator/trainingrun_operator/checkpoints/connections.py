"""HTTP/1.1 requests over kept connections: one head, one body, one answer of known length, and nothing that is not needed for S3's objects.

Any answer that is not plainly whole is an error, and its connection is closed: the caller repeats the request by the SDK.
"""

from __future__ import annotations

import select
import weakref
from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

from urllib3.exceptions import HTTPError

from trainingrun_operator.checkpoints import http_head
from trainingrun_operator.checkpoints.http_head import END, HEAD_MAX_BYTES, RECEIVE_BYTES, BadHeadError

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

PIECE_BYTES: Final = 128 << 10
"""Bytes of a body that are sent, and counted, at once."""
ROOM_BYTES: Final = 256 << 10
"""Of an answer's body, handed over at once: it stays in the processor's cache until it is hashed and written."""
BODY_MAX_BYTES: Final = 64 << 10
"""Of an answer that is not asked for a body."""
INTERIM_MAX: Final = 8
"""Answers before the answer, such as 100 Continue."""
_OK: Final = range(200, 300)
_NO_CONTENT: Final = 204
_DIGITS_MAX: Final = 18
"""Of a length: int refuses thousands of them."""


class BrokenError(Exception):
    """The request was not sent, or its answer did not arrive whole."""


class Answer(NamedTuple):
    """The head of an answer."""

    status: int
    headers: dict[str, str]
    """By name in lower case."""


class TakeError(Exception):
    """The receiver of a body failed. Its cause says how."""


class _UnheardError(BrokenError):
    """The connection ended before a byte of the answer."""


class Connection:
    """One open connection, for one thread at a time."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._poll = select.poll()
        self._poll.register(connected, select.POLLIN)
        self._rest = b""
        """Received after the head, of the body."""
        self._room: memoryview | None = None

    def is_stale(self) -> bool:
        """Whether the server has closed it, or sends what was not asked for."""
        return bool(self._poll.poll(0))

    def close(self) -> None:
        """Close it."""
        self._socket.close()

    def send(self, head: bytes, body: bytes, counted: Callable[[int], None]) -> None:
        """Send a request. ``counted`` is called with the bytes of the body that the connection has taken.

        Raises:
            OSError: the connection is broken.
        """
        size = len(body)
        if size <= PIECE_BYTES:
            # One write: it is one record of TLS less, and one call.
            self._socket.sendall(head + body)
            if size:
                counted(size)
            return
        self._socket.sendall(head)
        with memoryview(body) as whole:
            for at in range(0, size, PIECE_BYTES):
                piece = whole[at : at + PIECE_BYTES]
                self._socket.sendall(piece)
                counted(len(piece))

    def head(self) -> Answer:
        """Receive the head of an answer.

        Raises:
            OSError: the connection is broken.
            BrokenError: what arrives is no answer.
        """
        received = self._first()
        for _ in range(INTERIM_MAX):
            while (end := received.find(END)) < 0:
                if len(received) > HEAD_MAX_BYTES:
                    raise BrokenError("the head of the answer is too large")
                received += self._more()
            answer, received = parsed(received[:end]), received[end + len(END) :]
            if answer.status >= _OK.start:
                self._rest = received
                return answer
        raise BrokenError("too many interim answers")

    def body(self, length: int, take: Callable[[memoryview], None] | None) -> None:
        """Receive the body of an answer, and hand it over in pieces of `ROOM_BYTES`.

        Raises:
            OSError: the connection is broken.
            BrokenError: it is cut, or longer than its head says.
            TakeError: ``take`` failed.
        """
        rest, self._rest = self._rest, b""
        if len(rest) > length:
            raise BrokenError("the answer is longer than its head says")
        if length and self._room is None:
            self._room = memoryview(bytearray(ROOM_BYTES))
        while length and self._room is not None:
            piece = self._room[: min(length, ROOM_BYTES)]
            got = min(len(rest), len(piece))
            piece[:got], rest = rest[:got], rest[got:]
            while got < len(piece):
                read = self._socket.recv_into(piece[got:])
                if not read:
                    raise BrokenError("the answer is cut")
                got += read
            length -= got
            if take is not None:
                _handed(take, piece)

    def _first(self) -> bytes:
        try:
            first = self._socket.recv(RECEIVE_BYTES)
        except ConnectionError as broken:
            raise _UnheardError(type(broken).__name__) from broken
        if not first:
            raise _UnheardError("the connection is closed")
        return first

    def _more(self) -> bytes:
        if not (more := self._socket.recv(RECEIVE_BYTES)):
            raise BrokenError("the answer is cut")
        return more


def _handed(take: Callable[[memoryview], None], piece: memoryview) -> None:
    """Hand over a piece. Errors of the receiver, such as those of a full disk, are kept apart from those of the connection."""
    try:
        take(piece)
    except OSError as failure:
        raise TakeError from failure


class Connections:
    """Connections to one server, reused. Thread-safe."""

    def __init__(self, connect: Callable[[], socket.socket]) -> None:
        """``connect``: open a connection. Its errors may be OSErrors and urllib3's."""
        self._connect = connect
        self._idle: deque[Connection] = deque()
        weakref.finalize(self, _close, self._idle)

    def ask(
        self,
        head: bytes,
        body: bytes,
        counted: Callable[[int], None],
        take: Callable[[memoryview], None] | None = None,
        length: int = 0,
    ) -> Answer:
        """Send a request and return the head of its answer.

        A kept connection may end while the request is under way: the server was about to close it. The request is then sent again over a new one.

        Args:
            head: with the empty line at its end.
            body: of the request.
            counted: called with the bytes of it as they are sent; negative if they have to be sent again.
            take: called with the pieces of the answer's body, if it is one of success, and exactly ``length`` bytes long. It must not keep them.
            length: bytes that are asked for.

        Raises:
            BrokenError: the request was not sent, or its answer did not arrive whole. ``take`` may have been called.
            TakeError: ``take`` failed.
        """
        kept = self._kept()
        if kept is not None:
            try:
                return self._over(kept, head, body, counted, take, length)
            except _UnheardError:
                pass
        try:
            new = Connection(self._connect())
        except (OSError, HTTPError) as failure:
            raise BrokenError(type(failure).__name__) from failure
        return self._over(new, head, body, counted, take, length)

    def _kept(self) -> Connection | None:
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                return None
            if not connection.is_stale():
                return connection
            connection.close()

    def _over(  # the parameters of `ask`
        self,
        connection: Connection,
        head: bytes,
        body: bytes,
        counted: Callable[[int], None],
        take: Callable[[memoryview], None] | None,
        length: int,
    ) -> Answer:
        sent, whole = 0, False

        def noted(size: int) -> None:
            nonlocal sent
            sent += size
            counted(size)

        try:
            _send(connection, head, body, noted)
            try:
                answer = connection.head()
                ends = _read(connection, answer, take, length)
            except OSError as broken:
                raise BrokenError(type(broken).__name__) from broken
            whole = True
        finally:
            if not whole:
                connection.close()
                if sent:
                    counted(-sent)
        if ends:
            connection.close()
        else:
            self._idle.append(connection)
        return answer


def _close(idle: deque[Connection]) -> None:
    """Close the connections of a server that is not used any more."""
    while idle:
        idle.pop().close()


def _send(connection: Connection, head: bytes, body: bytes, counted: Callable[[int], None]) -> None:
    try:
        connection.send(head, body, counted)
    except ConnectionError as broken:
        raise _UnheardError(type(broken).__name__) from broken
    except OSError as broken:
        raise BrokenError(type(broken).__name__) from broken


def _read(connection: Connection, answer: Answer, take: Callable[[memoryview], None] | None, length: int) -> bool:
    """Receive the body. Return whether the connection ends with this answer."""
    headers = answer.headers
    size = headers.get("content-length", "0" if answer.status == _NO_CONTENT else "")
    if "transfer-encoding" in headers or not (size.isascii() and size.isdecimal()):
        raise BrokenError("the answer does not say its length")
    if take is not None and answer.status in _OK:
        if len(size) > _DIGITS_MAX or int(size) != length:
            raise BrokenError(f"the answer has {size[:20]} bytes, {length} were asked for")
        connection.body(length, take)
    elif len(size) > _DIGITS_MAX or int(size) > BODY_MAX_BYTES:
        return True
    else:
        connection.body(int(size), None)
    return headers.get("connection", "keep-alive").lower() != "keep-alive"


def parsed(head: bytes) -> Answer:
    """Parse the head of an answer.

    Raises:
        BrokenError: it is none of HTTP/1.1, or says two things.
    """
    try:
        minor, status, headers = http_head.parsed(head)
    except BadHeadError as error:
        raise BrokenError(str(error)) from error
    if not minor:
        raise BrokenError("the answer is not of HTTP/1.1")
    return Answer(status, headers)
