"""The shipper: one thread that plans, sends and commits generations, and retries while the bucket fails."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Any

from trainingrun_operator import __version__
from trainingrun_operator.agent import ledger as ledgers
from trainingrun_operator.agent import plan
from trainingrun_operator.agent.cargo import (
    Cargo,
    ChangedError,
    LeftoverError,
    PreemptedError,
    Tally,
    UnreadableError,
)
from trainingrun_operator.agent.commits import Commits
from trainingrun_operator.agent.ledger import FencedError, Request, TooLargeError
from trainingrun_operator.agent.owed import Owed
from trainingrun_operator.agent.reading import DELETED
from trainingrun_operator.agent.recheck import Recheck
from trainingrun_operator.agent.upload import Shipment
from trainingrun_operator.agent.volume.scan import UNREADABLE_ADVICE
from trainingrun_operator.api.exchange import Upload
from trainingrun_operator.checkpoints.bucket import (
    ConflictError,
    CorruptedError,
    NoChecksumsError,
    StoreError,
    code_of,
    describe,
)
from trainingrun_operator.checkpoints.documents import Manifest

if TYPE_CHECKING:
    from trainingrun_operator.agent.config import Pace, Task
    from trainingrun_operator.agent.ledger import Ledger
    from trainingrun_operator.agent.plan import Job, Wish
    from trainingrun_operator.agent.report import Board
    from trainingrun_operator.agent.volume.look import View, Watcher
    from trainingrun_operator.api.exchange import SaveRequest
    from trainingrun_operator.checkpoints.bucket import Bucket
    from trainingrun_operator.checkpoints.documents import RankManifest

log = logging.getLogger(__name__)

FIRST_BACKOFF_SECONDS = 0.25
CHANGES_MAX = 5
"""Tries while the volume changes. After them, it is said; once the training has ended, files that change are skipped."""
MOMENT_QUIETS = 6
"""Quiet times between two commits of a checkpoint that is written anew all the time, unless one is asked for."""
LEFTOVERS_MAX = 3
"""Generations that are abandoned in a row. More are another writer's doing."""


class NoShipper:
    """Takes the place of a `Shipper` in a run that saves nothing (`checkpoint.mode: Disabled`)."""

    outcome: int | None = None

    def ask(self, save: SaveRequest | None, stop_id: str | None) -> None:
        """Ignore the request."""

    def looked(self, view: View) -> None:
        """Ignore the volume."""

    def terminate(self, *, released: bool = False) -> None:  # noqa: ARG002  # see `Shipper.terminate`
        """Set the exit code: there is no last commit to wait for."""
        self.outcome = 0

    def run(self) -> None:
        """Return at once."""

    def close(self) -> None:
        """Do nothing: there is nothing to close."""


class Shipper:
    """Makes every call to the bucket, on one thread. Other threads leave their requests here."""

    def __init__(self, task: Task, bucket: Bucket, ledger: Ledger, watcher: Watcher, board: Board, pace: Pace) -> None:
        self._task = task
        self._bucket = bucket
        self._ledger = ledger
        self._watcher = watcher
        self._board = board
        self._pace = pace
        self._woken = threading.Event()
        self._closed = False
        self._view: View | None = None
        self._save: SaveRequest | None = None
        self._stop_id: str | None = None
        self._terminating = False
        self._released = False
        self._fenced = False
        self._no_checksums = False
        self._moment_at: float | None = None
        """`time.monotonic` of the last commit of a checkpoint that was whole only for a moment."""
        self._leftovers: tuple[str, ...] = ()
        """Folders of generations that were abandoned since the last commit, newest first."""
        self._wish = plan.Wish()
        self._changes = 0
        self._failures = 0
        self._fence_seen = 0.0
        self._commits = Commits(task, bucket, ledger, board, pace)
        self._owed = Owed(task.config.quiet_seconds)
        self._recheck = Recheck(task.config.path, ledger, board, lambda: self._closed)
        self.since_ns = 0
        """Files without a newer modification time were left by an earlier pod."""
        self.outcome: int | None = None
        """The exit code once the work is done."""

    # -- called by other threads -------------------------------------------------------------------------------

    def ask(self, save: SaveRequest | None, stop_id: str | None) -> None:
        """Take the requests that the annotations make now."""
        self._stop_id = stop_id
        if save != self._save:
            self._save = save
            self._woken.set()
        pending = save if save and not self._ledger.has_answered(save) else None
        self._board.working_on(pending.id if pending else None)

    def terminate(self, *, released: bool = False) -> None:
        """Write the last commit and set the exit code: the pod is being terminated.

        ``released``: everything was proven before, so write a commit only if a file has been written since.
        """
        if self._terminating:
            return
        self._released = released
        self._terminating = True
        if self._fenced:
            self.outcome = 1
        else:
            log.info("The pod is being terminated: writing the last commit.")
        self._woken.set()

    def looked(self, view: View) -> None:
        """Take the last look at the volume."""
        self._view = view
        self._board.unsaved(self._ledger.unsaved_bytes(view.scan.entries))
        self._woken.set()

    def close(self) -> None:
        """Stop at once, without finishing the work."""
        self._closed = True
        self._woken.set()

    # -- the thread ----------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Work until closed, fenced or terminated."""
        while self._goes_on():
            self._woken.clear()
            pause = self._turn()
            if pause and self._goes_on():
                self._woken.wait(pause)
                if self._failures:
                    time.sleep(min(pause, FIRST_BACKOFF_SECONDS))

    def _goes_on(self) -> bool:
        return not self._closed and not self._fenced and self.outcome is None

    def _turn(self) -> float:
        """Do one piece of work. Return the longest pause before the next, in seconds."""
        try:
            rest = self._step()
        except PreemptedError:
            return 0.0
        except ChangedError as changed:
            return self._changed(changed)
        except LeftoverError as left:
            return self._abandoned(left)
        except ConflictError as conflict:
            log.warning("Cannot use generation %d, continuing with the next: %s.", self._ledger.generation, conflict)
            self._leftovers = (self._ledger.folder, *self._leftovers)[:LEFTOVERS_MAX]
            self._ledger.generation += 1
            return self._failed("Conflict", str(conflict))
        except FencedError as fenced:
            log.error("Fenced: %s. This agent commits nothing more.", fenced)  # noqa: TRY400  # expected, no traceback
            self._board.failed("store", "Fenced", str(fenced))
            self._fenced = True
            self.outcome = 1 if self._terminating else None
            return 0.0
        except (TooLargeError, UnreadableError, NoChecksumsError, CorruptedError, *StoreError) as failure:
            return self._failed(*self._words(failure))
        self._board.works("store")
        self._failures = 0
        return rest

    def _failed(self, code: str, message: str) -> float:
        if self._board.failed("store", code, message):
            log.warning("%s: %s. Retrying.", code, message)
        self._failures += 1
        return float(min(FIRST_BACKOFF_SECONDS * 2 ** min(self._failures, 10), self._pace.backoff_max))

    def _words(self, failure: Exception) -> tuple[str, str]:
        """Return code and message of a failure."""
        match failure:
            case TooLargeError():
                return "TooManyFiles", str(failure)
            case UnreadableError():
                self._recheck.failed(failure)
                return "Unreadable", f"{self._task.config.path}/{failure}; {UNREADABLE_ADVICE}"
            case NoChecksumsError():
                self._no_checksums = True
                return "NoChecksums", str(failure)
            case CorruptedError():
                return "ChecksumMismatch", str(failure)
            case _:
                return code_of(failure), describe(failure)

    def _changed(self, changed: ChangedError) -> float:
        self._changes += 1
        self._view = None
        if changed.why.startswith(DELETED) or self._changes >= CHANGES_MAX:
            self._board.failed("changes", "ChangedDuringUpload", f"Not committed: {changed}")
        log.info("Not committed: %s.", changed)
        return self._pace.scan / 2

    def _abandoned(self, left: LeftoverError) -> float:
        """Take the next generation. The objects of this one that still fit are copied there."""
        self._leftovers = (self._ledger.folder, *self._leftovers)
        log.info("Generation %d is not used: %s.", self._ledger.generation, left)
        self._ledger.generation += 1
        if len(self._leftovers) <= LEFTOVERS_MAX:
            return 0.0
        self._leftovers = self._leftovers[:LEFTOVERS_MAX]
        return self._failed("Conflict", f"another writer leaves objects in this agent's folders: {left.key}")

    def _begin(self) -> bool:
        """Read what the bucket has, once. Return False if nothing is there to be saved: the pod was released."""
        if self._released and not self._watcher.look(ended=True).scan.everything:
            self.outcome = 0
            return False
        if not self._ledger.is_open:
            self._ledger.open()
            if self._ledger.lacking:
                self._owed.committed(*self._ledger.lacking)
            if self._view:
                self._board.unsaved(self._ledger.unsaved_bytes(self._view.scan.entries))
            self._tell()
        if self._no_checksums:
            self._ledger.check_keeps_checksums()
            self._no_checksums = False
        return True

    def _step(self) -> float:
        if not self._begin():
            return 0.0
        self._wish = wish = self._current_wish()
        if answer := self._commits.agreed(wish):
            self._tell()
            if wish.reason == "sigterm" and answer == (*wish.request, True):
                self.outcome = 0
            return 0.0
        view = None if wish.ended else self._view
        view = view or self._watcher.look(ended=wish.ended)
        owed = wish.reason == "save" and self._owed.by(wish.request)
        if owed and not self._owed.is_quiet(view.scan):
            return self._pace.scan
        if wish.ended and not self._released:
            self._recheck.check(view.scan, wish)
        job = plan.next_job(view, self._ledger, wish, self.since_ns)
        if job and self._is_said_already(job):
            self.outcome = 0
            return 0.0
        if job and job.moment and self._is_too_soon(wish):
            job = None
        if job and (owed or not self._is_held_already(job)):
            self._ship(job, view)
            return 0.0
        if time.monotonic() - self._fence_seen > self._pace.fence:
            self._ledger.check_fence()
            self._fence_seen = time.monotonic()
        return self._pace.scan

    def _current_wish(self) -> Wish:
        return self._asked()._replace(inherited_ns=self._ledger.inherited_ns)

    def _asked(self) -> Wish:
        save, first = self._save, self._task.config.first_attempt
        pending = save is not None and (
            not self._ledger.has_answered(save) or self._owed.by(Request(save.id, save.attempt))
        )
        if self._ledger.rank and save is not None and not save.ended:
            # Rank 0 may not hold the checkpoint of this rank's answer, so later checkpoints answer as well.
            pending = True
        if self._terminating:
            request = Request(save.id, save.attempt) if save else Request(self._stop_id)
            status, spoiled = (save.status, save.spoiled) if save else (None, None)
            afresh = pending and request.attempt > first
            return plan.Wish("sigterm", ended=True, request=request, afresh=afresh, status=status, spoiled=spoiled)
        if save is not None and pending:
            request = Request(save.id, save.attempt)
            afresh = save.attempt > first
            return plan.Wish(
                "save", ended=save.ended, request=request, afresh=afresh, status=save.status, spoiled=save.spoiled
            )
        return plan.Wish()

    def _is_said_already(self, job: Job) -> bool:
        """Whether the final answer was written before SIGTERM arrived, and no file has changed since."""
        ledger = self._ledger
        newest = ledger.manifest if ledger.rank else ledger.newest
        if job.wish.reason != "sigterm" or newest is None or not newest.final:
            return False
        same = Request(newest.id, newest.attempt) == job.wish.request or job.wish.request.id is None
        return same and all(one.earlier for one in job.files)

    def _is_held_already(self, job: Job) -> bool:
        """Whether this rank's newest manifest already has the job's content, in a run of several ranks."""
        held = self._ledger.held[0] if self._ledger.held else None
        request, wish = job.wish.request, job.wish
        if held is None or held.answer != (request.id, request.attempt, wish.ended):
            return False
        if wish.reason == "save":
            return (held.checkpoint and held.checkpoint.identity) == (job.checkpoint and job.checkpoint.identity)
        return all(one.earlier for one in job.files)

    def _is_too_soon(self, wish: Wish) -> bool:
        if self._moment_at is None or wish.reason == "save":
            return False
        return time.monotonic() - self._moment_at < MOMENT_QUIETS * self._task.config.quiet_seconds

    def _halted(self) -> bool:
        """Whether the shipment in progress has to stop for a more urgent one."""
        return self._closed or (not self._wish.ended and self._current_wish().ended)

    # -- one generation ------------------------------------------------------------------------------------------------

    def _ship(self, job: Job, view: View) -> None:
        self._ledger.check_fence()
        tally, started = Tally(), time.monotonic()
        generation = self._ledger.generation
        self._board.shipping(tally)
        try:
            manifest, ref = self._make_manifest(job, tally)
        finally:
            self._board.shipping(None)
        if self._ledger.alone:
            self._commits.of_one_rank(job, ref, manifest)
        self._changes = 0
        self._moment_at = time.monotonic() if job.moment else self._moment_at
        self._leftovers = ()
        self._board.works("changes")
        self._owed.committed(job.wish.request, manifest.skipped if manifest else ())
        self._commits.shipped()
        self._tell()
        self._board.unsaved(self._ledger.unsaved_bytes(view.scan.entries))
        seconds = time.monotonic() - started
        if manifest is not None and not job.again:
            incarnation = manifest.incarnation
            sent = Upload(incarnation=incarnation, generation=generation, bytes=tally.sent_bytes, seconds=seconds)
            self._board.uploaded(sent)
        if job.wish.reason == "sigterm" and not self._commits.waits:
            self.outcome = 0
        log.info(
            "Shipped i%d-g%04d of rank %d (%s%s): %s, %d bytes sent and %d kept (%d parts) in %.1f s.",
            self._ledger.incarnation,
            generation,
            self._ledger.rank,
            job.wish.reason,
            ", final" if job.wish.ended else "",
            job.checkpoint.dir if job.checkpoint else "no checkpoint",
            tally.sent_bytes,
            tally.kept_bytes,
            tally.kept_parts,
            seconds,
        )

    def _tell(self) -> None:
        ledger = self._ledger
        self._board.claimed(ledger.incarnation, ledger.manifest, ledger.newest)

    def _make_manifest(self, job: Job, tally: Tally) -> tuple[Manifest | None, RankManifest]:
        """Send the files and write the manifest. None instead of a manifest: an earlier one is named again.

        In a run of several ranks every answer needs a new manifest, because a manifest states what it answers.
        """
        if job.again and self._ledger.alone:
            self._ledger.check_there(job.again)
            return None, job.again
        if job.again:
            there = self._ledger.read_again(job.again)
            manifest = there.model_copy(update=self._about(job) | {"previous": job.again.key})
        else:
            leftovers = () if job.wish.afresh else self._leftovers
            shipment = Shipment(
                self._bucket, self._task.config.path, self._ledger.folder, tally, self._halted, leftovers
            )
            skips = job.wish.ended and self._changes >= CHANGES_MAX and not self._owed.by(job.wish.request)
            try:
                cargo = shipment.send(job.files, ended=job.wish.ended, skip_changed=skips, moment=job.moment)
            finally:
                for path in shipment.not_copied:
                    self._ledger.forget(path)
            if cargo.unreadable and job.wish.reason != "sigterm":
                raise cargo.unreadable[0]
            manifest = self._manifest(job, cargo)
        return manifest, self._ledger.put_manifest(manifest)

    def _about(self, job: Job) -> dict[str, Any]:
        incarnation, generation = self._ledger.order
        return {
            "run": self._task.run,
            "pod": self._task.pod,
            "incarnation": incarnation,
            "generation": generation,
            "reason": job.wish.reason,
            "termination_id": job.wish.request.id,
            "attempt": job.wish.request.attempt,
            "final": job.wish.ended,
            "checkpoint": job.checkpoint,
            "agent_version": __version__,
            "written_at": ledgers.now(),
        }

    def _manifest(self, job: Job, cargo: Cargo) -> Manifest:
        return Manifest(
            **self._about(job),
            previous=self._ledger.previous,
            format=job.format,
            folder=self._ledger.folder,
            files=tuple(sorted(cargo.files, key=lambda file: file.path)),
            skipped=tuple(sorted((*cargo.skipped, *job.skipped), key=lambda file: file.path)),
            total_files=len(cargo.files),
            total_bytes=sum(file.size for file in cargo.files),
        )
