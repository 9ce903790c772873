"""Refuse answers of an S3 server that end before their end. botocore takes a cut answer for a whole one.

The parser of Python's standard library takes the end of a connection for the end of the headers: an answer that is cut there has no body, and
lacks the headers behind the cut. A list without a body is an empty list, an object without a checksum is one that cannot be proven.
botocore also has urllib3 not compare the length of a body with the announced one. It compares that itself, but only for objects.
"""

from __future__ import annotations

from functools import partial
from http.client import RemoteDisconnected
from typing import TYPE_CHECKING, Any, Final

from botocore.awsrequest import (
    AWSHTTPConnection,
    AWSHTTPConnectionPool,
    AWSHTTPResponse,
    AWSHTTPSConnection,
    AWSHTTPSConnectionPool,
)

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_HEAD_ENDS: Final = (b"\r\n", b"\n")


class _Lines:
    """A file whose lines are read; it knows the last one."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.last = _HEAD_ENDS[0]

    def readline(self, *limit: int) -> bytes:
        self.last = self._file.readline(*limit)
        return self.last

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


class _Response(AWSHTTPResponse):
    """An answer whose head is whole."""

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **({"status_tuple": None} | named))

    def begin(self) -> None:
        """Read the head.

        Raises:
            RemoteDisconnected: it is cut.
        """
        file: Any = self.fp
        lines: Any = _Lines(file)
        self.fp = lines
        try:
            super().begin()
        finally:
            # Unless it was closed, for an answer that is none of HTTP.
            if vars(self)["fp"] is lines:
                self.fp = file
        if lines.last not in _HEAD_ENDS:
            self.close()
            raise RemoteDisconnected("the connection ended within the head of the answer")


class _WholeHeads:
    """Mixin of botocore's connections."""

    response_class: Any = _Response

    def _handle_expect_response(self, message_body: Any) -> None:
        super()._handle_expect_response(message_body)  # type: ignore[misc]  # of the connection
        if isinstance(self.response_class, partial):
            # The server has answered before the body was sent.
            self.response_class = partial(_Response, **self.response_class.keywords)


class WholeConnection(_WholeHeads, AWSHTTPConnection):  # type: ignore[misc]  # the bases of botocore's class differ
    """A connection that refuses cut heads."""


class WholeTLSConnection(_WholeHeads, AWSHTTPSConnection):  # type: ignore[misc]  # likewise
    """A connection over TLS that refuses cut heads."""


class _WholeBodies:
    """Mixin of a pool of connections."""

    def urlopen(self, *args: Any, **named: Any) -> Any:
        """Send a request. Reading its answer fails at a cut."""
        return super().urlopen(*args, **named | {"enforce_content_length": True})  # type: ignore[misc]  # of the pool


class WholePool(_WholeBodies, AWSHTTPConnectionPool):
    """Connections that refuse cut answers."""

    ConnectionCls = WholeConnection


class WholeTLSPool(_WholeBodies, AWSHTTPSConnectionPool):
    """Connections over TLS that refuse cut answers."""

    ConnectionCls = WholeTLSConnection


def pooled(client: S3Client, plain: type[WholePool], tls: type[WholeTLSPool]) -> S3Client:
    """Make a client use these pools, and through a proxy those that only refuse cut answers."""
    endpoint: Any = client._endpoint  # type: ignore[attr-defined]  # noqa: SLF001 - botocore has no public access to its connections
    session = endpoint.http_session
    session._manager.pool_classes_by_scheme = {"http": plain, "https": tls}  # noqa: SLF001
    session._pool_classes_by_scheme = {"http": WholePool, "https": WholeTLSPool}  # noqa: SLF001  # of proxies, made when they are needed
    return client


def whole(client: S3Client) -> S3Client:
    """Make a client refuse cut answers."""
    return pooled(client, WholePool, WholeTLSPool)
