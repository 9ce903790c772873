"""Addresses of S3 servers, and those that no request may go to."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Final, Self

METADATA: Final = tuple(
    ip_network(each)
    for each in (
        "169.254.0.0/16",  # link-local: EC2, Google, Azure and others
        "fe80::/10",
        "fd00:ec2::/32",  # EC2
        "fd20:ce::254/128",  # Google
        "100.100.100.200/32",  # Alibaba
        "168.63.129.16/32",  # Azure's wire server
        "192.0.0.192/32",  # Oracle
    )
)
"""Addresses at which clouds hand out credentials and machine data to whoever asks. No request ever goes there."""

# Strict, so that it cannot be read in two ways: no user, query or fragment, no escape, no upper case where two spellings would differ.
_ADDRESS: Final = re.compile(
    r"(?P<scheme>https?)://(?P<host>[a-z0-9*]([a-z0-9.*-]*[a-z0-9])?|\[[0-9a-f:.]+\])(:(?P<port>\d{1,5}|\*))?(?P<path>/[A-Za-z0-9._~/-]*)?\Z",
    re.IGNORECASE,
)
_PORTS: Final = {"http": "80", "https": "443"}


@dataclass(frozen=True)
class Address:
    """An S3 server: of a run, or a pattern of the list, whose host may begin with ``*.`` and whose port may be ``*``."""

    scheme: str
    host: str
    port: str
    path: str = ""

    @classmethod
    def of(cls, url: str) -> Self:
        """Read ``https://host[:port][/path]``.

        Raises:
            ValueError: it is no such address.
        """
        match = _ADDRESS.match(url)
        if match is None:
            message = f"{url!r} is not of the form https://host[:port][/path]"
            raise ValueError(message)
        scheme = match["scheme"].lower()
        host = match["host"].lower().strip("[]")
        return cls(scheme, host, match["port"] or _PORTS[scheme], (match["path"] or "").rstrip("/"))

    def covers(self, other: Address) -> bool:
        """Whether an address fits this pattern."""
        host = other.host == self.host
        if self.host.startswith("*."):
            first, _, rest = other.host.partition(".")
            host = bool(first) and rest == self.host.removeprefix("*.")
        return host and self.port in ("*", other.port) and (self.scheme, self.path) == (other.scheme, other.path)


def is_metadata(host: str) -> bool:
    """Whether an IP address is one at which a cloud tells secrets; False for a name."""
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return False
    address = getattr(address, "ipv4_mapped", None) or address
    return any(address in network for network in METADATA)
