"""Group the files: one unit for each checkpoint that a layout recognizes, and one for the rest."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from trainingrun_operator.agent.volume.layouts import TREE, recognize
from trainingrun_operator.agent.volume.layouts.reading import read, stem_of
from trainingrun_operator.agent.volume.layouts.tree import tree_of
from trainingrun_operator.agent.volume.scan import Kind
from trainingrun_operator.checkpoints.documents import WHOLE
from trainingrun_operator.checkpoints.reached import Moment

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from collections.abc import Set as AbstractSet

    from trainingrun_operator.agent.volume.layouts import Recognized
    from trainingrun_operator.agent.volume.layouts.tree import ReadText, Tree
    from trainingrun_operator.agent.volume.saved import Word
    from trainingrun_operator.agent.volume.scan import Entry

_LOG = re.compile(r"(?:.*/)?(?:events\.out\.tfevents\.[^/]*|[^/]*\.(?:log|jsonl|csv|tsv))", re.DOTALL)
_DERIVED = re.compile(r"[-_.][A-Za-z]")


class Number(NamedTuple):
    """The training's progress, as a layout reads it from a name."""

    value: int
    """Orders the units that have neither step nor epoch."""
    step: int | None = None
    epoch: int | None = None


class Evidence(NamedTuple):
    """What a layout says about a unit besides its files' own formats."""

    marker: str = ""
    """See `layouts.tree.Found`, as for the other two."""
    missing: str = ""
    pending: str = ""
    said: bool = False
    """The training has declared it complete."""


@dataclass(frozen=True)
class Unit:
    """Files that belong to one checkpoint."""

    name: str
    """Unique under the path."""
    dir: str
    """A directory relative to the checkpoint path, a file's name, or `WHOLE`."""
    files: Mapping[str, Entry]
    number: Number | None = None
    layout: str = TREE
    evidence: Evidence = field(default=Evidence(), compare=False)
    derived: bool = False
    """Made from another unit, such as ``checkpoint-100-merged``: of the same step, the other one is resumed from."""

    @property
    def step(self) -> int | None:
        """The step in the name."""
        return self.number.step if self.number else None

    @property
    def epoch(self) -> int | None:
        """The training's epoch in the name."""
        return self.number.epoch if self.number else None

    @property
    def moment(self) -> Moment:
        """How far the training had come."""
        return Moment.of(self.step, self.epoch)

    @property
    def value(self) -> int:
        """The number that orders units without step and epoch; -1 without one."""
        return self.number.value if self.number and self.step is None and self.epoch is None else -1

    @property
    def single(self) -> bool:
        """Whether the unit is one file."""
        return self.dir in self.files

    @cached_property
    def bytes(self) -> int:
        """Total size of the files."""
        return sum(entry.size for entry in self.files.values())

    @cached_property
    def mtime_ns(self) -> int:
        """Modification time of the newest file."""
        return max((entry.mtime_ns for entry in self.files.values()), default=0)

    @cached_property
    def oldest_ns(self) -> int:
        """Modification time of the oldest file."""
        return min((entry.mtime_ns for entry in self.files.values()), default=0)

    def within(self) -> Mapping[str, str]:
        """Map each file's path inside the unit to its path under the checkpoint path."""
        prefix = f"{self.dir}/"
        return {path.removeprefix(prefix): path for path in self.files}


class Split(NamedTuple):
    """All files under the path, each in exactly one unit."""

    numbered: tuple[Unit, ...]
    """In ascending order."""
    rest: Unit | None


def is_log(path: str) -> bool:
    """Whether a file is a log. Logs grow all the time, so no checkpoint waits for them."""
    return _LOG.fullmatch(path) is not None


def split(
    entries: Mapping[str, Entry],
    temporary: Iterable[str] = (),
    *,
    text: ReadText = lambda _: "",
    pinned: str = "",
    words: Mapping[str, Word] | None = None,
) -> Split:
    """Sort files into units: what the training says, then what the layouts recognize. Other files are the rest.

    Args:
        entries: the files, by path under the checkpoint path.
        temporary: the files under temporary names.
        text: reads a small file.
        pinned: the only layout to look for (``spec.checkpoint.format``); empty: any.
        words: checkpoints that the training has declared, by path.
    """
    words = words or {}
    temporary = tuple(temporary)
    inner = {path for path in words if "/" in path}
    units = _units(entries, inner, temporary, text, pinned)
    if words.keys() - {unit.dir for unit in units}:
        units = _units(entries, words.keys() - {unit.dir for unit in units} | inner, temporary, text, pinned)
    numbered = _in_order(as_said(unit, words.get(unit.dir)) for unit in units)
    taken = {path for unit in numbered for path in unit.files}
    rest = {path: entry for path, entry in entries.items() if path not in taken}
    return Split(numbered, Unit(WHOLE, WHOLE, rest) if rest else None)


def _units(
    entries: Mapping[str, Entry], said: AbstractSet[str], temporary: tuple[str, ...], text: ReadText, pinned: str
) -> list[Unit]:
    """Return a unit for each of some paths, and those that the layouts recognize among all other files."""
    inside: dict[str, dict[str, Entry]] = {}
    left: dict[str, Entry] = {}
    for path, entry in entries.items():
        top = "/" in path or entry.kind is Kind.FILE
        if said and (owner := _owner(path, said)) is not None:
            inside.setdefault(owner, {})[path] = entry
        elif top:
            left[path] = entry
    declared = [
        Unit(path, path, files, None, DECLARED)
        for path, files in inside.items()
        if path not in files or files[path].kind is Kind.FILE
    ]
    tree = tree_of(left, temporary, text)
    found = [_unit(one, tree) for one in recognize(tree, pinned)]
    return [*declared, *(found or _nested(left, temporary, text, pinned))]


_NESTED = re.compile(r"(?:[^/]+/){0,3}checkpoints/")
"""A folder that the writer itself adds below the path: Accelerate's automatic names (accelerate/accelerator.py, `save_state`: `checkpoints/checkpoint_0`),
Lightning's default (`lightning_logs/version_0/checkpoints/`)."""
_DEPTH_MAX = 4


def _nested(entries: Mapping[str, Entry], temporary: tuple[str, ...], text: ReadText, pinned: str) -> list[Unit]:
    """Return what the layouts recognize in the only folder below the path that has checkpoints. Several are several trainings: nothing."""

    def inside(folder: str) -> list[Unit]:
        files = {path.removeprefix(folder): entry for path, entry in entries.items() if path.startswith(folder)}
        unfinished = [path.removeprefix(folder) for path in temporary if path.startswith(folder)]
        tree = tree_of(files, unfinished, lambda path: text(folder + path), folder)
        return [_below(folder, _unit(one, tree)) for one in recognize(tree, pinned)]

    folders = {match[0] for path in entries if (match := _NESTED.match(path))} or _that_count(entries)
    return inside(folders.pop()) if len(folders) == 1 else []


def _that_count(entries: Iterable[str]) -> set[str]:
    """Return the folders below the path in which all saved files are, if the names in them say a step or an epoch.

    ultralytics: `weights/epoch10.pt`. nerfstudio: `nerfstudio_models/step-000002000.ckpt`. A Trainer whose `output_dir` is below the path:
    `outputs/checkpoint-100`. A number without such a word may be that of a part, such as a layer. Of a saved file elsewhere, such as `ckpt.pt` beside
    `samples/step_100.npz`, it is not known which of the two is the checkpoint.
    """
    saved = [path for path in entries if stem_of(path)[1] or path.endswith(".distcp")]
    counting: set[str] = set()
    for path in saved:
        *folders, name = path.split("/")
        words = [*folders, stem_of(name)[0]][: _DEPTH_MAX + 1]
        at = next((at for at, word in enumerate(words) if read(word).known), 0)
        counting.add("".join(f"{one}/" for one in folders[:at]))
    counting.discard("")
    return counting if all(path.startswith(tuple(counting)) for path in saved) else set()


def _below(folder: str, unit: Unit) -> Unit:
    """Return a unit of a folder as one of the checkpoint path."""
    files = {folder + path: entry for path, entry in unit.files.items()}
    at = folder.rstrip("/") if unit.dir == WHOLE else folder + unit.dir
    return replace(unit, name=folder + unit.name, dir=at, files=files)


def _owner(path: str, said: AbstractSet[str]) -> str | None:
    """Return the innermost of some paths that a file is or lies below."""
    at = path
    while at not in said:
        at, slash, _ = at.rpartition("/")
        if not slash:
            return WHOLE if WHOLE in said else None
    return at


def as_said(unit: Unit, word: Word | None) -> Unit:
    """Add to a unit what the training says about it."""
    if word is None:
        return unit
    step = unit.step if word.step is None else word.step
    epoch = unit.epoch if word.epoch is None else word.epoch
    return replace(unit, number=Number(unit.value, step, epoch), evidence=unit.evidence._replace(said=word.stands))


DECLARED = "Declared"
"""The layout of a checkpoint that the training has declared and that no layout recognizes."""


def _unit(recognized: Recognized, tree: Tree) -> Unit:
    found = recognized.found
    files = {path: entry for name in found.members for path, entry in tree.tops[name].files.items()}
    name = found.members[0]
    number = Number(-1 if found.value is None else found.value, found.step, found.epoch)
    evidence = Evidence(found.marker, found.missing, found.pending)
    return Unit(name, name if len(found.members) == 1 else WHOLE, files, number, recognized.layout, evidence)


def _in_order(units: Iterable[Unit]) -> tuple[Unit, ...]:
    listed = list(units)
    names = {unit.name for unit in listed}
    marked = (replace(unit, derived=True) if _is_derived(unit.name, names) else unit for unit in listed)
    return tuple(sorted(marked, key=place))


def place(unit: Unit) -> tuple[Moment, int, bool, int]:
    """Return the unit's place in the order of units: its moment, else its number, else its time."""
    return unit.moment, unit.value, not unit.derived, unit.mtime_ns


def _is_derived(name: str, names: set[str]) -> bool:
    """Whether a name is another one with a word behind it."""
    ends = (match.start() for match in _DERIVED.finditer(name))
    return any(name[:end] in names for end in ends)
