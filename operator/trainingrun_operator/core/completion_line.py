"""The line of the log by which a training may be complete, `completion.logPatterns`, folded one poll at a time.

A line of another container, or of an earlier start of the container, does not count. A line is taken back by the steps that the training makes after it,
so that a line that every epoch prints ends nothing. One step may be late: numbers are read at intervals, and some sources write them after the line.
Where no step is read, any further line of the log shows that the training goes on.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from trainingrun_operator.api.completion_line import CompletionLine as Stored
from trainingrun_operator.core.bounds import TEXT_MAX, WORD_MAX, clipped, counted
from trainingrun_operator.core.epochs import counts
from trainingrun_operator.core.facts.log import Printed
from trainingrun_operator.core.facts.reading import Failure, Reading

if TYPE_CHECKING:
    from trainingrun_operator.core.facts.gathered import Facts
    from trainingrun_operator.core.facts.pod import Pod
    from trainingrun_operator.core.observed import Observed
    from trainingrun_operator.core.track import Track

LATE_STEPS: Final = 1
"""Changes of the step, as it is read, after which a line still counts."""
SHOWN_MAX: Final = 200
"""Characters of the line that are kept."""


@dataclass(frozen=True)
class CompletionLine:
    """What is known of the lines that one container has printed."""

    pod_uid: str
    started_at: str
    patterns: tuple[str, ...] = ()
    """``completion.logPatterns`` at the newest poll."""
    pattern: str = ""
    """The pattern that the newest such line has; empty: no line that counts was printed."""
    line: str = ""
    step: int | None = None
    """The newest step as last read."""
    steps: int = 0
    """How often it has changed since the line was read."""
    since: float = 0
    """When the line was read, or the training showed last that it goes on."""
    found: int = 0
    """Reads of this process that have found such a line."""
    lines: int | None = None
    """Lines of the log that were read; None: the newest read failed."""
    taken_back: bool = False
    """Whether the training made steps after the newest line."""
    trouble: Failure | None = None
    """Why the log was not read at the newest poll."""


def fold(known: CompletionLine | None, facts: Facts, track: Track, now: float) -> CompletionLine | None:
    """Add one look. A look without a reading of rank 0 changes nothing; None: no pattern is named, or nothing was read yet."""
    patterns, pods, reading = facts.run.spec.completion.log_patterns, facts.ranks[0], facts.readings.get(0)
    if not patterns or not pods:
        return None
    pod = pods[-1]
    if known is not None and (known.pod_uid, known.started_at) != (pod.uid, pod.started_at):
        known = None
    if reading is None:
        return known
    known = known or _resumed(facts, pod, now)
    if known.patterns != patterns:
        # The log is searched again for the new ones.
        known = replace(known, patterns=patterns, found=0)
        known = known if known.pattern in patterns else replace(known, pattern="", line="")
    printed = facts.printed
    if not isinstance(printed, Printed) or printed.patterns != patterns:
        trouble = printed if isinstance(printed, Failure) else known.trouble
        return _followed(replace(known, trouble=trouble), reading, track, None, now)
    before, known = known.found, replace(known, trouble=None, found=printed.found)
    if printed.found in (0, before):
        return _followed(known, reading, track, printed.lines, now)
    line = clipped("".join(one if one.isprintable() else " " for one in printed.line), SHOWN_MAX)
    return replace(
        known,
        pattern=printed.pattern,
        line=line,
        step=track.step,
        steps=0,
        since=now,
        lines=printed.lines,
        taken_back=False,
    )


def _resumed(facts: Facts, pod: Pod, now: float) -> CompletionLine:
    """Continue from the line that an earlier operator process has recorded of this container; time counts from now."""
    stored, empty = facts.run.status.completion_line, CompletionLine(pod.uid, pod.started_at)
    if stored is None or (stored.pod_uid, stored.started_at or "") != (clipped(pod.uid, WORD_MAX), pod.started_at):
        return empty
    return replace(empty, pattern=stored.pattern, line=stored.line, step=stored.step, since=now)


def _followed(
    known: CompletionLine, reading: Reading | Failure, track: Track, lines: int | None, now: float
) -> CompletionLine:
    """Return what a poll without a new line says of the known one."""
    read = replace(known, step=track.step, lines=lines)
    if not known.pattern:
        return read
    if track.step != known.step:
        if known.steps >= LATE_STEPS:
            return replace(read, pattern="", line="", taken_back=True)
        return replace(read, steps=known.steps + 1, since=now)
    shows_step = isinstance(reading, Reading) and counts(reading.step)
    silent = lines is not None and lines == known.lines
    return read if shows_step or silent else replace(read, since=now)


def render(seen: Observed) -> Stored | None:
    """Return ``status.completionLine``."""
    one, stored = seen.completion_line, seen.run.status.completion_line
    if one is None:
        return stored if stored is not None and stored.pattern in seen.run.spec.completion.log_patterns else None
    if not one.pattern:
        return None
    return Stored(
        pattern=clipped(one.pattern, TEXT_MAX),
        line=one.line,
        step=counted(one.step),
        pod_uid=clipped(one.pod_uid, WORD_MAX),
        started_at=one.started_at or None,
    )
