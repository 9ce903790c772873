"""The stop file and the marker files: write the one, read the others, recognise a stop file of another author."""

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
"""First bytes of every stop file that the agent writes; the request's id follows."""


def inside(name: str) -> str:
    """Return a configured file name, relative to the checkpoint path.

    Raises:
        ValueError: the name is absolute, empty or contains "..".
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise ValueError(f"stop or marker file {name!r} must be relative and must stay below the checkpoint path")
    return str(path)


def _written_since(file: Path, since: float) -> float | None:
    """Return a regular file's modification time, if it is not before ``since``."""
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
    """Writes the stop file into the checkpoint path, where the training looks, and into the control directory, always writable."""

    def __init__(self, root: Path, control: Path, name: str, since: float) -> None:
        name = inside(name)
        self._files = (control / name, root / name)
        self._since = since
        self._done: str | None = None

    def write(self, request_id: str) -> None:
        """Write the stop file once for each id. A stop file of another author has the same effect and stays."""
        if request_id == self._done:
            return
        self._done = request_id
        for file in self._files:
            if _written_since(file, self._since) is not None and not _is_ours(file):
                log.info("Stop %s: %s exists, written by someone else.", request_id, file)
                continue
            try:
                _replace(file, f"{SIGNATURE}{request_id}\n")
                log.info("Stop %s: wrote %s.", request_id, file)
            except OSError as failure:
                log.warning("Stop %s: cannot write %s: %s.", request_id, file, failure.strerror)

    def clear_stale(self) -> None:
        """Remove the stop file that an earlier pod's agent left in the volume: it would stop the training at once."""
        for file in self._files:
            if _written_since(file, 0) is not None and _written_since(file, self._since) is None and _is_ours(file):
                try:
                    file.unlink()
                    log.info("Removed %s, left by an earlier stop.", file)
                except OSError as failure:
                    log.warning("Cannot remove %s, left by an earlier stop: %s.", file, failure.strerror)

    def is_foreign(self) -> bool:
        """Whether someone else has written a stop file since the pod started."""
        return any(_written_since(file, self._since) is not None and not _is_ours(file) for file in self._files)


def own_files(name: str) -> tuple[str, str]:
    """Return the stop file, and the file that it is written as before it is renamed."""
    return name, str(_temporary(Path(name)))


def _temporary(file: Path) -> Path:
    return file.with_name(f".tmp-{file.name}")


def _replace(file: Path, text: str) -> None:
    temporary = _temporary(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary.write_text(text)
    os.replace(temporary, file)  # noqa: PTH105  # the training sees the whole file or none


def markers(root: Path, marker_names: Iterable[str], since: float, now: float) -> tuple[MarkerSeen, ...]:
    """Return the completion markers written since the pod started."""
    found = []
    for name in marker_names:
        written = _written_since(root / name, since)
        if written is not None:
            found.append(MarkerSeen(name=name, age_seconds=max(now - written, 0.0)))
    return tuple(found)
