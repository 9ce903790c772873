"""Find files that have several names: they are sent once, and copied inside the store to their further names."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from trainingrun_operator.agent.volume.scan import Kind

if TYPE_CHECKING:
    from trainingrun_operator.agent.cargo import Wanted


def further_names(root: str, listed: list[Wanted]) -> tuple[list[Wanted], list[tuple[Wanted, Wanted]]]:
    """Separate the further names (hard links) of files that are to be sent, each with the first name."""
    first: dict[tuple[int, int, int], Wanted] = {}
    others, further = [], []
    for one in listed:
        entry = one.entry
        if entry.kind is not Kind.FILE or one.earlier or not entry.size:
            others.append(one)
            continue
        known = first.setdefault((entry.inode, entry.size, entry.mtime_ns), one)
        if known is not one and _is_one_file(root, known.path, one.path):
            further.append((one, known))
        else:
            others.append(one)
    return others, further


def _is_one_file(root: str, one: str, other: str) -> bool:
    try:
        return os.path.samestat(os.lstat(f"{root}/{one}"), os.lstat(f"{root}/{other}"))
    except OSError:
        return False
