"""The TLS sink on loopback that all clients of a bench talk to."""

from __future__ import annotations

import contextlib
import ssl
import subprocess
import urllib.parse
import urllib.request
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from bench.transfers.sets import Network

ADDRESS: Final = "127.0.0.1"
VALID: Final = timedelta(days=1)


@dataclass(frozen=True)
class Sink:
    """A running sink."""

    url: str
    authority: Path
    """The certificate to trust."""

    def prepare(self, network: Network, *, keep: bool = False, stay: bool = False) -> None:
        """Set the network for the next client. Forget all objects, unless they `stay`; `keep` the bytes of those to come."""
        asked = {"latency": f"{network.latency_ms}ms", "rate": network.rate, "keep": keep, "stay": stay}
        query = urllib.parse.urlencode({name: str(value).lower() for name, value in asked.items()})
        trusted = ssl.create_default_context(cafile=str(self.authority))
        # Without the proxies that the environment names: this is loopback.
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=trusted)
        )
        opener.open(urllib.request.Request(f"{self.url}/?sink&{query}", method="POST"), timeout=30).close()  # noqa: S310  # https


@contextlib.contextmanager
def running(program: Path, folder: Path) -> Iterator[Sink]:
    """Run the sink on a free port, with a certificate made for it."""
    authority, cert, key = _certificates(folder)
    command = [str(program), "-cert", str(cert), "-key", str(key)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            address = process.stdout.readline().strip() if process.stdout else ""
            if not address:
                raise RuntimeError(f"{program} does not listen: it ended with status {process.wait()}")
            yield Sink(f"https://{address}", authority)
        finally:
            process.terminate()


def _certificates(folder: Path) -> tuple[Path, Path, Path]:
    """Make an authority and a certificate of it: some clients refuse a server with the authority's own."""
    now = datetime.now(UTC)
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    names = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]) for name in ("bench", ADDRESS)]
    authority, cert, key = (folder / name for name in ("ca.crt", "tls.crt", "tls.key"))
    for own, path in ((0, authority), (1, cert)):
        made = (
            x509.CertificateBuilder(
                names[0], names[own], keys[own].public_key(), x509.random_serial_number(), now - VALID, now + VALID
            )
            .add_extension(x509.BasicConstraints(ca=path is authority, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address(ADDRESS))]), critical=False)
            .sign(keys[0], hashes.SHA256())
        )
        path.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    key.write_bytes(keys[1].private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))
    return authority, cert, key
