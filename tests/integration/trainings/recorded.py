"""Real writers of checkpoints, recorded while they save: each state that a SIGKILL could have left, and the writers' own loaders."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

WRITERS: Final = Path(__file__).with_name("writers")
_ISOLATED: Final = ("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child")
"""Network, mounts and processes of its own: everything ends with its first process."""
_IN_ITS_POD: Final = """set -eu
ip link set lo up
mount -t proc proc "$ROOT/proc"
mount --rbind /dev "$ROOT/dev"
[ -c "$ROOT/dev/fuse" ] || mknod "$ROOT/dev/fuse" c 10 229  # containers come without it
mount -t tmpfs -o mode=1777 tmpfs "$ROOT/tmp"
mkdir "$ROOT/tmp/backing"
mount --bind "$WRITERS" "$ROOT/training"
mount --bind "$WORK" "$ROOT/mnt"
exec chroot "$ROOT" /usr/bin/env --ignore-environment --chdir=/training PATH=/usr/bin:/bin HOME=/tmp PYTHONDONTWRITEBYTECODE=1 OMP_NUM_THREADS=1 \
  GLOO_SOCKET_IFNAME=lo KERAS_BACKEND=jax sh -euc '
    python3 recorder.py /tmp/backing /checkpoints /mnt/record &
    until mountpoint -q /checkpoints; do kill -0 $!; sleep 0.05; done
    exec python3 "$@"
  ' sh "$@"
"""
_HOUR_NS: Final = 3600 * 10**9


class File(NamedTuple):
    """A file, a link or a folder in a recorded state."""

    kind: str
    content: str = ""
    """The SHA-256 of a file, the target of a link."""
    mtime_ns: int = 0

    @property
    def bare(self) -> File:
        """The same without its time."""
        return self._replace(mtime_ns=0)


@dataclass(frozen=True)
class Saved:
    """A save that has returned."""

    progress: int
    files: Mapping[str, File]
    """What makes it whole."""


@dataclass(frozen=True)
class State:
    """The folder of a writer after one operation."""

    number: int
    after: str
    """The operation and its path."""
    files: Mapping[str, File]
    changed: frozenset[str]
    """Paths that differ from the state before."""
    saves: tuple[Saved, ...]
    """The saves that had returned by then."""


@dataclass
class Recording:
    """Writers that have saved, and that now load."""

    work: Path
    process: subprocess.Popen[str]
    writers: tuple[str, ...] = ()
    """Their names, in the order in which they have saved."""
    _loads: int = 0

    def states(self, writer: str) -> Iterator[State]:
        """Yield each state of the writer's folder, in order."""
        files: dict[str, File] = {}
        saves: list[Saved] = []
        with (self.work / "record" / "journal").open() as journal:
            for number, line in enumerate(one for one in map(json.loads, journal) if one["writer"] == writer):
                for path, now in line["changed"].items():
                    files.pop(path, None)
                    if now:
                        files[path] = File(*now)
                if line["saved"]:
                    saves.append(_saved(files, **line["saved"]))
                after = f"{line['operation']} {line['path']}"
                yield State(number, after, dict(files), frozenset(line["changed"]), tuple(saves))

    def place(self, state: Mapping[str, File], root: Path, paths: Iterator[str] | None = None) -> None:
        """Lay out files of a state, an hour older than they were."""
        root.mkdir(exist_ok=True)
        for path in sorted(state if paths is None else paths):
            at = root / path
            if at.is_dir() and not at.is_symlink() and not (path in state and state[path].kind == "folder"):
                shutil.rmtree(at)
            elif not at.is_dir() or at.is_symlink():
                at.unlink(missing_ok=True)
            if path not in state:
                continue
            one = state[path]
            at.parent.mkdir(parents=True, exist_ok=True)
            match one.kind:
                case "folder":
                    at.mkdir(exist_ok=True)
                case "link":
                    at.symlink_to(one.content)
                case _:
                    shutil.copyfile(self.work / "record" / "blobs" / one.content, at)
                    os.utime(at, ns=(one.mtime_ns - _HOUR_NS,) * 2)

    def load(self, writer: str, state: Mapping[str, File], checkpoint: str) -> int | str:
        """Give files to the writer's own loader. Returns the progress that it finds, or its error."""
        self._loads += 1
        name = f"loaded-{self._loads}"
        self.place(state, self.work / name)
        try:
            reply = self._ask([writer, f"/mnt/{name}/{checkpoint}".removesuffix("/.")])
        finally:
            shutil.rmtree(self.work / name)
        answer: int | str = reply["progress"] if "progress" in reply else reply["error"]
        return answer

    def _ask(self, question: list[str]) -> dict[str, Any]:
        assert self.process.stdin
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        return self.heard()

    def heard(self) -> dict[str, Any]:
        """Return the writers' next line.

        Raises:
            AssertionError: they have ended; with the end of their log.
        """
        assert self.process.stdout
        line = self.process.stdout.readline()
        assert line, (self.work / "log").read_text()[-4000:]
        reply: dict[str, Any] = json.loads(line)
        return reply


def _saved(files: Mapping[str, File], progress: int, paths: list[str]) -> Saved:
    """Return what the save left at its paths."""
    inside = {path: one for path, one in files.items() if any(f"{path}/".startswith(f"{root}/") for root in paths)}
    assert inside, f"the writer says that it has saved {paths}, there is {sorted(files)}"
    return Saved(progress, inside)


@contextlib.contextmanager
def recorded(frameworks: Path, work: Path, script: str, *chosen: str) -> Iterator[Recording]:
    """Let the writers of a script save; the chosen ones, or all."""
    (work / "record").mkdir(parents=True)
    with (work / "log").open("wb") as log:
        process: subprocess.Popen[str] = subprocess.Popen(
            [*_ISOLATED, "sh", "-c", _IN_ITS_POD, "writers", script, "/checkpoints", *chosen],
            env={"PATH": os.environ["PATH"], "ROOT": str(frameworks), "WRITERS": str(WRITERS), "WORK": str(work)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    with process:
        try:
            recording = Recording(work, process)
            recording.writers = tuple(recording.heard()["written"])
            yield recording
        finally:
            process.kill()
