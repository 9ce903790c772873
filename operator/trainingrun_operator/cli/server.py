"""What a user says about a bucket's server, in place of the run's spec."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Server:
    """The options of the commands that read a bucket."""

    endpoint_url: str = ""
    """Empty: the run's, if it is AWS."""
    region: str = ""
    """Empty: the run's."""
    requester_pays: bool = False
