"""Files that the last commit had to skip because they kept changing although the training had ended.

Such a commit cannot be proven. The request counts as unanswered until these files are quiet: the agent then commits once more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainingrun_operator.checkpoints import names

if TYPE_CHECKING:
    from collections.abc import Iterable

    from trainingrun_operator.agent.ledger import Request
    from trainingrun_operator.agent.volume.scan import Entry, Scan
    from trainingrun_operator.checkpoints.documents import Skipped


class Owed:
    """What one answer lacks. Used by one thread."""

    def __init__(self, quiet_seconds: float) -> None:
        self._quiet_seconds = quiet_seconds
        self._request: Request | None = None
        self._paths: frozenset[str] = frozenset()
        self._entries: dict[str, Entry | None] = {}
        self._since = 0.0

    def committed(self, request: Request, skipped: Iterable[Skipped]) -> None:
        """Note which regular files the newest answer has skipped."""
        self._paths = frozenset(names.from_text(one.path) for one in skipped if one.regular)
        self._request = request if self._paths else None
        self._entries = {}

    def by(self, request: Request) -> bool:
        """Whether the answer to a request lacks files."""
        return self._request == request

    def is_quiet(self, scan: Scan) -> bool:
        """Whether none of the files has changed for the time after which a file counts as complete."""
        found = scan.everything
        entries = {path: found.get(path) for path in self._paths}
        if entries != self._entries:
            self._entries, self._since = entries, scan.at
        return scan.at - self._since >= self._quiet_seconds
