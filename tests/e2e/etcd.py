"""etcd under the API server: what a restored backup does to one object. The member answers on the control plane's own address."""

from __future__ import annotations

import base64
import json
import ssl
import subprocess
import tempfile
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from e2e.runs import Run, Space

PKI = "/etc/kubernetes/pki/etcd"
PORT = 2379


@dataclass(frozen=True)
class Etcd:
    """Its JSON gateway, with the certificate of a member."""

    address: str
    tls: ssl.SSLContext

    @classmethod
    def of(cls, space: Space) -> Etcd:
        (node,) = space.api.list("/api/v1/nodes", labelSelector="node-role.kubernetes.io/control-plane")
        name = node["metadata"]["name"]
        address = next(one["address"] for one in node["status"]["addresses"] if one["type"] == "InternalIP")

        def read(file: str) -> str:
            said = ["docker", "exec", name, "cat", f"{PKI}/{file}"]
            return subprocess.run(said, env=space.environ, capture_output=True, text=True, check=True).stdout

        tls = ssl.create_default_context(cadata=read("ca.crt"))
        with tempfile.TemporaryDirectory() as folder:  # ssl takes a certificate from a file only
            pair = Path(folder) / "pair.pem"
            pair.touch(mode=0o600)
            pair.write_text(read("peer.crt") + read("peer.key"))
            tls.load_cert_chain(pair)
        return cls(f"https://{address}:{PORT}", tls)

    def created(self, run: Run) -> bytes:
        """The run as it was stored first."""
        (now,) = self._ask("range", key=_key(run))["kvs"]
        return self.at(run, now["create_revision"])

    def at(self, run: Run, revision: str) -> bytes:
        """The run as it was stored at a resourceVersion; etcd keeps the last minutes."""
        (then,) = self._ask("range", key=_key(run), revision=revision)["kvs"]
        return base64.b64decode(then["value"])

    def restore(self, run: Run, stored: bytes) -> None:
        """Make the run what it was. What the backup did not have of it is the test's to take away."""
        self._ask("put", key=_key(run), value=base64.b64encode(stored).decode())

    def _ask(self, what: str, **body: str) -> dict[str, Any]:
        request = urllib.request.Request(f"{self.address}/v3/kv/{what}", data=json.dumps(body).encode())  # noqa: S310 - https
        with urllib.request.urlopen(request, context=self.tls, timeout=20) as answer:  # noqa: S310 - https
            return dict(json.load(answer))


def _key(run: Run) -> str:
    return base64.b64encode(f"/registry/trainingrun.dev/trainingruns/{run.space.name}/{run.name}".encode()).decode()
