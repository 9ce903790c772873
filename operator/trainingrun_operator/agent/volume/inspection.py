"""What the agent makes of a folder, as plain data: for `kubectl trainingrun inspect`."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

from trainingrun_operator.agent.stop import inside
from trainingrun_operator.agent.volume import detect
from trainingrun_operator.agent.volume.about import is_about
from trainingrun_operator.agent.volume.look import Watcher
from trainingrun_operator.agent.volume.scan import Kind
from trainingrun_operator.agent.volume.units import is_log
from trainingrun_operator.api.exchange import AgentConfig
from trainingrun_operator.checkpoints import names
from trainingrun_operator.checkpoints.documents import FILES_MAX

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from trainingrun_operator.agent.volume.detect import Seen
    from trainingrun_operator.agent.volume.look import View

IGNORED_MAX = 1000
"""Entries of the list of what is ignored."""


class Inspected(TypedDict):
    """One checkpoint."""

    name: str
    dir: str
    files: int
    bytes: int
    step: int | None
    epoch: int | None
    complete: bool
    layout: str
    why: str


class Ignored(TypedDict):
    """A file or folder that is no checkpoint."""

    path: str
    why: str


class Inspection(TypedDict):
    """A folder as the agent sees it."""

    checkpoints: list[Inspected]
    newest: str | None
    ignored: list[Ignored]


def inspect(folder: Path, *, ended: bool, saved_file: Path | None = None) -> Inspection:
    """Look at a folder once, with the settings of a run that sets none.

    Raises:
        OSError: the folder or something in it cannot be read, or it has too many files.
    """
    config = AgentConfig(namespace="", run="", run_uid="", path=str(folder), destination="")
    view = Watcher(config, inside(config.stop_file), saved_file).look(ended=ended)
    if view.scan.too_many:
        raise OSError(f"{folder} has more than {FILES_MAX} files")
    if view.error:
        raise OSError(view.error)
    seen = [one for one in view.seen if detect.is_checkpoint(one)]
    newest = detect.newest(seen, 0)
    return {
        "checkpoints": [_inspected(one) for one in seen],
        "newest": names.to_text(newest.unit.name) if newest else None,
        "ignored": sorted(_ignored(view, seen), key=lambda one: one["path"])[:IGNORED_MAX],
    }


def _inspected(seen: Seen) -> Inspected:
    unit = seen.unit
    return {
        "name": names.to_text(unit.name),
        "dir": names.to_text(unit.dir),
        "files": len(unit.files),
        "bytes": unit.bytes,
        "step": unit.step,
        "epoch": unit.epoch,
        "complete": seen.complete,
        "layout": unit.layout,
        "why": names.to_text(seen.verdict.evidence),
    }


def _ignored(view: View, seen: list[Seen]) -> Iterator[Ignored]:
    counted = {at for one in seen for path in one.unit.files for at in _parents(path)}
    others: dict[str, str] = {}
    for path, entry in view.scan.entries.items():
        if path not in counted:
            others.setdefault(*_about(path, next(at for at in _parents(path) if at not in counted), entry.kind))
    for path in view.scan.temporary:
        name = next(part for part in _parents(path) if names.is_temporary(part.rsplit("/", 1)[-1]))
        others.setdefault(name, "a temporary name: unfinished")
    for path, why in others.items():
        yield {"path": names.to_text(path), "why": why}


def _about(path: str, top: str, kind: Kind) -> tuple[str, str]:
    """Return what to name, and why it is no checkpoint, of a file and of the highest path to it that has no checkpoint."""
    if kind is Kind.OTHER:
        return path, "neither a file nor a link"
    if is_log(path):
        return path, "a log: no checkpoint waits for it"
    if is_about(path):
        return path, "settings, code or a picture: no checkpoint without other files"
    if names.is_set_aside(top):
        return top, "in no checkpoint: its name marks what is set aside, such as a copy of an earlier save"
    return top, "in no checkpoint: its name has no number that orders it, or numbered folders are beside it"


def _parents(path: str) -> Iterator[str]:
    """Yield a path's folders from the top, and the path itself."""
    parts = path.split("/")
    for end in range(1, len(parts) + 1):
        yield "/".join(parts[:end])
