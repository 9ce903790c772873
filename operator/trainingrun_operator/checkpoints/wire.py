"""HTTP/1.1 requests over kept connections: one head, one body, one answer of known length, and nothing that is not needed for S3's objects.

Any answer that is not plainly whole is an error, and its connection is closed: the caller repeats the request by the SDK.
"""

from __future__ import annotations

import select
from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

from urllib3.exceptions import HTTPError

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

PIECE_BYTES: Final = 128 << 10
"""Bytes of a body that are sent, and counted, at once."""
ROOM_BYTES: Final = 256 << 10
"""Of an answer's body, handed over at once: it stays in the processor's cache until it is hashed and written."""
HEAD_MAX_BYTES: Final = 64 << 10
BODY_MAX_BYTES: Final = 64 << 10
"""Of an answer that is not asked for a body."""
INTERIM_MAX: Final = 8
"""Answers before the answer, such as 100 Continue."""
_RECEIVE_BYTES: Final = 16 << 10
_OK: Final = range(200, 300)


class WireError(Exception):
    """The request was not sent, or its answer did not arrive whole."""


class Answer(NamedTuple):
    """The head of an answer."""

    status: int
    headers: dict[str, str]
    """By name in lower case."""


class Connection:
    """One open connection, for one thread at a time."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._poll = select.poll()
        self._poll.register(connected, select.POLLIN)
        self._rest = b""
        """Received after the head, of the body."""

    def is_stale(self) -> bool:
        """Whether the server has closed it, or sends what was not asked for."""
        return bool(self._poll.poll(0))

    def close(self) -> None:
        """Close it."""
        self._socket.close()

    def send(self, head: bytes, body: bytes | memoryview, counted: Callable[[int], None]) -> None:
        """Send a request. ``counted`` is called with the bytes of the body that the connection has taken.

        Raises:
            OSError: the connection is broken.
        """
        size = len(body)
        if size <= PIECE_BYTES:
            # One write: it is one record of TLS less, and one call.
            self._socket.sendall(b"%b%b" % (head, body))
            if size:
                counted(size)
            return
        self._socket.sendall(head)
        with memoryview(body) as all_of_it:
            for at in range(0, size, PIECE_BYTES):
                piece = all_of_it[at : at + PIECE_BYTES]
                self._socket.sendall(piece)
                counted(len(piece))

    def head(self) -> Answer:
        """Receive the head of an answer.

        Raises:
            OSError: the connection is broken.
            WireError: what arrives is no answer.
        """
        received = b""
        for _ in range(INTERIM_MAX):
            while (end := received.find(b"\r\n\r\n")) < 0:
                if len(received) > HEAD_MAX_BYTES:
                    raise WireError("the head of the answer is too large")
                received += self._more()
            answer, received = parsed(received[:end]), received[end + 4 :]
            if answer.status >= _OK.start:
                self._rest = received
                return answer
        raise WireError("too many interim answers")

    def body(self, length: int, room: memoryview, take: Callable[[memoryview], None] | None) -> None:
        """Receive the body of an answer, and hand it over in pieces of the size of ``room``.

        Raises:
            OSError: the connection is broken.
            WireError: it is cut, or longer than its head says.
        """
        rest, self._rest = self._rest, b""
        if len(rest) > length:
            raise WireError("the answer is longer than its head says")
        while length:
            piece = room[: min(length, len(room))]
            got = min(len(rest), len(piece))
            piece[:got], rest = rest[:got], rest[got:]
            while got < len(piece):
                read = self._socket.recv_into(piece[got:])
                if not read:
                    raise WireError("the answer is cut")
                got += read
            length -= got
            if take is not None:
                take(piece)

    def _more(self) -> bytes:
        if not (more := self._socket.recv(_RECEIVE_BYTES)):
            raise WireError("the connection is closed")
        return more


class Wire:
    """Connections to one server, reused. Thread-safe."""

    def __init__(self, connect: Callable[[], socket.socket]) -> None:
        """``connect``: open a connection. Its errors may be OSErrors and urllib3's."""
        self._connect = connect
        self._idle: deque[tuple[Connection, memoryview]] = deque()

    def ask(
        self,
        head: bytes,
        body: bytes | memoryview,
        counted: Callable[[int], None],
        take: Callable[[memoryview], None] | None = None,
        length: int = 0,
    ) -> Answer:
        """Send a request and return the head of its answer.

        Args:
            head: with the empty line at its end.
            body: of the request.
            counted: called with the bytes of it as they are sent; negative if they have to be sent again.
            take: called with the pieces of the answer's body, if it is one of success, and exactly ``length`` bytes long. It must not keep them.
            length: bytes that are asked for.

        Raises:
            WireError: the request was not sent, or its answer did not arrive whole. ``take`` may have been called.
        """
        sent = 0

        def noted(size: int) -> None:
            nonlocal sent
            sent += size
            counted(size)

        connection, room = self._connection()
        whole = False
        try:
            try:
                connection.send(head, body, noted)
                answer = connection.head()
                ends = self._read(connection, answer, room, take, length)
            except OSError as broken:
                raise WireError(type(broken).__name__) from broken
            whole = True
        finally:
            if not whole:
                connection.close()
                if sent:
                    counted(-sent)
        if ends:
            connection.close()
        else:
            self._idle.append((connection, room))
        return answer

    def close(self) -> None:
        """Close the connections that are not in use."""
        while self._idle:
            self._idle.pop()[0].close()

    @staticmethod
    def _read(
        connection: Connection,
        answer: Answer,
        room: memoryview,
        take: Callable[[memoryview], None] | None,
        length: int,
    ) -> bool:
        """Receive the body. Return whether the connection ends with this answer."""
        headers = answer.headers
        size = headers.get("content-length", "0" if answer.status == 204 else "")  # noqa: PLR2004  # No Content
        if "transfer-encoding" in headers or not (size.isascii() and size.isdecimal()):
            raise WireError("the answer does not say its length")
        ends = headers.get("connection", "keep-alive").lower() != "keep-alive"
        if take is not None and answer.status in _OK:
            if int(size) != length:
                raise WireError(f"the answer has {size} bytes, {length} were asked for")
            connection.body(length, room, _guarded(take))
        elif int(size) > BODY_MAX_BYTES:
            return True
        else:
            connection.body(int(size), room, None)
        return ends

    def _connection(self) -> tuple[Connection, memoryview]:
        while self._idle:
            try:
                connection, room = self._idle.pop()
            except IndexError:  # another thread was faster
                break
            if not connection.is_stale():
                return connection, room
            connection.close()
        try:
            return Connection(self._connect()), memoryview(bytearray(ROOM_BYTES))
        except (OSError, HTTPError) as failure:
            raise WireError(type(failure).__name__) from failure


class TakeError(Exception):
    """The receiver of a body failed. Its cause says how."""


def _guarded(take: Callable[[memoryview], None]) -> Callable[[memoryview], None]:
    """Keep the errors of a receiver, such as those of a full disk, apart from those of the connection."""

    def guarded(piece: memoryview) -> None:
        try:
            take(piece)
        except OSError as failure:
            raise TakeError from failure

    return guarded


def parsed(head: bytes) -> Answer:
    """Parse the head of an answer.

    Raises:
        WireError: it is none, or says two things of its length.
    """
    first, *lines = head.split(b"\r\n")
    version, _, rest = first.partition(b" ")
    status = rest[:3]
    if version != b"HTTP/1.1" or not status.isdigit() or rest[3:4] not in {b"", b" "}:
        raise WireError("the answer is not of HTTP/1.1")
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon or not name or name != name.strip():
            raise WireError("the answer has a header that is none")
        known, text = name.decode("latin-1").lower(), value.strip().decode("latin-1")
        if known in headers and known in {"content-length", "transfer-encoding"}:
            raise WireError(f"the answer has {known} twice")
        headers[known] = text
    return Answer(int(status), headers)
