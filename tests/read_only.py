"""Folders on a file system that is really mounted read-only.

A process mounts its folder once more, read-only, in a mount namespace of its own. Where no namespace may be made, as in an ordinary container, the
container's runtime has mounted empty folders read-only itself.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

_NEW_MOUNTS, _NEW_USER = 0x0002_0000, 0x1000_0000
_READ_ONLY, _REMOUNT, _BIND, _ALL_BELOW, _PRIVATE = 1, 1 << 5, 1 << 12, 1 << 14, 1 << 18
_KEPT: Final = os.ST_NOSUID | os.ST_NODEV | os.ST_NOEXEC
"""Flags of a mount that another user namespace cannot take away. They have the numbers of mount(2)."""
OF_THE_RUNTIME: Final = ("/sys/firmware", "/proc/acpi", "/proc/scsi", "/proc/asound")
"""Empty folders that Docker and containerd mount over what they hide."""


def mount(folder: Path) -> None:
    """Mount a folder read-only over itself, for the calling process and its children alone.

    Raises:
        OSError: this process may not.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    user, group = os.getuid(), os.getgid()
    if libc.unshare(_NEW_MOUNTS):
        _call(libc.unshare(_NEW_USER | _NEW_MOUNTS))
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    place = os.fsencode(folder)
    _call(libc.mount(b"none", b"/", None, _ALL_BELOW | _PRIVATE, None))
    _call(libc.mount(place, place, None, _BIND, None))
    kept = os.statvfs(folder).f_flag & _KEPT
    _call(libc.mount(b"none", place, None, _REMOUNT | _BIND | _READ_ONLY | kept, None))


def can_be_mounted(folder: Path) -> bool:
    """Whether processes may mount a folder read-only for themselves."""
    return subprocess.run([sys.executable, __file__, folder], check=False, capture_output=True).returncode == 0


def of_the_runtime() -> Path:
    """An empty folder that is read-only for every process of this container.

    Raises:
        RuntimeError: there is none.
    """
    for path in map(Path, OF_THE_RUNTIME):
        if path.is_dir() and os.statvfs(path).f_flag & os.ST_RDONLY and not list(path.iterdir()):
            return path
    raise RuntimeError(f"No mount namespace can be made here, and none of {', '.join(OF_THE_RUNTIME)} is read-only.")


def _call(failed: int) -> None:
    if failed:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


if __name__ == "__main__":
    mount(Path(sys.argv[1]))
