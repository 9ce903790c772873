"""An answer that is cut at any byte is no answer, to operator and agent: never an empty list, an empty object, or one without a checksum."""

from __future__ import annotations

import base64
import contextlib
import io
import socket
import struct
import threading
from functools import partial
from typing import TYPE_CHECKING

import pytest
from awscrt import checksums
from botocore.exceptions import ClientError, ConnectionClosedError

from trainingrun_operator.api.exchange import AgentConfig
from trainingrun_operator.checkpoints import bucket, s3
from trainingrun_operator.checkpoints.bucket import StoreError
from trainingrun_operator.checkpoints.clients import Clients
from trainingrun_operator.checkpoints.keys import Layout
from trainingrun_operator.checkpoints.proof import Found
from trainingrun_operator.checkpoints.s3 import STORE_ERRORS, Access

if TYPE_CHECKING:
    from pathlib import Path

    from trainingrun_operator.checkpoints.clients import Door

LAYOUT = Layout("runs", "ml/llama/1f0c/")
KEY = LAYOUT.commits + "i1-g0001.json"
BODY = b'{"a": 1}'
CRC = base64.b64encode(struct.pack(">Q", checksums.crc64nvme(BODY)))
PAGE = b'<?xml version="1.0" encoding="UTF-8"?>\n<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><IsTruncated>false</IsTruncated>%b</ListBucketResult>'
LISTED = PAGE % b"<Contents><Key>%b</Key><Size>8</Size></Contents>" % KEY.encode()


def answer(body: bytes, *headers: bytes, length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    return b"\r\n".join([b"HTTP/1.1 200 OK", b"Connection: close", b"Content-Length: %d" % size, *headers, b"", body])


LIST = answer(LISTED, b"Content-Type: application/xml")
OBJECT = answer(BODY, b'ETag: "1"', b"x-amz-checksum-crc64nvme: " + CRC)
HEAD = answer(b"", b'ETag: "1"', b"x-amz-checksum-crc64nvme: " + CRC, length=len(BODY))


class Server:
    """Sends the same bytes to each request, and nothing more."""

    def __init__(self) -> None:
        self.sent = b""
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"

    def serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.socket.accept()
                threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.settimeout(10)
            asked = b""
            while b"\r\n\r\n" not in asked:
                if not (piece := connection.recv(1 << 16)):
                    return
                asked += piece
            connection.sendall(self.sent)
            connection.shutdown(socket.SHUT_WR)
            # Read on until the client closes the connection: closing it with unread bytes would reset it, and the answer would be lost.
            while connection.recv(1 << 16):
                pass


@pytest.fixture(scope="module")
def server():
    made = Server()
    thread = threading.Thread(target=made.serve)
    thread.start()
    yield made
    made.socket.shutdown(socket.SHUT_RDWR)
    thread.join()
    made.socket.close()


def of_operator(url: str) -> Door:
    return Clients(1).door(Access(endpoint_url=url, access_key="key", secret_key="secret"))


def of_agent(url: str, folder: Path) -> bucket.Bucket:
    (folder / "AWS_ACCESS_KEY_ID").write_text("key")
    (folder / "AWS_SECRET_ACCESS_KEY").write_text("secret")
    config = AgentConfig(
        namespace="ml", run="llama", run_uid="1f0c", path="/", destination="s3://runs", endpoint_url=url, port=1,
        secret_dir=str(folder),
    )  # fmt: skip
    return bucket.Bucket(bucket.client(config), "runs")


@pytest.fixture(scope="module")
def door(server):
    """The operator's."""
    return of_operator(server.url)


@pytest.fixture(scope="module")
def mine(server, tmp_path_factory):
    """The agent's bucket."""
    return of_agent(server.url, tmp_path_factory.mktemp("secret"))


OPERATORS = {
    "a list": (LIST, lambda door: door.call(partial(s3.list_commits, LAYOUT)), (KEY,)),
    "an object": (OBJECT, lambda door: door.call(partial(s3.read_object, "runs", KEY, 100)), BODY),
    "a range": (OBJECT, lambda door: door.call(partial(s3.read_range, "runs", KEY, 0)), (BODY, len(BODY))),
    "a HEAD": (HEAD, lambda door: door.call(partial(s3.head_object, "runs", KEY)), Found(len(BODY), CRC.decode())),
}
AGENTS = {
    "a list": (LIST, lambda bucket: list(bucket.keys(LAYOUT.base)), [(KEY, 8)]),
    "an object": (OBJECT, lambda bucket: bucket.get(KEY, 100), BODY),
    "a range": (OBJECT, lambda bucket: bucket.read_range(KEY, 0), (BODY, len(BODY))),
    "a HEAD": (HEAD, lambda bucket: bucket.head(KEY), bucket.Stored(len(BODY), CRC.decode(), '"1"')),
}


@pytest.fixture(autouse=True)
def _at_once(monkeypatch):
    """What is repeated is repeated without a pause."""
    monkeypatch.setattr("botocore.endpoint.time.sleep", lambda _: None)


def pieces(sent: bytes):
    """Cut at every byte of a head, and here and there in a body."""
    head = sent.index(b"\r\n\r\n") + 4
    sizes = {*range(0, head, 1 if sent is HEAD else 5), *range(head, len(sent), 23), head - 1, head - 2, len(sent) - 1}
    return [sent[:size] for size in sorted(sizes) if size < len(sent)]


@pytest.mark.parametrize(("sent", "ask", "whole"), OPERATORS.values(), ids=OPERATORS)
def test_the_operator_takes_no_answer_that_is_cut(server, door, sent, ask, whole):
    for server.sent in pieces(sent):
        with pytest.raises(STORE_ERRORS):
            ask(door)
    server.sent = sent
    assert ask(door) == whole


@pytest.mark.parametrize(("sent", "ask", "whole"), AGENTS.values(), ids=AGENTS)
def test_the_agent_takes_no_answer_that_is_cut(server, mine, sent, ask, whole):
    for server.sent in pieces(sent):
        with pytest.raises(StoreError):
            ask(mine)
    server.sent = sent
    assert ask(mine) == whole


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"<html><body>Log in</body></html>", id="another document"),
        pytest.param(
            LISTED.replace(b"<", b"<s3:")
            .replace(b"<s3:/", b"</s3:")
            .replace(b"<s3:?", b"<?")
            .replace(b"xmlns=", b"xmlns:s3="),
            id="a list in another spelling, whose keys would not be found",
        ),
        pytest.param(LISTED[:-20], id="half of a list, of a gateway that says its length"),
        pytest.param(LISTED.replace(b"false", b"falsd"), id="a list of which it is not known whether it is whole"),
    ],
)
def test_a_page_that_is_no_list_is_no_empty_list(server, door, mine, body):
    server.sent = answer(body, b"Content-Type: application/xml")
    with pytest.raises(ClientError) as failed:
        door.call(partial(s3.list_commits, LAYOUT))
    assert s3.code_of(failed.value) == "InternalError"
    if b"falsd" not in body:
        with pytest.raises(ClientError):
            list(mine.keys(LAYOUT.base))


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(PAGE % b"", id="as S3 sends it"),
        pytest.param(b"<ListBucketResult/>\n", id="without a declaration"),
        pytest.param(b'<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/" />', id="in one tag"),
        pytest.param(b"<ListBucketResult></ListBucketResult>", id="with nothing in it"),
        pytest.param(b"\xef\xbb\xbf" + PAGE % b"", id="behind a mark of its encoding"),
    ],
)
def test_a_list_without_keys_is_empty(server, door, mine, page):
    server.sent = answer(page)
    assert door.call(partial(s3.list_commits, LAYOUT)) == ()
    assert list(mine.keys(LAYOUT.base)) == []


def test_a_list_with_keys_that_were_not_asked_for_is_not_believed(server, door):
    server.sent = answer(LISTED.replace(b"llama", b"lmama"))
    with pytest.raises(s3.BadAnswerError) as failed:
        door.call(partial(s3.list_commits, LAYOUT))
    assert s3.code_of(failed.value) == "BadAnswer"


def test_an_object_that_arrives_with_other_bytes_than_the_store_has_is_not_read(server, door):
    server.sent = OBJECT.replace(b'"a": 1', b'"a": 2')
    with pytest.raises(STORE_ERRORS) as failed:
        door.call(partial(s3.read_object, "runs", KEY, 100))
    assert s3.code_of(failed.value) == "BadAnswer"


def test_an_answer_to_head_that_says_no_size_is_none(server, door):
    server.sent = HEAD.replace(b"Content-Length: 8\r\n", b"")
    with pytest.raises(s3.BadAnswerError):
        door.call(partial(s3.head_object, "runs", KEY))


@pytest.mark.parametrize("cut", [0, 3, 40], ids="{} bytes short".format)
def test_so_is_an_answer_before_the_body_of_a_request_was_sent(server, door, cut):
    early = b'HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\nETag: "1"\r\nx-amz-request-id: 1\r\n\r\n'
    server.sent = early[: len(early) - cut]
    # botocore has a body that it reads wait for the server's word.
    put = partial(door.client.put_object, Bucket="runs", Key=KEY)
    if cut:
        with pytest.raises(StoreError):
            door.call(lambda _: put(Body=io.BytesIO(BODY)))
    else:
        assert door.call(lambda _: put(Body=io.BytesIO(BODY)))["ETag"] == '"1"'


def test_what_is_no_answer_of_http_is_told_as_such(server, door):
    server.sent = b"<Error/>\r\n\r\n"
    with pytest.raises(ConnectionClosedError):
        door.call(partial(s3.list_commits, LAYOUT))


@pytest.mark.parametrize("cut", [0, 1, 60], ids="{} bytes short".format)
def test_nor_is_one_taken_that_is_cut_on_its_way_through_a_proxy(server, tmp_path, monkeypatch, cut):
    monkeypatch.setenv("HTTP_PROXY", server.url)
    door, mine = of_operator("http://s3.example"), of_agent("http://s3.example", tmp_path)
    server.sent = LIST[: len(LIST) - len(LISTED) - cut] if cut else LIST
    if cut:
        with pytest.raises(STORE_ERRORS):
            door.call(partial(s3.list_commits, LAYOUT))
        with pytest.raises(StoreError):
            list(mine.keys(LAYOUT.base))
    else:
        assert door.call(partial(s3.list_commits, LAYOUT)) == (KEY,)
        assert list(mine.keys(LAYOUT.base)) == [(KEY, 8)]
