"""Identities without keys, as EKS gives them to a pod: moto's STS, a Pod Identity endpoint, and an S3 server that takes their credentials."""

from __future__ import annotations

import contextlib
import json
import re
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from integration.agent import proxy as proxies

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from s3server import S3Server

TOKEN = "token-of-the-pod"
ROLE = "arn:aws:iam::123456789012:role/agent"
_SIGNED = re.compile(r"Credential=(?P<key>[^/]+)/.*SignedHeaders=(?P<headers>[^,]+)")


@dataclass
class Gate:
    """An S3 server behind a proxy that takes only requests signed by a temporary identity, and signs them again for the server."""

    url: str
    proxy: proxies.Proxy
    access_keys: set[str] = field(default_factory=set)
    """Of the temporary credentials that signed requests."""
    owners: set[str | None] = field(default_factory=set)
    """The expected owners that requests named; None: one named none."""


@contextlib.contextmanager
def temporary_only(server: S3Server, account: str = "") -> Iterator[Gate]:
    """Refuse requests that are not of a session, and with ``account`` those that expect another owner of the bucket."""
    with proxies.between(server.endpoint_url) as proxy:
        gate = Gate(proxy.url, proxy)

        def asks(method: str, path: str, headers: list[tuple[str, str]]) -> list[tuple[str, str]]:
            given = {name.lower(): value for name, value in headers}
            signed = _SIGNED.search(given.get("authorization", ""))
            if (
                signed is None
                or "x-amz-security-token" not in signed["headers"]
                or not signed["key"].startswith("ASIA")
            ):
                raise PermissionError("InvalidAccessKeyId")
            gate.access_keys.add(signed["key"])
            owner = given.get("x-amz-expected-bucket-owner")
            gate.owners.add(owner)
            if account and owner not in (None, account):
                raise PermissionError("AccessDenied")
            return _signed_again(server, method, path, headers)

        proxy.asks = asks
        yield gate


def key_of(headers: list[tuple[str, str]]) -> str:
    """The access key that signed a request."""
    signed = _SIGNED.search(dict(headers)["Authorization"])
    assert signed is not None
    return signed["key"]


def _signed_again(server: S3Server, method: str, path: str, headers: list[tuple[str, str]]) -> list[tuple[str, str]]:
    # The server's buckets belong to no account of twelve digits: the gate has compared the owner.
    dropped = {"authorization", "x-amz-security-token", "x-amz-date", "host"}
    owners = {"x-amz-expected-bucket-owner", "x-amz-source-expected-bucket-owner"}
    kept = {name: value for name, value in headers if name.lower() not in dropped | owners}
    request = AWSRequest(method, f"{server.endpoint_url}{path}", headers=kept)
    signer = S3SigV4Auth(Credentials(server.access_key, server.secret_key), "s3", server.region)
    signer.payload = lambda request: kept.get("X-Amz-Content-SHA256", "UNSIGNED-PAYLOAD")  # type: ignore[method-assign]
    signer.add_auth(request)
    return [*request.headers.items(), ("Host", server.endpoint_url.removeprefix("http://"))]


@dataclass
class PodIdentity:
    """The endpoint that EKS Pod Identity serves on a node."""

    url: str
    asked: list[str] = field(default_factory=list)
    """The tokens it was asked with."""


@contextlib.contextmanager
def pod_identity(port: int = 0, seconds: float = 3600) -> Iterator[PodIdentity]:
    """Answer with temporary credentials whoever shows the pod's token; they last ``seconds``."""
    found = PodIdentity("")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found.asked.append(self.headers.get("Authorization", ""))
            if found.asked[-1] != TOKEN:
                self.send_error(401)
                return
            expires = datetime.now(UTC) + timedelta(seconds=seconds)
            answer = {
                "AccessKeyId": f"ASIAPOD{len(found.asked)}",
                "SecretAccessKey": "secret",
                "Token": "session",
                "Expiration": expires.strftime("%Y-%m-%dT%H:%M:%SZ"),
            }
            body = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # http.server's name
            """The test looks at what it needs."""

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    found.url = f"http://127.0.0.1:{server.server_address[1]}/v1/credentials"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()


@contextlib.contextmanager
def refusing_sts() -> Iterator[str]:
    """An STS that does not let this ServiceAccount assume any role."""
    body = (
        b"<ErrorResponse><Error><Code>AccessDenied</Code><Message>Not authorized to perform"
        b" sts:AssumeRoleWithWebIdentity</Message></Error></ErrorResponse>"
    )

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(403)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # http.server's name
            """The test looks at what it needs."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def irsa(folder: Path, sts_url: str) -> dict[str, str]:
    """What the webhook of IRSA puts into a container's environment; with the address of STS, which it does not."""
    token = folder / "web-identity-token"
    token.write_text("a.b.c")
    return {
        "AWS_ROLE_ARN": ROLE,
        "AWS_WEB_IDENTITY_TOKEN_FILE": str(token),
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL_STS": sts_url,
    }


def associated(folder: Path, url: str, token: str = TOKEN) -> dict[str, str]:
    """What the webhook of EKS Pod Identity puts there."""
    file = folder / "eks-pod-identity-token"
    file.write_text(token)
    return {"AWS_CONTAINER_CREDENTIALS_FULL_URI": url, "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": str(file)}
