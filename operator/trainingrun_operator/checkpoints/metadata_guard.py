"""Keeps every S3 connection away from the addresses at which clouds hand out credentials, whatever name led there.

A name of the administrator's list may be somebody else's to resolve. So it is not the name that is judged here, and not what it resolved to a
moment ago, but the other end of the connection that was made, before a byte is sent through it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from botocore.awsrequest import AWSHTTPConnection, AWSHTTPConnectionPool, AWSHTTPSConnection, AWSHTTPSConnectionPool

from trainingrun_operator.checkpoints.addresses import is_metadata

if TYPE_CHECKING:
    import socket

    from mypy_boto3_s3 import S3Client


class ForbiddenAddressError(OSError):
    """The connection led to where no request may go; it is closed again."""


def checked(connected: socket.socket) -> socket.socket:
    """Return the connection.

    Raises:
        ForbiddenAddressError: its other end is a metadata service; it is closed.
    """
    address = str(connected.getpeername()[0])
    if is_metadata(address):
        connected.close()
        message = f"{address} is a metadata service"
        raise ForbiddenAddressError(message)
    return connected


class _Connection(AWSHTTPConnection):
    def _new_conn(self) -> socket.socket:
        return checked(super()._new_conn())


class _TLSConnection(AWSHTTPSConnection):
    def _new_conn(self) -> socket.socket:
        return checked(super()._new_conn())


class _Pool(AWSHTTPConnectionPool):
    ConnectionCls = _Connection


class _TLSPool(AWSHTTPSConnectionPool):
    ConnectionCls = _TLSConnection


def guarded(client: S3Client) -> S3Client:
    """Have a client look at the other end of each of its connections. Those through a proxy are the proxy's to judge."""
    endpoint: Any = client._endpoint  # type: ignore[attr-defined]  # noqa: SLF001 - botocore has no public way to its connections
    endpoint.http_session._manager.pool_classes_by_scheme = {"http": _Pool, "https": _TLSPool}  # noqa: SLF001
    return client


def caused_by_guard(error: BaseException | None) -> bool:
    """Whether a failed call failed here: botocore and urllib3 wrap what a connection raises."""
    while error is not None:
        if isinstance(error, ForbiddenAddressError):
            return True
        wrapped = getattr(error, "kwargs", {}).get("error")
        error = wrapped if isinstance(wrapped, BaseException) else error.__cause__ or error.__context__
    return False
