"""For how long nothing of a training has moved, folded one reading at a time.

Progress is a step, another number beside it, a file under the checkpoint path that is new or grows, or a line in the log, if the log is the metric
source. What cannot be read counts as progress, because it is no evidence. Only readings count: between two of them nothing is known.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from trainingrun_operator.api.limits import Quiet as Stored
from trainingrun_operator.api.run import CheckpointMode
from trainingrun_operator.core.bounds import WORD_MAX, clipped, counted
from trainingrun_operator.core.epochs import counts
from trainingrun_operator.core.facts.reading import Failure, Reading
from trainingrun_operator.core.words import before, moment

if TYPE_CHECKING:
    from trainingrun_operator.api.exchange import AgentReport
    from trainingrun_operator.core.facts.gathered import Facts
    from trainingrun_operator.core.facts.pod import Pod
    from trainingrun_operator.core.observed import Observed
    from trainingrun_operator.core.track import Track

STEP: Final = "Step"
VALUE: Final = "Value"
FILE: Final = "File"
LOG: Final = "Log"
START: Final = "Start"
NO_STEP: Final = "NoStep"
NO_REPORT: Final = "NoReport"
MOVED: Final = frozenset({STEP, VALUE, FILE, LOG, START})
"""What moves. Other words are reasons for which something could not be read."""
_FILE_CLOCK_SECONDS: Final = 3
"""The age of a file is exact to this."""


@dataclass(frozen=True)
class Quiet:
    """What moved last, by the readings of one pod."""

    pod_uid: str = ""
    since: float = 0
    """When it moved."""
    wall: str = ""
    """The same as RFC 3339."""
    until: float = 0
    """Time of the newest reading."""
    what: str = START
    step: int | None = None
    marks: tuple[int | None, int, int, int | None] | None = None
    """Step, other numbers, files and log as last read; None: nothing was read by this process."""

    @property
    def seconds(self) -> float:
        """For how long nothing had moved at the newest reading."""
        return max(0.0, self.until - self.since)

    @property
    def unread(self) -> bool:
        """Whether the newest reading does not say whether something has moved."""
        return self.what not in MOVED and self.since == self.until


def fold(known: Quiet | None, facts: Facts, track: Track, now: float) -> Quiet | None:
    """Add one look. A look without a reading of rank 0 changes nothing; None: nothing is known yet."""
    reading, pods = facts.readings.get(0), facts.ranks[0]
    if reading is None or not pods:
        return known
    pod = pods[-1]
    known = known if known is not None and known.pod_uid == pod.uid else _resumed(facts, track, pod, now)
    fresh = replace(known, since=now, wall=facts.wall, until=now)
    if isinstance(reading, Failure) or (why := _unread(facts, reading)):
        why = reading.reason if isinstance(reading, Failure) else why
        return replace(fresh, what=why, step=track.step, marks=None)
    if not track.advanced:
        return replace(fresh, what=START, step=track.step)
    marks = _marks(facts, reading, track, pod)
    if moved := _moved(known.marks, marks, since_step=known.step):
        return replace(fresh, what=moved, step=track.step, marks=marks)
    known = replace(known, until=now, marks=marks)
    age = min((one for report in facts.reports.values() if (one := _age(report)) is not None), default=None)
    if age is None or now - age <= known.since + _FILE_CLOCK_SECONDS:
        return known
    return replace(known, since=now - age, wall=before(facts.wall, age), what=FILE)


def _resumed(facts: Facts, track: Track, pod: Pod, now: float) -> Quiet:
    """Continue from what an earlier operator process has recorded of this pod; else begin now."""
    stored, wall = facts.run.status.quiet, moment(facts.wall)
    at = moment(stored.since) if stored is not None and stored.pod_uid == clipped(pod.uid, WORD_MAX) else None
    reading = facts.readings[0]
    if isinstance(reading, Reading) and reading.printed is not None:
        # It is not known whether the training printed while no operator read its log.
        at = None
    if stored is None or at is None or wall is None or stored.step != counted(track.step):
        return Quiet(pod.uid, now, facts.wall, now, START, track.step)
    passed = max(0.0, (wall - at).total_seconds())
    return Quiet(pod.uid, now - passed, stored.since, now, stored.what, track.step)


def _unread(facts: Facts, reading: Reading) -> str:
    """Return why it is not known whether the training moves; empty: it is."""
    if not counts(reading.step):
        return NO_STEP
    if facts.run.spec.checkpoint.mode is CheckpointMode.DISABLED:
        return ""
    running = [number for number, pods in enumerate(facts.ranks) if pods and not pods[-1].terminal]
    reports = [facts.reports.get(number) for number in running]
    if any(report is None or report.files is None for report in reports):
        return NO_REPORT
    return next(
        (
            one.error.code
            for one in reports
            if one is not None and one.error is not None and one.error.code == "Unreadable"
        ),
        "",
    )


def _marks(facts: Facts, reading: Reading, track: Track, pod: Pod) -> tuple[int | None, int, int, int | None]:
    values = hash(repr((pod.started_at, reading.step, reading.epoch, sorted(reading.values.items()))))
    reports = sorted(facts.reports.items())
    files = hash(tuple((n, one.files, one.bytes, one.temporary_files, one.temporary_bytes) for n, one in reports))
    return track.step, values, files, reading.printed


def _moved(
    before: tuple[int | None, int, int, int | None] | None,
    now: tuple[int | None, int, int, int | None],
    *,
    since_step: int | None,
) -> str:
    """Return what has moved between two readings; empty: nothing."""
    if now[0] != since_step:
        return STEP
    if before is None:
        return ""
    return next(
        (what for what, one, other in zip((VALUE, FILE, LOG), before[1:], now[1:], strict=True) if one != other), ""
    )


def _age(report: AgentReport) -> float | None:
    """Seconds since a file changed; None: there is none, or it is no time."""
    age = report.last_change_seconds
    return age if age is not None and age >= 0 else None


def render(seen: Observed, *, hung: bool) -> Stored | None:
    """Return ``status.quiet``, with the time of the Event if the training hangs now."""
    one, before = seen.quiet, seen.run.status.quiet
    if one is None or not one.wall:
        return before
    warned = before.warned_at if before is not None and before.since == one.wall else None
    return Stored(
        since=one.wall,
        what=clipped(one.what, WORD_MAX),
        step=counted(one.step),
        pod_uid=clipped(one.pod_uid, WORD_MAX),
        warned_at=(warned or seen.wall) if hung else None,
    )
