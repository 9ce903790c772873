"""Reads the training's metrics page at the moment at which the operator asks for the report, to answer with both.

Only the page that the agent's configuration names is read. A request's header is compared with it and used for nothing else: any client that reaches the agent's
port may send one, also where a NetworkPolicy closes the pod's other ports.

What can be read simply and is certainly whole is relayed: a page with its length, not compressed, within a second. Anything else is not, and the operator
then asks the training itself: it knows more of HTTP, and says what is wrong.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from trainingrun_operator.api.exchange import PAGE_HEADER, PAGE_MAX_BYTES
from trainingrun_operator.checkpoints import http_head

SECONDS = 1.0
"""For the whole page. The report waits for it, and the operator waits 3 s for both."""
HEAD_MAX: Final = 8192
# No query, no escape, no blank: nothing but a plain path can get into the request.
_PAGE: Final = re.compile(r"([1-9][0-9]{0,4})(/[A-Za-z0-9._~/-]{0,254})")
# One pass over the head, whatever it has: blanks are stripped afterwards.
_ASKED: Final = re.compile(rb"\r\n(?i:%b):([^\r\n]*)" % PAGE_HEADER.encode())
_LENGTH: Final = re.compile(r"[0-9]{1,9}")
_PORT_MAX: Final = 65_535


@dataclass(frozen=True)
class Page:
    """A metrics page of this pod."""

    port: int
    path: bytes

    def is_asked_for(self, head: bytes) -> bool:
        """Whether the head of a request asks for this page, and for no other."""
        return [value.strip(b" \t") for value in _ASKED.findall(head)] == [b"%d%b" % (self.port, self.path)]


def page(name: str | None) -> Page | None:
    """Return the page that a configuration names; None: none, or none that is read."""
    found = _PAGE.fullmatch(name or "")
    if found is None or int(found[1]) > _PORT_MAX:
        return None
    return Page(int(found[1]), found[2].encode())


async def read(address: str, page: Page) -> bytes | None:
    """Return the page that is served at an address of this pod; None: it could not be read to its end."""
    writer = None
    try:
        async with asyncio.timeout(SECONDS):
            host = _plain(address)
            reader, writer = await asyncio.open_connection(host, page.port, limit=HEAD_MAX)
            writer.write(_request(host, page))
            length = _length(await reader.readuntil(b"\r\n\r\n"))
            return None if length is None else await reader.readexactly(length)
    except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        return None
    finally:
        if writer is not None:
            writer.transport.abort()


def _request(host: str, page: Page) -> bytes:
    named = f"[{host}]" if ":" in host else host
    accept = "Accept: text/plain;version=0.0.4, */*;q=0.1\r\nAccept-Encoding: identity\r\n"
    return b"GET %b HTTP/1.1\r\n%b\r\n" % (
        page.path,
        f"Host: {named}:{page.port}\r\n{accept}Connection: close\r\n".encode(),
    )


def _plain(address: str) -> str:
    """Return an IPv4 address that a socket of both families shows as IPv6 as what it is."""
    mapped = getattr(ipaddress.ip_address(address), "ipv4_mapped", None)
    return str(mapped) if mapped is not None else address


def _length(head: bytes) -> int | None:
    """Return the page's length; None: what was answered is no page, or its end cannot be known for certain."""
    try:
        _, status, headers = http_head.parsed(head.removesuffix(http_head.END))
    except http_head.BadHeadError:
        return None
    length = headers.get("content-length", "")
    # A length, and neither chunks nor compression: a page that ends early would end in a number that is too short.
    plain = _LENGTH.fullmatch(length) and not headers.keys() & {"content-encoding", "transfer-encoding"}
    return int(length) if status == HTTPStatus.OK and plain and int(length) <= PAGE_MAX_BYTES else None
