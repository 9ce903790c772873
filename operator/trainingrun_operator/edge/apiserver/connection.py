"""Address and CA of the API server, and the bearer token of the process."""

from __future__ import annotations

import base64
import os
import ssl
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import yaml

if TYPE_CHECKING:
    from collections.abc import Mapping

TOKEN_FILE: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")
CA_FILE: Final = TOKEN_FILE.with_name("ca.crt")
TOKEN_READ_SECONDS: Final = 60


class NoClusterError(Exception):
    """The address of the API server is unknown."""


@dataclass(frozen=True)
class Connection:
    """Address of the API server and credentials. The operator's come from kopf's login."""

    server: str
    ca_path: str | None = None
    ca_data: str | None = None
    token: str | None = None
    certificate_path: str | None = None
    certificate_data: str | None = None
    private_key_path: str | None = None
    private_key_data: str | None = None
    insecure: bool = False

    def ssl_context(self) -> ssl.SSLContext:
        """Return a context that trusts only the cluster's CA, with the client certificate if there is one."""
        ca = base64.b64decode(self.ca_data).decode() if self.ca_data else None
        context = ssl.create_default_context(cafile=self.ca_path, cadata=ca)
        if self.insecure:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if self.certificate_path:
            context.load_cert_chain(self.certificate_path, self.private_key_path)
        elif self.certificate_data and self.private_key_data:
            with tempfile.NamedTemporaryFile("wb", suffix=".pem") as pem:
                pem.write(base64.b64decode(self.certificate_data) + b"\n" + base64.b64decode(self.private_key_data))
                pem.flush()
                context.load_cert_chain(pem.name)
        return context


def without_credentials(environ: Mapping[str, str] | None = None) -> Connection:
    """Return address and CA of the API server: of the pod's cluster, else of the kubeconfig's current context.

    For the dashboard, without the kubeconfig's client certificate: all viewers would share its identity.

    Raises:
        NoClusterError: there is neither.
    """
    environ = os.environ if environ is None else environ
    if (host := environ.get("KUBERNETES_SERVICE_HOST")) and CA_FILE.exists():
        shown = f"[{host}]" if ":" in host else host
        return Connection(f"https://{shown}:{environ.get('KUBERNETES_SERVICE_PORT', '443')}", ca_path=str(CA_FILE))
    path = Path(environ.get("KUBECONFIG") or Path.home() / ".kube" / "config")
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
        context = next(one["context"] for one in config["contexts"] if one["name"] == config["current-context"])
        found = next(one["cluster"] for one in config["clusters"] if one["name"] == context["cluster"])
        ca_path = found.get("certificate-authority")
        return Connection(
            found["server"],
            ca_path=str(path.parent / ca_path) if ca_path else None,
            ca_data=found.get("certificate-authority-data"),
            insecure=bool(found.get("insecure-skip-tls-verify")),
        )
    except (OSError, KeyError, StopIteration, TypeError, yaml.YAMLError) as error:
        message = f"Not in a pod, and the kubeconfig cannot be used ({path}: {type(error).__name__} {' '.join(str(error).split())}): set KUBECONFIG."
        raise NoClusterError(message) from error


def service_account_token() -> str:
    """Return the present token of the pod's ServiceAccount; empty: there is none."""
    return TOKEN_FILE.read_text(encoding="utf-8").strip() if TOKEN_FILE.exists() else ""


class OwnToken:
    """The bearer token of this process, renewed from the ServiceAccount's file before it expires."""

    def __init__(self, connection: Connection) -> None:
        self._token, self._read = connection.token, float("-inf")

    def __call__(self) -> str:
        """Return the token; empty: there is none."""
        if self._token is not None and TOKEN_FILE.exists() and time.monotonic() - self._read > TOKEN_READ_SECONDS:
            self._token, self._read = service_account_token(), time.monotonic()
        return self._token or ""
