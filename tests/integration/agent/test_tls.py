"""Stores whose certificate is not trusted, has expired or is of another server: agent, operator and plugin say which, and what to do."""

from __future__ import annotations

import pytest
import s3server
from integration.agent.checkpoints import hf_checkpoint
from integration.agent.pods import BUCKET, wait_for
from tls import Authority, listening

from trainingrun_operator.api import names
from trainingrun_operator.checkpoints.keys import Layout
from trainingrun_operator.checkpoints.s3 import Access
from trainingrun_operator.cli.main import run as main
from trainingrun_operator.cli.trouble import Exit
from trainingrun_operator.core.facts.bucket import Unreachable
from trainingrun_operator.edge.gather.store import Store as Operators

pytestmark = pytest.mark.s3

ELSEWHERE = "127.0.0.2"
SECRET_FIELD = "spec.checkpoint.s3.credentialsSecretName"
LAYOUT = Layout.of(f"s3://{BUCKET}/prefix", "team", "llm", "uid")


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority.of(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def servers(authority, server):
    """By what is wrong with them, their URLs."""
    with (
        listening(*authority.issue()) as right,
        listening(*authority.issue(days_from_now=(-3, -1))) as expired,
        listening(*authority.issue(days_from_now=(1, 3))) as early,
        listening(*authority.issue(ELSEWHERE)) as other,
    ):
        plain = server.endpoint_url.replace("http://", "https://")
        yield {"right": right, "expired": expired, "early": early, "other": other, "plain": plain}


GIVEN, NOT_GIVEN, GARBAGE = "given", "", "no PEM"
WRONG = [
    pytest.param("right", NOT_GIVEN, "CertificateNotTrusted", "is not signed by a CA that ", id="its CA is not given"),
    pytest.param("right", GARBAGE, "BadCertificate", "is not a PEM certificate: correct it", id="its CA is no certificate"),
    pytest.param("expired", GIVEN, "CertificateExpired", "has expired: renew it on the server", id="it has expired"),
    pytest.param("early", GIVEN, "CertificateNotYetValid", "not valid yet: are the clocks", id="it is not valid yet"),
    pytest.param("other", GIVEN, "CertificateOfAnotherName", "is for another name: use a name", id="it is of another server"),
    pytest.param("plain", GIVEN, "HandshakeFailed", "does a server with TLS 1.2 or newer listen", id="the server speaks no TLS"),
]  # fmt: skip


def pem(ca, authority):
    return authority.file.read_text() if ca == GIVEN else ca


@pytest.mark.parametrize(("kind", "ca", "code", "words"), WRONG)
def test_an_agent_says_what_is_wrong_with_the_certificate_of_its_store(
    make_pod, authority, servers, kind, ca, code, words
):
    pod = make_pod(endpoint=servers[kind])
    if ca:
        (pod.secret / names.CA).write_text(pem(ca, authority))
    error = pod.start().reports(lambda report: report.error).error
    assert error.code == code
    assert words in error.message
    assert error.message.startswith(f"{servers[kind]}: "), "It names the server, and no key."
    if kind == "right":
        assert names.CA in error.message
        assert SECRET_FIELD in error.message


def test_a_ca_that_is_added_or_replaced_is_used_without_a_restart(make_pod, authority, tmp_path):
    cert, key = authority.issue()
    with s3server.running(tmp_path / "s3" / "data", cert=cert, key=key) as secure:
        (secure.folder / BUCKET).mkdir()
        pod = make_pod(endpoint=secure.endpoint_url).start()
        hf_checkpoint(pod.volume, 100)
        pod.reports(lambda report: report.error and report.error.code == "CertificateNotTrusted")
        (pod.secret / names.CA).write_text("no PEM")
        pod.reports(lambda report: report.error and report.error.code == "BadCertificate")
        (pod.secret / names.CA).write_text(authority.file.read_text())
        pod.reports(lambda report: report.commit and report.error is None)
        pod.kill()
        other = make_pod("llm-1", folder="another", endpoint=secure.endpoint_url)
        (other.secret / names.CA).write_text(authority.file.read_text())
        assert other.restore() == 0
        assert (other.volume / "checkpoint-100" / "trainer_state.json").is_file()


def test_a_restore_says_it_in_its_log(make_pod, servers):
    pod = make_pod(endpoint=servers["right"])
    restore = pod.start_restore()
    wait_for(lambda: pod.log.exists() and "CertificateNotTrusted" in pod.log.read_text())
    restore.kill()
    restore.wait()
    assert (
        f"{servers['right']}: the server's certificate is not signed by a CA that the pod trusts" in pod.log.read_text()
    )


@pytest.mark.parametrize(("kind", "ca", "code", "words"), WRONG)
async def test_the_operator_says_it_before_a_run_starts(authority, servers, kind, ca, code, words):
    operators = Operators(threads=1)
    try:
        found = await operators.probe(Access(servers[kind], "", "key", "secret", ca_pem=pem(ca, authority)), LAYOUT)
    finally:
        operators.close()
    assert isinstance(found, Unreachable)
    assert found.code == code
    assert words in found.message
    assert f"at {servers[kind]} cannot be read" in found.message
    if ca == NOT_GIVEN:
        assert "put the certificate of that CA as ca.crt in the credentials Secret" in found.message
        assert SECRET_FIELD in found.message


@pytest.mark.parametrize(("kind", "ca", "code", "words"), WRONG)
def test_the_plugin_says_it_with_what_a_person_can_set(
    authority, servers, kind, ca, code, words, monkeypatch, tmp_path, capfd
):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.delenv("AWS_CA_BUNDLE", raising=False)
    if ca:
        (tmp_path / "bundle").write_text(pem(ca, authority))
        monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "bundle"))
    place = LAYOUT.uri(LAYOUT.base)
    assert main(("checkpoints", "list", place, "--endpoint-url", servers[kind])) == Exit.NO_CLUSTER
    said = capfd.readouterr().err
    assert f"at {servers[kind]} cannot be read ({code})" in said
    assert (words if code != "BadCertificate" else "the file in AWS_CA_BUNDLE has no PEM certificate") in said
    assert ("set AWS_CA_BUNDLE to a file with the certificate of that CA" in said) == (ca == NOT_GIVEN)
