"""Bytes of a request count while they are sent, and once."""

from __future__ import annotations

import io
import socket
import threading

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError
from waiting import eventually

from trainingrun_operator.checkpoints.bucket import Bucket
from trainingrun_operator.checkpoints.meter import PIECE_BYTES, CountedBody

BODY = bytes(range(256)) * (64 << 10)
"""16 MiB."""


class Server:
    """Answers as S3 does. It reads no more of a body than the test allows."""

    def __init__(self) -> None:
        self._listening = socket.socket()
        self._listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
        self._listening.bind(("127.0.0.1", 0))
        self._listening.listen()
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self.gates = [threading.Event()]
        self.read: list[int] = []
        self.breaks = 0
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            connection, _ = self._listening.accept()
            with connection, connection.makefile("rb") as stream:
                self._answer(connection, stream)

    def _answer(self, connection: socket.socket, stream: io.BufferedReader) -> None:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            if not (line := stream.readline()):
                return
            head += line
        if b"100-continue" in head.lower():
            connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        self.read.append(0)
        while self.read[-1] < len(BODY):
            piece = stream.read(min(1 << 20, len(BODY) - self.read[-1]))
            self.read[-1] += len(piece)
            if self.breaks and self.read[-1] >= len(BODY) // 2:
                self.breaks -= 1
                return
            if self.read[-1] == 1 << 20:
                assert self.gates[0].wait(60)
        connection.sendall(
            b'HTTP/1.1 200 OK\r\nETag: "e"\r\nx-amz-checksum-crc64nvme: \r\nContent-Length: 0\r\nConnection: close\r\n\r\n'
        )


@pytest.fixture
def server():
    return Server()


@pytest.fixture
def bucket(server):
    client = boto3.client(
        "s3",
        endpoint_url=server.url,
        aws_access_key_id="a",
        aws_secret_access_key="s",
        region_name="us-east-1",
        config=Config(
            s3={"addressing_style": "path"},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            retries={"mode": "standard", "max_attempts": 2},
        ),
    )
    return Bucket(client, "runs")


class Count:
    def __init__(self) -> None:
        self.total = 0
        self.steps: list[int] = []

    def __call__(self, size: int) -> None:
        self.total += size
        self.steps.append(size)


def test_a_part_counts_while_it_is_on_its_way(server, bucket):
    count = Count()
    sending = threading.Thread(target=lambda: bucket.put_part("k", "u", 1, BODY, 0, count))
    sending.start()
    eventually(lambda: count.total >= 1 << 20, "the first bytes count", 30, every=0.01)
    assert count.total < len(BODY), "The server has not read them all, and no buffer between holds so much."
    server.gates[0].set()
    sending.join(60)
    assert count.total == len(BODY)
    assert max(count.steps) <= PIECE_BYTES


def test_what_has_to_be_sent_again_does_not_count_twice(server, bucket):
    server.gates[0].set()
    server.breaks = 1
    count = Count()
    bucket.put_part("k", "u", 1, BODY, 0, count)
    assert len(server.read) == 2
    assert count.total == len(BODY)
    assert min(count.steps) < 0


def test_what_could_not_be_sent_does_not_count(server, bucket):
    server.gates[0].set()
    server.breaks = 10
    count = Count()
    with pytest.raises(BotoCoreError):
        bucket.put_part("k", "u", 1, BODY, 0, count)
    assert count.total == 0


def test_other_requests_of_the_thread_are_not_counted(server, bucket):
    server.gates[0].set()
    count = Count()
    bucket.put_part("k", "u", 1, BODY, 0, count)
    bucket.put_part("k", "u", 2, BODY, 0)
    assert count.total == len(BODY)


def test_a_body_is_counted_piece_by_piece_from_where_it_stands():
    count = Count()
    source = io.BytesIO(b"x" * (2 * PIECE_BYTES + 5))
    source.read(5)
    body = CountedBody(source, count)
    assert len(body.read()) == PIECE_BYTES
    assert (count.total, body.tell()) == (0, PIECE_BYTES + 5)
    body.read(1)
    assert count.total == PIECE_BYTES
    body.seek(5)
    assert count.total == 0
    while body.read():
        pass
    assert count.total == 2 * PIECE_BYTES
    body.rewind()
    assert count.total == 0
