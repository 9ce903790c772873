"""What this run has in the bucket: who writes now, which commits there are, which files they cover."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from pydantic import ValidationError

from trainingrun_operator.agent.cargo import Sent
from trainingrun_operator.agent.volume.scan import Kind
from trainingrun_operator.api.exchange import CommitSeen
from trainingrun_operator.checkpoints import names
from trainingrun_operator.checkpoints.bucket import Bucket, ConflictError
from trainingrun_operator.checkpoints.documents import (
    COMMIT_MAX_BYTES,
    MANIFEST_MAX_BYTES,
    Claim,
    Commit,
    Manifest,
    RankManifest,
)
from trainingrun_operator.checkpoints.keys import Order, epoch_of_claim, order_of_commit
from trainingrun_operator.checkpoints.proof import BadCommitError, load_commit, load_manifest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trainingrun_operator.agent.config import PodMemory, Task
    from trainingrun_operator.agent.volume.scan import Entry
    from trainingrun_operator.agent.volume.units import Unit
    from trainingrun_operator.api.exchange import SaveRequest

log = logging.getLogger(__name__)

HISTORY_MAX = 50
"""Commits that are read back at the start: enough to know what is covered."""


class FencedError(Exception):
    """A newer writer has claimed the run: this agent never commits again."""


class TooLargeError(Exception):
    """A manifest beyond its bound."""


class Answer(NamedTuple):
    """The request that a commit answers."""

    id: str | None = None
    attempt: int = 0


@dataclass(frozen=True)
class Known:
    """A manifest in the bucket, as far as it matters for naming it again."""

    ref: RankManifest
    checkpoint: tuple[str, bool] | None
    """Directory and whether it was complete."""
    files: Mapping[str, tuple[int, int]]
    """Size and modification time by path."""


def now() -> str:
    """The time of day, for people; nothing is decided by it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Ledger:
    """One writer's view of the run's objects. Not thread-safe: the shipper's own."""

    def __init__(self, bucket: Bucket, task: Task, memory: PodMemory) -> None:
        self._bucket = bucket
        self._task = task
        self._memory = memory
        self.layout = task.layout
        self.epoch: int | None = None
        self.generation = 1
        """The next one to be written."""
        self.newest: CommitSeen | None = None
        """This agent's own newest commit."""
        self.answered: dict[Answer, CommitSeen] = {}
        """Requests that this pod has answered."""
        self._previous: str | None = None
        self._sent: dict[str, Sent] = {}
        self._known: list[Known] = []

    # -- who writes --------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Claim an epoch, or go on with this pod's, and read what earlier commits cover.

        Raises:
            FencedError: a newer writer is there already.
        """
        commits = {order: key for key, _ in self._bucket.keys(self.layout.commits) if (order := order_of_commit(key))}
        epoch = self._memory.epoch or self._claim(max((order.epoch for order in commits), default=0))
        self._memory.remember_epoch(epoch)
        self.epoch = epoch
        self.check_fence()
        for order in sorted(commits, reverse=True)[:HISTORY_MAX]:
            self._recall(commits[order], order)
        own = [order.generation for order in commits if order.epoch == epoch]
        self.generation = max(own, default=0) + 1
        log.info("Writing as epoch %d, next generation %d; %d commits are there.", epoch, self.generation, len(commits))

    def _claim(self, above: int) -> int:
        claims = [epoch for key, _ in self._bucket.keys(self.layout.epochs) if (epoch := epoch_of_claim(key))]
        number = max([above, *claims], default=0) + 1
        claim = Claim(run=self._task.run, pod=self._task.pod, claimed_at=now())
        while True:
            try:
                self._bucket.put(self.layout.epoch(number), claim.model_dump_json(by_alias=True).encode())
            except ConflictError:
                number += 1  # another pod was faster
            else:
                return number

    def check_fence(self) -> None:
        """See whether a newer writer has claimed the run.

        Raises:
            FencedError: it has.
        """
        newest = max((epoch_of_claim(key) or 0 for key, _ in self._bucket.keys(self.layout.epochs)), default=0)
        if self.epoch is not None and newest > self.epoch:
            raise FencedError(f"epoch {newest} was claimed by a newer pod; this is epoch {self.epoch}")

    # -- what is covered -------------------------------------------------------------------------------------------

    def _recall(self, key: str, order: Order) -> None:
        try:
            commit = load_commit(self._bucket, self.layout, key).commit
            refs = [ref for ref in commit.ranks if ref.rank == self._task.pod.rank]
            manifests = [(ref, load_manifest(self._bucket, self.layout, commit, ref)) for ref in refs]
        except BadCommitError as bad:
            log.warning("Passing over commit %s: %s.", key, bad)
            return
        for ref, manifest in manifests:
            self._learn(ref, manifest, over=False)
        self._previous = self._previous or key
        if order.epoch != self.epoch:
            return
        seen = _seen(key, commit)
        self.newest = self.newest or seen
        if commit.termination_id and commit.pod_uid == self._task.pod.uid:
            self.answered.setdefault(Answer(commit.termination_id, commit.attempt), seen)

    def _learn(self, ref: RankManifest, manifest: Manifest, *, over: bool) -> None:
        files: dict[str, tuple[int, int]] = {}
        for file in manifest.files:
            path = names.from_text(file.path)
            files[path] = (file.size, file.mtime_ns)
            if over or path not in self._sent:
                self._sent[path] = Sent(file.size, file.mtime_ns, file.key, file.crc64nvme)
        checkpoint = manifest.checkpoint
        about = (names.from_text(checkpoint.dir), checkpoint.complete) if checkpoint else None
        known = Known(ref, about, files)
        self._known = [known, *self._known] if over else [*self._known, known]
        del self._known[HISTORY_MAX:]

    def earlier(self, path: str, entry: Entry) -> Sent | None:
        """The same file in an earlier commit, if size and time are the same."""
        sent = self._sent.get(path)
        return sent if sent and (sent.size, sent.mtime_ns) == _stamp(entry) else None

    def covers(self, unit: Unit) -> bool:
        """Whether every file of a unit is in some commit as it is now."""
        return all(self.earlier(path, entry) for path, entry in unit.files.items() if entry.kind is not Kind.OTHER)

    def has_answered(self, save: SaveRequest) -> bool:
        """Whether a request was answered; one that now says that the training has ended, by a final commit."""
        answer = self.answered.get(Answer(save.id, save.attempt))
        return answer is not None and (answer.final or not save.ended)

    def unsaved_bytes(self, entries: Mapping[str, Entry]) -> int:
        """How much lies in the volume and in no commit."""
        files = ((path, entry) for path, entry in entries.items() if entry.kind is Kind.FILE)
        return sum(entry.size for path, entry in files if self.earlier(path, entry) is None)

    def manifest_of(self, unit: Unit, *, complete: bool) -> RankManifest | None:
        """The newest manifest that is about a unit and holds all of it as it is now."""
        for known in self._known:
            if known.checkpoint == (unit.dir, complete) and all(
                known.files.get(path) == _stamp(entry)
                for path, entry in unit.files.items()
                if entry.kind is not Kind.OTHER
            ):
                return known.ref
        return None

    def totals_of(self, ref: RankManifest) -> tuple[int, int]:
        """Files and bytes of a known manifest."""
        files = next((known.files for known in self._known if known.ref == ref), {})
        return len(files), sum(size for size, _ in files.values())

    # -- writing -----------------------------------------------------------------------------------------------------

    @property
    def order(self) -> Order:
        """The place of the commit that comes next."""
        if self.epoch is None:
            raise FencedError("no epoch has been claimed")
        return Order(self.epoch, self.generation)

    @property
    def folder(self) -> str:
        """Where the next generation's files go."""
        return self.layout.folder(self._task.pod.rank, self.order, self._task.pod.name)

    @property
    def previous(self) -> str | None:
        """The key of the commit before the next one."""
        return self._previous

    def put_manifest(self, manifest: Manifest) -> RankManifest:
        """Write the next generation's manifest.

        Raises:
            TooLargeError: it is beyond its bound.
            ConflictError: another try of this generation wrote a different one.
        """
        key = self.layout.manifest(self._task.pod.rank, self.order, self._task.pod.name)
        body = self._put_once(key, manifest, MANIFEST_MAX_BYTES)
        return RankManifest(rank=self._task.pod.rank, key=key, sha256=hashlib.sha256(body).hexdigest())

    def put_commit(self, commit: Commit, manifest: Manifest | None) -> CommitSeen:
        """Write the commit, unless a newer writer has come up; from here on its files count as covered.

        Raises:
            FencedError: a newer writer is there.
            ConflictError: another commit lies there.
        """
        self.check_fence()
        key = self.layout.commit(self.order)
        self._put_once(key, commit, COMMIT_MAX_BYTES)
        if manifest is not None:
            self._learn(commit.ranks[0], manifest, over=True)
        self._previous = key
        self.newest = _seen(key, commit)
        if commit.termination_id:
            self.answered[Answer(commit.termination_id, commit.attempt)] = self.newest
        self.generation += 1
        return self.newest

    def _put_once(self, key: str, document: Manifest | Commit, limit: int) -> bytes:
        """Write a document and return its bytes; one that an interrupted try wrote differs in its time only, and stays."""
        body = document.model_dump_json(by_alias=True, exclude_none=True).encode()
        if len(body) > limit:
            raise TooLargeError(f"{key} of {document.total_files} files is longer than {limit} bytes")
        try:
            self._bucket.put(key, body)
        except ConflictError:
            there = self._bucket.get(key, limit)
            try:
                known = type(document).model_validate_json(there or b"", by_alias=True, by_name=False)
            except ValidationError:
                known = None
            if (
                there is None
                or known is None
                or known.model_copy(update={"written_at": document.written_at}) != document
            ):
                raise
            return there
        return body


def _stamp(entry: Entry) -> tuple[int, int]:
    """Size and time as a manifest has them: a link has no bytes of its own."""
    return (0 if entry.kind is Kind.LINK else entry.size, entry.mtime_ns)


def _seen(key: str, commit: Commit) -> CommitSeen:
    return CommitSeen(
        key=key,
        epoch=commit.epoch,
        generation=commit.generation,
        step=commit.checkpoint.step if commit.checkpoint else None,
        final=commit.final,
        id=commit.termination_id,
        attempt=commit.attempt,
    )
