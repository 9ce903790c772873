"""What to ship next: a pure function of the volume, of what the bucket covers, and of what was asked."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple, Protocol

from trainingrun_operator.agent.cargo import Sent, Wanted
from trainingrun_operator.agent.ledger import Request
from trainingrun_operator.agent.volume import detect
from trainingrun_operator.agent.volume.units import Unit, is_log
from trainingrun_operator.checkpoints import names
from trainingrun_operator.checkpoints.documents import Checkpoint

if TYPE_CHECKING:
    from trainingrun_operator.agent.volume.detect import Seen
    from trainingrun_operator.agent.volume.look import View
    from trainingrun_operator.agent.volume.scan import Entry
    from trainingrun_operator.checkpoints.documents import RankManifest

BESIDE_FILE_MAX = 1 << 20
BESIDE_TOTAL_MAX = 16 << 20
"""Small files beside a numbered checkpoint travel with it while the training runs: ``latest``, configurations."""


class Covered(Protocol):
    """What the plan asks of the ledger."""

    def earlier(self, path: str, entry: Entry) -> Sent | None:
        """The same file in an earlier commit."""

    def covers(self, unit: Unit) -> bool:
        """Whether every file of a unit is in some commit as it is now."""

    def manifest_of(self, unit: Unit, *, complete: bool) -> RankManifest | None:
        """The newest manifest that is about a unit and holds all of it as it is now."""


class Wish(NamedTuple):
    """What is asked of the agent at this moment."""

    reason: str = "checkpoint"
    """``checkpoint``: nobody asks. ``save``, ``sigterm``."""
    ended: bool = False
    request: Request = Request()
    afresh: bool = False
    """The operator could not verify what was shipped for the attempt before: nothing of it is named or copied again."""
    status: str | None = None
    """Why the run ends, if it does."""


@dataclass(frozen=True)
class Job:
    """One generation to be shipped and committed."""

    wish: Wish
    checkpoint: Checkpoint | None
    files: tuple[Wanted, ...] = ()
    format: str = "Files"
    again: RankManifest | None = None
    """A manifest that holds all of it already: the commit names it once more."""


def next_job(view: View, covered: Covered, wish: Wish, since_ns: int) -> Job | None:
    """What to do now; None if there is nothing to do, or nothing complete to do it with."""
    if view.scan.error or view.scan.too_many:
        return None
    if wish.ended:
        return _final(view, covered, wish, since_ns)
    newest = detect.newest(_checkpoints(view), since_ns)
    if newest is None or (wish.reason == "checkpoint" and covered.covers(_without_logs(newest.unit))):
        return None
    checkpoint = _about(newest)
    again = None if wish.afresh else covered.manifest_of(newest.unit, complete=True)
    if again:
        return Job(wish, checkpoint, again=again)
    beside = _small(view.rest) if view.rest else ()
    files = (*_wanted(newest.unit, covered, wish), *beside)
    return Job(wish, checkpoint, files, detect.format_of(newest.unit))


def _final(view: View, covered: Covered, wish: Wish, since_ns: int) -> Job:
    """Everything that lies there and that no commit has: nothing comes after it."""
    checkpoints = _checkpoints(view)
    whole = detect.newest(checkpoints, since_ns)
    partial = detect.newest(checkpoints, since_ns, complete=False)
    about = whole or partial
    everything = [one.unit for one in reversed(view.seen)] + ([view.rest] if view.rest else [])
    missing = [unit for unit in everything if wish.afresh or not covered.covers(unit)]
    checkpoint = _about(about, beside=partial if whole else None)
    if about and not missing:
        again = covered.manifest_of(about.unit, complete=about.complete)
        if again:
            return Job(wish, checkpoint, again=again)
    first = [about.unit] if about else []
    others = [unit for unit in everything if unit not in first and (unit in missing or unit is view.rest)]
    files = [one for unit in (*first, *others) for one in _wanted(unit, covered, wish)]
    return Job(wish, checkpoint, tuple(files), detect.format_of(about.unit) if about else "Files")


def _checkpoints(view: View) -> list[Seen]:
    """The units that may be a checkpoint: logs alone are none."""
    return [one for one in view.seen if not all(is_log(path) for path in one.unit.files)]


def _without_logs(unit: Unit) -> Unit:
    """What has to change for a unit to be worth another generation: a log does all the time."""
    return replace(unit, files={path: entry for path, entry in unit.files.items() if not is_log(path)})


def _about(seen: Seen | None, beside: Seen | None = None) -> Checkpoint | None:
    if seen is None:
        return None
    evidence = seen.verdict.evidence
    if beside and beside.unit.mtime_ns > seen.unit.mtime_ns:
        evidence += f"; {beside.unit.name} beside it is half-written ({beside.verdict.evidence})"
    return Checkpoint(
        dir=names.to_text(seen.unit.dir),
        step=seen.unit.step,
        epoch=seen.unit.epoch,
        complete=seen.complete,
        evidence=names.to_text(evidence),
    )


def _wanted(unit: Unit, covered: Covered, wish: Wish) -> list[Wanted]:
    return [
        Wanted(
            path,
            entry,
            optional=not wish.ended and is_log(path),
            earlier=None if wish.afresh else covered.earlier(path, entry),
        )
        for path, entry in sorted(unit.files.items())
    ]


def _small(rest: Unit) -> list[Wanted]:
    chosen, total = [], 0
    for path, entry in sorted(rest.files.items(), key=lambda item: (item[1].size, item[0])):
        total += entry.size
        if entry.size > BESIDE_FILE_MAX or total > BESIDE_TOTAL_MAX:
            break
        chosen.append(Wanted(path, entry, optional=True))
    return chosen
