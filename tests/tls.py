"""A CA for tests, and TLS servers on loopback with certificates of it."""

from __future__ import annotations

import contextlib
import socketserver
import ssl
import threading
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

PEM: Final = serialization.Encoding.PEM
LOOPBACK: Final = "127.0.0.1"


@dataclass(frozen=True)
class Authority:
    """A CA: its certificate is in ``ca.crt`` of its folder."""

    folder: Path
    key: EllipticCurvePrivateKey
    name: x509.Name

    @classmethod
    def of(cls, folder: Path) -> Authority:
        key = ec.generate_private_key(ec.SECP256R1())
        made = cls(folder, key, x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a CA of tests")]))
        whole = made._certificate(made.name, key).add_extension(
            x509.BasicConstraints(ca=True, path_length=None), critical=True
        )
        made.file.write_bytes(whole.sign(key, hashes.SHA256()).public_bytes(PEM))
        return made

    @property
    def file(self) -> Path:
        return self.folder / "ca.crt"

    def issue(self, address: str = LOOPBACK, *, days_from_now: tuple[float, float] = (-1, 1)) -> tuple[Path, Path]:
        """A certificate and its key, as two PEM files."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, address)])
        names = x509.SubjectAlternativeName([x509.IPAddress(ip_address(address))])
        made = self._certificate(name, key, *days_from_now).add_extension(names, critical=False)
        stem = f"{address}-{days_from_now[0]:g}-{days_from_now[1]:g}"
        cert, private = self.folder / f"{stem}.crt", self.folder / f"{stem}.key"
        cert.write_bytes(made.sign(self.key, hashes.SHA256()).public_bytes(PEM))
        plain = serialization.NoEncryption()
        private.write_bytes(key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, plain))
        return cert, private

    def _certificate(
        self, name: x509.Name, key: EllipticCurvePrivateKey, since: float = -1, until: float = 1
    ) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return x509.CertificateBuilder(
            self.name,
            name,
            key.public_key(),
            x509.random_serial_number(),
            now + timedelta(days=since),
            now + timedelta(days=until),
        )


class _Handshake(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        context: ssl.SSLContext = self.server.context  # type: ignore[attr-defined]
        with contextlib.suppress(OSError), context.wrap_socket(self.request, server_side=True) as secure:
            secure.recv(1)


@contextlib.contextmanager
def listening(cert: Path, key: Path) -> Iterator[str]:
    """A server that does a TLS handshake and answers nothing; its URL."""
    with socketserver.ThreadingTCPServer((LOOPBACK, 0), _Handshake) as server:
        server.daemon_threads = True
        server.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)  # type: ignore[attr-defined]
        server.context.load_cert_chain(cert, key)  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"https://{LOOPBACK}:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()
