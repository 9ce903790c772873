"""Where the API server is, whom its certificate is checked against, and the process's own bearer token."""

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
    """It is not known where the API server is."""


@dataclass(frozen=True)
class Connection:
    """Where the API server is and who we are. The operator's is what kopf's login found."""

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
        """Trust the cluster's CA only, and show our certificate if we have one."""
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
    """Return where the API server is, and its CA: of the pod's own cluster, else of the kubeconfig's current context.

    For the dashboard, whose viewers share it: a client certificate of the kubeconfig would speak for everybody who looks.

    Raises:
        NoClusterError: neither is there.
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
        message = f"Neither in a pod nor with a kubeconfig that can be used ({path}: {type(error).__name__} {' '.join(str(error).split())}): set KUBECONFIG."
        raise NoClusterError(message) from error


def service_account_token() -> str:
    """Return the token of the pod's ServiceAccount as its file has it now; empty: there is none."""
    return TOKEN_FILE.read_text(encoding="utf-8").strip() if TOKEN_FILE.exists() else ""


class OwnToken:
    """The bearer token of this process: the connection's, renewed from the ServiceAccount's file long before it expires."""

    def __init__(self, connection: Connection) -> None:
        self._token, self._read = connection.token, float("-inf")

    def __call__(self) -> str:
        """Return it; empty: the process shows a client certificate, or nothing."""
        if self._token is not None and TOKEN_FILE.exists() and time.monotonic() - self._read > TOKEN_READ_SECONDS:
            self._token, self._read = service_account_token(), time.monotonic()
        return self._token or ""
