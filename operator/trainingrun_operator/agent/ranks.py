"""Compare the manifests of a run's ranks, and find the newest checkpoint that all ranks hold."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from trainingrun_operator.checkpoints.documents import Answer, RankManifest
from trainingrun_operator.checkpoints.keys import Order, incarnation_of_claim, order_of_manifest
from trainingrun_operator.checkpoints.manifests import read_head
from trainingrun_operator.checkpoints.proof import BadCommitError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from trainingrun_operator.agent.config import Task
    from trainingrun_operator.checkpoints.bucket import Bucket
    from trainingrun_operator.checkpoints.documents import Checkpoint, ManifestHead

log = logging.getLogger(__name__)

HELD_MAX = 8
"""Manifests of one rank that are compared, the newest ones: a fast rank is a few checkpoints ahead of the others."""


@dataclass(frozen=True)
class Held:
    """A manifest of one rank, without its files."""

    ref: RankManifest
    order: Order
    checkpoint: Checkpoint | None
    answer: Answer
    reason: str
    folder: str
    """Key prefix of the files. A manifest that names an earlier one's files has the earlier one's folder."""
    files: int
    bytes: int

    @classmethod
    def of(cls, ref: RankManifest, manifest: ManifestHead) -> Held:
        """Take from a manifest the fields that are compared."""
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
        """Whether the manifest answers a request or is final."""
        return self.answer.id is not None or self.answer.final


class Written(NamedTuple):
    """The part of a commit that decides whether another one is needed."""

    answer: Answer
    folders: tuple[str, ...]
    """The folder of every rank's files, in the order of the ranks."""


@dataclass(frozen=True)
class Agreement:
    """A checkpoint that every rank holds, and the request that its commit answers."""

    ranks: tuple[Held, ...]
    """In the order of the ranks."""
    answer: Answer
    reason: str

    @property
    def written(self) -> Written:
        """The part of its commit to remember."""
        return Written(self.answer, tuple(one.folder for one in self.ranks))


def same(one: Held, other: Held) -> bool:
    """Whether two ranks hold the same checkpoint: directory, step, epoch and completeness are equal.

    Checkpoints without step and epoch, and empty volumes, all look the same. They are the same only as the final answer of
    both ranks to the same request: the training had ended, so no file could change any more.
    """
    if (one.checkpoint and one.checkpoint.identity) != (other.checkpoint and other.checkpoint.identity):
        return False
    numbered = one.checkpoint is not None and one.checkpoint.numbered
    return numbered or (one.answer == other.answer and one.answer.final)


def agreement(
    own: Sequence[Held], others: Mapping[int, Sequence[Held]], written: Collection[Written]
) -> Agreement | None:
    """Return the newest checkpoint that every rank holds and no commit has; None without one.

    Args:
        own: rank 0's manifests, newest first.
        others: every other rank's manifests, newest first.
        written: the commits of this incarnation.

    A request is answered once the manifest of every rank answers it. Until then the checkpoint is committed without an
    answer, so that it is safe.
    """
    for mine in own:
        if mine.asked and (row := _row(mine, others, mine.answer)):
            found = Agreement(row, mine.answer, mine.reason)
            return None if found.written in written else found
        row = _row(mine, others) if mine.checkpoint is not None and mine.checkpoint.complete else None
        if row and row[0].checkpoint is not None and row[0].checkpoint.numbered:
            found = Agreement(row, Answer(), "checkpoint")
            # If a commit has these files, whatever it answers, nothing older is committed either.
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
    """Return the ranks that do not hold rank 0's checkpoint, or have not answered the request that rank 0 answers."""

    def holds(one: Held) -> bool:
        return same(mine, one) and (not mine.asked or one.answer == mine.answer)

    return tuple(rank for rank in sorted(others) if not any(holds(one) for one in others[rank]))


def disagreement(mine: Held, others: Mapping[int, Sequence[Held]]) -> str:
    """Return why a final request can never be answered: two ranks gave final answers about different checkpoints. Empty otherwise."""
    if not mine.answer.final:
        return ""
    for rank in sorted(others):
        last = next((one for one in others[rank] if one.answer == mine.answer), None)
        if last is not None and not same(mine, last):
            return f"rank {rank} ended with {_name(last)}, rank 0 with {_name(mine)}"
    return ""


def _name(held: Held) -> str:
    if held.checkpoint is None:
        return "no checkpoint"
    unfinished = "" if held.checkpoint.complete else "the unfinished "
    return f"{unfinished}{held.checkpoint.dir}"


class Peers:
    """Reads the other ranks' manifests for rank 0; not thread-safe."""

    def __init__(self, bucket: Bucket, task: Task) -> None:
        self._bucket = bucket
        self._task = task
        self._read: dict[int, dict[str, Held | None]] = {rank: {} for rank in range(1, task.pod.world_size)}

    def look(self) -> dict[int, tuple[Held, ...]]:
        """Return every other rank's manifests, newest first, of its newest incarnation only.

        An older incarnation may have resumed from another checkpoint. Costs two LISTs for each rank and a GET for each
        new manifest.
        """
        return {rank: self._of(rank) for rank in self._read}

    def _of(self, rank: int) -> tuple[Held, ...]:
        layout = self._task.layout
        claims = (incarnation_of_claim(key) for key, _ in self._bucket.keys(layout.claims(rank), flat=True))
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
        try:
            read = read_head(self._bucket, key)
            manifest = read.head
            pod, order = manifest.pod, Order(manifest.incarnation, manifest.generation)
            expected = (self._task.run, rank, self._task.pod.world_size, key)
            if (manifest.run, pod.rank, pod.world_size, self._task.layout.manifest(rank, order, pod.name)) != expected:
                raise BadCommitError(f"it was written by rank {pod.rank} of {pod.world_size}")  # noqa: TRY301
        except BadCommitError as bad:
            log.warning("Ignoring manifest %s: %s.", key, bad)
            return None
        if any(file.regular for file in read.skipped):
            log.warning("Rank %d skipped files in %s: its commit cannot be proven.", rank, key)
        ref = RankManifest(rank=rank, incarnation=manifest.incarnation, key=key, sha256=read.digest)
        return Held.of(ref, manifest)
