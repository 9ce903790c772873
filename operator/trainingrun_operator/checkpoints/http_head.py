"""The head of an HTTP answer, read strictly: what can be understood in two ways is refused, and the caller has botocore ask again."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

HEAD_MAX_BYTES: Final = 64 << 10
"""Of a status line and its headers."""
RECEIVE_BYTES: Final = 16 << 10
"""Received at once."""
END: Final = b"\r\n\r\n"
_STATUS: Final = re.compile(rb"HTTP/1\.([01]) (\d{3})(?: [^\r\n]*)?")
_HEADER: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]++):[ \t]*+([^\r\n]*+)")
_ONCE: Final = frozenset({"connection", "content-length", "transfer-encoding", "x-amz-checksum-crc64nvme"})


class BadHeadError(Exception):
    """What has arrived is no head of an answer, or says two things."""


class Head(NamedTuple):
    """What a head says."""

    minor: int
    """Of the version: HTTP/1.0 or 1.1."""
    status: int
    headers: dict[str, str]
    """By name in lower case."""


def parsed(head: bytes) -> Head:
    """Parse a head, without `END`.

    Raises:
        BadHeadError: it has another form, or a header twice that must be there once.
    """
    first, *lines = head.split(b"\r\n")
    if (status := _STATUS.fullmatch(first)) is None:
        raise BadHeadError("the answer is not of HTTP/1")
    headers: dict[str, str] = {}
    for line in lines:
        if (found := _HEADER.fullmatch(line)) is None:
            raise BadHeadError("the answer has a header that is none")
        name = found[1].decode("ascii").lower()
        if name in headers and name in _ONCE:
            raise BadHeadError(f"the answer has {name} twice")
        headers[name] = found[2].decode("latin-1").rstrip(" \t")
    return Head(int(status[1]), int(status[2]), headers)
