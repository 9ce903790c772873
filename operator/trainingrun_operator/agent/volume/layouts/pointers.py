"""Files beside the checkpoints that name the last one: the writer changes them after the checkpoint that they name."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

    from trainingrun_operator.agent.volume.layouts.tree import Tree

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
