"""Find moments at which files that are rewritten again and again are whole.

A checkpoint counts as complete once nothing has changed for the quiet time. A file that is written anew more often would never be saved. Such a file
is taken between two writes: when its format says that it is whole, and nothing has changed for half of the longest pause that was seen.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from trainingrun_operator.agent.volume.detect import Verdict
from trainingrun_operator.agent.volume.formats import State
from trainingrun_operator.agent.volume.scan import Kind
from trainingrun_operator.agent.volume.units import is_log

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from trainingrun_operator.agent.volume.formats import Probe
    from trainingrun_operator.agent.volume.scan import Entry
    from trainingrun_operator.agent.volume.units import Unit

REWRITES_MIN = 3
"""Times that a file was written anew before its pauses count."""
PAUSE_MIN_SECONDS = 0.05
"""File systems stamp files with a coarse clock: within one tick, two writes look like one."""
SKEW_SECONDS = 0.1
SMALL_BYTES = 1 << 20
"""Largest file that may change without a format that says whether it is whole, such as a table of results."""
TOLD_QUIETS = 6
"""Quiet times without a moment after which it is said that nothing can be saved."""


@dataclass
class _Rhythm:
    """How the files of one unit change."""

    entries: Mapping[str, Entry]
    began: float
    changed: float
    looked: float
    longest: float = 0.0
    rewrites: dict[str, int] = field(default_factory=dict)
    skewed: bool = False
    """The clock of the files differs from this process's: only the looks say how long a pause is."""
    last_moment: float | None = None

    def note(self, entries: Mapping[str, Entry], at: float, age: float) -> None:
        """Compare with the look before."""
        if entries != self.entries:
            for path, entry in entries.items():
                before = self.entries.get(path)
                if (
                    before is not None
                    and before != entry
                    and (entry.inode != before.inode or entry.size <= before.size)
                ):
                    self.rewrites[path] = self.rewrites.get(path, 0) + 1
            if not self.skewed and not -SKEW_SECONDS <= age <= at - self.looked + SKEW_SECONDS:
                self.skewed, self.longest = True, 0.0
            self.entries, self.changed = entries, at
        self.looked = at


class Pauses:
    """Remembers between looks how each unfinished unit changes. Used by one thread at a time."""

    def __init__(self, settle: float, wall: Callable[[], float] = time.time) -> None:
        self._settle = settle
        self._wall = wall
        self._rhythms: dict[str, _Rhythm] = {}

    def keep(self, names: Collection[str]) -> None:
        """Forget all other units: they are complete, or gone."""
        self._rhythms = {name: rhythm for name, rhythm in self._rhythms.items() if name in names}

    def moment(self, unit: Unit, probes: Mapping[str, Probe], at: float) -> Verdict | None:
        """Return the verdict that a unit, which is not quiet for long enough, is whole now; None if that is not known."""
        files = {path: entry for path, entry in unit.files.items() if not is_log(path)}
        if not files:
            return None
        age = self._wall() - max(entry.mtime_ns for entry in files.values()) / 1e9
        rhythm = self._rhythms.setdefault(unit.name, _Rhythm(files, at, at, at))
        rhythm.note(files, at, age)
        pause = at - rhythm.changed if rhythm.skewed else max(at - rhythm.changed, age)
        calm = pause >= max(rhythm.longest / 2, PAUSE_MIN_SECONDS)
        rhythm.longest = min(max(rhythm.longest, pause), self._settle)
        often = max(rhythm.rewrites.values(), default=0) >= REWRITES_MIN and at - rhythm.began >= 2 * self._settle
        if not (often and calm and _is_whole(files, probes, rhythm)):
            return None
        rhythm.last_moment = at
        return Verdict(
            complete=True,
            evidence=f"written anew more often than every {self._settle:g} s; unchanged for {pause:.1f} s, and every file is whole",
        )

    def never_quiet(self, at: float) -> str:
        """Return the file that keeps the oldest unit from being saved; empty: none does, or not for long."""
        for rhythm in self._rhythms.values():
            since = rhythm.began if rhythm.last_moment is None else rhythm.last_moment
            most = max(rhythm.rewrites, key=rhythm.rewrites.__getitem__, default="")
            if most and rhythm.rewrites[most] >= REWRITES_MIN and at - since >= TOLD_QUIETS * self._settle:
                return most
        return ""


def _is_whole(files: Mapping[str, Entry], probes: Mapping[str, Probe], rhythm: _Rhythm) -> bool:
    """Whether a format says that the weights are whole, and that every file is that is written anew, except for small ones."""
    if any(probes[path].state is State.BROKEN for path in files):
        return False
    unsure = [path for path in rhythm.rewrites if path in files and probes[path].state is not State.WHOLE]
    whole = any(probes[path].state is State.WHOLE and not path.endswith(".json") for path in files)
    return whole and all(files[path].kind is Kind.LINK or files[path].size <= SMALL_BYTES for path in unsure)
