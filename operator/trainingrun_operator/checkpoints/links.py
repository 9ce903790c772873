"""Where the symbolic links of a manifest lead once they are in a folder, through one another and through links that are there already.

A link that leads out is left out. It is no reason to refuse a checkpoint: trainings link into caches outside of the checkpoint path.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping
    from pathlib import Path

FOLLOWED_MAX: Final = 40
"""Links that Linux follows in one path; with more, it opens nothing."""
TARGET_MAX_BYTES: Final = 4095
ROUNDS_MAX: Final = 16
"""Rounds in which links may turn out to lead out once others are left out; after them, no link is made."""


def leading_out(
    root: Path,
    links: Mapping[str, str],
    files: Collection[str] = (),
    aside: Collection[str] = (),
    *,
    in_place: bool = True,
) -> dict[str, str]:
    """Return the links that must not be made, each with the reason. Without them, every link stays below the root, however it is followed.

    Args:
        root: absolute and normalized; may not exist yet.
        links: target by path, as file names. Each replaces what is on disk.
        files: the manifest's other paths.
        aside: paths on disk that are renamed before the links are made.
        in_place: follow the links on disk. Without it: as in an empty folder.
    """
    taken = {*files, *folders_of((*links, *files))}
    refused = {path: why for path, target in links.items() if (why := _unfit(path, target, taken))}
    for _ in range(ROUNDS_MAX):
        left = {path: target for path, target in links.items() if path not in refused}
        found = {path: _out(left[path]) for path in left if not _stays(root, path, left, aside, in_place=in_place)}
        if not found:
            return refused
        # Without these, another link that leads through one of them may lead elsewhere.
        refused |= found
    return {path: _out(target) for path, target in links.items()}


def _unfit(path: str, target: str, taken: Collection[str]) -> str:
    """Return why a link cannot be made, wherever it leads; empty: it can."""
    if path in taken:
        return "another path of the manifest is there, or below it"
    if not target or "\0" in target or len(os.fsencode(target)) > TARGET_MAX_BYTES:
        return "its target is empty, too long, or not a file name"
    return ""


def _out(target: str) -> str:
    return f"it points out of the checkpoint path: {target[:200]!r}"


def folders_of(paths: Iterable[str]) -> Iterator[str]:
    """Return every folder above the paths."""
    for path in paths:
        parts = path.split("/")
        yield from ("/".join(parts[:at]) for at in range(1, len(parts)))


def _stays(root: Path, path: str, links: Mapping[str, str], aside: Collection[str], *, in_place: bool) -> bool:
    """Resolve a path as the kernel will, with the links of the manifest and those that stay on disk. A loop leads nowhere."""
    here: list[str] = []
    coming = path.split("/")[::-1]
    followed = 0
    while coming:
        part = coming.pop()
        if part in {"", "."}:
            continue
        if part == "..":
            if not here:
                return False
            here.pop()
            continue
        here.append(part)
        target = _target(root, here, links, aside) if in_place else links.get("/".join(here))
        if target is None:
            continue
        followed += 1
        if followed > FOLLOWED_MAX:
            return True
        here.pop()
        if target.startswith("/"):
            if (below := _below(root, target)) is None:
                return False
            here, target = [], below
        coming.extend(target.split("/")[::-1])
    return True


def _target(root: Path, here: list[str], links: Mapping[str, str], aside: Collection[str]) -> str | None:
    """Return the target of a link; None: there is none at this place."""
    path = "/".join(here)
    if path in links:
        return links[path]
    try:
        return None if path in aside else str(root.joinpath(*here).readlink())
    except OSError:
        return None


def _below(root: Path, target: str) -> str | None:
    """Return the rest of an absolute target that begins with the root's own path; None for any other."""
    parts = [part for part in target.split("/") if part not in {"", "."}]
    own = root.parts[1:]
    return "/".join(parts[len(own) :]) if tuple(parts[: len(own)]) == own else None
