"""Answers that arrive whole, and all others."""

from __future__ import annotations

import contextlib
import socket
import threading

import pytest

from trainingrun_operator.checkpoints.connections import (
    ROOM_BYTES,
    Answer,
    BrokenError,
    Connections,
    TakeError,
    parsed,
)
from trainingrun_operator.checkpoints.http_head import HEAD_MAX_BYTES

HEAD = b"PUT /b/k HTTP/1.1\r\nhost: s3\r\ncontent-length: 0\r\n\r\n"
EMPTY = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


class Peer:
    """Answers each request of each connection with what a test says."""

    def __init__(self, *connections: list[bytes]) -> None:
        self.heard: list[list[bytes]] = []
        self.opened = 0
        self._connections = iter(connections)

    def connect(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        answers = next(self._connections, None)
        if answers is None:
            ours.close()
            theirs.close()
            raise ConnectionRefusedError
        self.opened += 1
        heard: list[bytes] = []
        self.heard.append(heard)
        threading.Thread(target=self._serve, args=(theirs, answers, heard), daemon=True).start()
        ours.settimeout(30)
        return ours

    @staticmethod
    def _serve(theirs: socket.socket, answers: list[bytes], heard: list[bytes]) -> None:
        with theirs, contextlib.suppress(ConnectionError):
            for answer in answers:
                head = b""
                while b"\r\n\r\n" not in head:
                    if not (more := theirs.recv(1 << 16)):
                        return
                    head += more
                heard.append(head)
                theirs.sendall(answer)


def ask(connections: Connections, take=None, length: int = 0, body: bytes = b"", counted=lambda _: None) -> Answer:
    return connections.ask(HEAD, body, counted, take, length)


def got(answer: bytes, length: int) -> bytes:
    pieces: list[bytes] = []
    ask(Connections(Peer([answer]).connect), lambda piece: pieces.append(bytes(piece)), length)
    assert all(len(piece) <= ROOM_BYTES for piece in pieces)
    return b"".join(pieces)


def test_a_connection_serves_many_requests():
    peer = Peer([EMPTY] * 3)
    connections = Connections(peer.connect)
    assert [ask(connections).status for _ in range(3)] == [200] * 3
    assert peer.opened == 1


@pytest.mark.parametrize("length", [0, 1, 16 << 10, ROOM_BYTES, ROOM_BYTES + 1, 3 * ROOM_BYTES])
def test_a_body_arrives_in_pieces(length):
    body = bytes(range(251)) * (length // 251 + 1)
    head = b"HTTP/1.1 206 Partial Content\r\nContent-Length: %d\r\n\r\n" % length
    assert got(head + body[:length], length) == body[:length]


@pytest.mark.parametrize(
    "before",
    [b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nA: b\r\n\r\n"],
)
def test_interim_answers_are_not_the_answer(before):
    assert ask(Connections(Peer([before + EMPTY]).connect)).status == 200


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-", id="a head that is cut"),
        pytest.param(b"HTTP/1.1 206 OK\r\nContent-Length: 4\r\n\r\nab", id="a body that is cut"),
        pytest.param(b"HTTP/1.1 206 OK\r\nContent-Length: 4\r\n\r\nabcdef", id="a body that is too long"),
        pytest.param(b"HTTP/1.1 206 OK\r\nContent-Length: 9\r\n\r\nabcdefghi", id="more than was asked for"),
        pytest.param(b"HTTP/1.1 206 OK\r\nContent-Length: 3\r\n\r\nabc", id="less than was asked for"),
        pytest.param(b"HTTP/1.1 206 OK\r\n\r\nabcd", id="no length"),
        pytest.param(b"HTTP/1.1 206 OK\r\nContent-Length: -4\r\n\r\nabcd", id="a negative length"),
        pytest.param(b"HTTP/1.1 206 OK\r\nContent-Length: 4, 4\r\n\r\nabcd", id="a list of lengths"),
        pytest.param(b"HTTP/1.1 206 OK\r\nContent-Length: %b\r\n\r\nabcd" % (b"4" * 5000), id="a length of digits without end"),
        pytest.param(b"HTTP/1.1 206 OK\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nabcd", id="two lengths"),
        pytest.param(b"HTTP/1.1 206 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n0\r\n\r\n", id="chunks"),
        pytest.param(b"HTTP/1.1 206 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\nabcd", id="chunks and a length"),
        pytest.param(b"HTTP/1.0 206 OK\r\nContent-Length: 4\r\n\r\nabcd", id="HTTP/1.0"),
        pytest.param(b"HTTP/1.1 2x6 OK\r\nContent-Length: 4\r\n\r\nabcd", id="a status that is none"),
        pytest.param(b"HTTP/1.1 2060 OK\r\nContent-Length: 4\r\n\r\nabcd", id="a status of four digits"),
        pytest.param(b"SSH-2.0-OpenSSH_9.2\r\n\r\n", id="another protocol"),
        pytest.param(b"HTTP/1.1 206 OK\r\n Content-Length: 4\r\n\r\nabcd", id="a folded header"),
        pytest.param(b"HTTP/1.1 206 OK\r\nContent-Length : 4\r\n\r\nabcd", id="a header with a space"),
        pytest.param(b"HTTP/1.1 206 OK\r\nwhatever\r\n\r\nabcd", id="a header without a colon"),
        pytest.param(b"HTTP/1.1 206 OK\r\nA: " + b"x" * (2 * HEAD_MAX_BYTES), id="a head without end"),
        pytest.param(b"HTTP/1.1 100 Continue\r\n\r\n" * 100, id="interim answers without end"),
    ],
)  # fmt: skip
def test_an_answer_that_is_not_plainly_whole_is_none(answer):
    peer = Peer([answer, EMPTY], [EMPTY])
    connections = Connections(peer.connect)
    with pytest.raises(BrokenError):
        ask(connections, lambda _: None, 4)
    ask(connections)
    assert peer.opened == 2, "Its connection is not used again."


@pytest.mark.parametrize("status", [301, 403, 404, 412, 500, 503])
def test_a_refusal_is_read_to_its_end_and_never_handed_over(status):
    refusal = b"HTTP/1.1 %d No\r\nContent-Length: 8\r\n\r\n<Error/>" % status
    peer = Peer([refusal, EMPTY])
    connections = Connections(peer.connect)
    assert ask(connections, pytest.fail, 8).status == status
    assert ask(connections).status == 200
    assert peer.opened == 1


def test_a_refusal_that_is_too_large_is_not_read():
    peer = Peer([b"HTTP/1.1 403 No\r\nContent-Length: 999999999999\r\n\r\n"], [EMPTY])
    connections = Connections(peer.connect)
    assert ask(connections).status == 403
    assert ask(connections).status == 200
    assert peer.opened == 2


def test_a_connection_that_the_server_ends_is_not_used_again():
    peer = Peer([b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", EMPTY], [EMPTY])
    connections = Connections(peer.connect)
    ask(connections)
    ask(connections)
    assert peer.opened == 2


def test_a_kept_connection_that_ends_before_the_answer_is_replaced_once():
    peer = Peer([EMPTY], [EMPTY])
    connections = Connections(peer.connect)
    counts: list[int] = []
    ask(connections)
    ask(connections, body=b"body", counted=counts.append)
    assert peer.opened == 2
    assert sum(counts) == 4


def test_a_new_connection_that_ends_before_the_answer_is_a_failure():
    peer = Peer([], [EMPTY])
    with pytest.raises(BrokenError):
        ask(Connections(peer.connect))
    assert peer.opened == 1


def test_a_server_that_does_not_listen_is_a_failure():
    with pytest.raises(BrokenError, match="ConnectionRefusedError"):
        ask(Connections(Peer().connect))


def test_a_receiver_that_fails_is_no_failure_of_the_connection():
    def full(_):
        raise OSError(28, "No space left on device")

    with pytest.raises(TakeError) as failed:
        ask(Connections(Peer([b"HTTP/1.1 206 OK\r\nContent-Length: 4\r\n\r\nabcd"]).connect), full, 4)
    assert isinstance(failed.value.__cause__, OSError)


def test_bytes_that_were_sent_in_vain_are_taken_back():
    counts: list[int] = []
    with pytest.raises(BrokenError):
        ask(Connections(Peer([b"nonsense\r\n\r\n"]).connect), body=b"x" * 1000, counted=counts.append)
    assert counts == [1000, -1000]


def test_the_names_of_headers_have_no_case():
    assert parsed(b'HTTP/1.1 200\r\nETag: "e" \r\nX-AMZ-Version-Id:v') == (
        200,
        {"etag": '"e"', "x-amz-version-id": "v"},
    )
