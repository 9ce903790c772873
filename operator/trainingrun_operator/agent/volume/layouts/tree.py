"""What a layout sees of the volume, and what it says about it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from trainingrun_operator.agent.volume.scan import Entry

ReadText = Callable[[str], str]
"""Takes a path under the checkpoint path; returns the file's text, empty if it is missing, large or unreadable."""


@dataclass(frozen=True)
class Top:
    """One name directly under the checkpoint path, with every file at or below it."""

    name: str
    folder: bool
    files: Mapping[str, Entry]
    """By path under the checkpoint path."""

    @cached_property
    def inside(self) -> frozenset[str]:
        """Paths of the files relative to the folder."""
        cut = len(self.name) + 1
        return frozenset(path[cut:] for path in self.files) if self.folder else frozenset()

    @cached_property
    def firsts(self) -> frozenset[str]:
        """Names directly in the folder."""
        return frozenset(path.split("/", 1)[0] for path in self.inside)

    @cached_property
    def basenames(self) -> frozenset[str]:
        """Names of the files at any depth, without their folders."""
        return frozenset(path.rsplit("/", 1)[-1] for path in self.files)

    @cached_property
    def mtime_ns(self) -> int:
        """Modification time of the newest file."""
        return max((entry.mtime_ns for entry in self.files.values()), default=0)


class Found(NamedTuple):
    """What a layout takes for one checkpoint."""

    members: tuple[str, ...]
    """Names directly under the checkpoint path. The first one names the checkpoint."""
    step: int | None = None
    epoch: int | None = None
    value: int | None = None
    """Orders checkpoints of this layout that have neither step nor epoch; None: the time does."""
    marker: str = ""
    """Which file says that the writer has finished; empty: none does, so only quiet or the training's end can."""
    missing: str = ""
    """What the writer still has to write, whether or not the training has ended; empty: nothing is known to be missing."""
    pending: str = ""
    """What the writer is probably about to do. It counts until the settle time is over."""


@dataclass(frozen=True)
class Tree:
    """The names directly under the checkpoint path that no other layout has taken."""

    tops: Mapping[str, Top]
    unfinished: frozenset[str] = frozenset()
    """Temporary names directly under the checkpoint path."""
    text: ReadText = field(default=lambda _: "")
    within: str = ""
    """Folder below the checkpoint path that all of this is in, ending with a slash; empty: none."""

    @cached_property
    def folders(self) -> tuple[Top, ...]:
        """The folders."""
        return tuple(top for top in self.tops.values() if top.folder)

    @cached_property
    def files(self) -> tuple[Top, ...]:
        """The files and links."""
        return tuple(top for top in self.tops.values() if not top.folder)

    def without(self, names: Iterable[str]) -> Tree:
        """Return the tree without some names."""
        gone = frozenset(names)
        return replace(self, tops={name: top for name, top in self.tops.items() if name not in gone})


class Layout(Protocol):
    """How one library arranges its checkpoints."""

    @property
    def name(self) -> str:
        """Value of ``spec.checkpoint.format``."""

    def find(self, tree: Tree) -> Iterable[Found]:
        """Return the checkpoints of this layout. Looks at names, and at the text of small files."""


def tree_of(
    entries: Mapping[str, Entry],
    temporary: Iterable[str] = (),
    text: ReadText = lambda _: "",
    within: str = "",
) -> Tree:
    """Sort the files by their first names."""
    inside: dict[str, dict[str, Entry]] = defaultdict(dict)
    folders = set()
    for path, entry in entries.items():
        top, slash, _ = path.partition("/")
        inside[top][path] = entry
        if slash:
            folders.add(top)
    tops = {name: Top(name, name in folders, files) for name, files in inside.items()}
    return Tree(tops, frozenset(path.split("/", 1)[0] for path in temporary), text, within)
