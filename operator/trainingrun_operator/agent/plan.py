"""Decide what to ship next: a pure function of the volume, of what the bucket covers, and of the request."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple, Protocol

from trainingrun_operator.agent import finite
from trainingrun_operator.agent.cargo import Sent, Wanted
from trainingrun_operator.agent.ledger import Request
from trainingrun_operator.agent.volume import detect
from trainingrun_operator.agent.volume.pointers import names_unit
from trainingrun_operator.agent.volume.units import Unit, is_log
from trainingrun_operator.checkpoints import names
from trainingrun_operator.checkpoints.documents import WHOLE, Checkpoint, Skipped
from trainingrun_operator.checkpoints.reached import Moment

if TYPE_CHECKING:
    from trainingrun_operator.agent.volume.detect import Seen
    from trainingrun_operator.agent.volume.look import View
    from trainingrun_operator.agent.volume.scan import Entry
    from trainingrun_operator.api.spoiled import Spoiled
    from trainingrun_operator.checkpoints.documents import RankManifest

TEMPORARY = "files under temporary names"
"""Name of the unit of these files."""
BESIDE_FILE_MAX = 1 << 20
BESIDE_TOTAL_MAX = 16 << 20
"""Limits in bytes for the small files next to a numbered checkpoint (``latest``, configurations), which are shipped with it."""


class Covered(Protocol):
    """The part of the ledger that the plan reads."""

    def earlier(self, path: str, entry: Entry) -> Sent | None:
        """Return the file as the bucket holds it."""

    def covers(self, unit: Unit) -> bool:
        """Whether the bucket holds every file of a unit in its current state."""

    def manifest_of(self, unit: Unit, *, complete: bool) -> RankManifest | None:
        """Return the newest manifest of a unit that holds every file of it in its current state."""

    def finite(self, spoiled: Spoiled) -> tuple[RankManifest, Checkpoint] | None:
        """Return the furthest complete checkpoint from before, and a manifest of it; None: there is none."""


class Wish(NamedTuple):
    """What the agent has to ship now, and why."""

    reason: str = "checkpoint"
    """``checkpoint`` (no request), ``save`` or ``sigterm``."""
    ended: bool = False
    """The training has ended."""
    request: Request = Request()
    afresh: bool = False
    """The operator could not verify the previous attempt: ship every file again, name and copy nothing."""
    status: str | None = None
    """Why the run ends."""
    spoiled: Spoiled | None = None
    """From where on the training's values are not finite; None: they are."""
    inherited_ns: int = 0
    """Checkpoints without a newer file than this were left by an earlier run."""


@dataclass(frozen=True)
class Job:
    """One generation to ship and commit."""

    wish: Wish
    checkpoint: Checkpoint | None
    files: tuple[Wanted, ...] = ()
    format: str = "Files"
    skipped: tuple[Skipped, ...] = ()
    """What cannot even be listed."""
    again: RankManifest | None = None
    """An earlier manifest that holds every file: the commit names it again."""
    moment: bool = False
    """The checkpoint is whole only now: it will be written anew soon."""


def next_job(view: View, covered: Covered, wish: Wish, since_ns: int) -> Job | None:
    """Return the next job; None if nothing is complete or nothing is new."""
    if view.scan.error or view.scan.too_many:
        return None
    if wish.spoiled is not None and not wish.afresh and (job := _finite(view, covered, wish, since_ns)) is not None:
        return job
    if wish.ended:
        # What is unfinished is shipped now: no writer is left to finish it.
        return _final(view, covered, wish, since_ns)
    newest = _newest(view, wish, since_ns)
    if newest is None:
        return None
    pointed = _is_pointed_at(newest.unit, view, covered)
    if wish.reason == "checkpoint" and covered.covers(_without_logs(newest.unit)) and not pointed:
        return None
    checkpoint = _about(newest, wish)
    again = None if wish.afresh or pointed else covered.manifest_of(newest.unit, complete=True)
    if again:
        return Job(wish, checkpoint, again=again)
    beside = _small(view.rest, covered, wish) if view.rest else ()
    files = (*_wanted(newest.unit, covered, wish), *beside)
    return Job(wish, checkpoint, files, detect.format_of(newest.unit), moment=newest.unit.name in view.moments)


def _newest(view: View, wish: Wish, since_ns: int) -> Seen | None:
    """Return the newest complete checkpoint: that from before the values ceased to be finite, if there is one."""
    before = finite.of_volume(view.seen, wish.spoiled) if wish.spoiled is not None else []
    return detect.newest(before, since_ns) or detect.newest(view.seen, since_ns)


def _finite(view: View, covered: Covered, wish: Wish, since_ns: int) -> Job | None:
    """Return the job that publishes the newest checkpoint from before the values ceased to be finite; None: there is none.

    Its manifest lists no later checkpoint, so that a restore brings none back. At the end, the later ones and all other files are committed before it,
    in answer to nothing.
    """
    spoiled = wish.spoiled
    if spoiled is None:
        return None
    again: RankManifest | None
    unit: Unit | None
    there = detect.newest(finite.of_volume(view.seen, spoiled), since_ns)
    known = covered.finite(spoiled)
    if known is not None and (there is None or Moment.of(known[1].step, known[1].epoch) > there.unit.moment):
        target, again, unit = finite.told(known[1], spoiled, finite=True), known[0], None
    elif there is not None and (about := _about(there, wish)) is not None:
        target, again, unit = about, covered.manifest_of(there.unit, complete=True), there.unit
    else:
        return None
    if wish.ended and (others := _others(view, covered, unit)):
        return _aside(view, covered, wish, others, since_ns)
    if again is not None or unit is None:
        return Job(wish, target, again=again)
    beside = _small(view.rest, covered, wish) if view.rest else []
    # A pointer file to a later checkpoint would lead a restored training nowhere.
    fitting = [one for one in beside if one.path not in view.texts or names_unit(view.texts[one.path], unit)]
    return Job(wish, target, (*_wanted(unit, covered, wish), *fitting), detect.format_of(unit))


def _aside(view: View, covered: Covered, wish: Wish, others: list[Unit], since_ns: int) -> Job:
    """Return the job that commits everything but the published checkpoint, in answer to nothing."""
    aside = wish._replace(reason="checkpoint", request=Request(), status=None)
    newest = detect.newest([one for one in view.seen if one.unit in others], since_ns)
    files = tuple(one for unit in others for one in _wanted(unit, covered, aside))
    said = _about(newest, aside) or Checkpoint(dir=WHOLE, complete=False, evidence="files beside the checkpoints")
    form = detect.format_of(newest.unit) if newest else "Files"
    return Job(aside, said, files, form, _not_shipped(view))


def _others(view: View, covered: Covered, chosen: Unit | None) -> list[Unit]:
    """Return everything in the volume that no commit covers, but the chosen unit."""
    left = Unit(TEMPORARY, WHOLE, view.scan.temporary) if view.scan.temporary else None
    everything = [*(one.unit for one in view.seen), *(one for one in (view.rest, left) if one)]
    return [unit for unit in everything if unit is not chosen and not covered.covers(unit)]


def _is_pointed_at(unit: Unit, view: View, covered: Covered) -> bool:
    """Whether a pointer that no commit has in its current state names a unit."""
    beside = view.rest.files if view.rest else {}
    return any(
        path in beside and not covered.earlier(path, beside[path]) and names_unit(text, unit)
        for path, text in view.texts.items()
    )


def _final(view: View, covered: Covered, wish: Wish, since_ns: int) -> Job:
    """Return the last job: every file that no commit covers."""
    whole = _newest(view, wish, since_ns)
    partial = detect.newest(view.seen, since_ns, complete=False)
    about = whole or partial
    left = Unit(TEMPORARY, WHOLE, view.scan.temporary) if view.scan.temporary else None
    everything = [one.unit for one in reversed(view.seen)] + [one for one in (view.rest, left) if one]
    missing = [unit for unit in everything if wish.afresh or not covered.covers(unit)]
    checkpoint = _with(left, _about(about, wish, beside=partial if whole else None))
    skipped = _not_shipped(view)
    if about and not missing and not view.scan.unread:
        again = covered.manifest_of(about.unit, complete=about.complete)
        if again:
            return Job(wish, checkpoint, again=again)
    first = [about.unit] if about else []
    others = [unit for unit in everything if unit not in first and (unit in missing or unit in (view.rest, left))]
    files = [one for unit in (*first, *others) for one in _wanted(unit, covered, wish)]
    return Job(wish, checkpoint, tuple(files), detect.format_of(about.unit) if about else "Files", skipped)


def _not_shipped(view: View) -> tuple[Skipped, ...]:
    """Return what the scan could not read, and what is not the training's."""
    unread = {view.scan.unread[0]: view.scan.unread[1]} if view.scan.unread else {}
    return (
        *(Skipped(path=names.to_text(path), reason=why, regular=True) for path, why in unread.items()),
        *(Skipped(path=names.to_text(path), reason=what, regular=False) for path, what in view.scan.left_out.items()),
    )


def _without_logs(unit: Unit) -> Unit:
    """Return a unit without its logs: a log that has grown is no reason for another generation."""
    return replace(unit, files={path: entry for path, entry in unit.files.items() if not is_log(path)})


def _about(seen: Seen | None, wish: Wish, beside: Seen | None = None) -> Checkpoint | None:
    if seen is None:
        return None
    evidence = seen.verdict.evidence
    if beside and beside.unit.mtime_ns > seen.unit.mtime_ns:
        evidence += f"; the newer {beside.unit.name} is incomplete ({beside.verdict.evidence})"
    found = Checkpoint(
        dir=names.to_text(seen.unit.dir),
        file=seen.unit.single,
        step=seen.unit.step,
        epoch=seen.unit.epoch,
        format=seen.unit.layout,
        inherited=seen.unit.mtime_ns <= wish.inherited_ns,
        complete=seen.complete,
        evidence=names.to_text(evidence),
    )
    if wish.spoiled is None:
        return found
    before = seen.complete and bool(finite.of_volume([seen], wish.spoiled))
    return finite.told(found, wish.spoiled, finite=before)


def _with(left: Unit | None, checkpoint: Checkpoint | None) -> Checkpoint | None:
    """Name the files under temporary names that are saved beside a checkpoint, or instead of one."""
    if left is None:
        return checkpoint
    some = ", ".join(sorted({path.split("/", 1)[0] for path in left.files})[:3])
    evidence = names.to_text(f"{len(left.files)} files under temporary names ({some}) were left unfinished")
    if checkpoint is None:
        return Checkpoint(dir=WHOLE, complete=False, evidence=evidence)
    return checkpoint.model_copy(update={"evidence": f"{checkpoint.evidence}; {evidence}"})


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


def _small(rest: Unit, covered: Covered, wish: Wish) -> list[Wanted]:
    chosen, total = [], 0
    for path, entry in sorted(rest.files.items(), key=lambda item: (item[1].size, item[0])):
        total += entry.size
        if entry.size > BESIDE_FILE_MAX or total > BESIDE_TOTAL_MAX:
            break
        earlier = None if wish.afresh else covered.earlier(path, entry)
        chosen.append(Wanted(path, entry, optional=True, earlier=earlier))
    return chosen
