"""The restore: downloads the run's most advanced checkpoint from the bucket into the volume before the training starts."""

from __future__ import annotations

import logging
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pydantic import ValidationError

from trainingrun_operator.agent import left, process, stop, telling
from trainingrun_operator.agent.config import Paths, Task
from trainingrun_operator.agent.volume import detect, formats, root
from trainingrun_operator.agent.volume.look import Watcher
from trainingrun_operator.agent.volume.scan import Filter, scan
from trainingrun_operator.api.restored import LISTED_MAX, PassedOver, Restored
from trainingrun_operator.checkpoints import bucket as buckets
from trainingrun_operator.checkpoints import names
from trainingrun_operator.checkpoints.bucket import Bucket, StoreError, code_of, describe
from trainingrun_operator.checkpoints.documents import COMMIT_MAX_BYTES, WHOLE, Claim, Commit
from trainingrun_operator.checkpoints.download import Download, remove_staging
from trainingrun_operator.checkpoints.keys import Layout, order_of_commit
from trainingrun_operator.checkpoints.manifests import load_manifest
from trainingrun_operator.checkpoints.proof import (
    BadCommitError,
    Found,
    check_restorable,
    check_whole,
    complaint_about,
    load_commit,
)
from trainingrun_operator.checkpoints.reached import Moment, Reached

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from trainingrun_operator.checkpoints.documents import Manifest
    from trainingrun_operator.checkpoints.keys import Order

log = logging.getLogger(__name__)

LIMIT_ENV = "TRAININGRUN_RESTORE_LIMIT_SECONDS"
"""How long to retry while the bucket does not answer. Absent: without a limit, because a start from zero is worse."""
RETRY_SECONDS = 5.0
COMMITS_MAX = 1000
"""Commits that are read at once, the newest ones first. Older ones are read if none of them can be resumed from."""
READERS = 16
MESSAGE_MAX: Final = 1000
"""Characters of the reason why nothing can be restored."""


def candidates(commits: Iterable[Commit], world_size: int) -> list[Commit]:
    """Return the commits to resume from, the best first: the most advanced, then the newest.

    A later attempt that has trained less does not supersede an earlier one. Commits of the same manifests count once.
    Commits of another number of ranks are ignored: they do not have what every rank needs.
    """
    best = sorted(
        (commit for commit in commits if commit.checkpoint and commit.checkpoint.complete and commit.total_files),
        key=Reached.of,
        reverse=True,
    )
    chosen: dict[tuple[str, ...], Commit] = {}
    for commit in best:
        if commit.world_size != world_size:
            log.warning(
                "Ignoring commit i%d-g%04d: it is of %d ranks, the run has %d.",
                *commit.order,
                commit.world_size,
                world_size,
            )
            continue
        chosen.setdefault(tuple(ref.sha256 for ref in commit.ranks), commit)
    return list(chosen.values())


@dataclass(frozen=True)
class Place:
    """The checkpoints of one run in a bucket."""

    bucket: Bucket
    layout: Layout
    run: str = ""
    """Namespace and name, if it is another run than the pod's."""
    folder: str = ""
    """Key prefix of the only generation that will do; empty: any."""

    @classmethod
    def own(cls, task: Task) -> Place:
        """Return the place of the pod's own run."""
        return cls(Bucket(buckets.client(task.config), task.layout.bucket), task.layout)

    @classmethod
    def other(cls, task: Task) -> Place | None:
        """Return the place of the run that this one starts from; None: there is none."""
        source = task.config.restore_from
        if source is None:
            return None
        same = ("endpoint_url", "region", "expected_bucket_owner", "requester_pays")
        access = task.config.model_copy(update={name: getattr(source, name) for name in same})
        layout = Layout.of(source.destination, source.namespace, source.run, source.run_uid)
        bucket = Bucket(buckets.client(access), layout.bucket)
        return cls(bucket, layout, f"{source.namespace}/{source.run}", source.folder)


class Restore:
    """The restore of one pod."""

    def __init__(self, task: Task, paths: Paths, own: Place, other: Place | None = None) -> None:
        self._task = task
        self._paths = paths
        self._own = own
        self._other = other
        self._passed_over: list[PassedOver] = []

    def once(self) -> bool:
        """Try once. Return False if the bucket has checkpoints and none of them can be restored.

        Raises:
            ClientError, BotoCoreError: a call to the bucket failed.
            OSError: the volume is not writable.
        """
        self._passed_over = []
        place, chosen = self._choose()
        if not chosen:
            return self._nothing(place)
        if self._is_further(place, chosen[0]):
            return True
        for commit in chosen:
            try:
                self._fetch(place, commit)
            except BadCommitError as bad:
                log.warning("Cannot restore %s, trying the next best: %s.", telling.name_of(commit.order), bad)
                self._pass_over(commit.order, str(bad))
            else:
                return True
        return self._fail(f"None of {len(chosen)} checkpoints at {place.layout.uri(place.layout.base)} can be restored")

    def _choose(self) -> tuple[Place, list[Commit]]:
        """Return the commits to try, the best first, and their place. Checkpoints of this run win over those of another."""
        place = self._own
        chosen = self._candidates(place)
        if not chosen and not self._passed_over and self._other is not None:
            place = self._other
            chosen = self._candidates(place)
        return place, chosen

    def _candidates(self, place: Place) -> list[Commit]:
        """Return the candidates among the newest `COMMITS_MAX` commits that have any."""
        for read in self._commits(place):
            found = [commit for commit in read if commit.is_of(place.folder)]
            if chosen := candidates(found, self._task.pod.world_size):
                return chosen
        return []

    def _nothing(self, place: Place) -> bool:
        """Start from the beginning, unless there should be a checkpoint."""
        where = place.layout.uri(place.layout.base)
        if self._passed_over:
            return self._fail(f"No commit at {where} can be read")
        if place.run:
            return self._fail(
                f"Run {place.run} has no complete checkpoint at {where} for {self._task.pod.world_size} ranks"
            )
        log.info("Nothing to restore: the bucket has no checkpoint of this run.")
        self._tell(Restored())
        return True

    def _fail(self, what: str) -> bool:
        whys = "; ".join(f"{one.commit}: {one.why}" for one in self._passed_over[:LISTED_MAX])
        log.error("%s%s.", what, f": {whys}" if whys else "")
        telling.say(self._paths.termination_log, f"{what}{f': {whys}' if whys else ''}."[:MESSAGE_MAX])
        return False

    def _pass_over(self, order: Order, why: str) -> None:
        self._passed_over.append(telling.passed_over(order, why))

    def _commits(self, place: Place) -> Iterator[list[Commit]]:
        """Read the commits, newest first, `COMMITS_MAX` at once."""
        listed = place.bucket.keys(place.layout.commits)
        keys = {
            order: key for key, _ in listed if (order := order_of_commit(key)) and key == place.layout.commit(order)
        }
        newest_first = sorted(keys, reverse=True)
        for at in range(0, len(newest_first), COMMITS_MAX):
            some = newest_first[at : at + COMMITS_MAX]
            with ThreadPoolExecutor(READERS) as pool:
                read = list(pool.map(lambda order: _load(place, keys[order]), some))
            for order, one in zip(some, read, strict=True):
                if isinstance(one, BadCommitError):
                    log.warning("Ignoring commit %s: %s.", keys[order], one)
                    self._pass_over(order, str(one))
            yield [one for one in read if isinstance(one, Commit)]

    def _is_further(self, place: Place, best: Commit) -> bool:
        """Whether the volume holds a complete checkpoint that is further than the best commit. If so, resume from it.

        What the run wrote itself is further than what was in the volume before it, and than another run's. Always False in a run of several
        ranks: only a commit proves that every rank has the checkpoint.
        """
        if self._task.pod.world_size > 1:
            return False
        view = Watcher(self._task.config, stop.inside(self._task.config.stop_file)).look(ended=True)
        local = detect.newest(view.seen, 0)
        if local is None:
            return False
        unit, left_ns = local.unit, self._left_ns()
        if best.checkpoint is not None and best.checkpoint.finite and not place.run:
            # Later checkpoints of this run, on the volume too, may hold values that are not finite.
            further = False
        elif place.run:
            further = left_ns is not None and unit.mtime_ns > left_ns
        else:
            reached = Reached.of(best)
            own = unit.mtime_ns > (left_ns or 0)
            further = (own, Moment.of(unit.step, unit.epoch)) > (reached.own, reached.moment)
        if not further:
            return False
        log.info("Nothing to restore: %s in the volume is further than the bucket.", unit.dir)
        self._resume_from(unit.dir)
        self._tell(telling.in_volume(unit.dir, unit.step, unit.epoch))
        return True

    def _left_ns(self) -> int | None:
        """Return the time of the newest file that was in the volume before the run's first pod; None: no pod has claimed to write yet."""
        place = self._own
        body = place.bucket.get(place.layout.claim(self._task.pod.rank, 1), COMMIT_MAX_BYTES)
        if body is None:
            return None
        try:
            return Claim.model_validate_json(body, by_alias=True, by_name=False).left_ns
        except ValidationError:
            return 0  # not this version's

    def _fetch(self, place: Place, commit: Commit) -> None:
        rank, found = self._task.pod.rank, None
        for ref in commit.ranks:
            manifest = load_manifest(place.bucket, place.layout, commit, ref)
            check_whole(manifest)
            if ref.rank == rank:
                found = manifest
            else:
                self._check_objects(place, manifest)
        if found is None or commit.checkpoint is None:
            raise BadCommitError(f"it names no manifest of rank {rank}")
        started = time.monotonic()
        files = tuple(file for file in found.files if not names.is_temporary(names.from_text(file.path)))
        finished = found.model_copy(update={"files": files})
        # What another run left is older than all that this run writes, also where the other machine's clock is ahead.
        not_after = time.time_ns() - 10**9 if place.run else None
        done = Download(place.bucket, place.layout, self._task.root, _whole_by_format, not_after).fetch(finished)
        for path, why in done.left_out.items():
            log.warning("Leaving out the link %s: %s.", names.to_text(path), why)
        if done.kept:
            some = ", ".join(map(names.to_text, done.kept[:LISTED_MAX]))
            log.warning(
                "Keeping %d files in the volume that are newer than the checkpoint's: %s.", len(done.kept), some
            )
        self._resume_from(names.from_text(commit.checkpoint.dir))
        self._tell(telling.downloaded(place.layout, place.run, commit, found, done))
        log.info(
            "Restored %s of %s: %d of %d bytes downloaded in %.1f s.",
            commit.checkpoint.dir,
            telling.name_of(commit.order),
            done.size,
            found.total_bytes,
            time.monotonic() - started,
        )

    @staticmethod
    def _check_objects(place: Place, manifest: Manifest) -> None:
        """Check the objects that another rank restores: without one of them, that rank would go back further than this one."""
        for file in manifest.files:
            check_restorable(place.layout, file)
        files = [file for file in manifest.files if file.link_target is None]
        with ThreadPoolExecutor(READERS) as pool:
            for file, stored in zip(files, pool.map(place.bucket.head, (file.key for file in files)), strict=True):
                found = None if stored is None else Found(stored.size, stored.crc)
                if complaint := complaint_about(file, found):
                    raise BadCommitError(f"rank {manifest.pod.rank}: {complaint}")

    def _resume_from(self, folder: str) -> None:
        path = self._task.root if folder == WHOLE else self._task.root / folder
        if os.path.lexists(path):
            self._paths.resume_from.write_bytes(os.fsencode(f"{path}\n"))

    def _tell(self, restored: Restored) -> None:
        """Tell the operator what the training starts from."""
        remove_staging(self._task.root, self._task.pod.rank)
        telling.say(self._paths.termination_log, telling.message(restored, self._passed_over))


def _load(place: Place, key: str) -> Commit | BadCommitError:
    try:
        return load_commit(place.bucket, place.layout, key).commit
    except BadCommitError as bad:
        return bad


def _whole_by_format(place: Path) -> bool | None:
    """Whether a file is whole by its format; None: its format does not say."""
    with place.open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        state = formats.probe(place.name, size, lambda offset, length: os.pread(file.fileno(), length, offset)).state
    return None if state is formats.State.PLAIN else state is formats.State.WHOLE


def run(paths: Paths | None = None, limit_seconds: float | None = None, retry_seconds: float = RETRY_SECONDS) -> int:
    """Restore, and retry while the bucket fails. Return 0 on success, and also if there is nothing to restore."""
    process.set_up()
    task = Task.from_env()
    if limit_seconds is None and (limit := os.environ.get(LIMIT_ENV)):
        limit_seconds = float(limit)
    started = time.monotonic()
    paths = paths or Paths()
    restore = Restore(task, paths, Place.own(task), Place.other(task))
    while True:
        try:
            done = restore.once()
            found = scan(task.config.path, Filter()).everything
            left.note(paths.control, task.pod.uid, (entry.mtime_ns for entry in found.values()))
        except StoreError as failure:
            waited = time.monotonic() - started
            log.warning("The bucket has failed for %.0f s: %s: %s.", waited, code_of(failure), describe(failure))
            if limit_seconds is not None and waited + retry_seconds > limit_seconds:
                return 1
        except OSError as failure:
            where = failure.filename if isinstance(failure.filename, str) else task.config.path
            words = f"Cannot write {names.to_text(where)}: {root.complaint(failure)}"
            log.error("%s.", words)  # noqa: TRY400  # expected, needs no traceback
            telling.say(paths.termination_log, f"{words}."[:MESSAGE_MAX])
            return 1
        else:
            return 0 if done else 1
        time.sleep(retry_seconds)
