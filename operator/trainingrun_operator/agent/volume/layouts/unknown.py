"""Names of no known layout: what their words say, else a number that rises with the files' times, else time alone.

Digits of a decimal, a version, a date or a model's size are no number, and neither are those after words such as ``rank`` or ``seed``.
"""

from __future__ import annotations

import re
from collections import defaultdict
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from trainingrun_operator.agent.volume.layouts import pointers
from trainingrun_operator.agent.volume.layouts.reading import read, stem_of, without_dates
from trainingrun_operator.agent.volume.layouts.tree import Found

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from trainingrun_operator.agent.volume.layouts.tree import Top, Tree

_TOKEN = re.compile(
    r"""
    (?P<date>~)
  | (?P<decimal>\d+\.\d+(?:\.\d+)*)
  | (?P<hash>(?<![a-z0-9])(?=[a-f]*\d)(?=\d*[a-f])[0-9a-f]{7,}(?![a-z0-9]))
  | (?P<version>(?<![a-z0-9])v\d+)
  | (?P<size>(?<![a-z0-9])(?:\d+x)?\d+[bmkg](?![a-z0-9]))
  | (?P<part>(?<![a-z])(?:rank|seed|fold|worker|gpu|part|shard|split|trial|run|exp|layers?|dp|tp|pp|mp|lr|bs|dim|heads?|node|device|lora|r|top|
             host|resnet|vit|gpt|bert|llama|qwen|fp|bf|u?int|seq|len|ctx|version|rng[-_]state|random[-_]states?)
             [-_=.]?\d+)
  | (?P<number>\d+)
    """,
    re.VERBOSE | re.IGNORECASE,
)
_SHARD = re.compile(r"-\d+-of-\d+\Z")
_PART_OF_SOMETHING = re.compile(r"(?:rng_state|random_states|sampler|rank|shard)", re.IGNORECASE)


_SERIES = frozenset({"decimal", "date", "hash", "version"})
SMALL_BYTES = 1 << 20


class Shape(NamedTuple):
    """A name with its numbers taken out."""

    text: str
    numbers: tuple[int, ...]


def shape_of(stem: str) -> Shape:
    """Take the numbers out of a name that may count something."""
    numbers: list[int] = []

    def one(match: re.Match[str]) -> str:
        if match.lastgroup == "number":
            numbers.append(int(match[0]))
            return "#"
        # Of two names that differ in these digits only, neither is another kind of file.
        return f"<{match.lastgroup}>" if match.lastgroup in _SERIES else match[0]

    return Shape(_TOKEN.sub(one, without_dates(stem)), tuple(numbers))


class Files:
    """All names with a number that no other layout has taken."""

    name = "Files"

    def find(self, tree: Tree) -> Iterator[Found]:
        """Return numbered folders; without any, numbered files, those of one number together; without any, a series of files."""
        if folders := list(_folders(tree.folders)):
            yield from folders
        elif files := list(_files(tree.files)):
            for found in files:
                yield found._replace(pending=pointers.still_names_another(tree, found.members))
        else:
            yield from _series(tree)


def _series(tree: Tree) -> Iterator[Found]:
    """Return files whose names differ only in a day, a metric, a version or a hash: time orders them.

    Only if nothing else of any size is there, because all of it could belong together.
    """
    large = [
        top for top in tree.tops.values() if top.folder or sum(entry.size for entry in top.files.values()) > SMALL_BYTES
    ]
    saves = [top for top in tree.files if stem_of(top.name)[1]]
    shapes = {shape_of(top.name) for top in saves}
    if len(saves) > 1 and len(shapes) == 1 and "<" in next(iter(shapes)).text and all(top in saves for top in large):
        yield from (Found((top.name,)) for top in saves)


def _folders(folders: Iterable[Top]) -> Iterator[Found]:
    unsaid: dict[str, list[tuple[Top, Shape]]] = defaultdict(list)
    for top in folders:
        if (said := read(top.name)).known:
            yield Found((top.name,), said.step, said.epoch)
        elif (shape := shape_of(top.name)).numbers:
            unsaid[shape.text].append((top, shape))
    for text, lot in unsaid.items():
        values = _rising(lot)
        # One folder with a number in its name is as likely an experiment. Of digits alone it is a checkpoint.
        if text == "#" or (values and len(lot) > 1):
            for at, (top, _) in enumerate(lot):
                yield Found((top.name,), value=values[at] if values else None)


def _files(files: Iterable[Top]) -> Iterator[Found]:
    said: dict[tuple[int | None, int | None], list[str]] = defaultdict(list)
    unsaid: dict[str, list[tuple[Top, Shape]]] = defaultdict(list)
    for top in files:
        stem, suffix = stem_of(top.name)
        if not suffix or _SHARD.search(stem):
            continue
        reading = read(stem)
        if reading.known:
            said[reading].append(top.name)
        elif (shape := shape_of(stem)).numbers and not _PART_OF_SOMETHING.match(stem):
            unsaid[f"{shape.text}{suffix}"].append((top, shape))
    for (step, epoch), names in said.items():
        yield Found(tuple(sorted(names)), step, epoch)
    yield from _unsaid(unsaid)


def _unsaid(shapes: dict[str, list[tuple[Top, Shape]]]) -> Iterator[Found]:
    together: dict[int, list[str]] = defaultdict(list)
    for lot in shapes.values():
        values = _rising(lot)
        if not values:
            yield from (Found((top.name,)) for top, _ in lot)
            continue
        for value, (top, _) in zip(values, lot, strict=True):
            together[value].append(top.name)
    for value, names in together.items():
        yield Found(tuple(sorted(names)), value=value)


def _rising(lot: list[tuple[Top, Shape]]) -> tuple[int, ...] | None:
    """Return of each name the number that rises with the files' times; None: there is none. Of a single name, its last number."""
    by_time = sorted(lot, key=lambda one: (one[0].mtime_ns, one[1].numbers))
    for slot in range(len(lot[0][1].numbers) - 1, -1, -1):
        column = [shape.numbers[slot] for _, shape in by_time]
        if all(earlier < later for earlier, later in pairwise(column)):
            return tuple(shape.numbers[slot] for _, shape in lot)
    return None
