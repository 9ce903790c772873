"""Signs requests to S3: AWS Signature Version 4 in headers, for a client that sends many requests with the same credentials.

botocore takes more than a millisecond of CPU to prepare and sign a request, this takes some 20 µs. It is compared with botocore's own signer by
`tests/unit/checkpoints/test_signing.py`. It signs what is given: endpoint, headers and encoding of keys are the caller's.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from typing import TYPE_CHECKING, Final, NamedTuple, Self
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from botocore.credentials import ReadOnlyCredentials

UNSIGNED: Final = "UNSIGNED-PAYLOAD"
"""Instead of a digest of the body. S3 accepts it over TLS, where the body is protected by the connection."""
EMPTY: Final = hashlib.sha256(b"").hexdigest()
"""Digest of no body."""
ALGORITHM: Final = "AWS4-HMAC-SHA256"
_UNRESERVED: Final = "-_.~"
_AUTHORIZATION: Final = re.compile(
    rf"{ALGORITHM} Credential=[^,]+/\d{{8}}/(?P<region>[^/,]+)/(?P<service>[^/,]+)/aws4_request,"
    r" SignedHeaders=(?P<names>[a-z0-9;-]+), Signature=[0-9a-f]{64}"
)


class Signed(NamedTuple):
    """What a header ``authorization`` says of its signature."""

    region: str
    service: str
    names: tuple[str, ...]
    """Of the headers that are signed."""


def signed_of(authorization: str) -> Signed | None:
    """Parse a header ``authorization``; None: it is of another algorithm."""
    found = _AUTHORIZATION.fullmatch(authorization)
    return None if found is None else Signed(found["region"], found["service"], tuple(found["names"].split(";")))


def path_of(key: str, bucket: str = "") -> str:
    """Return the encoded path of an object, as it is requested and signed; with `bucket`, in the form of path-style addresses."""
    return quote(f"/{bucket}/{key}" if bucket else f"/{key}", safe=f"/{_UNRESERVED}")


def query_of(parameters: Iterable[tuple[str, str]]) -> str:
    """Return the encoded query of a request, in the order in which it is signed."""
    return "&".join(
        sorted(f"{quote(name, safe=_UNRESERVED)}={quote(value, safe=_UNRESERVED)}" for name, value in parameters)
    )


def head_of(method: str, target: str, headers: Mapping[str, str]) -> bytes:
    """Return the head of a request, as it is sent. ``target``: path and query, encoded."""
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    return f"{method} {target} HTTP/1.1\r\n{lines}\r\n".encode("latin-1")


class Signer:
    """Signs requests with one set of credentials, in one region. Thread-safe."""

    def __init__(self, access_key: str, secret_key: str, token: str | None, region: str, service: str = "s3") -> None:
        self._access_key, self._token = access_key, token
        self._secret = f"AWS4{secret_key}".encode()
        self._where = (region, service, "aws4_request")
        self._of_the_day = ("", "", b"")
        """The day, its scope and its key."""
        self._second = (-1, "")
        """The newest second of a request, and how it is written."""

    @classmethod
    def of(cls, keys: ReadOnlyCredentials, region: str, service: str) -> Self:
        """Make one with botocore's credentials."""
        return cls(keys.access_key or "", keys.secret_key or "", keys.token, region, service)

    def signed(  # the parts of a request
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        *,
        query: str = "",
        payload: str = UNSIGNED,
        at: float | None = None,
    ) -> dict[str, str]:
        """Return the headers of a signed request: those given, and those of the signature. All of them are signed.

        Args:
            method: such as ``HEAD``.
            path: encoded, as it is requested; see `path_of`.
            headers: with names in lower case, and ``host`` among them.
            query: encoded and in order; see `query_of`.
            payload: SHA-256 of the body, hex; `EMPTY` without a body.
            at: Unix time of the request (default: now).
        """
        moment = self._written(int(time.time() if at is None else at))
        sent = {**headers, "x-amz-content-sha256": payload, "x-amz-date": moment}
        if self._token:
            sent["x-amz-security-token"] = self._token
        sent["authorization"] = self.authorization(method, path, sent, query=query, payload=payload, moment=moment)
        return sent

    def authorization(  # the parts of a request
        self, method: str, path: str, headers: Mapping[str, str], *, query: str, payload: str, moment: str
    ) -> str:
        """Return the header ``authorization`` of a request whose other headers are complete.

        ``moment`` is the value of ``x-amz-date``. The other arguments are those of `signed`.
        """
        names = sorted(headers)
        signed = ";".join(names)
        # A value is signed with single spaces.
        lines = "".join(f"{name}:{' '.join(headers[name].split())}\n" for name in names)
        request = f"{method}\n{path}\n{query}\n{lines}\n{signed}\n{payload}"
        scope, key = self._scope(moment[:8])
        to_sign = f"{ALGORITHM}\n{moment}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
        signature = hmac.digest(key, to_sign.encode(), "sha256").hex()
        return f"{ALGORITHM} Credential={self._access_key}/{scope}, SignedHeaders={signed}, Signature={signature}"

    def _scope(self, day: str) -> tuple[str, bytes]:
        known, scope, key = self._of_the_day
        if known != day:
            scope, key = "/".join((day, *self._where)), self._secret
            for part in (day, *self._where):
                key = hmac.digest(key, part.encode(), "sha256")
            self._of_the_day = (day, scope, key)
        return scope, key

    def _written(self, second: int) -> str:
        known, written = self._second
        if known != second:
            written = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(second))
            self._second = (second, written)
        return written
