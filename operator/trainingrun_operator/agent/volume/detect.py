"""Decide which units are complete, and on what evidence: pure functions over a split scan and the probes of its files."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from trainingrun_operator.agent.volume.about import is_about
from trainingrun_operator.agent.volume.formats import State
from trainingrun_operator.agent.volume.layouts import TREE
from trainingrun_operator.agent.volume.layouts.dcp import DATA, METADATA
from trainingrun_operator.agent.volume.layouts.unknown import Files
from trainingrun_operator.agent.volume.units import is_log, place

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from trainingrun_operator.agent.volume.formats import Probe
    from trainingrun_operator.agent.volume.units import Unit

LAST_WRITTEN = ("trainer_state.json", ".metadata")
"""Files that a writer creates last, in a folder of no known layout: Hugging Face's Trainer, torch.distributed.checkpoint."""
MARKED_QUIET_SECONDS = 1.0
"""Quiet that a unit with a marker needs: other ranks may still write files next to the marker."""
WRITING_SECONDS = 120.0
"""An incomplete unit that has not changed for this long is no longer being written."""
SIBLINGS = 2
"""So many other units must have a file before it is missing in one that is older than they are, or that has files of its own."""
_ABOUT_IT = re.compile(
    r"(?<![a-z])(?:best|final|last|latest|samples?|previews?|plots?|figures?|images?|reports?|results?|metrics?|eval\w*|val|test|readme|merged|export\w*)"
    r"(?![a-z])|\.(?:png|jpe?g|gif|svg|pdf|mp4|wav|txt|md|html)\Z",
    re.IGNORECASE,
)
"""Names of what a writer adds to some of its checkpoints."""
_HASH = re.compile(r"(?<![a-z#])(?:[a-z]+#[a-z]+#|#[a-z]+#[a-z]*)[a-z#]*(?![a-z#])", re.IGNORECASE)
"""Hashes, without their digits: no two checkpoints have the same."""
_SHARD = re.compile(r"(?P<stem>.*)-(?P<index>\d+)-of-(?P<count>\d+)(?P<suffix>\.[^/]*)?", re.DOTALL)
_SHARDS_MAX = 100_000
INDEX = ".index.json"
_DIGITS = re.compile(r"\d+")
_OPEN_NAMES = frozenset({Files.name, TREE})
"""Layouts without a rule of their own for what is complete."""


class Verdict(NamedTuple):
    """Whether a unit is complete, and the evidence."""

    complete: bool
    evidence: str
    waits: bool = False
    """Nothing is missing: the unit has not been quiet for long enough."""


@dataclass(frozen=True)
class Seen:
    """One unit with its verdict."""

    unit: Unit
    verdict: Verdict
    quiet: float = 0.0
    """Seconds since a file of the unit changed."""

    @property
    def complete(self) -> bool:
        """Whether the unit may be shipped as a checkpoint."""
        return self.verdict.complete


class Circumstances(NamedTuple):
    """What `judge` considers besides the files themselves."""

    quiet: float
    """Seconds since a file of the unit changed."""
    settle: float
    """Seconds without a change after which a unit without other evidence is complete."""
    ended: bool
    """The training has ended."""
    temporary: str = ""
    """A file under a temporary name inside the unit that is as new as the unit."""
    lacking: str = ""
    """A file that the units of the same layout have, and this one has not."""
    alone: bool = True
    """The run has one pod, so that every file of a checkpoint is in this volume."""
    precedent: bool = False
    """Another unit of the layout has the same files and is older: a single whole file is all there is."""


def marker(unit: Unit) -> str:
    """Return what says that the writer has finished the unit; empty: nothing does."""
    if unit.evidence.marker or unit.layout not in _OPEN_NAMES:
        return unit.evidence.marker
    inside = unit.within()
    return next((f"{name}, which the writer creates last, is there" for name in LAST_WRITTEN if name in inside), "")


def _missing(inside: Mapping[str, str], probes: Mapping[str, Probe], *, alone: bool) -> str:
    """Return a file that is missing: other files of the unit refer to it."""
    for name, path in inside.items():
        if name.endswith(METADATA) and not alone:
            continue  # other pods have the files of other ranks
        folder = name[: len(name) - len(name.rsplit("/", 1)[-1])]
        for need in sorted(probes[path].needs):
            if folder + need not in inside and not _is_stale(name, inside):
                return folder + need
        if match := _SHARD.fullmatch(name):
            stem, count, suffix = match["stem"], match["count"], match["suffix"] or ""
            width = len(match["index"])
            first = 0 if f"{stem}-{0:0{width}}-of-{count}{suffix}" in inside else 1
            for index in range(first, min(int(count), _SHARDS_MAX) + first):
                shard = f"{stem}-{index:0{width}}-of-{count}{suffix}"
                if shard not in inside:
                    return shard
    return ""


def _is_stale(index: str, inside: Mapping[str, str]) -> bool:
    """Whether an index is of an earlier, sharded save: the model lies beside it as one file, and no shard does."""
    if not index.endswith(INDEX):
        return False
    whole = index.removesuffix(INDEX)
    stem, _, suffix = whole.rpartition(".")
    return whole in inside and not any(
        name.startswith(f"{stem}-") and name.endswith(f".{suffix}") and _SHARD.fullmatch(name) for name in inside
    )


def _without_metadata(inside: Mapping[str, str], *, alone: bool) -> str:
    """Return the folder of a distributed checkpoint that lacks its metadata; `.` for the unit itself.

    In a run of several pods, the metadata is in the volume of the pod that has the files of rank 0.
    """
    for name in inside:
        if name.endswith(DATA):
            folder, slash, file = name.rpartition("/")
            if (alone or file.startswith("__0_")) and f"{folder}{slash}{METADATA}" not in inside:
                return folder or "."
    return ""


OVERWRITTEN_NS = 2 * 10**9
"""By so much a data file is newer than the metadata that was written after it: more than clocks of nodes differ."""


def _overwritten(unit: Unit) -> str:
    """Return a data file of a distributed checkpoint that is of a later save than the metadata beside it.

    A writer that saves into the same folder again replaces the data files first, and the metadata of the save before stays until the end.
    """
    inside = unit.within()
    for name, path in inside.items():
        folder, slash, _ = name.rpartition("/")
        metadata = inside.get(f"{folder}{slash}{METADATA}")
        if (
            name.endswith(DATA)
            and metadata
            and unit.files[path].mtime_ns > unit.files[metadata].mtime_ns + OVERWRITTEN_NS
        ):
            return name
    return ""


def _against(unit: Unit, probes: Mapping[str, Probe], about: Circumstances) -> str:
    """Return the evidence that a unit is unfinished, whether or not the training has ended."""
    inside = unit.within()
    for name, path in sorted(inside.items()):
        if probes[path].state is State.BROKEN and not (about.ended and is_log(name)):
            return f"{name}: {probes[path].why}"
    if unit.evidence.missing:
        return unit.evidence.missing
    if folder := _without_metadata(inside, alone=about.alone):
        where = "" if folder == "." else f"{folder}: "
        return f"{where}no .metadata, which torch.distributed.checkpoint writes last"
    if name := _overwritten(unit):
        return f"{name} is of a later save than the .metadata beside it"
    if name := _missing(inside, probes, alone=about.alone):
        return f"{name} is missing"
    if about.temporary and not marker(unit):
        return f"{about.temporary} is being written in it, or was left unfinished"
    if about.lacking and not marker(unit):
        return f"{about.lacking} is missing, which the others have"
    return ""


def _in_favour(unit: Unit, probes: Mapping[str, Probe], about: Circumstances) -> str:
    """Return the evidence that a unit is complete."""
    soon = about.ended or about.quiet >= min(MARKED_QUIET_SECONDS, about.settle)
    if (mark := marker(unit)) and soon:
        return f"{mark}, and no file is broken"
    if unit.number and unit.single and not unit.evidence.pending:
        single = probes[unit.dir]
        if single.state is State.WHOLE and (about.precedent or soon):
            return single.why
    if about.ended:
        return "the training has ended and no file is broken"
    if about.quiet >= about.settle:
        return f"unchanged for {about.settle:g} s and no file is broken"
    return ""


def judge(unit: Unit, probes: Mapping[str, Probe], about: Circumstances) -> Verdict:
    """Decide whether one unit is complete.

    The training's own word outweighs everything. A broken file outweighs all other evidence, even the end of the training.
    """
    if unit.evidence.said:
        return Verdict(complete=True, evidence="the training has declared it complete")
    if against := _against(unit, probes, about):
        return Verdict(complete=False, evidence=against)
    if evidence := _in_favour(unit, probes, about):
        return Verdict(complete=True, evidence=evidence)
    pending = f"{unit.evidence.pending}; " if unit.evidence.pending else ""
    return Verdict(
        complete=False,
        evidence=f"{pending}changed {about.quiet:.1f} s ago, needs {about.settle:g} s of quiet",
        waits=not unit.evidence.pending,
    )


def shape_of(unit: Unit, *, full: bool = False) -> frozenset[str]:
    """Return the names of a unit's files, inside the unit or in full, without digits and logs."""
    paths = unit.files if full else unit.within()
    return frozenset(_DIGITS.sub("#", name) for name in paths if not is_log(name))


def _lots(units: Sequence[Unit]) -> Iterator[tuple[list[Unit], bool]]:
    """Yield the units that are comparable, and whether by the full names of their files.

    In a layout of any names, the first file's name says nothing about a unit: of one that is being written, another file may be the first.
    """
    parted = {unit.layout for unit in units if unit.layout in _OPEN_NAMES and unit.name != unit.dir}
    lots: dict[tuple[str, ...], list[Unit]] = {}
    for unit in units:
        kind = "step" if unit.step is not None else "epoch" if unit.epoch is not None else "number"
        key: tuple[str, ...] = (
            (unit.layout, "", kind) if unit.layout in parted else (unit.layout, _DIGITS.sub("#", unit.name))
        )
        lots.setdefault(key, []).append(unit)
    for key, lot in lots.items():
        yield lot, key[0] in parted


def compared(units: Sequence[Unit]) -> dict[str, tuple[str, bool]]:
    """Return by name of each unit what it lacks although the others have it, and whether an older one has the same files."""
    found: dict[str, tuple[str, bool]] = {}
    for lot, full in _lots(units):
        by_time = sorted(lot, key=lambda unit: unit.mtime_ns)
        shapes = [shape_of(unit, full=full) for unit in by_time]
        for at, unit in enumerate(by_time):
            found[unit.name] = (_lacking(shapes, at, full=full), shapes[at] in shapes[:at])
    return found


def _lacking(shapes: Sequence[frozenset[str]], at: int, *, full: bool) -> str:
    """Return what one of several units, in the order of their times, has not and the others have: all others, or all before it.

    The newest one may still be written, so it says nothing about another. What only one or two have proves something only about a unit
    that has nothing but files of theirs, as a save that has begun.
    """
    own, others = shapes[at], [*shapes[:at], *shapes[at + 1 :]]
    absent = frozenset.intersection(*others) - own if len(others) >= SIBLINGS else frozenset()
    if absent := frozenset(name for name in absent if not (full and _ABOUT_IT.search(name))):
        return min(absent)
    before = shapes[:at]
    if not before or len(others[at:]) > 1:
        return ""
    parts = [
        name for name in frozenset.intersection(*before) - own if not (_ABOUT_IT.search(name) or _HASH.search(name))
    ]
    known = frozenset.union(*before)
    return min(parts, default="") if own and all(name in known or _HASH.search(name) for name in own) else ""


def format_of(unit: Unit) -> str:
    """Return the layout that found the unit."""
    return unit.layout


def is_checkpoint(seen: Seen) -> bool:
    """Whether a unit is a checkpoint, or one that is not finished: no training resumes from logs, or from a whole of settings, code and pictures."""
    files = [path for path in seen.unit.files if not is_log(path)]
    if not files:
        return False
    return not seen.complete or seen.unit.evidence.said or not all(is_about(path) for path in files)


def newest(seen: Sequence[Seen], since_ns: int, *, complete: bool = True) -> Seen | None:
    """Return the furthest unit among those written since the pod started, else among all.

    Step, epoch or number decide, not the modification time: evaluators write into old checkpoints. But a unit of which every file is
    newer than those of the furthest is of a later stage, whose numbers began again. Units of an earlier pod count only
    until this pod has written one.
    """
    fitting = [one for one in seen if one.complete is complete and is_checkpoint(one)]
    own = [one for one in fitting if one.unit.mtime_ns >= since_ns]
    found = _furthest(own or fitting)
    while found and (later := [one for one in own if _is_later(one.unit, found.unit)]):
        found = _furthest(later)
    return found


def being_written(seen: Sequence[Seen], since_ns: int) -> Seen | None:
    """Return an incomplete unit that is newer than the newest complete one and that changed lately."""
    moving = [one for one in seen if one.quiet < WRITING_SECONDS]
    partial, whole = newest(moving, since_ns, complete=False), newest(seen, since_ns)
    if partial is None or (whole and partial.unit.mtime_ns < whole.unit.mtime_ns):
        return None
    return partial


def _is_later(one: Unit, other: Unit) -> bool:
    """Whether a unit of the same kind of numbers was written as a whole after another one."""
    kinds = [(unit.step is None, unit.epoch is None or unit.step is not None) for unit in (one, other)]
    return kinds[0] == kinds[1] and not one.derived and one.oldest_ns > other.mtime_ns


def _furthest(seen: Sequence[Seen]) -> Seen | None:
    return max(seen, key=lambda one: place(one.unit), default=None)
