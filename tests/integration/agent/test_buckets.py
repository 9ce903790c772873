"""Buckets with rules of their own, and servers that send the agent elsewhere."""

from __future__ import annotations

import concurrent.futures
import itertools
from dataclasses import replace

import boto3
import pytest
import s3server
from botocore.config import Config
from integration.agent.checkpoints import MIB, hf_checkpoint
from integration.agent.pods import BUCKET, Store, wait_for
from integration.checkpoints.test_metadata_guard import listening

from trainingrun_operator.api.exchange import AgentConfig, RestoreSource, SaveRequest
from trainingrun_operator.checkpoints import bucket
from trainingrun_operator.checkpoints.s3 import Access
from trainingrun_operator.cli.main import run
from trainingrun_operator.cli.trouble import Exit
from trainingrun_operator.core.facts.bucket import Unreachable, Verified
from trainingrun_operator.edge.gather.store import Store as OperatorsStore

pytestmark = pytest.mark.s3

ENDED = SaveRequest(id="t1", ended=True)


@pytest.fixture(scope="module")
def keeping(tmp_path_factory):
    """A server whose buckets may keep versions and lock objects."""
    folder = tmp_path_factory.mktemp("versioned")
    with s3server.running(folder / "data", versions=folder / "versions") as running:
        yield running


def made(server, kind):
    """A bucket of this kind under the name that every test uses."""
    s3 = boto3.client(
        "s3",
        endpoint_url=server.endpoint_url,
        aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key,
        region_name=server.region,
        config=Config(s3={"addressing_style": "path"}),
    )
    if BUCKET not in [one["Name"] for one in s3.list_buckets()["Buckets"]]:
        s3.create_bucket(Bucket=BUCKET, ObjectLockEnabledForBucket=True)
    s3.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
    if kind == "locked":
        s3.put_object_lock_configuration(
            Bucket=BUCKET,
            ObjectLockConfiguration={
                "ObjectLockEnabled": "Enabled",
                "Rule": {"DefaultRetention": {"Mode": "COMPLIANCE", "Days": 1}},
            },
        )
    return s3


@pytest.mark.parametrize("kind", ["versioned", "locked"])
async def test_a_bucket_that_keeps_every_version_holds_one_of_each_key_and_verifies(make_pod, keeping, kind):
    s3 = made(keeping, kind)
    store = Store(keeping)
    pod = make_pod(store=store).start()
    hf_checkpoint(pod.volume, 100)
    wait_for(store.commits)
    files = hf_checkpoint(pod.volume, 200)
    pod.annotate(save=ENDED)
    commit = wait_for(lambda: next((one for one in store.commits() if one.final), None))
    assert files.items() <= store.content(commit).items()
    listed = s3.list_object_versions(Bucket=BUCKET, Prefix=store.layout.base)
    versions = [one["Key"] for one in listed["Versions"]]
    assert len(versions) == len(set(versions)), "No key is ever written twice."
    assert not listed.get("DeleteMarkers")
    access = Access(
        endpoint_url=keeping.endpoint_url,
        region=keeping.region,
        access_key=keeping.access_key,
        secret_key=keeping.secret_key,
    )
    operators = OperatorsStore(threads=4)
    try:
        assert isinstance(await operators.verify(access, store.layout, store.layout.commit(commit.order)), Verified)
    finally:
        operators.close()
    pod.kill()
    following = make_pod("llm-1", folder="another", store=store)
    assert following.restore() == 0
    assert {path.name for path in following.volume.iterdir()} >= {"checkpoint-200"}


@pytest.fixture
def requester_pays(proxy):
    """In front of a bucket of which every call is refused that does not say who pays, as S3 refuses it."""

    def asks(_method: str, _path: str, headers: list[tuple[str, str]]) -> list[tuple[str, str]]:
        if ("x-amz-request-payer", "requester") not in [(name.lower(), value) for name, value in headers]:
            raise PermissionError("AccessDenied")
        return headers

    proxy.asks = asks
    return proxy


async def test_a_requester_pays_bucket_is_used_by_every_side_where_the_run_says_so(
    make_pod, store, requester_pays, monkeypatch, capfd, tmp_path
):
    pod = make_pod(endpoint=requester_pays.url, requester_pays=True).start()
    files = hf_checkpoint(pod.volume, 100, 17 * MIB)
    first = wait_for(store.commits)[0]
    assert files.items() <= store.content(first).items()
    files = hf_checkpoint(pod.volume, 200)
    pod.annotate(save=ENDED)
    commit = wait_for(lambda: next((one for one in store.commits() if one.final), None))
    assert files.items() <= store.content(commit).items()
    server = store.server
    access = Access(requester_pays.url, server.region, server.access_key, server.secret_key)
    operators = OperatorsStore(threads=4)
    try:
        refused = await operators.probe(access, store.layout)
        paying = replace(access, requester_pays=True)
        assert await operators.probe(paying, store.layout) is None
        assert isinstance(await operators.verify(paying, store.layout, store.layout.commit(commit.order)), Verified)
    finally:
        operators.close()
    assert isinstance(refused, Unreachable)
    assert refused.code == "AccessDenied"
    assert "set spec.checkpoint.s3.requesterPays if it is a Requester Pays bucket" in refused.message
    pod.kill()
    following = make_pod("llm-1", folder="another", endpoint=requester_pays.url, requester_pays=True)
    assert following.restore() == 0
    assert {path.name for path in following.volume.iterdir()} >= {"checkpoint-200"}
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", server.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", server.secret_key)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", requester_pays.url)
    address = store.layout.uri(store.layout.base)
    assert plugin("checkpoints", "verify", address, "--requester-pays") == 0
    assert plugin("checkpoints", "download", address, "--requester-pays", "--to", str(tmp_path / "mine")) == 0
    capfd.readouterr()
    assert plugin("checkpoints", "list", address) == Exit.FORBIDDEN
    assert "a Requester Pays bucket needs --requester-pays" in capfd.readouterr().err


def plugin(*arguments: str) -> int:
    with concurrent.futures.ThreadPoolExecutor(1) as pool:  # it has an event loop of its own
        return int(pool.submit(run, arguments).result())


def test_a_run_that_starts_from_another_ones_requester_pays_bucket_pays_as_that_one_says(
    make_pod, store, requester_pays
):
    pod = make_pod().start()
    hf_checkpoint(pod.volume, 100)
    pod.annotate(save=ENDED)
    wait_for(lambda: next((one for one in store.commits() if one.final), None))
    pod.kill()
    source = RestoreSource(
        destination=f"s3://{BUCKET}/prefix", namespace="team", run="llm", run_uid=store.uid,
        endpoint_url=requester_pays.url, region=store.server.region, requester_pays=True,
    )  # fmt: skip
    other = make_pod("other-0", folder="other", store=Store(store.server), restore_from=source)
    assert other.restore() == 0
    assert {path.name for path in other.volume.iterdir()} >= {"checkpoint-100"}


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_server_that_sends_the_agent_elsewhere_is_not_followed(tmp_path, status):
    for name, value in (("AWS_ACCESS_KEY_ID", "key"), ("AWS_SECRET_ACCESS_KEY", "secret")):
        (tmp_path / name).write_text(value)
    with listening() as victim:
        elsewhere = {
            "Location": f"http://127.0.0.1:{victim.port}/",
            "x_amz_bucket_region": f"x@127.0.0.1:{victim.port}/",
        }
        with listening(status, **elsewhere) as evil:
            config = AgentConfig(
                namespace="ml", run="llama", run_uid="u", path="/c", destination="s3://runs/p",
                endpoint_url=f"http://127.0.0.1:{evil.port}", region="us-east-1", secret_dir=str(tmp_path),
            )  # fmt: skip
            with pytest.raises(bucket.StoreError):
                list(itertools.islice(bucket.Bucket(bucket.client(config), "runs").keys("p/"), 1))
        assert evil.asked
        assert victim.asked == []
