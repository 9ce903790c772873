"""Where the operator's S3 calls may lead: never to a metadata service by whatever name, and nowhere that a server sends them."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_network
from typing import TYPE_CHECKING

import pytest

from trainingrun_operator.checkpoints import addresses
from trainingrun_operator.checkpoints.keys import Layout
from trainingrun_operator.core.facts.bucket import Unreachable
from trainingrun_operator.edge.gather.store import Access, Store

if TYPE_CHECKING:
    from collections.abc import Iterator

LAYOUT = Layout("bucket", "ml/llama/1f0c/")
EMPTY = b'<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><KeyCount>0</KeyCount></ListBucketResult>'


@dataclass
class Listener:
    """An HTTP server that writes down what it is asked: the headers of every request, in lower case."""

    port: int
    asked: list[dict[str, str]]

    def access(self, host: str = "127.0.0.1") -> Access:
        return Access(endpoint_url=f"http://{host}:{self.port}", access_key="key", secret_key="secret")


@contextmanager
def listening(status: int = 200, **headers: str) -> Iterator[Listener]:
    asked: list[dict[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            asked.append({name.lower(): value for name, value in self.headers.items()})
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(EMPTY)))
            self.end_headers()
            self.wfile.write(EMPTY)

        do_GET = do_HEAD = answer  # noqa: N815 - the names that http.server calls

        def log_message(self, *_: object) -> None:
            """Nobody reads it."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield Listener(server.server_port, asked)
        server.shutdown()
        thread.join()


@pytest.fixture(name="store")
def first():
    store = Store()
    yield store
    store.close()


@pytest.fixture
def another():
    """Without the connections of the first."""
    store = Store()
    yield store
    store.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433", "0x7f000001"])
async def test_an_address_that_is_forbidden_gets_no_request_whatever_it_is_called(store, another, monkeypatch, host):
    with listening() as metadata:
        assert await store.probe(metadata.access(host), LAYOUT) is None, "Elsewhere it is a server like any other."
        assert len(metadata.asked) == 1
        monkeypatch.setattr(addresses, "METADATA", (ip_network("127.0.0.0/8"), ip_network("::1/128")))
        found = await another.probe(metadata.access(host), LAYOUT)
        assert isinstance(found, Unreachable)
        assert found.code == "ForbiddenAddress"
        assert "no request was made" in found.message
        assert len(metadata.asked) == 1


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_a_server_that_sends_the_operator_elsewhere_is_not_followed(store, status):
    with listening() as victim:
        elsewhere = f"http://127.0.0.1:{victim.port}/"
        with listening(status, Location=elsewhere, x_amz_bucket_region=f"x@127.0.0.1:{victim.port}/") as evil:
            found = await store.probe(evil.access(), LAYOUT)
        assert isinstance(found, Unreachable)
        assert evil.asked
        assert victim.asked == []


async def test_every_call_names_the_account_that_the_bucket_must_belong_to(store):
    with listening() as server:
        access = server.access()
        owned = Access(access.endpoint_url, access_key="key", secret_key="secret", expected_bucket_owner="123456789012")
        await store.probe(access, LAYOUT)
        await store.commits(owned, LAYOUT)
        await store.verify(owned, LAYOUT, f"{LAYOUT.base}commits/i1-g0001.json")
    assert [one.get("x-amz-expected-bucket-owner") for one in server.asked] == [
        None,
        "123456789012",
        "123456789012",
    ]
