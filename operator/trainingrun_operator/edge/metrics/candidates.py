"""What is known of the sources of a run for which `Auto` has taken none: which has loss and step, how often it has advanced, and when it is looked at again."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from trainingrun_operator.core.bounds import clipped
from trainingrun_operator.core.epochs import counts
from trainingrun_operator.core.facts.reading import Failure, Reading

if TYPE_CHECKING:
    from collections.abc import Iterable

ADVANCES: Final = 6
"""Polls in which the step of another source has advanced, after which no page is waited for."""
ADVANCE_SECONDS: Final = 60
"""They take so long at least, if the spec names no source."""
APART_POLLS: Final = 16
"""Polls between two looks at a source that has had nothing, at most."""
APART_SECONDS: Final = 300
"""And seconds, at most, where polls are further apart."""
_WHY_MAX: Final = 300


@dataclass
class _Candidate:
    """One source."""

    misses: int = 0
    """Looks in a row that have found no loss and step, the one that is made now included."""
    looked: int = 0
    """The poll of the last look."""
    highest: float | None = None
    """The highest step."""
    advances: int = 0
    """Polls in which the step was higher than before."""


@dataclass
class Candidates:
    """The sources of one pod's training."""

    pod_uid: str
    page_came: bool = False
    """Whether something has answered where the metrics page would be, for any pod of the run."""
    polls: int = 0
    lacks: dict[str, str] = field(default_factory=dict)
    """By source that has no loss and step, why not, as of the last look."""
    _known: dict[str, _Candidate] = field(default_factory=dict)

    def is_due(self, source: str, poll_seconds: int) -> bool:
        """Whether a source is looked at in this poll: at longer intervals the more often it has had nothing."""
        known = self._of(source)
        most = min(APART_POLLS, max(1, APART_SECONDS // poll_seconds))
        return self.polls - known.looked >= min(1 << min(max(known.misses - 1, 0), 10), most)

    def looks_at(self, source: str) -> None:
        """Note that a source is looked at. It has had nothing until `add` says otherwise: the look may be cut off."""
        known = self._of(source)
        known.looked, known.misses = self.polls, known.misses + 1

    def add(self, source: str, reading: Reading | Failure) -> bool:
        """Add what a look has found. Returns whether it has loss and step."""
        if why := _lacks(reading):
            self.lacks[source] = why
            return False
        self.lacks.pop(source, None)
        known, step = self._of(source), reading.step if isinstance(reading, Reading) else None
        known.misses = 0
        if step is not None and known.highest is not None and step > known.highest:
            known.advances += 1
        known.highest = max(step or 0, known.highest or 0)
        return True

    def has_numbers(self, source: str) -> bool:
        """Whether a source had loss and step at its last look."""
        known = self._known.get(source)
        return known is not None and known.misses == 0 and known.highest is not None

    def moves(self, source: str) -> bool:
        """Whether it has, and its step has advanced: files of an earlier training do not."""
        return self.has_numbers(source) and self._known[source].advances > 0

    def advanced(self, sources: Iterable[str], polls: int) -> bool:
        """Whether the training has advanced by one of these sources in so many polls."""
        return any(self.moves(one) and self._known[one].advances >= polls for one in sources)

    def _of(self, source: str) -> _Candidate:
        return self._known.setdefault(source, _Candidate())


def _lacks(reading: Reading | Failure) -> str:
    """Return why a reading is not enough for the rules; empty: it is."""
    if isinstance(reading, Failure):
        return clipped(f"{reading.reason}: {reading.message}", _WHY_MAX)
    if reading.loss is None:
        return "it has no loss."
    return "" if counts(reading.step) else "it has a loss, but no step that is certainly the training's."
