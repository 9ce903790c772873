"""The agent's report: its threads write it, `GET /progress` reads it. Ages are computed at the read."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trainingrun_operator.agent.volume import detect
from trainingrun_operator.agent.volume.look import View
from trainingrun_operator.api.exchange import (
    LAGGING_MAX,
    PATH_MAX,
    TROUBLE_MAX,
    UPLOADS_MAX,
    AgentError,
    AgentReport,
    CheckpointSeen,
    CommitSeen,
    ManifestSeen,
    MarkerSeen,
    Upload,
)
from trainingrun_operator.checkpoints import names

if TYPE_CHECKING:
    from trainingrun_operator.agent.cargo import Tally
    from trainingrun_operator.agent.volume.detect import Seen
    from trainingrun_operator.checkpoints.documents import PodRef

NOTHING = View()
SOURCES = ("volume", "store", "ranks", "changes", "pauses")
"""Sources of failures, the most important first."""


@dataclass(frozen=True)
class Trouble:
    """A failure that has not been resolved."""

    code: str
    message: str
    since: float
    """`time.monotonic` of the first failure."""


class Board:
    """Holds the state of the report. Thread-safe."""

    def __init__(self, pod: PodRef, since_ns: int) -> None:
        self._lock = threading.Lock()
        self._pod = pod
        self._since_ns = since_ns
        self._view = NOTHING
        self._unsaved: int | None = None
        self._incarnation: int | None = None
        self._manifest: ManifestSeen | None = None
        self._commit: CommitSeen | None = None
        self._lagging: tuple[int, ...] = ()
        self._uploads: deque[Upload] = deque(maxlen=UPLOADS_MAX)
        self._upload_failures = 0
        self._working_on: str | None = None
        self._tally: Tally | None = None
        self._trouble: dict[str, Trouble] = {}
        self._signal_trouble = ""

    def looked(self, view: View) -> None:
        """Record the last look at the volume."""
        with self._lock:
            self._view = view

    def unsaved(self, size: int) -> None:
        """Record the bytes of the files that no commit covers."""
        with self._lock:
            self._unsaved = size

    def claimed(self, incarnation: int | None, manifest: ManifestSeen | None, commit: CommitSeen | None) -> None:
        """Record the writer's incarnation, its newest manifest and its newest commit."""
        with self._lock:
            self._incarnation = incarnation
            self._manifest = manifest
            self._commit = commit

    def lagging(self, ranks: tuple[int, ...]) -> None:
        """Record the ranks that rank 0 waits for."""
        with self._lock:
            self._lagging = ranks[:LAGGING_MAX]

    def working_on(self, request_id: str | None) -> None:
        """Record the save request that is not answered yet, or None."""
        with self._lock:
            self._working_on = request_id

    def shipping(self, tally: Tally | None) -> None:
        """Record the counts of the shipment in progress, or None."""
        with self._lock:
            self._tally = tally

    def uploaded(self, upload: Upload) -> None:
        """Record a generation that was sent."""
        with self._lock:
            self._uploads.append(upload)

    def failed(self, source: str, code: str, message: str) -> bool:
        """Record a failure. Return whether its code is new."""
        with self._lock:
            self._upload_failures += source == "store"
            known = self._trouble.get(source)
            news = known is None or known.code != code
            since = known.since if known and not news else time.monotonic()
            self._trouble[source] = Trouble(code, names.to_text(message)[:TROUBLE_MAX], since)
            return news

    def works(self, source: str) -> None:
        """Clear the failure of a source."""
        with self._lock:
            self._trouble.pop(source, None)

    def not_signalled(self, why: str) -> bool:
        """Record why a due signal was not sent; empty if none is. Return whether the reason is new."""
        with self._lock:
            news, self._signal_trouble = why != self._signal_trouble, why[:TROUBLE_MAX]
            return news

    def progress(self) -> tuple[int, int]:
        """Return the bytes of the shipment in progress, and the bytes read to compare."""
        with self._lock:
            tally = self._tally
            return (tally.sent_bytes + tally.kept_bytes, tally.hashed_bytes) if tally else (0, 0)

    def report(self, markers: tuple[MarkerSeen, ...] = (), *, foreign: bool = False) -> AgentReport:
        """Return the report of this moment."""
        with self._lock:
            at, wall = time.monotonic(), time.time()
            view = self._view
            entries = view.scan.entries
            whole = detect.newest(view.seen, self._since_ns)
            partial = detect.being_written(view.seen, self._since_ns)
            temporary = view.scan.temporary
            total = sum(entry.size for entry in entries.values())
            trouble = next((self._trouble[source] for source in SOURCES if source in self._trouble), None)
            return AgentReport(
                pod_uid=self._pod.uid,
                rank=self._pod.rank,
                world_size=self._pod.world_size,
                incarnation=self._incarnation,
                newest=_found(whole, wall),
                unfinished=_found(partial, wall),
                files=len(entries) if view.scan.known else None,
                bytes=total,
                temporary_files=len(temporary) if view.scan.known else None,
                temporary_bytes=sum(entry.size for entry in temporary.values()),
                unsaved_bytes=total if self._unsaved is None else self._unsaved,
                uploaded_bytes=self._tally.sent_bytes + self._tally.kept_bytes if self._tally else 0,
                hashed_bytes=self._tally.hashed_bytes if self._tally else 0,
                last_change_seconds=None if view.changed_at is None else max(at - view.changed_at, 0.0),
                manifest=self._manifest,
                commit=self._commit,
                lagging=self._lagging,
                uploads=tuple(self._uploads),
                upload_failures=self._upload_failures,
                working_on=self._working_on,
                foreign_stop_file=foreign,
                markers=markers,
                signal_trouble=self._signal_trouble,
                error=AgentError(code=trouble.code, message=trouble.message, since_seconds=at - trouble.since)
                if trouble
                else None,
            )


def _found(seen: Seen | None, wall: float) -> CheckpointSeen | None:
    if seen is None:
        return None
    unit = seen.unit
    age = max(wall - unit.mtime_ns / 1e9, 0.0)
    return CheckpointSeen(
        dir=names.to_text(unit.dir)[:PATH_MAX],
        step=unit.step,
        complete=seen.complete,
        age_seconds=age,
        written_us=unit.mtime_ns // 1000,
        bytes=unit.bytes,
    )
