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
from trainingrun_operator.agent.volume.layouts.together import ARCHIVES, part_stem, series_of
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
        """Return numbered folders and the files of their numbers; without any, numbered files; without any, a series of files."""
        if folders := list(_folders(tree.folders)):
            lot = list(_with_files(folders, tree))
        elif files := list(_files(tree.files)):
            lot = [
                found._replace(pending=pointers.still_names_another(tree, found.members))
                for found in _with_folders(files, tree)
            ]
        else:
            yield from _series(tree)
            return
        unnamed, why = pointers.not_named_yet(tree, lot)
        for found in lot:
            # Of single files, each is whole by its format; their pointer is only awaited.
            yield found._replace(missing=why) if found.members[0] == unnamed and not found.pending else found


Key = tuple[int | None, int | None] | tuple[str, tuple[int, ...]]
"""What names of one checkpoint share: what their words say, else the name's series and its numbers."""


def _key(stem: str) -> Key | None:
    if (said := read(stem)).known:
        return said.step, said.epoch
    shape = shape_of(stem)
    return (series_of(shape.text), shape.numbers) if shape.numbers else None


def _with_files(folders: list[Found], tree: Tree) -> Iterator[Found]:
    """Return numbered folders, each with the files of its number.

    Other files beside are checkpoints, each without its folder, only if a file of the same kind has one.
    """
    of_key: dict[Key | None, list[str]] = defaultdict(list)
    shapes = {}
    names_of_folders = {name for found in folders for name in found.members}
    for top in tree.files:
        stem, suffix = stem_of(top.name)
        if suffix in ARCHIVES and stem in names_of_folders:
            continue  # made from the folder
        named = stem if suffix and not _SHARD.search(stem) else part_stem(top.name)
        if named is not None and (key := _key(named)):
            of_key[key].append(top.name)
            shapes[top.name] = f"{shape_of(named).text}{suffix}"
    joined: set[str] = set()
    for found in folders:
        # Of several folders of a number, each could be the one of the files: the first one has them.
        files = of_key.pop(_key(found.members[0]), [])
        joined |= {shapes[name] for name in files}
        yield found._replace(members=(*sorted(files), *found.members))
    for names in of_key.values():
        if any(shapes[name] in joined for name in names):
            reading = read(stem_of(names[0])[0])
            value = None if reading.known else shape_of(stem_of(names[0])[0]).numbers[-1]
            yield Found(tuple(sorted(names)), reading.step, reading.epoch, value)


def _with_folders(files: list[Found], tree: Tree) -> Iterator[Found]:
    """Return numbered files, each with the folder of its number, such as ``model_1000.pt`` with the only folder ``model_1000_state``."""
    of_key: dict[Key | None, list[str]] = defaultdict(list)
    for top in tree.folders:
        of_key[_key(top.name)].append(top.name)
    for found in files:
        key = _key(stem_of(found.members[0])[0])
        folders = of_key.pop(key, []) if key else []
        yield found._replace(members=(*found.members, *sorted(folders)))


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
    together: dict[tuple[object, ...], Found] = {}
    unsaid: dict[str, list[tuple[Top, Shape]]] = defaultdict(list)
    for top in folders:
        shape = shape_of(top.name)
        if (said := read(top.name)).known:
            _join(together, (*said, series_of(shape.text)), Found((top.name,), said.step, said.epoch))
        elif shape.numbers:
            unsaid[shape.text].append((top, shape))
    rising = {text: _rising(lot) for text, lot in unsaid.items()}
    # One folder with a number in its name is as likely an experiment. Of digits alone it is a checkpoint.
    counted = {text for text, lot in unsaid.items() if text == "#" or (rising[text] and len(lot) > 1)}
    series = {series_of(text) for text in counted if text != "#"}
    for text, lot in unsaid.items():
        if text in counted or series_of(text) in series:
            values = rising[text]
            for at, (top, shape) in enumerate(lot):
                found = Found((top.name,), value=values[at] if values else None)
                _join(together, (series_of(text), shape.numbers), found)
    yield from together.values()


def _join(together: dict[tuple[object, ...], Found], key: tuple[object, ...], found: Found) -> None:
    """Add a name to the checkpoint of its key."""
    known = together.get(key)
    together[key] = found if known is None else known._replace(members=tuple(sorted((*known.members, *found.members))))


def _files(files: Iterable[Top]) -> Iterator[Found]:
    said: dict[tuple[int | None, int | None], list[str]] = defaultdict(list)
    unsaid: dict[str, list[tuple[Top, Shape]]] = defaultdict(list)
    parts: list[tuple[Key, str]] = []
    for top in files:
        stem, suffix = stem_of(top.name)
        if not suffix:
            if (named := part_stem(top.name)) and (key := _key(named)):
                parts.append((key, top.name))
            continue
        if _SHARD.search(stem):
            continue
        reading = read(stem)
        if reading.known:
            said[reading].append(top.name)
        elif (shape := shape_of(stem)).numbers and not _PART_OF_SOMETHING.match(stem):
            unsaid[f"{shape.text}{suffix}"].append((top, shape))
    found = [Found(tuple(sorted(names)), step, epoch) for (step, epoch), names in said.items()]
    for one in (*found, *_unsaid(unsaid)):
        keys = {_key(stem_of(name)[0]) for name in one.members}
        more = tuple(sorted(name for key, name in parts if key in keys))
        yield one._replace(members=(*one.members, *more))


def _unsaid(shapes: dict[str, list[tuple[Top, Shape]]]) -> Iterator[Found]:
    together: dict[int, list[str]] = defaultdict(list)
    alike: dict[tuple[object, ...], Found] = {}
    for lot in shapes.values():
        values = _rising(lot)
        if not values:
            for top, shape in lot:
                _join(alike, (series_of(shape.text), shape.numbers), Found((top.name,)))
            continue
        for value, (top, _) in zip(values, lot, strict=True):
            together[value].append(top.name)
    yield from alike.values()
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
