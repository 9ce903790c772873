"""AWS Signature Version 4 of one S3 request, for requests that are too many to be built by botocore. Pure."""

from __future__ import annotations

import hashlib
import hmac
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

ALGORITHM: Final = "AWS4-HMAC-SHA256"
UNSIGNED: Final = "UNSIGNED-PAYLOAD"
NOT_SIGNED: Final = frozenset({"connection", "content-length", "expect", "transfer-encoding", "user-agent"})
"""Headers that a proxy may change. All others are signed."""


class Scope(NamedTuple):
    """What a signing key is good for."""

    day: str
    """``YYYYMMDD``."""
    region: str
    service: str = "s3"

    def __str__(self) -> str:
        return f"{self.day}/{self.region}/{self.service}/aws4_request"


def signing_key(secret: str, scope: Scope) -> bytes:
    """Derive the key of a day, a region and a service."""
    key = f"AWS4{secret}".encode()
    for part in (*scope, "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key


def authorization(
    key: bytes, access_key: str, scope: Scope, method: str, path: str, query: str, headers: Mapping[str, str]
) -> str:
    """Return the header `Authorization` of a request.

    Args:
        key: of `signing_key`.
        access_key: the id of the credentials.
        scope: the key's.
        method: in upper case.
        path: as it is sent, percent-encoded.
        query: as it is sent, percent-encoded, its parameters sorted by name; without the question mark.
        headers: all, by name in lower case, each value without spaces around it or twice in it; with `host`, `x-amz-date` and `x-amz-content-sha256`.
    """
    signed = sorted(name for name in headers if name not in NOT_SIGNED)
    names = ";".join(signed)
    lines = "".join([f"{name}:{headers[name]}\n" for name in signed])
    request = f"{method}\n{path}\n{query}\n{lines}\n{names}\n{headers['x-amz-content-sha256']}"
    digest = hashlib.sha256(request.encode()).hexdigest()
    text = f"{ALGORITHM}\n{headers['x-amz-date']}\n{scope}\n{digest}"
    signature = hmac.digest(key, text.encode(), "sha256").hex()
    return f"{ALGORITHM} Credential={access_key}/{scope}, SignedHeaders={names}, Signature={signature}"
