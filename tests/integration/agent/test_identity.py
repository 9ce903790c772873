"""The agent without a Secret: a real process whose keys come from the SDK's own chain, and the bucket's owner in every call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from integration import aws_identity
from integration.agent.checkpoints import MIB, hf_checkpoint
from integration.agent.pods import wait_for
from moto.server import ThreadedMotoServer
from ports import free_port

from trainingrun_operator.api.exchange import SaveRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from integration.agent.pods import Pod

pytestmark = pytest.mark.s3

ACCOUNT = "123456789012"
LONG_SECONDS = 100
"""For a process that imports what it needs and asks for its identity, on a machine that does other things."""
NO_MACHINE = {"AWS_EC2_METADATA_DISABLED": "true"}
"""No machine role below the pod's."""


@pytest.fixture(scope="module")
def sts() -> Iterator[str]:
    """Address of moto's STS."""
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@dataclass
class Keyless:
    """Makes pods without a Secret, before a store that takes temporary credentials only."""

    make_pod: Callable[..., Pod]
    gate: aws_identity.Gate

    def __call__(self, environ: dict[str, str], **options: Any) -> Pod:
        pod = self.make_pod(endpoint=self.gate.url, secret_dir="", **({"expected_bucket_owner": ACCOUNT} | options))
        pod.environ = NO_MACHINE | environ
        return pod


@pytest.fixture
def keyless(make_pod, server):
    with aws_identity.temporary_only(server, ACCOUNT) as gate:
        yield Keyless(make_pod, gate)


def committed(store, count=1):
    return wait_for(lambda: found if len(found := store.commits()) >= count else None, LONG_SECONDS)


def test_a_web_identity_token_is_all_that_agent_and_restore_need(keyless, store, sts, tmp_path):
    pod = keyless(aws_identity.irsa(tmp_path, sts)).start()
    files = hf_checkpoint(pod.volume, 100) | {"checkpoint-100/big.bin": b"7" * (17 * MIB)}
    (pod.volume / "checkpoint-100" / "big.bin").write_bytes(files["checkpoint-100/big.bin"])
    pod.annotate(save=SaveRequest(id="stop", ended=True))
    commit = wait_for(lambda: next((one for one in store.commits() if one.final), None), LONG_SECONDS)
    assert store.content(commit) == files
    gate = keyless.gate
    assert all(key.startswith("ASIA") for key in gate.access_keys)
    assert gate.owners == {ACCOUNT}, "every call names the account, also those of a multipart upload"
    assert gate.proxy.count(lambda request: request.is_part) >= 2
    pod.kill()
    again = keyless(aws_identity.irsa(tmp_path, sts))
    again.volume = tmp_path / "elsewhere"
    again.volume.mkdir()
    assert again.restore() == 0
    assert (again.volume / "checkpoint-100" / "big.bin").read_bytes() == files["checkpoint-100/big.bin"]


def test_the_endpoint_of_eks_pod_identity_is_asked_with_the_pods_token_and_again_when_keys_expire(
    keyless, store, tmp_path
):
    with aws_identity.pod_identity(seconds=1) as endpoint:
        pod = keyless(aws_identity.associated(tmp_path, endpoint.url)).start()
        hf_checkpoint(pod.volume, 100)
        committed(store)
        before = len(keyless.gate.access_keys)
        hf_checkpoint(pod.volume, 200)
        committed(store, 2)
        assert set(endpoint.asked) == {aws_identity.TOKEN}
        assert len(keyless.gate.access_keys) > before


def test_an_endpoint_that_starts_after_the_agent_needs_no_restart(keyless, store, tmp_path):
    port = free_port()
    pod = keyless(aws_identity.associated(tmp_path, f"http://127.0.0.1:{port}/v1/credentials")).start()
    hf_checkpoint(pod.volume, 100)
    report = pod.reports(lambda report: report.error, LONG_SECONDS)
    assert report.error.code == "NoCredentials"
    assert report.error.message.startswith("the pod's own AWS identity gives no credentials (")
    with aws_identity.pod_identity(port):
        committed(store)
        assert pod.reports(lambda report: report.commit, LONG_SECONDS).error is None


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        pytest.param(lambda *_: {}, "the pod has no AWS identity of its own", id="none at all"),
        pytest.param(
            lambda folder, sts: aws_identity.irsa(folder, sts) | {"AWS_WEB_IDENTITY_TOKEN_FILE": str(folder / "none")},
            "/none: No such file or directory",
            id="a token that is not mounted",
        ),
        pytest.param(
            lambda folder, sts: aws_identity.irsa(folder, sts) | {"AWS_ENDPOINT_URL_STS": "http://127.0.0.1:1"},
            "EndpointConnectionError",
            id="an STS that does not answer",
        ),
        pytest.param(
            lambda folder, sts: aws_identity.irsa(folder, sts) | {"AWS_ROLE_ARN": "role"},
            "Invalid length for parameter RoleArn",
            id="a role that is none",
        ),
    ],
)
def test_an_identity_that_is_missing_is_said_with_what_to_do_and_the_agent_goes_on(
    keyless, store, sts, tmp_path, environ, said
):
    pod = keyless(environ(tmp_path, sts)).start()
    hf_checkpoint(pod.volume, 100)
    report = pod.reports(lambda report: report.error and report.upload_failures > 1, LONG_SECONDS)
    assert report.error.code == "NoCredentials"
    assert said in report.error.message
    assert "associate a role with its ServiceAccount" in report.error.message
    assert "credentialsSecretName" in report.error.message
    assert pod.process.poll() is None
    assert store.keys() == []


def test_a_role_that_does_not_trust_the_service_account_is_said(keyless, store, tmp_path):
    with aws_identity.refusing_sts() as sts:
        pod = keyless(aws_identity.irsa(tmp_path, sts)).start()
        hf_checkpoint(pod.volume, 100)
        report = pod.reports(lambda report: report.error, LONG_SECONDS)
    assert report.error.code == "NoCredentials"
    assert "(AssumeRoleWithWebIdentity failed with AccessDenied)" in report.error.message


def test_a_bucket_of_another_account_gets_nothing(keyless, store, sts, tmp_path):
    pod = keyless(aws_identity.irsa(tmp_path, sts), expected_bucket_owner="210987654321").start()
    hf_checkpoint(pod.volume, 100)
    assert pod.reports(lambda report: report.error, LONG_SECONDS).error.code == "AccessDenied"
    assert store.keys() == []
    assert keyless.gate.owners == {"210987654321"}
