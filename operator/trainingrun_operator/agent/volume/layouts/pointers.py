"""Files beside the checkpoints that name the last one: the writer changes them after the checkpoint that they name."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from trainingrun_operator.agent.volume.layouts.tree import Found, Tree

DEEPSPEED = "latest"
MEGATRON = "latest_checkpointed_iteration.txt"
DETECTRON = "last_checkpoint"
"""Also MMEngine's. The text is the name of a file, with or without its folder."""
TENSORFLOW = "checkpoint"
POINTERS = frozenset({DEEPSPEED, MEGATRON, DETECTRON, TENSORFLOW, "latest.txt", "latest_checkpoint.txt", "last.txt"})
TEXT_MAX_BYTES = 4096
_NUMBER = re.compile(r"(\d+)\s*\Z")


def number_in(text: str) -> int | None:
    """Return the number that a pointer's text ends with: 1200 for ``global_step1200`` or ``1200``."""
    match = _NUMBER.search(text)
    return int(match[1]) if match else None


def behind(tree: Tree, name: str, number: int | None) -> str | None:
    """Return what a pointer beside says against a checkpoint; empty: it names this one or a later one. None: there is no pointer."""
    pointer = next((one for one in (MEGATRON, DEEPSPEED) if one in tree.tops and not tree.tops[one].folder), None)
    if pointer is None:
        return None
    text = tree.text(pointer).strip()
    pointed = number_in(text)
    if text == name:
        return ""
    if number is not None and pointed is not None:
        return "" if number <= pointed else f"the pointer file {pointer} still names {text}"
    if tree.tops[name].mtime_ns > tree.tops[pointer].mtime_ns:
        return f"the pointer file {pointer} is older, and names {text or 'nothing'}"
    return ""


def still_names_another(tree: Tree, members: Collection[str]) -> str:
    """Return that the pointer beside some files names another file and is older: the writer is about to change it."""
    pointer = tree.tops.get(DETECTRON)
    if pointer is None or pointer.folder:
        return ""
    text = tree.text(DETECTRON).strip()
    if not text or text.rsplit("/", 1)[-1] in members:
        return ""
    written = max(tree.tops[name].mtime_ns for name in members)
    return f"the pointer file {DETECTRON} still names {text}" if pointer.mtime_ns < written else ""


_LATEST = re.compile(
    r"(?:(?:latest|last|newest|current)(?:[-_.]?(?:checkpoint(?:ed)?|ckpt|step|iteration|iter|epoch|saved?|model|train))*|(?:checkpoint|ckpt)[-_.]?latest)"
    r"(?:\.(?:txt|json|ya?ml))?",
    re.IGNORECASE,
)
"""Names of files that name the last checkpoint. nanotron: ``latest.txt``, of which src/nanotron/serialize/main.py reads the step to resume from."""
_WORDS = re.compile(r"[\s\"',:;{}\[\]/\\]+")


def not_named_yet(tree: Tree, found: Sequence[Found]) -> tuple[str, str]:
    """Return which checkpoint a pointer beside does not name yet, by its first member, and why; empty: none.

    A pointer is believed that names a checkpoint before the newest one, and after which no other has been written. If two have been, its writer does
    not keep it.
    """
    by_time = sorted(found, key=lambda one: _written_ns(tree, one))
    for top in tree.files if len(found) > 1 else ():
        if not _LATEST.fullmatch(top.name) or sum(entry.size for entry in top.files.values()) > TEXT_MAX_BYTES:
            continue
        *before, newest = by_time
        text = tree.text(top.name).strip()
        named = [one for one in found if _names(text, one)]
        if (
            len(named) == 1
            and named[0] in before
            and _at(named[0]) < _at(newest)
            and _written_ns(tree, before[-1]) <= top.mtime_ns < _written_ns(tree, newest)
        ):
            return newest.members[0], f"the pointer file {top.name} still names {named[0].members[0]}"
    return "", ""


def _names(text: str, found: Found) -> bool:
    """Whether a pointer's text names a checkpoint: by one of its words, or as its number alone."""
    words = set(_WORDS.split(text))
    if words & {one for name in found.members for one in (name, name.rpartition(".")[0]) if one}:
        return True
    return text.isdecimal() and int(text) in (found.step, found.epoch, found.value)


def _at(found: Found) -> tuple[int, int, int]:
    step, epoch, value = (-1 if one is None else one for one in (found.step, found.epoch, found.value))
    return step, epoch, value


def _written_ns(tree: Tree, found: Found) -> int:
    return max(tree.tops[name].mtime_ns for name in found.members)
