"""Addresses of S3 servers, and the addresses that must not receive a request."""

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
"""Metadata services: clouds serve credentials and machine data there without authentication. No request is sent there."""

# Strict, so that an address has one meaning only: no user, query, fragment or escape.
_ADDRESS: Final = re.compile(
    r"(?P<scheme>https?)://(?P<host>[a-z0-9*]([a-z0-9.*-]*[a-z0-9])?|\[[0-9a-f:.]+\])(:(?P<port>\d{1,5}|\*))?(?P<path>/[A-Za-z0-9._~/-]*)?\Z",
    re.IGNORECASE,
)
_PORTS: Final = {"http": "80", "https": "443"}


@dataclass(frozen=True)
class Address:
    """A run's S3 server, or a pattern for such servers. A pattern's host may begin with ``*.``, its port may be ``*``."""

    scheme: str
    host: str
    port: str
    path: str = ""

    @classmethod
    def of(cls, url: str) -> Self:
        """Read ``https://host[:port][/path]``.

        Raises:
            ValueError: the address has another form.
        """
        match = _ADDRESS.match(url)
        if match is None:
            message = f"{url!r} does not have the form https://host[:port][/path]"
            raise ValueError(message)
        scheme = match["scheme"].lower()
        host = match["host"].lower().strip("[]")
        return cls(scheme, host, match["port"] or _PORTS[scheme], (match["path"] or "").rstrip("/"))

    def covers(self, other: Address) -> bool:
        """Whether an address matches this pattern."""
        host = other.host == self.host
        if self.host.startswith("*."):
            first, _, rest = other.host.partition(".")
            host = bool(first) and rest == self.host.removeprefix("*.")
        return host and self.port in ("*", other.port) and (self.scheme, self.path) == (other.scheme, other.path)


def is_metadata(host: str) -> bool:
    """Whether an IP address is a metadata service. False for a host name."""
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return False
    address = getattr(address, "ipv4_mapped", None) or address
    return any(address in network for network in METADATA)
