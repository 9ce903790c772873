"""Many HEAD requests in flight, of a store that answers in every way."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

import pytest
from botocore import exceptions

from trainingrun_operator.checkpoints import heads, template
from trainingrun_operator.checkpoints.clients import Clients
from trainingrun_operator.checkpoints.documents import FileEntry
from trainingrun_operator.checkpoints.pace import CONNECTIONS, IN_FLIGHT_MAX
from trainingrun_operator.checkpoints.proof import Found
from trainingrun_operator.checkpoints.s3 import Access
from trainingrun_operator.checkpoints.signing import Signer
from trainingrun_operator.checkpoints.wire import Wire

CRC = "AAAAAAAAAAA="
KEYS = [f"team/ü {number:04}+%&" for number in range(300)]
WHOLE = {key: Found(7, CRC) for key in KEYS}


@dataclass
class Behaviour:
    """How the store answers. A request is one of botocore if it says which attempt it is."""

    status: dict[str, int] = field(default_factory=dict)
    """Of botocore's and other requests for a key; otherwise 200."""
    slow: int = 0
    """So many requests are answered with 503 first."""
    drops: int = 0
    """A connection is closed without a word after so many answers; 0: never."""
    body: bytes = b""
    """Sent after the answers to HEAD, which have none."""
    twice: bool = False
    """The checksum is sent twice, with other values."""
    refused: bool = False
    """Only botocore is answered."""
    asked: Counter[str] = field(default_factory=Counter)
    by_botocore: list[str] = field(default_factory=list)
    in_flight: int = 0
    most_in_flight: int = 0
    waits: float = 0
    signed: set[str] = field(default_factory=set)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.behaviour, self.lock = Behaviour(), threading.Lock()

    def handle_error(self, *_):
        """A client may go away."""


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_HEAD(self):
        how, key = self.server.behaviour, template_key(self.path)
        with self.server.lock:
            how.asked[key] += 1
            how.in_flight += 1
            how.most_in_flight = max(how.most_in_flight, how.in_flight)
            own = "amz-sdk-request" not in self.headers
            how.signed.add(
                str(self.headers["authorization"]).partition(", Signature")[0].partition("SignedHeaders=")[2]
            )
            if not own:
                how.by_botocore.append(key)
            slow = own and how.slow > 0
            how.slow -= slow
        time.sleep(how.waits)
        with self.server.lock:
            how.in_flight -= 1
        self.answered = getattr(self, "answered", 0) + 1
        if own and (how.refused or (how.drops and self.answered > how.drops)):
            self.close_connection = True
            return
        lines = [f"HTTP/1.1 {503 if slow else how.status.get(key, 200)} status", "Content-Length: 7"]
        lines += [
            f"X-Amz-Checksum-Crc64nvme: {CRC}",
            *(["x-amz-checksum-crc64nvme: AAAAAAAAAAE="] if how.twice and own else []),
        ]
        self.wfile.write("\r\n".join([*lines, "", ""]).encode() + (how.body if own else b""))

    def log_message(self, *_):
        pass


def template_key(path):
    return unquote(path).removeprefix("/ckpt/")


@pytest.fixture
def store():
    server = Server()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def door(store):
    clients = Clients()
    yield clients.door(Access(f"http://127.0.0.1:{store.server_port}", "eu-central-1", "key", "secret", "token"))
    clients.close()


@pytest.fixture
def behaviour(store):
    return store.behaviour


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(heads, "_PAUSE_SECONDS", 0.001)
    monkeypatch.setattr(heads, "_PAUSE_MAX_SECONDS", 0.01)


def found(door, keys=KEYS, at_once=64):
    files = [FileEntry(path=key, key=key) for key in keys]
    batches = (files[at:][:at_once] for at in range(0, len(files), at_once))
    with contextlib.closing(heads.found_of(door, "ckpt", batches, threading.Lock())) as results:
        said = [(file.key, one) for file, one in results]
    assert len(said) == len({key for key, _ in said}), "Each file has one result."
    return dict(said)


def test_every_object_is_asked_for_once_and_only_the_first_by_botocore(door, behaviour):
    assert found(door) == WHOLE
    assert behaviour.asked == Counter(KEYS)
    assert behaviour.by_botocore == KEYS[:1]


def test_requests_are_signed_as_botocore_signs_them(door, behaviour):
    found(door)
    assert behaviour.signed == {"host;x-amz-checksum-mode;x-amz-content-sha256;x-amz-date;x-amz-security-token"}


def test_nothing_is_asked_about_no_files(door, behaviour):
    assert found(door, []) == {}
    assert not behaviour.asked


def test_an_object_that_is_missing_is_found_to_be(door, behaviour):
    behaviour.status = {KEYS[0]: 404, KEYS[7]: 404, KEYS[-1]: 404}
    assert {key for key, one in found(door).items() if one is None} == {KEYS[0], KEYS[7], KEYS[-1]}


def test_while_the_store_takes_its_time_more_requests_are_in_flight(door, behaviour):
    behaviour.waits = 0.05
    assert found(door) == WHOLE
    assert behaviour.most_in_flight > heads.FIRST


@pytest.mark.parametrize("drops", [1, 2, 7])
def test_a_connection_that_the_server_closes_is_replaced(door, behaviour, drops):
    behaviour.drops = drops
    assert found(door) == WHOLE
    assert behaviour.by_botocore == KEYS[:1]


def test_a_store_that_asks_for_fewer_requests_gets_fewer_and_is_asked_again(door, behaviour):
    behaviour.slow = 20
    before = door.pace.share
    assert found(door) == WHOLE
    assert door.pace.share < before
    assert behaviour.by_botocore == KEYS[:1]


def test_a_store_that_never_takes_more_requests_is_left_to_botocore(door, behaviour):
    behaviour.status = dict.fromkeys(KEYS[1:], 503)
    with pytest.raises(exceptions.ClientError) as failure:
        found(door)
    assert failure.value.response["ResponseMetadata"]["HTTPStatusCode"] == 503


@pytest.mark.parametrize("status", [301, 400, 403, 500])
def test_an_error_is_the_one_that_botocore_reports(door, behaviour, status):
    behaviour.status = {KEYS[40]: status}
    with pytest.raises(exceptions.ClientError) as failure:
        found(door)
    assert failure.value.response["ResponseMetadata"]["HTTPStatusCode"] == status


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param({"body": b"surprise"}, id="a body after the answer to HEAD"),
        pytest.param({"body": b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n"}, id="an answer that was not asked for"),
        pytest.param({"twice": True}, id="two checksums"),
        pytest.param({"refused": True}, id="no answer at all"),
    ],
)
def test_a_store_that_only_botocore_understands_is_asked_by_botocore(door, behaviour, wrong):
    for name, value in wrong.items():
        setattr(behaviour, name, value)
    assert {one.size for one in found(door).values()} == {7}
    assert len(behaviour.by_botocore) > heads.DETOURS


def test_a_proxy_is_left_to_botocore(door, behaviour, monkeypatch):
    found(door, KEYS[:1])
    monkeypatch.setattr(template, "get_environ_proxies", lambda _: {"http": "http://proxy.example"})
    assert found(door, KEYS[:40]) == {key: Found(7, CRC) for key in KEYS[:40]}
    assert len(behaviour.by_botocore) == 41


def test_a_signature_that_is_not_botocores_is_not_used(door, behaviour, monkeypatch):
    monkeypatch.setattr(Signer, "authorization", lambda *_, **__: "another")
    assert found(door, KEYS[:40]) == {key: Found(7, CRC) for key in KEYS[:40]}
    assert len(behaviour.by_botocore) == 40


def test_every_connection_is_closed_at_the_end_and_when_the_proof_is_given_up(door, behaviour, monkeypatch):
    opened = []
    free = CONNECTIONS._value

    def wire(*args):
        made = Wire(*args)
        opened.append(made)
        return made

    monkeypatch.setattr(heads, "Wire", wire)
    found(door)
    files = [FileEntry(path=key, key=key) for key in KEYS]
    results = heads.found_of(door, "ckpt", iter([files]), threading.Lock())
    for _ in range(10):
        next(results)
    results.close()
    assert opened
    assert all(one.socket.fileno() == -1 for one in opened)
    assert CONNECTIONS._value == free
    assert door.pace.share == IN_FLIGHT_MAX


def test_without_a_free_connection_a_proof_has_one_of_its_own(door, behaviour, monkeypatch):
    none = threading.BoundedSemaphore(1)
    none.acquire()
    monkeypatch.setattr(heads, "CONNECTIONS", none)
    assert found(door, KEYS[:50]) == {key: Found(7, CRC) for key in KEYS[:50]}
    assert behaviour.most_in_flight == 1


def test_a_request_that_is_not_answered_is_left_to_botocore(door, behaviour, monkeypatch):
    monkeypatch.setattr(heads, "ANSWER_SECONDS", -60.0)
    monkeypatch.setattr(heads, "_LOOK_SECONDS", 0.0)
    behaviour.waits = 0.02
    assert found(door, KEYS[:60]) == {key: Found(7, CRC) for key in KEYS[:60]}
    assert len(behaviour.by_botocore) > 1


def test_files_are_taken_as_they_are_needed(door, behaviour):
    taken = []

    def batches():
        for number, key in enumerate(KEYS):
            taken.append(number)
            yield [FileEntry(path=key, key=key)]

    results = heads.found_of(door, "ckpt", batches(), threading.Lock())
    next(results)
    assert len(taken) == 1
    results.close()
