"""What the agent says about itself: the threads write here, `GET /progress` reads. Ages are computed when asked."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trainingrun_operator.agent.volume import detect
from trainingrun_operator.agent.volume.look import View
from trainingrun_operator.api.exchange import (
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
LAGGING_MAX = 64
UPLOADS_MAX = 8
"""The operator looks more often than so many generations are committed."""


@dataclass(frozen=True)
class Trouble:
    """Why something does not work now."""

    code: str
    message: str
    since: float
    """`time.monotonic`."""


class Board:
    """Shared by all threads; every change is one assignment under the lock."""

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
        """A look at the volume is over."""
        with self._lock:
            self._view = view

    def unsaved(self, size: int) -> None:
        """That much lies in the volume and in no commit."""
        with self._lock:
            self._unsaved = size

    def claimed(self, incarnation: int | None, manifest: ManifestSeen | None, commit: CommitSeen | None) -> None:
        """The bucket was read or written: the writer's incarnation, its newest manifest, its newest commit."""
        with self._lock:
            self._incarnation = incarnation
            self._manifest = manifest
            self._commit = commit

    def lagging(self, ranks: tuple[int, ...]) -> None:
        """Rank 0 waits for these ranks, or for none."""
        with self._lock:
            self._lagging = ranks[:LAGGING_MAX]

    def working_on(self, request_id: str | None) -> None:
        """A save request is in hand, or none."""
        with self._lock:
            self._working_on = request_id

    def shipping(self, tally: Tally | None) -> None:
        """A generation is on its way, or none."""
        with self._lock:
            self._tally = tally

    def uploaded(self, upload: Upload) -> None:
        """A generation was sent and committed."""
        with self._lock:
            self._uploads.append(upload)

    def failed(self, source: str, code: str, message: str) -> bool:
        """Something does not work; returns whether that is news."""
        with self._lock:
            self._upload_failures += source == "store"
            known = self._trouble.get(source)
            news = known is None or known.code != code
            since = known.since if known and not news else time.monotonic()
            self._trouble[source] = Trouble(code, names.to_text(message), since)
            return news

    def works(self, source: str) -> None:
        """It works again."""
        with self._lock:
            self._trouble.pop(source, None)

    def not_signalled(self, why: str) -> bool:
        """Why the training was not sent the signal that it is due, empty if it was; returns whether that is news."""
        with self._lock:
            news, self._signal_trouble = why != self._signal_trouble, why
            return news

    def report(self, markers: tuple[MarkerSeen, ...] = (), *, foreign: bool = False) -> AgentReport:
        """The page of this moment."""
        with self._lock:
            at, wall = time.monotonic(), time.time()
            view = self._view
            entries = view.scan.entries
            whole = detect.newest(view.seen, self._since_ns)
            partial = detect.newest(view.seen, self._since_ns, complete=False)
            if whole and partial and partial.unit.mtime_ns < whole.unit.mtime_ns:
                partial = None
            total = sum(entry.size for entry in entries.values())
            trouble = next(
                (self._trouble[source] for source in ("volume", "store", "ranks") if source in self._trouble), None
            )
            return AgentReport(
                pod_uid=self._pod.uid,
                rank=self._pod.rank,
                world_size=self._pod.world_size,
                incarnation=self._incarnation,
                newest=_found(whole, wall),
                unfinished=_found(partial, wall),
                files=len(entries),
                bytes=total,
                unsaved_bytes=total if self._unsaved is None else self._unsaved,
                uploaded_bytes=self._tally.sent_bytes + self._tally.kept_bytes if self._tally else 0,
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
        dir=names.to_text(unit.dir), step=unit.step, complete=seen.complete, age_seconds=age, bytes=unit.bytes
    )
