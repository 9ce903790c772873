"""What the ranks of one run hold in the bucket, and which checkpoint all of them hold."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from trainingrun_operator.checkpoints.documents import MANIFEST_MAX_BYTES, Answer, RankManifest
from trainingrun_operator.checkpoints.keys import Order, incarnation_of_claim, order_of_manifest
from trainingrun_operator.checkpoints.proof import BadCommitError, read_head

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from trainingrun_operator.agent.config import Task
    from trainingrun_operator.checkpoints.bucket import Bucket
    from trainingrun_operator.checkpoints.documents import Checkpoint, ManifestHead

log = logging.getLogger(__name__)

HELD_MAX = 8
"""Manifests of one rank that are compared, the newest ones: a rank that is faster than the others runs ahead by a few."""


@dataclass(frozen=True)
class Held:
    """A manifest of one rank, without its files."""

    ref: RankManifest
    order: Order
    checkpoint: Checkpoint | None
    answer: Answer
    reason: str
    folder: str
    """Where its files lie: a manifest that names again what is there has the folder of the older one."""
    files: int
    bytes: int

    @classmethod
    def of(cls, ref: RankManifest, manifest: ManifestHead) -> Held:
        """Keep of a manifest what is compared."""
        return cls(
            ref=ref,
            order=Order(manifest.incarnation, manifest.generation),
            checkpoint=manifest.checkpoint,
            answer=manifest.answer,
            reason=manifest.reason,
            folder=manifest.folder,
            files=manifest.total_files,
            bytes=manifest.total_bytes,
        )

    @property
    def asked(self) -> bool:
        """Whether it answers a request, or is the last word of its pod."""
        return self.answer.id is not None or self.answer.final


class Written(NamedTuple):
    """A commit, as far as it decides whether another one is needed."""

    answer: Answer
    folders: tuple[str, ...]
    """Of every rank, in order."""


@dataclass(frozen=True)
class Agreement:
    """A checkpoint that every rank holds, and what its commit answers."""

    ranks: tuple[Held, ...]
    """From rank 0 on."""
    answer: Answer
    reason: str

    @property
    def written(self) -> Written:
        """What its commit will be remembered as."""
        return Written(self.answer, tuple(one.folder for one in self.ranks))


def same(one: Held, other: Held) -> bool:
    """Whether two ranks hold the same checkpoint: directory, step, epoch and completeness are equal.

    Without step and epoch, and where nothing lay under the path, all saves look the same. Such are the same only as the last word of both
    ranks to the same request: their training had ended, so nothing was being written any more.
    """
    if (one.checkpoint and one.checkpoint.identity) != (other.checkpoint and other.checkpoint.identity):
        return False
    numbered = one.checkpoint is not None and one.checkpoint.numbered
    return numbered or (one.answer == other.answer and one.answer.final)


def agreement(
    own: Sequence[Held], others: Mapping[int, Sequence[Held]], written: Collection[Written]
) -> Agreement | None:
    """Return the newest checkpoint that every rank holds and that no commit has; None: there is none yet.

    Args:
        own: what rank 0 holds, newest first.
        others: what each other rank holds, newest first.
        written: the commits of this incarnation.

    A request counts as answered once the manifest of every rank answers it. Until then the same checkpoint is committed as one that nobody
    asked for, so that it is safe.
    """
    for mine in own:
        if mine.asked and (row := _row(mine, others, mine.answer)):
            found = Agreement(row, mine.answer, mine.reason)
            return None if found.written in written else found
        row = _row(mine, others) if mine.checkpoint is not None and mine.checkpoint.complete else None
        if row and row[0].checkpoint is not None and row[0].checkpoint.numbered:
            found = Agreement(row, Answer(), "checkpoint")
            # Whatever it answers: those bytes of that checkpoint are committed, and so is nothing older any more.
            return None if found.written.folders in {one.folders for one in written} else found
    return None


def _row(mine: Held, others: Mapping[int, Sequence[Held]], answer: Answer | None = None) -> tuple[Held, ...] | None:
    row = [mine]
    for rank in sorted(others):
        fitting = (one for one in others[rank] if same(mine, one) and answer in (None, one.answer))
        if (found := next(fitting, None)) is None:
            return None
        row.append(found)
    return tuple(row)


def lagging(mine: Held, others: Mapping[int, Sequence[Held]]) -> tuple[int, ...]:
    """The ranks that do not hold what rank 0 holds, or have not answered what it answers."""

    def holds(one: Held) -> bool:
        return same(mine, one) and (not mine.asked or one.answer == mine.answer)

    return tuple(rank for rank in sorted(others) if not any(holds(one) for one in others[rank]))


def disagreement(mine: Held, others: Mapping[int, Sequence[Held]]) -> str:
    """What keeps a final request from ever being answered: a rank has said its last word, and it is about another checkpoint."""
    if not mine.answer.final:
        return ""
    for rank in sorted(others):
        last = next((one for one in others[rank] if one.answer == mine.answer), None)
        if last is not None and not same(mine, last):
            return f"rank {rank} ended with {_words(last)}, rank 0 with {_words(mine)}"
    return ""


def _words(held: Held) -> str:
    if held.checkpoint is None:
        return "nothing"
    half = "" if held.checkpoint.complete else "the unfinished "
    return f"{half}{held.checkpoint.dir}"


class Peers:
    """Reads what the other ranks hold. Rank 0's own; not thread-safe."""

    def __init__(self, bucket: Bucket, task: Task) -> None:
        self._bucket = bucket
        self._task = task
        self._read: dict[int, dict[str, Held | None]] = {rank: {} for rank in range(1, task.pod.world_size)}

    def look(self) -> dict[int, tuple[Held, ...]]:
        """What each other rank holds now, newest first, by its newest incarnation only: an older one may have trained from elsewhere.

        Two LISTs for each rank, and a GET for each manifest that is new.
        """
        return {rank: self._of(rank) for rank in self._read}

    def _of(self, rank: int) -> tuple[Held, ...]:
        layout = self._task.layout
        claims = (incarnation_of_claim(key) for key, _ in self._bucket.keys(layout.claims(rank)))
        incarnation = max((claim for claim in claims if claim), default=None)
        if incarnation is None:
            return ()
        listed = self._bucket.keys(layout.manifests(rank, incarnation), flat=True)
        orders = {key: order for key, _ in listed if (order := order_of_manifest(key))}
        newest = sorted(orders, key=orders.__getitem__, reverse=True)[:HELD_MAX]
        known = self._read[rank]
        self._read[rank] = {key: known[key] if key in known else self._load(rank, key) for key in newest}
        return tuple(held for held in self._read[rank].values() if held)

    def _load(self, rank: int, key: str) -> Held | None:
        body = self._bucket.get(key, MANIFEST_MAX_BYTES)
        try:
            if body is None or len(body) > MANIFEST_MAX_BYTES:
                raise BadCommitError("it is gone, or too large")  # noqa: TRY301  # told below
            manifest = read_head(body, f"the manifest of rank {rank}")
            pod, order = manifest.pod, Order(manifest.incarnation, manifest.generation)
            expected = (self._task.run, rank, self._task.pod.world_size, key)
            if (manifest.run, pod.rank, pod.world_size, self._task.layout.manifest(rank, order, pod.name)) != expected:
                raise BadCommitError(f"it was written by rank {pod.rank} of {pod.world_size}")  # noqa: TRY301
        except BadCommitError as bad:
            log.warning("Passing over %s: %s.", key, bad)
            return None
        if any(file.regular for file in manifest.skipped):
            log.warning("Rank %d left files out of %s: nothing is proven by it.", rank, key)
        ref = RankManifest(
            rank=rank, incarnation=manifest.incarnation, key=key, sha256=hashlib.sha256(body).hexdigest()
        )
        return Held.of(ref, manifest)
