"""Read the small files and links beside the checkpoints that may name one of them, such as ``latest`` and ``last_checkpoint``.

A writer changes its pointer after the checkpoint that it names, so a commit of the checkpoint may have the pointer's earlier content.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from trainingrun_operator.agent.volume.scan import Kind
from trainingrun_operator.agent.volume.units import is_log

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractContextManager

    from trainingrun_operator.agent.volume.scan import Entry
    from trainingrun_operator.agent.volume.units import Unit

POINTER_MAX_BYTES = 4096
POINTERS_MAX = 64
"""Files that are read at most."""
NAME_MIN = 4
"""Shortest name that counts anywhere in a text."""


class Pointers:
    """Remembers between looks what each file says. Used by one thread at a time."""

    def __init__(self, root: str, settle: float, opened: Callable[[str, str], AbstractContextManager[int]]) -> None:
        self._root = root
        self._settle = settle
        self._opened = opened
        self._known: dict[str, tuple[Entry, float, str]] = {}

    def look(self, rest: Unit | None, at: float) -> Mapping[str, str]:
        """Return the texts, or a link's target, by path. A file that changes all the time is left out: it points at nothing for long."""
        small = {path: entry for path, entry in (rest.files if rest else {}).items() if _may_point(path, entry)}
        known: dict[str, tuple[Entry, float, str]] = {}
        for path in sorted(small)[:POINTERS_MAX]:
            before = self._known.get(path)
            known[path] = before if before and before[0] == small[path] else (small[path], at, self._read(path))
        self._known = known
        return {path: text for path, (_, since, text) in known.items() if text and at - since >= self._settle}

    def _read(self, path: str) -> str:
        try:
            if (link := Path(self._root, path)).is_symlink():
                return str(link.readlink())
            with self._opened(self._root, path) as file:
                return os.pread(file, POINTER_MAX_BYTES, 0).decode("utf-8", "replace")
        except OSError:
            return ""


def names_unit(text: str, unit: Unit) -> bool:
    """Whether a pointer's text names a unit: by the name of its folder or of a file of it, or by its number."""
    text = text.strip()
    folder = any("/" in path for path in unit.files)
    full = {unit.dir} if folder else set(unit.files)
    names = full | {name.rpartition(".")[0] for name in full if "." in name.strip(".")}
    number = unit.number
    numbers = {str(one) for one in (number.value, number.step, number.epoch) if one is not None} if number else set()
    return text in names | numbers or any(len(name) >= NAME_MIN and name in text for name in names)


def _may_point(path: str, entry: Entry) -> bool:
    return entry.kind is not Kind.OTHER and entry.size <= POINTER_MAX_BYTES and not is_log(path)
