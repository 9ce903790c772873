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


def requests(log: Path, *parts: str, since: float = 0) -> Iterator[Request]:
    """Entries of API objects whose line contains all `parts`; the files that the log was rotated to come first."""
    for file in [*sorted(log.parent.glob("audit-*.log")), log]:
        with file.open(errors="replace") as lines:
            for line in lines:
                if all(part in line for part in parts) and line.endswith("\n"):
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
