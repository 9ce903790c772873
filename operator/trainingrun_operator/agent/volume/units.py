"""Group the files: one unit for each numbered checkpoint, and one for the rest."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trainingrun_operator.agent.volume.scan import Entry

WHOLE = "."
"""The directory of a unit that is the checkpoint path itself."""

_SUFFIXES = (
    ".pt",
    ".pth",
    ".ckpt",
    ".bin",
    ".safetensors",
    ".npz",
    ".zip",
    ".keras",
    ".h5",
    ".pkl",
    ".msgpack",
    ".tar",
)
_STEP = re.compile(r"(?:^|[^a-z])(?:global[-_]?)?steps?[-_=]?(\d+)(?!\d)", re.IGNORECASE)
_CHECKPOINT = re.compile(r"(?:^|[^a-z])(?:checkpoint|ckpt|iteration|iter)[-_=]?(\d+)(?!\d)", re.IGNORECASE)
_EPOCH = re.compile(r"(?:^|[^a-z])epoch[-_=]?(\d+)(?!\d)", re.IGNORECASE)
_DIGITS = re.compile(r"\d+")
_TRAILING = re.compile(r"[-_=.](\d+)\Z")
_SHARD = re.compile(r"-\d+-of-\d+\Z")
_PART_OF_SOMETHING = re.compile(r"(rng_state|random_states|optimizer|scheduler|sampler|rank|shard)", re.IGNORECASE)
_LOG = re.compile(r"(?:.*/)?(?:events\.out\.tfevents\.[^/]*|[^/]*\.(?:log|jsonl))", re.DOTALL)


class Number(NamedTuple):
    """The training's progress, read from a name."""

    value: int
    step: int | None
    """None if the number counts epochs: it still orders the units."""


@dataclass(frozen=True)
class Unit:
    """Files that belong to one checkpoint."""

    name: str
    """Unique under the path."""
    dir: str
    """A directory relative to the checkpoint path, a file's name, or `WHOLE`."""
    files: Mapping[str, Entry]
    number: Number | None = None

    @property
    def step(self) -> int | None:
        """The step in the name."""
        return self.number.step if self.number else None

    @property
    def epoch(self) -> int | None:
        """The training's epoch in the name."""
        match = _EPOCH.search(self.name)
        return int(match[1]) if match else None

    @property
    def value(self) -> int:
        """The number that orders the units; -1 without one."""
        return self.number.value if self.number else -1

    @property
    def bytes(self) -> int:
        """Total size of the files."""
        return sum(entry.size for entry in self.files.values())

    @property
    def mtime_ns(self) -> int:
        """Modification time of the newest file."""
        return max((entry.mtime_ns for entry in self.files.values()), default=0)

    @property
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
    """In ascending order of their numbers."""
    rest: Unit | None


def is_log(path: str) -> bool:
    """Whether a file is a log. Logs grow all the time, so no checkpoint waits for them."""
    return _LOG.fullmatch(path) is not None


def number_of(name: str) -> Number | None:
    """Read a step or an epoch from a name such as ``checkpoint-1200``, ``epoch=3-step=1200`` or ``1200``."""
    if _DIGITS.fullmatch(name):
        return Number(int(name), int(name))
    for pattern in (_STEP, _CHECKPOINT):
        if match := pattern.search(name):
            return Number(int(match[1]), int(match[1]))
    if match := _EPOCH.search(name):
        return Number(int(match[1]), None)
    return None


def number_of_file(name: str) -> Number | None:
    """Read a step or an epoch from a checkpoint file's name, ``model-1200.pt`` included."""
    stem, dot, suffix = name.rpartition(".")
    if not dot or f".{suffix.lower()}" not in _SUFFIXES or _SHARD.search(stem):
        return None
    if number := number_of(stem):
        return number
    match = _TRAILING.search(stem)
    if match is None or _PART_OF_SOMETHING.match(stem):
        return None
    return Number(int(match[1]), int(match[1]))


def split(entries: Mapping[str, Entry]) -> Split:
    """Sort files into units: numbered directories; without any, numbered files grouped by number. Other files are the rest."""
    folders: dict[str, dict[str, Entry]] = defaultdict(dict)
    files: dict[Number, dict[str, Entry]] = defaultdict(dict)
    rest: dict[str, Entry] = {}
    for path, entry in entries.items():
        top, slash, _ = path.partition("/")
        if slash and number_of(top):
            folders[top][path] = entry
        elif not slash and (number := number_of_file(top)):
            files[number][path] = entry
        else:
            rest[path] = entry
    numbered = [Unit(name, name, inside, number_of(name)) for name, inside in folders.items()]
    if folders:
        for inside in files.values():
            rest |= inside
    else:
        for number, inside in files.items():
            names = sorted(inside)
            numbered.append(Unit(names[0], names[0] if len(names) == 1 else WHOLE, inside, number))
    numbered.sort(key=lambda unit: (unit.value, unit.mtime_ns))
    return Split(tuple(numbered), Unit(WHOLE, WHOLE, rest) if rest else None)
