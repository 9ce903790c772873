"""A file system that records every state of a folder: what a SIGKILL at that moment leaves. It runs beside the writers, on their Python.

    python3 recorder.py BACKING-FOLDER MOUNT-POINT RECORD-FOLDER

Every operation passes through to the backing folder, and `journal` in the record folder gets one line of JSON for each that changed something: the folder's
first component (the writer), the operation and the new state of each path that differs. A write is done in two halves with a state in between: a SIGKILL cuts
a large write too. File contents are in `blobs`, by their SHA-256. A writer says that a save has returned by setting the extended attribute `user.saved`.

One thread serves all requests, so that each state existed, also with several writing processes. Native writers cannot pass it by.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import mfusepy

State = list[Any]
"""`["file", sha256, mtime in ns]`, `["link", target]` or `["folder"]`."""


class Recorder(mfusepy.Operations):
    """Passes operations through, and records what they change."""

    use_ns = True

    def __init__(self, backing: str, record: Path) -> None:
        self._backing = backing
        self._blobs = record / "blobs"
        self._blobs.mkdir()
        self._journal = (record / "journal").open("w")
        self._states: dict[str, dict[str, State]] = {}

    # -- the record ---------------------------------------------------------------------------------------------------

    def _at(self, path: str) -> str:
        return self._backing + path

    def _note(self, operation: str, path: str, saved: Any = None) -> None:
        _, writer, *inside = path.split("/", 2)
        before = self._states.get(writer, {})
        now: dict[str, State] = {}
        self._read(f"{self._backing}/{writer}", "", now)
        changed = {one: now.get(one) for one in before.keys() | now.keys() if before.get(one) != now.get(one)}
        self._states[writer] = now
        if changed or saved:
            line = {
                "writer": writer,
                "operation": operation,
                "path": "".join(inside),
                "changed": changed,
                "saved": saved,
            }
            self._journal.write(json.dumps(line) + "\n")
            self._journal.flush()

    def _read(self, root: str, inside: str, into: dict[str, State]) -> None:
        with os.scandir(f"{root}/{inside}") as listing:
            for one in listing:
                path = f"{inside}/{one.name}" if inside else one.name
                if one.is_symlink():
                    into[path] = ["link", os.readlink(one.path)]
                elif one.is_dir():
                    into[path] = ["folder"]
                    self._read(root, path, into)
                else:
                    content = Path(one.path).read_bytes()
                    name = hashlib.sha256(content).hexdigest()
                    if not (self._blobs / name).exists():
                        (self._blobs / name).write_bytes(content)
                    into[path] = ["file", name, one.stat().st_mtime_ns]

    # -- what changes something ---------------------------------------------------------------------------------------

    def create(self, path: str, mode: int, flags: int) -> int:
        file = os.open(self._at(path), (flags | os.O_CREAT) & ~os.O_APPEND, mode)
        self._note("create", path)
        return file

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        half = len(data) // 2
        if half:
            os.pwrite(fh, data[:half], offset)
            self._note("half a write", path)
        os.pwrite(fh, data[half:], offset + half)
        self._note("write", path)
        return len(data)

    def truncate(self, path: str, length: int, fh: int | None = None) -> None:
        os.truncate(self._at(path) if fh is None else fh, length)
        self._note("truncate", path)

    def rename(self, old: str, new: str) -> None:
        os.rename(self._at(old), self._at(new))
        self._note("rename", new)
        if old.split("/")[1] != new.split("/")[1]:
            self._note("rename", old)

    def unlink(self, path: str) -> None:
        os.unlink(self._at(path))
        self._note("unlink", path)

    def mkdir(self, path: str, mode: int) -> None:
        os.mkdir(self._at(path), mode)
        self._note("mkdir", path)

    def rmdir(self, path: str) -> None:
        os.rmdir(self._at(path))
        if path.count("/") > 1:
            self._note("rmdir", path)

    def symlink(self, target: str, source: str) -> None:
        os.symlink(source, self._at(target))
        self._note("symlink", target)

    def link(self, target: str, source: str) -> None:
        os.link(self._at(source), self._at(target))
        self._note("link", target)

    def utimens(self, path: str, times: tuple[int, int] | None = None) -> None:
        os.utime(self._at(path), ns=times)
        self._note("utime", path)

    def chmod(self, path: str, mode: int) -> None:
        os.chmod(self._at(path), mode)

    def chown(self, path: str, uid: int, gid: int) -> None:
        os.chown(self._at(path), uid, gid)

    def setxattr(self, path: str, name: str, value: bytes, options: int, position: int = 0) -> None:
        if name != "user.saved":
            raise OSError(errno.ENOTSUP, name)
        self._note("saved", path, json.loads(value))

    # -- what reads ---------------------------------------------------------------------------------------------------

    def getattr(self, path: str, fh: int | None = None) -> dict[str, int]:
        now = os.lstat(self._at(path)) if fh is None else os.fstat(fh)
        times = {"st_atime": now.st_atime_ns, "st_mtime": now.st_mtime_ns, "st_ctime": now.st_ctime_ns}
        names = ("st_mode", "st_nlink", "st_uid", "st_gid", "st_size", "st_ino", "st_blocks")
        return times | {name: getattr(now, name) for name in names}

    def open(self, path: str, flags: int) -> int:
        readable = flags & ~(os.O_APPEND | os.O_ACCMODE) | (os.O_RDWR if flags & os.O_ACCMODE else os.O_RDONLY)
        return os.open(self._at(path), readable)

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        return os.pread(fh, size, offset)

    def readdir(self, path: str, fh: int) -> list[str]:
        return [".", "..", *os.listdir(self._at(path))]

    def readlink(self, path: str) -> str:
        return os.readlink(self._at(path))

    def statfs(self, path: str) -> dict[str, int]:
        now = os.statvfs(self._at(path))
        names = (
            "f_bsize",
            "f_frsize",
            "f_blocks",
            "f_bfree",
            "f_bavail",
            "f_files",
            "f_ffree",
            "f_favail",
            "f_namemax",
        )
        return {name: getattr(now, name) for name in names}

    def fsync(self, path: str, datasync: int, fh: int) -> int:
        return 0

    def release(self, path: str, fh: int) -> None:
        os.close(fh)


if __name__ == "__main__":
    _, backing, mount_point, record = sys.argv
    mfusepy.FUSE(Recorder(backing, Path(record)), mount_point, foreground=True, nothreads=True, hard_remove=True)
