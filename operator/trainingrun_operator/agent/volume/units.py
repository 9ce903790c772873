"""Which of the files belong together: one unit for each numbered checkpoint, and the rest."""

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
    """What a name says about how far the training was."""

    value: int
    step: int | None
    """None where the number counts epochs: it orders, but it is no step."""


@dataclass(frozen=True)
class Unit:
    """Files that make sense only together."""

    name: str
    """Its identity under the path."""
    dir: str
    """Relative to the checkpoint path, or a file's name, or `WHOLE`."""
    files: Mapping[str, Entry]
    number: Number | None = None

    @property
    def step(self) -> int | None:
        """The step in its name."""
        return self.number.step if self.number else None

    @property
    def epoch(self) -> int | None:
        """The training's epoch in its name."""
        match = _EPOCH.search(self.name)
        return int(match[1]) if match else None

    @property
    def value(self) -> int:
        """Its place among its siblings."""
        return self.number.value if self.number else -1

    @property
    def bytes(self) -> int:
        """How much it is."""
        return sum(entry.size for entry in self.files.values())

    @property
    def mtime_ns(self) -> int:
        """When its newest file was written."""
        return max((entry.mtime_ns for entry in self.files.values()), default=0)

    def within(self) -> Mapping[str, str]:
        """Its files by their path inside of it."""
        prefix = f"{self.dir}/"
        return {path.removeprefix(prefix): path for path in self.files}


class Split(NamedTuple):
    """All files under the path, each in exactly one unit."""

    numbered: tuple[Unit, ...]
    """By number, ascending."""
    rest: Unit | None


def is_log(path: str) -> bool:
    """Whether a file is appended to all the time and no checkpoint waits for it to be quiet."""
    return _LOG.fullmatch(path) is not None


def number_of(name: str) -> Number | None:
    """Read a step or an epoch out of a name that speaks of one: ``checkpoint-1200``, ``epoch=3-step=1200``, ``1200``."""
    if _DIGITS.fullmatch(name):
        return Number(int(name), int(name))
    for pattern in (_STEP, _CHECKPOINT):
        if match := pattern.search(name):
            return Number(int(match[1]), int(match[1]))
    if match := _EPOCH.search(name):
        return Number(int(match[1]), None)
    return None


def number_of_file(name: str) -> Number | None:
    """Read a step or an epoch out of a checkpoint file's name; ``model-1200.pt`` counts as well."""
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
    """Sort files into units: numbered directories, else numbered files, grouped by their number; the others are the rest."""
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
