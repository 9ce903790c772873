"""The stop file: how a training is asked to leave, and how one that somebody else made is recognised."""

from __future__ import annotations

import logging
import os
import stat
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from trainingrun_operator.api import names
from trainingrun_operator.api.exchange import MarkerSeen

if TYPE_CHECKING:
    from collections.abc import Iterable

log = logging.getLogger(__name__)

SIGNATURE = f"{names.STOP_ANNOTATION} "
"""What every stop file of ours begins with; the request's id follows."""


def inside(name: str) -> str:
    """A file name as configured, relative and without a way out of its folder.

    Raises:
        ValueError: it is absolute or climbs.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise ValueError(f"stop or marker file {name!r} has to be relative and to stay below the checkpoint path")
    return str(path)


def _written_since(file: Path, since: float) -> float | None:
    """A regular file's modification time if it is at least that new."""
    try:
        found = file.lstat()
    except OSError:
        return None
    return found.st_mtime if stat.S_ISREG(found.st_mode) and found.st_mtime >= since else None


def _is_ours(file: Path) -> bool:
    try:
        with file.open("rb") as text:
            return text.read(len(SIGNATURE)) == SIGNATURE.encode()
    except OSError:
        return False


class StopFile:
    """Written into the checkpoint path, where the training looks, and into the control directory, which is never read-only."""

    def __init__(self, root: Path, control: Path, name: str, since: float) -> None:
        name = inside(name)
        self._files = (control / name, root / name)
        self._since = since
        self._done: str | None = None

    def write(self, request_id: str) -> None:
        """Ask the training to leave, once for each id. One that somebody else made says the same and stays."""
        if request_id == self._done:
            return
        self._done = request_id
        for file in self._files:
            if _written_since(file, self._since) is not None and not _is_ours(file):
                log.info("%s is there already; somebody else made it.", file)
                continue
            try:
                _replace(file, f"{SIGNATURE}{request_id}\n")
                log.info("Stop %s: wrote %s.", request_id, file)
            except OSError as failure:
                log.warning("Stop %s: cannot write %s: %s.", request_id, file, failure.strerror)

    def clear_stale(self) -> None:
        """Take away what an earlier pod's agent left in a lasting volume: it would stop the training at once."""
        for file in self._files:
            if _written_since(file, 0) is not None and _written_since(file, self._since) is None and _is_ours(file):
                try:
                    file.unlink()
                    log.info("Removed %s, left by an earlier stop.", file)
                except OSError as failure:
                    log.warning("Cannot remove %s, left by an earlier stop: %s.", file, failure.strerror)

    def is_foreign(self) -> bool:
        """Whether somebody else made one since the pod started."""
        return any(_written_since(file, self._since) is not None and not _is_ours(file) for file in self._files)


def _replace(file: Path, text: str) -> None:
    temporary = file.with_name(f".tmp-{file.name}")
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary.write_text(text)
    os.replace(temporary, file)  # noqa: PTH105  # the training sees all of it or none


def markers(root: Path, marker_names: Iterable[str], since: float, now: float) -> tuple[MarkerSeen, ...]:
    """The completion markers that were written since the pod started."""
    found = []
    for name in marker_names:
        written = _written_since(root / name, since)
        if written is not None:
            found.append(MarkerSeen(name=name, age_seconds=max(now - written, 0.0)))
    return tuple(found)
