"""Where the API server is, what is trusted and shown, and whose token it is."""

from __future__ import annotations

import base64
import ssl
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from trainingrun_operator.edge.apiserver import connection as module
from trainingrun_operator.edge.apiserver.connection import (
    Connection,
    NoClusterError,
    OwnToken,
    service_account_token,
    without_credentials,
)


def kubeconfig(folder, **cluster):
    path = folder / "config"
    path.write_text(
        yaml.safe_dump({
            "current-context": "here",
            "contexts": [{"name": "there", "context": {"cluster": "other", "user": "x"}}, {"name": "here", "context": {"cluster": "this", "user": "admin"}}],
            "clusters": [{"name": "other", "cluster": {"server": "https://other"}}, {"name": "this", "cluster": {"server": "https://this:6443", **cluster}}],
            "users": [{"name": "admin", "user": {"token": "secret", "client-certificate-data": "x", "client-key-data": "x"}}],
        })
    )  # fmt: skip
    return {"KUBECONFIG": str(path)}


def test_a_kubeconfig_tells_the_server_and_its_ca_and_lends_nobodys_credentials(tmp_path):
    found = without_credentials(kubeconfig(tmp_path, **{"certificate-authority-data": "Y2E="}))
    assert (found.server, found.ca_data) == ("https://this:6443", "Y2E=")
    assert (found.token, found.certificate_data, found.certificate_path, found.private_key_data) == (None,) * 4
    assert without_credentials(kubeconfig(tmp_path, **{"certificate-authority": "ca.pem"})).ca_path == str(
        tmp_path / "ca.pem"
    )


def test_in_a_pod_it_is_the_pods_own_cluster(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "CA_FILE", tmp_path / "ca.crt")
    environ = {
        "KUBERNETES_SERVICE_HOST": "fd00::1",
        "KUBERNETES_SERVICE_PORT": "6443",
        "KUBECONFIG": str(tmp_path / "none"),
    }
    with pytest.raises(NoClusterError):
        without_credentials(environ)
    (tmp_path / "ca.crt").write_text("ca")
    assert without_credentials(environ).server == "https://[fd00::1]:6443"
    assert without_credentials(environ).token is None


@pytest.mark.parametrize("text", ["", "[]", "current-context: x\ncontexts: []\n", "a: b: c"])
def test_without_a_cluster_it_says_what_to_set(tmp_path, text):
    (tmp_path / "config").write_text(text)
    with pytest.raises(NoClusterError, match=r"Not in a pod, and the kubeconfig cannot be used .*: set KUBECONFIG"):
        without_credentials({"KUBECONFIG": str(tmp_path / "config")})


def test_the_dashboards_service_account_token_is_read_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "TOKEN_FILE", tmp_path / "token")
    assert service_account_token() == ""
    (tmp_path / "token").write_text("first\n")
    assert service_account_token() == "first"
    (tmp_path / "token").write_text("second\n")
    assert service_account_token() == "second"


def certificate():
    """A self-signed certificate and its key, PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kubernetes")])
    start = datetime.now(UTC) - timedelta(hours=1)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return made.public_bytes(serialization.Encoding.PEM), secret


def test_a_token_that_no_file_renews_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "TOKEN_FILE", tmp_path / "token")
    assert OwnToken(Connection("https://x", token="from kubeconfig"))() == "from kubeconfig"
    assert OwnToken(Connection("https://x"))() == ""


def test_only_the_clusters_own_ca_is_trusted():
    pem, _ = certificate()
    context = Connection("https://x", ca_data=base64.b64encode(pem).decode()).ssl_context()
    assert len(context.get_ca_certs()) == 1
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname


def test_the_ca_may_be_a_file(tmp_path):
    pem, _ = certificate()
    (tmp_path / "ca.crt").write_bytes(pem)
    assert len(Connection("https://x", ca_path=str(tmp_path / "ca.crt")).ssl_context().get_ca_certs()) == 1


def test_insecure_is_only_what_the_kubeconfig_says():
    context = Connection("https://x", insecure=True).ssl_context()
    assert context.verify_mode is ssl.CERT_NONE
    assert not context.check_hostname


def test_a_client_certificate_is_loaded_from_data_and_from_files(tmp_path):
    pem, key = certificate()
    (tmp_path / "crt").write_bytes(pem)
    (tmp_path / "key").write_bytes(key)
    data: dict[str, Any] = {
        "certificate_data": base64.b64encode(pem).decode(),
        "private_key_data": base64.b64encode(key).decode(),
    }
    Connection("https://x", **data).ssl_context()
    Connection(
        "https://x", certificate_path=str(tmp_path / "crt"), private_key_path=str(tmp_path / "key")
    ).ssl_context()
    with pytest.raises(ssl.SSLError):
        Connection("https://x", **(data | {"private_key_data": data["certificate_data"]})).ssl_context()
