"""The operator's proof with its own identity: the SDK's own chain against moto's STS and the endpoint of EKS Pod Identity, as a pod has them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, cast

import pytest
import s3server
from builders import NAMESPACE, checkpoint_spec, make_agent, make_run
from integration import aws_identity
from moto.server import ThreadedMotoServer
from shipment import RUN, Shipment

from trainingrun_operator.api.exchange import CommitSeen
from trainingrun_operator.checkpoints.keys import Layout
from trainingrun_operator.checkpoints.s3 import Access
from trainingrun_operator.core.destinations import destinations_of
from trainingrun_operator.core.facts.bucket import Unreachable, Verified
from trainingrun_operator.core.facts.gathered import Source
from trainingrun_operator.core.memory import Memory
from trainingrun_operator.edge.gather.bucket import BucketReader
from trainingrun_operator.edge.gather.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.s3

ACCOUNT = "123456789012"
BUCKET = "runs"
RENEWED_SECONDS = 300
"""Of credentials that botocore renews before each use, because they expire in less than ten minutes."""


class NoSecrets:
    """The API server of a run that names no Secret: it is not asked for any."""

    async def secret(self, namespace: str, name: str) -> dict[str, bytes] | None:
        raise AssertionError(f"Secret {name} was asked for")


@pytest.fixture(scope="module")
def sts() -> Iterator[str]:
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with s3server.running(tmp_path_factory.mktemp("s3") / "buckets") as running:
        yield running


@pytest.fixture
def gate(server):
    """The store as the operator reaches it: it takes temporary credentials only."""
    with aws_identity.temporary_only(server, ACCOUNT) as gate:
        yield gate


@pytest.fixture(scope="module")
def shipped(server):
    """A commit of 40 files in the bucket."""
    client = server.client()
    client.create_bucket(Bucket=BUCKET)
    layout = Layout.of(f"s3://{BUCKET}/team", NAMESPACE, RUN.name, RUN.uid)
    shipment = Shipment(client, layout, files={f"checkpoint-1200/{n}.safetensors": b"x" * n for n in range(40)})
    shipment.send()
    yield shipment
    client.close()


@pytest.fixture
def pod(monkeypatch):
    """Give the operator's process the environment of a pod."""
    for name in [one for one in os.environ if one.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")

    def give(environ: dict[str, str]) -> None:
        for name, value in environ.items():
            monkeypatch.setenv(name, value)

    return give


async def proven(gate, shipped):
    """What the operator makes of the commit that the run's agent reports."""
    listed = destinations_of([
        {"endpoint": gate.url, "bucket": BUCKET, "identity": "operator", "expectedBucketOwner": ACCOUNT}
    ])  # fmt: skip
    spec = {"checkpoint": checkpoint_spec(destination=f"s3://{BUCKET}/team", s3={"endpointURL": gate.url})}
    run = make_run(spec=spec, name=RUN.name, uid=RUN.uid)
    order = shipped.order
    seen = CommitSeen(key=shipped.commit_key, incarnation=order.incarnation, generation=order.generation, step=1200)
    store = Store(threads=8)
    reader = BucketReader(cast("Any", NoSecrets()), store, listed)
    try:
        access = await reader.access(run)
        assert isinstance(access, Access), access
        assert access.own_identity
        found = None
        while found is None:
            # The proof is made beside the looks.
            answer = await reader.ask(run, (), {0: make_agent(commit=seen)}, Memory(read_at={next(iter(Source)): 1.0}))
            found = answer.answer or answer.verified
        return found
    finally:
        await reader.close()
        store.close()


def assert_proven(found, gate):
    assert isinstance(found, Verified), found
    assert found.commit.total_files == 40
    assert gate.owners == {ACCOUNT}, "Every request names the account that must own the bucket."
    assert gate.access_keys
    assert all(key.startswith("ASIA") for key in gate.access_keys)
    assert {request.method for request in gate.proxy.seen} <= {"GET", "HEAD"}


async def test_a_web_identity_token_is_all_that_the_proof_needs(gate, shipped, pod, sts, tmp_path):
    pod(aws_identity.irsa(tmp_path, sts))
    assert_proven(await proven(gate, shipped), gate)


async def test_the_endpoint_of_eks_pod_identity_is_asked_with_the_pods_token(gate, shipped, pod, tmp_path):
    with aws_identity.pod_identity() as endpoint:
        pod(aws_identity.associated(tmp_path, endpoint.url))
        assert_proven(await proven(gate, shipped), gate)
        assert set(endpoint.asked) == {aws_identity.TOKEN}
        assert gate.access_keys == {"ASIAPOD1"}, "Keys that last are asked for once."


@pytest.mark.parametrize("after", [2, 3, 20], ids=["before the first object", "after one object", "among the objects"])
async def test_credentials_that_expire_in_the_middle_of_a_proof_are_renewed(gate, shipped, pod, tmp_path, after):
    with aws_identity.pod_identity(seconds=RENEWED_SECONDS) as endpoint:
        pod(aws_identity.associated(tmp_path, endpoint.url))
        asks, asked, refused = gate.proxy.asks, [], []
        expired: set[str] = set()

        def expiring(method, path, headers):
            passed = asks(method, path, headers)
            key = aws_identity.key_of(headers)
            asked.append(key)
            if len(asked) == after:
                expired.update(asked)
            elif key in expired:
                refused.append(path)
                raise PermissionError("ExpiredToken")
            return passed

        gate.proxy.asks = expiring
        assert_proven(await proven(gate, shipped), gate)
    assert expired
    assert set(asked) - expired, "Renewed credentials made the rest of the proof."


async def test_an_identity_that_gives_no_credentials_is_no_verdict_about_the_checkpoint(gate, shipped, pod, tmp_path):
    with aws_identity.refusing_sts() as sts:
        pod(aws_identity.irsa(tmp_path, sts))
        found = await proven(gate, shipped)
    assert isinstance(found, Unreachable)
    assert found.code == "NoCredentials"
    assert gate.proxy.seen == []
