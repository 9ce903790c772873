"""The restore: downloads the run's most advanced checkpoint from the bucket into the volume before the training starts."""

from __future__ import annotations

import logging
import os
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from trainingrun_operator.agent import left, process, stop
from trainingrun_operator.agent.config import Paths, Task
from trainingrun_operator.agent.volume import detect
from trainingrun_operator.agent.volume.look import Watcher
from trainingrun_operator.agent.volume.scan import Filter, scan
from trainingrun_operator.checkpoints import bucket as buckets
from trainingrun_operator.checkpoints import names
from trainingrun_operator.checkpoints.bucket import Bucket, StoreError, code_of, describe
from trainingrun_operator.checkpoints.documents import WHOLE, Commit
from trainingrun_operator.checkpoints.download import Download
from trainingrun_operator.checkpoints.keys import order_of_commit
from trainingrun_operator.checkpoints.proof import (
    BadCommitError,
    Found,
    check_owned,
    check_whole,
    complaint_about,
    load_commit,
    load_manifest,
)
from trainingrun_operator.checkpoints.reached import Moment, Reached

if TYPE_CHECKING:
    from collections.abc import Iterable

    from trainingrun_operator.checkpoints.documents import FileEntry, Manifest

log = logging.getLogger(__name__)

LIMIT_ENV = "TRAININGRUN_RESTORE_LIMIT_SECONDS"
"""How long to retry while the bucket does not answer. Absent: without a limit, because a start from zero is worse."""
RETRY_SECONDS = 5.0
COMMITS_MAX = 1000
"""Commits that are read, the newest ones."""
READERS = 16


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


class Restore:
    """The restore of one pod."""

    def __init__(self, task: Task, paths: Paths, bucket: Bucket) -> None:
        self._task = task
        self._paths = paths
        self._bucket = bucket
        self._layout = task.layout

    def once(self) -> bool:
        """Try once. Return False if the bucket has checkpoints and none of them is whole.

        Raises:
            ClientError, BotoCoreError: a call to the bucket failed.
            OSError: the volume is not writable.
        """
        chosen = candidates(self._commits(), self._task.pod.world_size)
        if not chosen:
            log.info("Nothing to restore: the bucket has no checkpoint of this run.")
            return True
        if self._is_further(chosen[0]):
            return True
        for commit in chosen:
            try:
                self._fetch(commit)
            except BadCommitError as bad:
                log.warning("Cannot restore i%d-g%04d, trying the next best: %s.", *commit.order, bad)
            else:
                return True
        log.error("None of %d checkpoints in the bucket is whole.", len(chosen))
        return False

    def _commits(self) -> list[Commit]:
        keys = {order: key for key, _ in self._bucket.keys(self._layout.commits) if (order := order_of_commit(key))}
        newest = [keys[order] for order in sorted(keys, reverse=True)[:COMMITS_MAX]]
        with ThreadPoolExecutor(READERS) as pool:
            return [commit for commit in pool.map(self._load, newest) if commit]

    def _load(self, key: str) -> Commit | None:
        try:
            return load_commit(self._bucket, self._layout, key).commit
        except BadCommitError as bad:
            log.warning("Ignoring commit %s: %s.", key, bad)
            return None

    def _is_further(self, best: Commit) -> bool:
        """Whether the volume holds a complete checkpoint that is further than the best commit. If so, resume from it.

        Always False in a run of several ranks: only a commit proves that every rank has the checkpoint.
        """
        if self._task.pod.world_size > 1:
            return False
        view = Watcher(self._task.config, stop.inside(self._task.config.stop_file)).look(ended=True)
        local = detect.newest(view.seen, 0)
        if local is None or Moment.of(local.unit.step, local.unit.epoch) <= Reached.of(best).moment:
            return False
        log.info("Nothing to restore: %s in the volume is further than the bucket.", local.unit.dir)
        self._resume_from(local.unit.dir)
        return True

    def _fetch(self, commit: Commit) -> None:
        rank, found = self._task.pod.rank, None
        for ref in commit.ranks:
            manifest = load_manifest(self._bucket, self._layout, commit, ref)
            check_whole(manifest)
            if ref.rank == rank:
                found = manifest
            else:
                self._check_objects(manifest)
        if found is None or commit.checkpoint is None:
            raise BadCommitError(f"it names no manifest of rank {rank}")
        manifest = found
        started = time.monotonic()
        files = tuple(file for file in manifest.files if not names.is_temporary(names.from_text(file.path)))
        finished = manifest.model_copy(update={"files": files})
        size = Download(self._bucket, self._layout, self._task.root).fetch(finished)
        self._resume_from(names.from_text(commit.checkpoint.dir))
        log.info(
            "Restored %s of i%d-g%04d: %d of %d bytes downloaded in %.1f s.",
            commit.checkpoint.dir,
            *commit.order,
            size,
            manifest.total_bytes,
            time.monotonic() - started,
        )

    def _check_objects(self, manifest: Manifest) -> None:
        """Check the objects that another rank restores: without one of them, that rank would go back further than this one."""
        files = [file for file in manifest.files if file.link_target is None]
        for file in files:
            check_owned(self._layout, file.key)
        with ThreadPoolExecutor(READERS) as pool:
            for file, stored in zip(files, pool.map(self._head, files), strict=True):
                if complaint := complaint_about(file, stored):
                    raise BadCommitError(f"rank {manifest.pod.rank}: {complaint}")

    def _head(self, file: FileEntry) -> Found | None:
        stored = self._bucket.head(file.key)
        return None if stored is None else Found(stored.size, stored.crc)

    def _resume_from(self, folder: str) -> None:
        path = self._task.root if folder == WHOLE else self._task.root / folder
        self._paths.resume_from.write_bytes(os.fsencode(f"{path}\n"))


def run(paths: Paths | None = None, limit_seconds: float | None = None, retry_seconds: float = RETRY_SECONDS) -> int:
    """Restore, and retry while the bucket fails. Return 0 on success, and also if there is nothing to restore."""
    process.set_up()
    task = Task.from_env()
    if limit_seconds is None and (limit := os.environ.get(LIMIT_ENV)):
        limit_seconds = float(limit)
    started = time.monotonic()
    paths = paths or Paths()
    restore = Restore(task, paths, Bucket(buckets.client(task.config), task.layout.bucket))
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
            log.error("Cannot write the volume: %s.", failure)  # noqa: TRY400  # expected, needs no traceback
            return 1
        else:
            return 0 if done else 1
        time.sleep(retry_seconds)
