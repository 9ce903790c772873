"""Objects, parts and ranges without the SDK's work: as botocore would ask, and by botocore where anything is not as expected."""

from __future__ import annotations

import functools
import io
import re
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

import boto3
import pytest
from botocore import exceptions
from botocore.awsrequest import AWSResponse
from botocore.compat import HTTPHeaders
from botocore.config import Config
from hypothesis import example, given, settings
from hypothesis import strategies as st
from urllib3.response import HTTPResponse

from trainingrun_operator.checkpoints import direct
from trainingrun_operator.checkpoints.bucket import Bucket, NoChecksumsError, crc64, encode
from trainingrun_operator.checkpoints.direct import Direct, Form
from trainingrun_operator.checkpoints.signing import Signer

CRC = "rosUhgp5mIg="
SERVERS = {
    "https://s3.example.com": "path",
    "http://s3.example.com:9000": "path",
    "https://[2001:db8::1]:9000": "path",
    "https://s3.example.com/": "virtual",
    "": "auto",
}


def made(url: str = "", token: str | None = None, style: Any = "path", **keys: str) -> Any:
    """A client as the agent has it."""
    session = _session()
    return session.client(
        "s3",
        endpoint_url=url or None,
        region_name="eu-west-1",
        aws_access_key_id=keys.get("key", "AKIA"),
        aws_secret_access_key=keys.get("secret", "s/e+c"),
        aws_session_token=token,
        config=Config(
            s3={"addressing_style": style, "payload_signing_enabled": url.startswith("http:")},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            retries={"mode": "standard", "max_attempts": 2},
        ),
    )


@functools.cache
def _session():
    return boto3.session.Session()


class Built:
    """What botocore and we build for the same calls; nothing is sent."""

    def __init__(self, url: str, token: str | None) -> None:
        self.client = made(url, token, SERVERS[url])
        self.direct = Direct(self.client, "my-bucket")
        self.token = token
        self.seen: Any = None
        self.client.meta.events.register_last("before-send.s3", self._keep)

    def _keep(self, request, **_):
        self.seen = request
        return AWSResponse(request.url, 200, HTTPHeaders(), HTTPResponse(io.BytesIO(), preload_content=False))

    def ours(self, kind: str, request: direct._Request) -> bytes:
        form = {"put": self._put, "part": self._part, "range": self._range}[kind]()
        assert isinstance(form, Form)
        date = datetime.strptime(self.seen.headers["x-amz-date"].decode(), "%Y%m%dT%H%M%S%z")
        signer = Signer("AKIA", "s/e+c", self.token, form.region, form.service)
        return form.head(signer, request, date.timestamp())

    def _put(self):
        return self.direct._form("put", IfNoneMatch="*", Body=b"", ChecksumCRC64NVME="AAAAAAAAAAA=")

    def _part(self):
        own = frozenset({"partNumber", "uploadId"})
        return self.direct._form("part", own, UploadId="u", PartNumber=1, Body=b"", ChecksumCRC64NVME="AAAAAAAAAAA=")

    def _range(self):
        return self.direct._form("range", Range="bytes=0-0")


built = functools.cache(Built)


def lines(head: bytes) -> tuple[str, dict[str, str]]:
    first, *rest = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    return first, dict(line.split(": ", 1) for line in rest)


def check_equal(seen, head: bytes) -> None:
    """Both ask for the same with the same signature, and ours does not wait for `100 Continue`."""
    url = urlsplit(seen.url)
    first, headers = lines(head)
    method, target, version = first.split(" ")
    path, _, query = target.partition("?")
    assert (method, path, version) == (seen.method, url.path, "HTTP/1.1")
    assert sorted(query.split("&")) == sorted(url.query.split("&"))
    theirs = {
        name.lower(): value.decode() if isinstance(value, bytes) else value for name, value in seen.headers.items()
    }
    for name in ("expect", "amz-sdk-invocation-id", "amz-sdk-request"):
        theirs.pop(name, None)
    assert headers == theirs


keys = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)
ids = st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), min_size=1, max_size=20)
servers = st.sampled_from(sorted(SERVERS))
tokens = st.sampled_from([None, "FwoGZXIvYXdzE/+=="])


@settings(deadline=None, max_examples=50)
@given(servers, tokens, keys, st.binary(max_size=100))
@example("", "FwoGZXIvYXdzE/+==", "a b/+~/ü/%2F/(1)*'!", b"")
@example("https://[2001:db8::1]:9000", None, "run/r0/i1-g0001-a/files/a//b/./c", b"x")
def test_an_object_is_written_by_the_request_of_botocore(server, token, key, body):
    both = built(server, token)
    both.client.put_object(Bucket="my-bucket", Key=key, Body=body, ChecksumCRC64NVME=CRC, IfNoneMatch="*")
    seen = both.seen
    check_equal(seen, both.ours("put", direct._Request(key, {}, {"x-amz-checksum-crc64nvme": CRC}, body)))


@settings(deadline=None, max_examples=50)
@given(servers, tokens, keys, ids, st.integers(1, 10_000), st.binary(min_size=1, max_size=100))
@example("http://s3.example.com:9000", None, "k", "2~a+b/c= d&e=%2F", 3, b"x")
def test_a_part_is_sent_by_the_request_of_botocore(server, token, key, upload, number, body):
    both = built(server, token)
    both.client.upload_part(
        Bucket="my-bucket", Key=key, UploadId=upload, PartNumber=number, Body=body, ChecksumCRC64NVME=CRC
    )
    query = {"partNumber": str(number), "uploadId": upload}
    check_equal(both.seen, both.ours("part", direct._Request(key, query, {"x-amz-checksum-crc64nvme": CRC}, body)))


@settings(deadline=None, max_examples=50)
@given(servers, tokens, keys, st.none() | ids)
@example("", None, "k", "3/L4kqtJlcpXroDTDmJ+rmSpXd3dIbrHY+MTRCxf3vjVBH40Nr8X8gdRQBpUMLUo")
def test_a_range_is_asked_for_by_the_request_of_botocore(server, token, key, version):
    both = built(server, token)
    more = {"VersionId": version} if version else {}
    both.client.get_object(Bucket="my-bucket", Key=key, Range="bytes=5-9", **more)
    query = {"versionId": version} if version else {}
    check_equal(both.seen, both.ours("range", direct._Request(key, query, {"range": "bytes=5-9"}, b"")))


# -- answers --------------------------------------------------------------------------------------------------------


@dataclass
class Store:
    """Keeps objects, and answers in the ways that a test names: one for each request, then as S3 does."""

    url: str = ""
    bodies: dict[str, bytes] = field(default_factory=dict)
    ways: list[str] = field(default_factory=list)
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    always: str = ""
    checksums: bool = True

    @property
    def ours(self) -> list[bool]:
        """Of each request, whether it was sent without the SDK."""
        return ["amz-sdk-request" not in headers for _, headers in self.asked]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    store: Store

    def do_any(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        store, key = self.store, urlsplit(self.path).path
        store.asked.append((self.command, {name.lower(): value for name, value in self.headers.items()}))
        way = store.ways.pop(0) if store.ways else store.always
        if way == "hang up":
            self.close_connection = True
            return
        if way.isdecimal():
            self.say(int(way), b"<Error><Code>%b</Code></Error>" % (b"SlowDown" if way == "503" else b"AccessDenied"))
        elif self.command == "PUT" and key in store.bodies and "partNumber" not in self.path:
            self.say(412, b"<Error><Code>PreconditionFailed</Code></Error>")
        elif self.command == "PUT":
            store.bodies[key] = body
            crc = {"x-amz-checksum-crc64nvme": self.headers["x-amz-checksum-crc64nvme"]} if store.checksums else {}
            etag = {} if way == "no etag" else {"ETag": '"e"'}
            self.say(200, b"", crc | etag, chunked=way == "in chunks")
        elif self.command == "HEAD":
            crc = {"x-amz-checksum-crc64nvme": encode(crc64(store.bodies[key]))} if store.checksums else {}
            self.say(200, store.bodies[key], crc)
        else:
            first, last = map(int, re.findall(r"\d+", self.headers["Range"]))
            self.say(206, store.bodies[key][first : last + 1], cut=way == "cut")

    do_PUT = do_GET = do_HEAD = do_any  # noqa: N815  # http.server's names

    def say(self, status, body, headers=(), *, chunked=False, cut=False):
        self.send_response_only(status)
        for name, value in dict(headers).items():
            self.send_header(name, value)
        if chunked:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if cut else body)
        if chunked:
            self.wfile.write(b"0\r\n\r\n")
        self.close_connection |= cut

    def log_message(self, *_):
        """The test looks at what it needs."""


@contextmanager
def serving():
    store = Store()
    with ThreadingHTTPServer(("127.0.0.1", 0), type("Of", (Handler,), {"store": store})) as server:
        server.daemon_threads = True
        store.url = f"http://127.0.0.1:{server.server_address[1]}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield store
        finally:
            server.shutdown()


@pytest.fixture
def store(monkeypatch):
    monkeypatch.setattr(direct, "PAUSE_SECONDS", 0.01)
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with serving() as running:
        yield running


@pytest.fixture
def bucket(store):
    return Bucket(made(store.url), "runs")


def received(bucket: Bucket, key: str, offset: int, length: int) -> bytes:
    got = bytearray(length)

    def take(at: int, piece: memoryview) -> None:
        got[at : at + len(piece)] = piece

    assert bucket.get_range(key, offset, length, take) == length
    return bytes(got)


BODY = bytes(range(256)) * 4096
"""1 MiB."""


def test_objects_parts_and_ranges_go_and_come_without_the_sdk(store, bucket):
    stored = bucket.put("k", BODY)
    assert (stored.size, stored.crc, stored.etag) == (len(BODY), encode(crc64(BODY)), '"e"')
    assert received(bucket, "k", 5, 700_000) == BODY[5:700_005]
    part = bucket.put_part("p", "u", 3, BODY, crc64(BODY))
    assert (part.number, part.size, part.etag) == (3, len(BODY), '"e"')
    assert store.bodies == {"/runs/k": BODY, "/runs/p": BODY}
    assert store.ours == [True, True, True]
    assert all("expect" not in headers for _, headers in store.asked)


def test_an_object_that_is_there_already_is_compared(store, bucket):
    assert bucket.put("k", BODY) == bucket.put("k", BODY)._replace(etag='"e"')
    assert [method for method, _ in store.asked] == ["PUT", "PUT", "HEAD"]


def test_a_store_that_keeps_no_checksum_is_found(store, bucket):
    store.checksums = False
    with pytest.raises(NoChecksumsError):
        bucket.put("k", BODY)


@pytest.mark.parametrize("way", ["503", "500", "403", "hang up", "no etag", "in chunks"])
def test_what_is_no_plain_success_is_asked_for_again_by_the_sdk(store, bucket, way):
    counts: list[int] = []
    store.ways = [way]
    bucket.put_part("p", "u", 1, BODY, crc64(BODY), counts.append)
    assert store.ours == [True, False]
    assert sum(counts) == len(BODY), "Progress counts each byte once, however often it is sent."


def test_a_range_that_is_cut_comes_again_from_its_start(store, bucket):
    store.bodies["/runs/k"] = BODY
    store.ways = ["cut"]
    assert received(bucket, "k", 0, len(BODY)) == BODY
    assert store.ours == [True, False]


def test_a_connection_that_the_server_has_ended_meanwhile_costs_no_detour(store, bucket):
    bucket.put("a", BODY)
    store.ways = ["hang up"]
    bucket.put("b", BODY)
    assert store.ours == [True, True, True]


def test_a_store_that_only_the_sdk_understands_is_left_to_it(store, bucket, monkeypatch):
    monkeypatch.setattr(direct, "PAUSE_SECONDS", 60.0)
    store.always = "in chunks"
    for number in range(5):
        bucket.put_part("p", "u", number + 1, b"x", crc64(b"x"))
    assert store.ours == [True] + [False] * 5


def test_a_refusal_that_lasts_is_the_sdks_error(store, bucket):
    store.always = "403"
    with pytest.raises(exceptions.ClientError, match="AccessDenied"):
        bucket.put("k", BODY)


def test_a_disk_that_is_full_is_no_failure_of_the_store(store, bucket):
    store.bodies["/runs/k"] = BODY

    def take(_at, _piece):
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        bucket.get_range("k", 0, len(BODY), take)
    assert store.ours == [True]


def test_a_proxy_of_the_environment_is_the_sdks(store, monkeypatch):
    monkeypatch.setenv("http_proxy", store.url)
    bucket = Bucket(made("http://s3.example.invalid"), "runs")
    assert bucket._direct._form("range", Range="bytes=0-0") is None
    store.always = "403"
    with pytest.raises(exceptions.ClientError):
        bucket.put("k", b"x")
    assert store.ours == [False]


def test_keys_that_are_renewed_sign_the_next_request(store):
    client = made(store.url, key="old")
    bucket = Bucket(client, "runs")
    bucket.put("a", b"x")
    credentials = client._get_credentials()
    credentials.access_key, credentials.token = "new", "session"
    bucket.put("b", b"x")
    (_, before), (_, after) = store.asked
    assert "Credential=old/" in before["authorization"]
    assert "Credential=new/" in after["authorization"]
    assert after["x-amz-security-token"] == "session"
    assert store.ours == [True, True]


def test_keys_that_come_late_are_used_from_then_on(store, monkeypatch):
    client = made(store.url)
    bucket = Bucket(client, "runs")
    there = client._get_credentials()
    with monkeypatch.context() as missing:
        missing.setattr(client._request_signer, "_credentials", None)
        with pytest.raises(exceptions.NoCredentialsError):
            bucket.put("a", b"x")
    assert client._get_credentials() is there
    bucket.put("a", b"x")
    assert store.ours == [True]
