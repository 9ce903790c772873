"""The API server's audit log: who asked what, and whether it was granted."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from e2e.api import seconds_of
from e2e.ground import OPERATOR, OPERATOR_NAMESPACE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

OPERATOR_USER = f"system:serviceaccount:{OPERATOR_NAMESPACE}:{OPERATOR}"


@dataclass(frozen=True)
class Request:
    """One entry."""

    at: float
    user: str
    verb: str
    group: str
    resource: str
    """``pods``, ``pods/log``."""
    namespace: str
    name: str
    code: int
    allowed: bool
    """By its role; a request that was allowed may still be refused for what it asks."""
    body: dict[str, Any]

    @property
    def right(self) -> tuple[str, str, str]:
        """What a role must grant for it."""
        return self.group, self.resource, self.verb


def end_of(log: Path) -> int:
    """Length of the log in bytes: what is written from now on comes after it."""
    return log.stat().st_size


def requests(log: Path, *parts: str, since: float = 0, after: int = 0) -> Iterator[Request]:
    """Entries of API objects whose line contains all `parts`; the files that the log was rotated to come first.

    Only those from the time `since` (seconds since the epoch) on, and behind `after` bytes of the log, as `end_of` gave them: it may be
    hundreds of megabytes.
    """
    if after > end_of(log):  # It was rotated in between.
        after = 0
    files = [log] if after else [*sorted(log.parent.glob("audit-*.log")), log]
    wanted = [part.encode() for part in parts]
    for file in files:
        with file.open("rb") as lines:
            lines.seek(after)
            for line in lines:
                if all(part in line for part in wanted) and line.endswith(b"\n"):
                    entry = json.loads(line)
                    if "objectRef" in entry and (request := _request(entry)).at >= since:
                        yield request


def _request(entry: dict[str, Any]) -> Request:
    about = entry["objectRef"]
    resource = "/".join(filter(None, (about.get("resource", ""), about.get("subresource", ""))))
    return Request(
        at=seconds_of(entry["requestReceivedTimestamp"]),
        user=entry["user"]["username"],
        verb=entry["verb"],
        group=about.get("apiGroup", ""),
        resource=resource,
        namespace=about.get("namespace", ""),
        name=about.get("name", ""),
        code=(entry.get("responseStatus") or {}).get("code", 0),
        allowed=entry.get("annotations", {}).get("authorization.k8s.io/decision") == "allow",
        body=entry.get("requestObject") or {},
    )
