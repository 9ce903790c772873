"""A bucket in another region than the spec says: AWS's is found, and another server's is refused with its region."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

import pytest
from botocore import httpsession
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest, AWSResponse, HTTPHeaders
from botocore.credentials import Credentials
from integration.agent.checkpoints import MIB
from integration.agent.pods import BUCKET, wait_for
from shipment import RUN, Shipment

from trainingrun_operator.api.exchange import AgentConfig
from trainingrun_operator.checkpoints import bucket
from trainingrun_operator.checkpoints.keys import Layout
from trainingrun_operator.checkpoints.s3 import Access
from trainingrun_operator.cli.bucket import Checkpoints, Place
from trainingrun_operator.cli.trouble import TroubleError
from trainingrun_operator.core.facts.bucket import Unreachable
from trainingrun_operator.edge.gather.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable

    from integration.agent.proxy import Proxy, Request
    from s3server import S3Server

pytestmark = pytest.mark.s3

HOME = "eu-central-1"
"""Where the bucket is."""
WORDS = f"the bucket is in another region ({HOME})"


def error(code: str, status: int, request: Any) -> AWSResponse:
    """As S3 answers: the region in a header, and to HEAD nothing else."""
    body = f"<Error><Code>{code}</Code><Region>{HOME}</Region><Endpoint>{BUCKET}.s3.{HOME}.amazonaws.com</Endpoint></Error>"
    made: Any = AWSResponse(request.url, status, HTTPHeaders.from_pairs([("x-amz-bucket-region", HOME)]), None)
    made._content = b"" if request.method == "HEAD" else body.encode()
    return made  # type: ignore[no-any-return]


@dataclass
class Aws:
    """AWS with one bucket: names are of regions, and what arrives in the right one is answered by a server of the test."""

    server: S3Server
    send: Callable[..., AWSResponse]
    answers: tuple[str, int]
    """Code and status for a request that arrives elsewhere."""
    hosts: list[str] = field(default_factory=list)

    def __call__(self, session: httpsession.URLLib3Session, request: Any) -> AWSResponse:
        url = urlsplit(request.url)
        host = str(url.hostname)
        if not host.endswith(".amazonaws.com"):
            return self.send(session, request)
        self.hosts.append(host)
        scope = request.headers["Authorization"].decode().split("/")[2]
        if (host, scope) != (f"{BUCKET}.s3.{HOME}.amazonaws.com", HOME):
            return error(*self.answers, request)
        there = urlunsplit(
            url._replace(scheme="http", netloc=urlsplit(self.server.endpoint_url).netloc, path=f"/{BUCKET}{url.path}")
        )
        given = {name: value.decode() if isinstance(value, bytes) else value for name, value in request.headers.items()}
        kept = {name: value for name, value in given.items() if name.lower() not in {"authorization", "x-amz-date"}}
        again = AWSRequest(request.method, there, headers=kept, data=request.body)
        signer: Any = S3SigV4Auth(Credentials(self.server.access_key, self.server.secret_key), "s3", self.server.region)
        signer.payload = lambda _: kept.get("X-Amz-Content-SHA256", "UNSIGNED-PAYLOAD")
        signer.add_auth(again)
        prepared = again.prepare()
        prepared.stream_output = request.stream_output
        return self.send(session, prepared)


@pytest.fixture
def aws(answers, server, monkeypatch) -> Aws:
    made = Aws(server, httpsession.URLLib3Session.send, answers)

    def send(session: httpsession.URLLib3Session, request: Any) -> AWSResponse:
        return made(session, request)  # a function gets the session

    monkeypatch.setattr(httpsession.URLLib3Session, "send", send)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", server.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", server.secret_key)
    return made


def agents(region: str, endpoint: str = "") -> bucket.Bucket:
    config = AgentConfig(
        namespace="ml",
        run="llama",
        run_uid="u",
        path="/c",
        destination=f"s3://{BUCKET}/p",
        region=region,
        endpoint_url=endpoint,
    )
    return bucket.Bucket(bucket.client(config), BUCKET)


@pytest.mark.parametrize(
    ("region", "answers"),
    [
        pytest.param("", ("AuthorizationHeaderMalformed", 400), id="no region is named"),
        pytest.param("us-west-2", ("PermanentRedirect", 301), id="another region is named"),
        pytest.param("us-east-1", ("IllegalLocationConstraintException", 400), id="it is a region to opt in to"),
    ],
)
async def test_a_bucket_of_aws_is_found_in_its_own_region(aws, store, region):
    """By the agent, which writes and reads; by the operator, which proves; and by the plugin."""
    shipment = Shipment(store.s3, Layout.of(f"s3://{BUCKET}/{store.uid}", RUN.namespace, RUN.name, RUN.uid))
    mine, key = agents(region), f"{shipment.layout.base}model"
    assert mine.head(key) is None, "HEAD first: a refusal of it says nothing but the region."
    mine.put(key, b"weights")
    mine.copy(key, f"{key}-copy", 7, bucket.encode(bucket.crc64(b"weights")))
    large = bytes(6 * MIB)
    upload = mine.begin(f"{key}-large")
    mine.complete(f"{key}-large", upload, [mine.put_part(f"{key}-large", upload, 1, large, bucket.crc64(large))])
    assert mine.get(f"{key}-copy", 100) == b"weights"
    assert {found for found, _ in mine.keys(key)} == {key, f"{key}-copy", f"{key}-large"}
    commit = shipment.send()
    access = Access(region=region, access_key="key", secret_key="secret")
    operators = Store(threads=4)
    try:
        assert await operators.probe(access, shipment.layout) is None
        assert await operators.commits(access, shipment.layout) == (commit,)
    finally:
        operators.close()
    plugins = Checkpoints(Place(Access(region=region, own_identity=True), shipment.layout))
    try:
        assert [one.key for one in plugins.listed()] == [commit]
    finally:
        plugins.close()
    assert f"{BUCKET}.s3.{HOME}.amazonaws.com" in aws.hosts


@pytest.fixture(
    params=[
        pytest.param(("PermanentRedirect", 301), id="by the address"),
        pytest.param(("AuthorizationHeaderMalformed", 400), id="by the signature"),
    ]
)
def elsewhere(request, proxy: Proxy) -> Proxy:
    """A server that is named by the spec, and has the bucket in another region."""
    code, status = request.param
    proxy.answer = lambda _: (status, code)

    def headers(_: Request, given: list[tuple[str, str]]) -> list[tuple[str, str]]:
        return [*given, ("x-amz-bucket-region", HOME)]

    proxy.headers = headers
    return proxy


async def test_a_named_servers_bucket_in_another_region_is_refused_with_its_region(elsewhere, store, monkeypatch):
    server, layout = store.server, store.layout
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", server.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", server.secret_key)
    mine = agents("us-west-2", elsewhere.url)
    for call in (
        lambda: mine.head(f"{layout.base}x"),
        lambda: mine.put(f"{layout.base}x", b"x"),
        lambda: mine.get(f"{layout.base}x", 10),
        lambda: list(mine.keys(layout.base)),
    ):
        with pytest.raises(bucket.StoreError) as refused:
            call()
        assert bucket.code_of(refused.value) in {"PermanentRedirect", "AuthorizationHeaderMalformed"}
        assert WORDS in bucket.describe(refused.value)
        assert "correct spec.checkpoint.s3.region" in bucket.describe(refused.value)
    access = Access(elsewhere.url, "us-west-2", server.access_key, server.secret_key)
    operators = Store(threads=4)
    try:
        for found in (
            await operators.probe(access, layout),
            await operators.commits(access, layout),
            await operators.verify(access, layout, f"{layout.base}commits/i1-g0001.json"),
        ):
            assert isinstance(found, Unreachable)
            assert f"it is in another region ({HOME}): correct spec.checkpoint.s3.region" in found.message
    finally:
        operators.close()
    plugins = Checkpoints(Place(Access(elsewhere.url, "us-west-2", own_identity=True), layout))
    try:
        with pytest.raises(TroubleError, match="the bucket is in another region: set --region"):
            plugins.listed()
    finally:
        plugins.close()


async def test_what_a_server_says_in_place_of_a_region_is_not_shown(elsewhere, store):
    elsewhere.headers = lambda _, given: [*given, ("x-amz-bucket-region", "Call 555-0100!")]
    operators = Store(threads=4)
    try:
        access = Access(elsewhere.url, "us-west-2", store.server.access_key, store.server.secret_key)
        found = await operators.probe(access, store.layout)
    finally:
        operators.close()
    assert isinstance(found, Unreachable)
    assert "555" not in found.message


def test_a_restore_from_a_bucket_in_another_region_retries_with_words_in_its_log(elsewhere, make_pod):
    pod = make_pod(endpoint=elsewhere.url)
    process = pod.start_restore()
    try:
        wait_for(lambda: pod.log.exists() and WORDS in pod.log.read_text())
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("region", ["eu-west-1", ""])
def test_a_server_that_knows_another_region_only_is_signed_for_that_one(store, monkeypatch, region):
    """The S3 server of the tests refuses the signature of another region and names its own."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", store.server.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", store.server.secret_key)
    mine = agents(region, store.server.endpoint_url)
    mine.put(f"{store.layout.base}x", b"x")
    assert mine.head(f"{store.layout.base}x") is not None
