"""Where the symbolic links of a manifest lead once they are in a folder, through one another and through links that are there already."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from trainingrun_operator.checkpoints.proof import BadCommitError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

FOLLOWED_MAX: Final = 40
"""Links that Linux follows in one path; with more, it opens nothing."""
TARGET_MAX_BYTES: Final = 4095


def check_links(root: Path, links: Mapping[str, str], files: Iterable[str]) -> None:
    """Check that every link stays below the root, however a program follows it.

    Args:
        root: absolute and normalized; may not exist yet.
        links: target by path, as file names.
        files: the manifest's other paths.

    Raises:
        BadCommitError: a link leads out, has a target that no file system takes, or is the folder of another path.
    """
    for path in (*links, *files):
        parts = path.split("/")
        above = next((one for at in range(1, len(parts)) if (one := "/".join(parts[:at])) in links), None)
        if above is not None:
            raise BadCommitError(f"path {path!r} is below {above!r}, which is a symbolic link")
    for path in files:
        if path in links:
            raise BadCommitError(f"path {path!r} is both a file and a symbolic link")
    for path, target in links.items():
        if not target or "\0" in target or len(os.fsencode(target)) > TARGET_MAX_BYTES:
            raise BadCommitError(f"link {path!r} has a target that is empty, too long, or not a file name")
        if not _stays(root, path, links):
            raise BadCommitError(f"link {path!r} points out of the checkpoint path: {target[:200]!r}")


def leading_out(root: Path, links: Mapping[str, str]) -> frozenset[str]:
    """Return the links that lead out of the root: as they are there, or restored with the others into an empty folder.

    Args:
        root: absolute and normalized.
        links: target by path, as file names.
    """
    out: set[str] = set()
    while True:
        kept = {path: target for path, target in links.items() if path not in out}
        found = {path for path in kept if not _stays(root, path, kept) or not _stays(root, path, kept, in_place=False)}
        if not found:
            return frozenset(out)
        out |= found


def _stays(root: Path, path: str, links: Mapping[str, str], *, in_place: bool = True) -> bool:
    """Resolve a path as the kernel does, with the links that are on disk, then those of the manifest. A loop leads nowhere.

    Without ``in_place``: as if nothing were on disk.
    """
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
        target = _target(root, here, links) if in_place else links.get("/".join(here))
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


def _target(root: Path, here: list[str], links: Mapping[str, str]) -> str | None:
    """Return the target of a link. One on disk stays there, whatever the manifest says."""
    place = root.joinpath(*here)
    try:
        return str(place.readlink())
    except OSError:
        return None if os.path.lexists(place) else links.get("/".join(here))


def _below(root: Path, target: str) -> str | None:
    """Return the rest of an absolute target that begins with the root's own path; None for any other."""
    parts = [part for part in target.split("/") if part not in {"", "."}]
    own = root.parts[1:]
    return "/".join(parts[len(own) :]) if tuple(parts[: len(own)]) == own else None
