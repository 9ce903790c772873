"""Write commits. Rank 0 writes them: with each manifest in a run of one rank, else once all ranks hold the same checkpoint."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from trainingrun_operator import __version__
from trainingrun_operator.agent import ledger as ledgers
from trainingrun_operator.agent.ranks import Peers, agreement, disagreement, lagging
from trainingrun_operator.checkpoints.documents import Answer, Commit

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from trainingrun_operator.agent.config import Pace, Task
    from trainingrun_operator.agent.ledger import Ledger
    from trainingrun_operator.agent.plan import Job, Wish
    from trainingrun_operator.agent.ranks import Held, Written
    from trainingrun_operator.agent.report import Board
    from trainingrun_operator.checkpoints.bucket import Bucket
    from trainingrun_operator.checkpoints.documents import Checkpoint, Manifest, RankManifest

log = logging.getLogger(__name__)


class Commits:
    """Writes the commits on the shipper's thread; not thread-safe."""

    def __init__(self, task: Task, bucket: Bucket, ledger: Ledger, board: Board, pace: Pace) -> None:
        self._task = task
        self._ledger = ledger
        self._board = board
        self._pace = pace
        several = task.pod.world_size > 1 and task.pod.rank == 0
        self._peers = Peers(bucket, task) if several else None
        self._look_at = 0.0
        """`time.monotonic` of the next read of the other ranks' manifests."""
        self._rested = 0.0
        """Pause before that read, in seconds."""

    @property
    def waits(self) -> bool:
        """Whether this agent is rank 0 of several ranks, so that its commits wait for the others."""
        return self._peers is not None

    def of_one_rank(self, job: Job, ref: RankManifest, manifest: Manifest | None) -> None:
        """Commit the manifest just written, or (``manifest`` is None) an earlier one.

        Raises:
            FencedError: a newer writer has claimed the rank.
            ConflictError: the key holds another commit.
        """
        totals = self._ledger.totals_of(ref) if manifest is None else (manifest.total_files, manifest.total_bytes)
        request = job.wish.request
        answer = Answer(request.id, request.attempt, job.wish.ended)
        self._put(job.wish, job.wish.reason, answer, job.checkpoint, (ref,), totals, manifest=manifest)

    def shipped(self) -> None:
        """Note that this rank has a new manifest: the next turn reads the other ranks without delay."""
        self._rested, self._look_at = 0.0, 0.0

    def agreed(self, wish: Wish) -> Answer | None:
        """Commit what every rank of several holds. Return what the commit answers; None without a new commit.

        Raises:
            FencedError: a newer writer has claimed the rank.
            ConflictError: the key holds another commit.
            ClientError, BotoCoreError: a call to the bucket failed.
        """
        mine = next(iter(self._ledger.held), None)
        if self._peers is None or mine is None or self._ledger.has_committed(mine) or time.monotonic() < self._look_at:
            return None
        others = self._peers.look()
        found = agreement(self._ledger.held, others, self._ledger.written)
        if found is None:
            self._wait(wish, mine, others)
            return None
        refs = tuple(one.ref for one in found.ranks)
        totals = (sum(one.files for one in found.ranks), sum(one.bytes for one in found.ranks))
        self._put(wish, found.reason, found.answer, found.ranks[0].checkpoint, refs, totals, written=found.written)
        self._board.lagging(())
        self._board.works("ranks")
        return found.answer

    def _wait(self, wish: Wish, mine: Held, others: Mapping[int, Sequence[Held]]) -> None:
        """Delay the next read of the other ranks: at first by the scan interval, then twice as long each time."""
        longest = self._pace.backoff_max if wish.ended else self._pace.ranks_max
        self._rested = min(max(self._rested * 2, self._pace.scan), longest)
        self._look_at = time.monotonic() + self._rested
        self._board.lagging(lagging(mine, others))
        why = disagreement(mine, others)
        if not why:
            self._board.works("ranks")
        elif self._board.failed("ranks", "RanksDiffer", f"No checkpoint is held by every rank: {why}"):
            log.warning("No checkpoint is held by every rank: %s.", why)

    def _put(  # noqa: PLR0913  # the parts of a commit
        self,
        wish: Wish,
        reason: str,
        answer: Answer,
        checkpoint: Checkpoint | None,
        ranks: tuple[RankManifest, ...],
        totals: tuple[int, int],
        *,
        manifest: Manifest | None = None,
        written: Written | None = None,
    ) -> None:
        incarnation, generation = self._ledger.order
        commit = Commit(
            run=self._task.run,
            incarnation=incarnation,
            generation=generation,
            reason=reason,
            termination_id=answer.id,
            attempt=answer.attempt,
            status=wish.status if (answer.id, answer.attempt) == wish.request else None,
            final=answer.final,
            checkpoint=checkpoint,
            ranks=ranks,
            world_size=self._task.pod.world_size,
            pod_uid=self._task.pod.uid,
            total_files=totals[0],
            total_bytes=totals[1],
            agent_version=__version__,
            written_at=ledgers.now(),
        )
        self._ledger.put_commit(commit, manifest, written)
        log.info(
            "Committed i%d-g%04d (%s%s): %s, %d files of %d ranks.",
            incarnation,
            generation,
            reason,
            ", final" if answer.final else "",
            checkpoint.dir if checkpoint else "no checkpoint",
            commit.total_files,
            commit.world_size,
        )
