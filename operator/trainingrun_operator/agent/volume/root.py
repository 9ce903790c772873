"""What is wrong with the checkpoint path itself, in words that say what to do."""

from __future__ import annotations

import errno
import os
from typing import Final

READ_ONLY: Final = "its file system is read-only: mount the volume for writing"
_WORDS: Final = {
    errno.ENOTDIR: "it is a file or below one: name a folder in spec.checkpoint.path of a new run",
    errno.ELOOP: "its symbolic links lead in a circle: correct them, or name another folder in spec.checkpoint.path of a new run",
    errno.EROFS: READ_ONLY,
}


def complaint(failure: OSError) -> str:
    """Return why a path cannot be read or written."""
    return _WORDS.get(failure.errno or 0) or failure.strerror or "it cannot be read"


def is_read_only(path: str) -> bool:
    """Whether a path exists on a file system that is mounted read-only."""
    try:
        return bool(os.statvfs(path).f_flag & os.ST_RDONLY)
    except OSError:
        return False
