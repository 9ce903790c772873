"""Ports for servers that a test starts as processes of their own and that cannot choose one themselves."""

from __future__ import annotations

import random
import socket

_BELOW_THE_KERNELS: range = range(20_000, 30_000)
"""The kernel gives ports from 32,768 on to connections: one of these could be taken before the server listens."""


def free_port() -> int:
    """Return a port at which nobody listens, at any address of this machine."""
    while True:
        port = random.SystemRandom().choice(_BELOW_THE_KERNELS)
        with socket.socket(socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET) as probe:
            if probe.family is socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            try:
                probe.bind(("", port))
            except OSError:
                continue
            return port
