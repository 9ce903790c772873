"""What one rank of this run has in the bucket: the claimed incarnation, the manifests, the commits, the files they cover."""

from __future__ import annotations

import hashlib
import logging
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from pydantic import ValidationError

from trainingrun_operator.agent.cargo import Sent
from trainingrun_operator.agent.finite import is_before
from trainingrun_operator.agent.ranks import HELD_MAX, Held, Written
from trainingrun_operator.agent.volume.scan import Kind
from trainingrun_operator.api.exchange import CommitSeen, ManifestSeen
from trainingrun_operator.checkpoints import names
from trainingrun_operator.checkpoints.bucket import Bucket, ConflictError, NoChecksumsError
from trainingrun_operator.checkpoints.documents import (
    COMMIT_MAX_BYTES,
    MANIFEST_MAX_BYTES,
    WHOLE,
    Claim,
    Commit,
    Manifest,
    RankManifest,
    Skipped,
)
from trainingrun_operator.checkpoints.keys import Order, incarnation_of_claim, order_of_commit, order_of_manifest
from trainingrun_operator.checkpoints.manifests import load_head, load_manifest, read_manifest
from trainingrun_operator.checkpoints.proof import BadCommitError, load_commit
from trainingrun_operator.checkpoints.reached import Moment

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from trainingrun_operator.agent.config import PodMemory, Task
    from trainingrun_operator.agent.volume.scan import Entry
    from trainingrun_operator.agent.volume.units import Unit
    from trainingrun_operator.api.exchange import SaveRequest
    from trainingrun_operator.api.spoiled import Spoiled
    from trainingrun_operator.checkpoints.documents import Checkpoint

log = logging.getLogger(__name__)

_WRITTEN_AT = re.compile(rb'"writtenAt":"[^"\\]*"')
"""In a document's JSON. Inside of a text, its quotes would be escaped."""
HISTORY_MAX = 50
"""Commits that are read at the start, the newest ones."""


class FencedError(Exception):
    """A newer writer has claimed this rank. This agent must not write again."""


class TooLargeError(Exception):
    """A manifest or a commit is larger than its limit."""


class Request(NamedTuple):
    """The save request that a manifest and a commit answer."""

    id: str | None = None
    attempt: int = 0


@dataclass(frozen=True)
class Known:
    """A manifest in the bucket that a later commit may name again."""

    ref: RankManifest
    checkpoint: tuple[str, bool] | None
    """Directory, and whether it was complete."""
    files: Mapping[str, tuple[int, int]]
    """Size and modification time by path."""
    about: Checkpoint | None = None
    """The checkpoint, as the manifest has it."""

    @property
    def written_us(self) -> int:
        """Modification time of the checkpoint's newest file."""
        name = self.checkpoint[0] if self.checkpoint else WHOLE
        own = [at for path, (_, at) in self.files.items() if name in (WHOLE, path) or path.startswith(f"{name}/")]
        return max(own, default=0) // 1000


def now() -> str:
    """Return the time in ISO 8601, UTC. It is for display only."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Ledger:
    """One writer's view of its rank's objects. Not thread-safe: the shipper's own.

    In a run of one rank, a manifest and its commit have the same generation; a manifest without a commit does not count and is written
    again. In a run of several ranks, every manifest counts, because rank 0 may commit it later: each manifest and each commit has a
    generation of its own.
    """

    def __init__(self, bucket: Bucket, task: Task, memory: PodMemory) -> None:
        self._bucket = bucket
        self._task = task
        self._memory = memory
        self.layout = task.layout
        self.rank = task.pod.rank
        self.alone = task.pod.world_size == 1
        self.incarnation: int | None = None
        self.generation = 1
        """The next generation to write."""
        self.manifest: ManifestSeen | None = None
        """The newest manifest of this incarnation."""
        self.newest: CommitSeen | None = None
        """The newest commit of this incarnation. Only rank 0 has one."""
        self.answered: dict[Request, bool] = {}
        """Requests that this pod has answered, and whether the answer is final. Rank 0 answers by a commit, others by a manifest."""
        self.held: list[Held] = []
        """Manifests of this incarnation, newest first. Empty in a run of one rank."""
        self.written: list[Written] = []
        """Commits of this incarnation of rank 0, newest first. Empty in a run of one rank."""
        self.lacking: tuple[Request, tuple[Skipped, ...]] | None = None
        """The newest request that this pod had answered before the agent started, and what the answer lacks."""
        self.is_open = False
        self.inherited_ns = 0
        """Modification time of the newest file that lay in the volume before the run's first pod started; 0: none."""
        self._previous: str | None = None
        self._sent: dict[str, Sent] = {}
        self._known: list[Known] = []

    # -- who writes --------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Claim an incarnation, or continue this pod's, and read which files are covered. Call again if the bucket failed.

        Raises:
            FencedError: a newer writer has claimed the rank.
            NoChecksumsError: nothing in the bucket can be proven.
            ClientError, BotoCoreError: a call to the bucket failed.
        """
        listed = self._bucket.keys(self.layout.commits, flat=True)
        commits = {order: key for key, _ in listed if (order := order_of_commit(key))}
        above = max((order.incarnation for order in commits), default=0) if self.rank == 0 else 0
        incarnation = self._memory.incarnation or self._claim(above)
        self._memory.remember_incarnation(incarnation)
        self.incarnation = incarnation
        self.check_fence()
        self._bucket.check_keeps_checksums(self.layout.claim(self.rank, incarnation))
        own = [order.generation for order in commits if order.incarnation == incarnation and self.rank == 0]
        if not self.alone:
            own += self._recall_manifests(incarnation)
        for order in sorted(commits, reverse=True)[:HISTORY_MAX]:
            self._recall(commits[order], order)
        self.generation = max(own, default=0) + 1
        self.inherited_ns = self._left_before_the_run(incarnation)
        self.is_open = True
        log.info(
            "Writing as incarnation %d of rank %d, next generation %d. The bucket has %d commits.",
            incarnation,
            self.rank,
            self.generation,
            len(commits),
        )

    def _claims(self) -> list[int]:
        keys = self._bucket.keys(self.layout.claims(self.rank), flat=True)
        return [claim for key, _ in keys if (claim := incarnation_of_claim(key))]

    def _claim(self, above: int) -> int:
        number = max([above, *self._claims()], default=0) + 1
        left_ns = self._memory.left_ns or 0
        claim = Claim(run=self._task.run, pod=self._task.pod, claimed_at=now(), left_ns=left_ns)
        while True:
            try:
                key = self.layout.claim(self.rank, number)
                self._bucket.put(key, claim.model_dump_json(by_alias=True).encode())
            except ConflictError:
                number += 1  # another pod has claimed it
            except NoChecksumsError:
                return number  # it is written; `open` reports that the store keeps no checksum of it
            else:
                return number

    def _left_before_the_run(self, incarnation: int) -> int:
        if incarnation == 1:
            return self._memory.left_ns or 0
        body = self._bucket.get(self.layout.claim(self.rank, 1), COMMIT_MAX_BYTES) or b""
        try:
            return Claim.model_validate_json(body, by_alias=True, by_name=False).left_ns
        except ValidationError:
            return 0  # of an older version, or gone

    def check_fence(self) -> None:
        """Check that no newer writer has claimed this rank. Claims of other ranks do not count.

        Raises:
            FencedError: a newer writer has claimed it.
        """
        newest = max(self._claims(), default=0)
        if self.incarnation is not None and newest > self.incarnation:
            raise FencedError(
                f"incarnation {newest} of rank {self.rank} was claimed by a newer pod; this is incarnation {self.incarnation}"
            )

    def check_keeps_checksums(self) -> None:
        """Check that the store has a full-object checksum of this writer's claim.

        Raises:
            NoChecksumsError: it has none.
        """
        self._bucket.check_keeps_checksums(self.layout.claim(self.rank, self.order.incarnation))

    # -- what is covered -------------------------------------------------------------------------------------------

    def _recall_manifests(self, incarnation: int) -> list[int]:
        """Read the newest manifests of this incarnation. Return the generations of all of them."""
        keys = self._bucket.keys(self.layout.manifests(self.rank, incarnation), flat=True)
        found = {order: key for key, _ in keys if (order := order_of_manifest(key))}
        newest: Manifest | None = None
        for order in sorted(found)[-HELD_MAX:]:
            try:
                read = read_manifest(self._bucket, found[order])
            except BadCommitError as bad:
                log.warning("Ignoring manifest %s: %s.", found[order], bad)
                continue
            self._hold(self._ref(found[order], read.digest, incarnation), read.manifest)
            newest = read.manifest if read.manifest.termination_id else newest
        if newest is not None:
            self._recall_lacking(newest, (newest,))
        return [order.generation for order in found]

    def _recall(self, key: str, order: Order) -> None:
        try:
            commit = load_commit(self._bucket, self.layout, key).commit
            refs = [ref for ref in commit.ranks if ref.rank == self.rank]
            manifests = [(ref, load_manifest(self._bucket, self.layout, commit, ref)) for ref in refs]
            self._previous = self._previous or key
            if self.rank == 0 and order.incarnation == self.incarnation:
                self._recall_own(key, commit)
                self._recall_lacking(commit, [manifest for _, manifest in manifests])
        except BadCommitError as bad:
            log.warning("Ignoring commit %s: %s.", key, bad)
            return
        for ref, manifest in manifests:
            self._learn(ref, manifest, over=False)

    def _recall_own(self, key: str, commit: Commit) -> None:
        if not self.alone and self.newest is None:
            ranks = sorted(commit.ranks, key=lambda ref: ref.rank)
            folders = (load_head(self._bucket, self.layout, commit, ref).folder for ref in ranks)
            self.written.append(Written(commit.answer, tuple(folders)))
        self.newest = self.newest or _seen(key, commit)
        if commit.termination_id and commit.pod_uid == self._task.pod.uid:
            self.answered.setdefault(Request(commit.termination_id, commit.attempt), commit.final)

    def _recall_lacking(self, document: Commit | Manifest, manifests: Iterable[Manifest]) -> None:
        if self.lacking is None and document.termination_id:
            skipped = tuple(one for manifest in manifests for one in manifest.skipped)
            self.lacking = Request(document.termination_id, document.attempt), skipped

    def _learn(self, ref: RankManifest, manifest: Manifest, *, over: bool) -> None:
        files: dict[str, tuple[int, int]] = {}
        for file in manifest.files:
            path = names.from_text(file.path)
            files[path] = (file.size, file.mtime_ns)
            if over or path not in self._sent:
                self._sent[path] = Sent(file.size, file.mtime_ns, file.key, file.crc64nvme)
        checkpoint = manifest.checkpoint
        about = (names.from_text(checkpoint.dir), checkpoint.complete) if checkpoint else None
        known = Known(ref, about, files, checkpoint)
        if ref not in [one.ref for one in self._known]:
            self._known = [known, *self._known] if over else [*self._known, known]
        del self._known[HISTORY_MAX:]
        if manifest.incarnation == self.incarnation and (over or self.manifest is None):
            self.manifest = _manifest_seen(ref.key, manifest)

    def _hold(self, ref: RankManifest, manifest: Manifest) -> None:
        """Record a manifest of a run of several ranks: it covers its files. Rank 0 commits it later; other ranks have answered."""
        self._learn(ref, manifest, over=True)
        self.held = [Held.of(ref, manifest), *self.held][:HELD_MAX]
        if self.rank and manifest.termination_id:
            self.answered[Request(manifest.termination_id, manifest.attempt)] = manifest.final

    def earlier(self, path: str, entry: Entry) -> Sent | None:
        """Return the file as the bucket holds it, if size and modification time are the same."""
        sent = self._sent.get(path)
        return sent if sent and (sent.size, sent.mtime_ns) == _stamp(entry) else None

    def forget(self, path: str) -> None:
        """Take a file for changed: neither its object nor a manifest that lists it counts for it any more."""
        self._sent.pop(path, None)
        self._known = [known for known in self._known if path not in known.files]

    def covers(self, unit: Unit) -> bool:
        """Whether the bucket holds every file of a unit in its current state."""
        return all(self.earlier(path, entry) for path, entry in unit.files.items() if entry.kind is not Kind.OTHER)

    def has_answered(self, save: SaveRequest) -> bool:
        """Whether a request was answered. Once the training has ended, only a final answer counts."""
        final = self.answered.get(Request(save.id, save.attempt))
        return final is not None and (final or not save.ended)

    def has_committed(self, held: Held) -> bool:
        """Whether a commit names this manifest's files and, if the manifest answers a request, gives the same answer."""
        return any(
            one.folders[0] == held.folder and (not held.asked or one.answer == held.answer) for one in self.written
        )

    def unsaved_bytes(self, entries: Mapping[str, Entry]) -> int:
        """Return the bytes of the files that no commit or manifest covers."""
        files = ((path, entry) for path, entry in entries.items() if entry.kind is Kind.FILE)
        return sum(entry.size for path, entry in files if self.earlier(path, entry) is None)

    def manifest_of(self, unit: Unit, *, complete: bool) -> RankManifest | None:
        """Return the newest manifest of a unit that holds every file of it in its current state."""
        for known in self._known:
            if known.checkpoint == (unit.dir, complete) and all(
                known.files.get(path) == _stamp(entry)
                for path, entry in unit.files.items()
                if entry.kind is not Kind.OTHER
            ):
                return known.ref
        return None

    def finite(self, spoiled: Spoiled) -> tuple[RankManifest, Checkpoint] | None:
        """Return the furthest complete checkpoint from before the values ceased to be finite, and its newest manifest; None: there is none."""
        found = [
            (known.ref, known.about)
            for known in reversed(self._known)
            if known.about is not None
            and known.about.complete
            and known.files
            and is_before(known.about.step, known.about.epoch, known.written_us, spoiled)
        ]
        # Of equal ones the last, which is the newest, is taken.
        best = sorted(found, key=lambda one: (not one[1].inherited, Moment.of(one[1].step, one[1].epoch)))
        return best[-1] if best else None

    def totals_of(self, ref: RankManifest) -> tuple[int, int]:
        """Return the number of files and of bytes of a known manifest."""
        files = next((known.files for known in self._known if known.ref == ref), {})
        return len(files), sum(size for size, _ in files.values())

    # -- writing -----------------------------------------------------------------------------------------------------

    @property
    def order(self) -> Order:
        """The order of the next commit or manifest."""
        if self.incarnation is None:
            raise FencedError("no incarnation has been claimed")
        return Order(self.incarnation, self.generation)

    @property
    def folder(self) -> str:
        """The key prefix of the next generation's files."""
        return self.layout.folder(self.rank, self.order, self._task.pod.name)

    @property
    def previous(self) -> str | None:
        """The key of the newest commit."""
        return self._previous

    def put_manifest(self, manifest: Manifest) -> RankManifest:
        """Write the next generation's manifest. In a run of several ranks its files count as covered from now on.

        Raises:
            FencedError: a newer writer has claimed the rank.
            TooLargeError: the manifest is larger than its limit.
            ConflictError: the key holds a different manifest of this generation.
        """
        key = self.layout.manifest(self.rank, self.order, self._task.pod.name)
        if not self.alone:
            self.check_fence()
        body = self._put_once(key, manifest, MANIFEST_MAX_BYTES)
        ref = self._ref(key, hashlib.sha256(body).hexdigest(), manifest.incarnation)
        if self.alone:
            self.manifest = _manifest_seen(key, manifest)
        else:
            self._hold(ref, manifest)
            self.generation += 1
        return ref

    def check_there(self, ref: RankManifest) -> None:
        """Check that a known manifest is still in the bucket: the operator's retention may have deleted it.

        Raises:
            ConflictError: it is not.
        """
        if self._bucket.head(ref.key) is None:
            self._known = [known for known in self._known if known.ref != ref]
            raise ConflictError(ref.key)

    def read_again(self, ref: RankManifest) -> Manifest:
        """Read a known manifest again.

        Raises:
            ConflictError: the manifest has changed or is missing.
        """
        try:
            return read_manifest(self._bucket, ref.key, ref).manifest
        except BadCommitError:
            self._known = [known for known in self._known if known.ref != ref]
            raise ConflictError(ref.key) from None

    def put_commit(self, commit: Commit, manifest: Manifest | None, written: Written | None = None) -> CommitSeen:
        """Write the commit. Its files count as covered from now on.

        Raises:
            FencedError: a newer writer has claimed the rank.
            ConflictError: the key holds another commit.
        """
        self.check_fence()
        key = self.layout.commit(self.order)
        self._put_once(key, commit, COMMIT_MAX_BYTES)
        if manifest is not None:
            self._learn(commit.ranks[0], manifest, over=True)
        if written is not None:
            self.written.insert(0, written)
        self._previous = key
        self.newest = _seen(key, commit)
        if commit.termination_id:
            self.answered[Request(commit.termination_id, commit.attempt)] = commit.final
        self.generation += 1
        return self.newest

    def _ref(self, key: str, sha256: str, incarnation: int) -> RankManifest:
        return RankManifest(rank=self.rank, incarnation=incarnation, key=key, sha256=sha256)

    def _put_once(self, key: str, document: Manifest | Commit, limit: int) -> bytes:
        """Write a document and return its bytes. A document of an interrupted try differs in `written_at` only; it stays."""
        body = document.model_dump_json(by_alias=True, exclude_none=True).encode()
        if len(body) > limit:
            raise TooLargeError(f"{key} of {document.total_files} files is larger than {limit} bytes")
        try:
            self._bucket.put(key, body)
        except ConflictError:
            there = self._bucket.get(key, limit)
            if there is None or _WRITTEN_AT.sub(b"", there) != _WRITTEN_AT.sub(b"", body):
                raise
            return there
        return body


def _stamp(entry: Entry) -> tuple[int, int]:
    """Return size and modification time as a manifest records them: the size of a link is 0."""
    return (0 if entry.kind is Kind.LINK else entry.size, entry.mtime_ns)


def _manifest_seen(key: str, manifest: Manifest) -> ManifestSeen:
    checkpoint = manifest.checkpoint
    return ManifestSeen(
        key=key,
        incarnation=manifest.incarnation,
        generation=manifest.generation,
        dir=checkpoint.dir if checkpoint else None,
        step=checkpoint.step if checkpoint else None,
        epoch=checkpoint.epoch if checkpoint else None,
        final=manifest.final,
        id=manifest.termination_id,
        attempt=manifest.attempt,
    )


def _seen(key: str, commit: Commit) -> CommitSeen:
    return CommitSeen(
        key=key,
        incarnation=commit.incarnation,
        generation=commit.generation,
        step=commit.checkpoint.step if commit.checkpoint else None,
        final=commit.final,
        id=commit.termination_id,
        attempt=commit.attempt,
    )
