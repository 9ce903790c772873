"""Find out which file system a path is on."""

from __future__ import annotations

import os
import re
from pathlib import Path

LOCAL = frozenset({"bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "overlay", "tmpfs", "xfs", "zfs"})
"""File systems that keep a removed file for as long as it is open, and where its folder can be removed nonetheless.

Network file systems rename such a file instead, and the removal of its folder fails: a training that clears old checkpoints would fail.
"""
_ESCAPED = re.compile(r"\\([0-7]{3})")
MOUNTS = Path("/proc/self/mountinfo")


def file_system(path: str, mounts: Path = MOUNTS) -> str:
    """Return the type of the file system that a path is on; empty if it cannot be found out."""
    try:
        at = os.path.realpath(path)
        lines = mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return ""
    found, length = "", 0
    for line in lines:
        # 36 35 98:0 /root /mount/point rw,noatime master:1 - ext3 /dev/root rw
        before, _, after = line.partition(" - ")
        point = _ESCAPED.sub(lambda match: chr(int(match[1], 8)), before.split(" ")[4]).rstrip("/")
        if (at == point or at.startswith(f"{point}/")) and len(point) >= length:
            found, length = after.split(" ")[0], len(point)
    return found


def keeps_removed_files(path: str) -> bool:
    """Whether a file under a path can be read to its end after it was removed, without disturbing who removes it."""
    return file_system(path) in LOCAL
