"""Refuse S3 connections to metadata services, whatever host name resolves to them.

Others may control what an allowed host name resolves to. So the guard checks the peer address of the open connection,
before a byte is sent, and not the name or an earlier lookup.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainingrun_operator.checkpoints.addresses import is_metadata
from trainingrun_operator.checkpoints.answers import BoundedAnswers
from trainingrun_operator.checkpoints.whole_answers import (
    WholeConnection,
    WholePool,
    WholeTLSConnection,
    WholeTLSPool,
    pooled,
)

if TYPE_CHECKING:
    import socket

    from mypy_boto3_s3 import S3Client


class ForbiddenAddressError(OSError):
    """The connection's peer is a metadata service."""


def checked(connected: socket.socket) -> socket.socket:
    """Return the connection.

    Raises:
        ForbiddenAddressError: the peer is a metadata service. The connection is closed.
    """
    address = str(connected.getpeername()[0])
    if is_metadata(address):
        connected.close()
        message = f"{address} is a metadata service"
        raise ForbiddenAddressError(message)
    return connected


class _Connection(WholeConnection):
    def _new_conn(self) -> socket.socket:
        return checked(super()._new_conn())


class _TLSConnection(WholeTLSConnection):
    def _new_conn(self) -> socket.socket:
        return checked(super()._new_conn())


class _Pool(BoundedAnswers, WholePool):
    ConnectionCls = _Connection


class _TLSPool(BoundedAnswers, WholeTLSPool):
    ConnectionCls = _TLSConnection


def guarded(client: S3Client) -> S3Client:
    """Make a client check the peer of each of its connections, bound its answers and refuse cut ones. Connections through a proxy are not checked."""
    return pooled(client, _Pool, _TLSPool)
