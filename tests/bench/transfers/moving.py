"""`make bench ONLY=upload`, `ONLY=restore` and `ONLY=verify`: agent and operator beside its peers, onto one TLS sink on loopback."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bench.results import BYTES, OBJECTS, OURS, Measure, Measured, Medians, Row
from bench.transfers import sink
from bench.transfers.clients import CANNOT, HEAD_LOOPS, PEERS, Move, Programs, command, environment, prepare, took
from bench.transfers.sets import NETWORKS, PROVEN, SETS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.transfers.sets import FileSet, Network

WAYS: Final = ("upload", "restore")
VERIFY: Final = "verify"
SPARE_BYTES: Final = 1 << 30
CLIENT_SECONDS: Final = 600
REASON_MAX: Final = 300
MEMORY: Final = Path("/dev/shm")  # noqa: S108  # a file system in memory, by its only name
PROGRAMS: Final = Path(__file__).parents[3] / "tools" / "bench" / "programs"


class ClientError(Exception):
    """A client could not do its task."""


@dataclass(frozen=True)
class Task:
    """One row to be measured."""

    way: str
    files: FileSet
    network: Network

    @property
    def name(self) -> str:
        return f"{self.way}/{self.files.name}{self.network.suffix}"

    @property
    def measure(self) -> Measure:
        return OBJECTS if self.way == VERIFY else BYTES

    @property
    def work(self) -> int:
        return self.files.count if self.way == VERIFY else self.files.total_bytes


def tasks() -> list[Task]:
    """Return all rows; those of a set follow each other, so that its files are written once."""
    moves = [Task(way, files, network) for files in SETS for way in WAYS for network in NETWORKS]
    return [*moves, *(Task(VERIFY, PROVEN, network) for network in NETWORKS)]


@dataclass
class Ground:
    """A sink, the programs and a folder for the files."""

    sink: sink.Sink
    programs: Programs
    work: Path
    source: Path
    written: FileSet | None = None
    missing: dict[str, str] = field(default_factory=dict)

    @classmethod
    @contextlib.contextmanager
    def open(cls) -> Iterator[Ground]:
        """Build what is missing and start the sink.

        Raises:
            RuntimeError: the sink could not be built.
        """
        built = subprocess.run([str(PROGRAMS)], stdout=subprocess.PIPE, text=True, check=True)
        programs = Programs.parse(built.stdout)
        if "sink" not in programs.paths:
            raise RuntimeError(f"the sink could not be built: {programs.missing.get('sink')}")
        with tempfile.TemporaryDirectory(prefix="bench-", dir=_roomy()) as folder:
            work = Path(folder)
            with sink.running(programs.paths["sink"], work) as running:
                prepare(work)
                yield cls(running, programs, work, work / "files")

    def measure(self, task: Task, rounds: int) -> Row:
        """Run all clients in turn, so often; every other round in the reverse order, because load comes and goes."""
        self._files(task.files)
        clients = [OURS, *(HEAD_LOOPS if task.way == VERIFY else PEERS)]
        missing = {client: why for client in clients if (why := self._why_missing(task, client))}
        measured: dict[str, list[Measured]] = defaultdict(list)
        folder = self._stored() if task.way != "upload" else ""
        for number in range(rounds):
            for client in clients if number % 2 == 0 else reversed(clients):
                if client in missing:
                    continue
                _note(f"{task.name}: {client}, {number + 1} of {rounds}")
                try:
                    measured[client].append(self._once(task, client, folder))
                except ClientError as failure:
                    missing[client] = str(failure)
                    measured.pop(client, None)
        found = {client: Medians.of(task.work, each, task.measure) for client, each in measured.items()}
        return Row(task.name, found, missing, task.measure)

    def _why_missing(self, task: Task, client: str) -> str | None:
        return CANNOT.get((task.way, client)) or self.programs.why_missing(client)

    def _files(self, files: FileSet) -> None:
        if self.written != files:
            shutil.rmtree(self.source, ignore_errors=True)
            files.write(self.source)
            self.written = files

    def _stored(self) -> str:
        """Store the files as the agent does, for all restores. Return the key prefix of the objects."""
        assert self.written
        self.sink.prepare(NETWORKS[0], keep=True)
        self._run(OURS, Move("upload", self.sink, "", self.source, self.written.count, self.work))
        return str(json.loads((self.work / "manifest.json").read_bytes())["folder"])

    def _once(self, task: Task, client: str, stored: str) -> Measured:
        if task.way == "upload":
            self.sink.prepare(task.network)
            return self._run(client, Move("upload", self.sink, f"{client}/", self.source, task.files.count, self.work))
        # The bytes of a commit are kept, too.
        self.sink.prepare(task.network, stay=True, keep=True)
        if task.way == VERIFY:
            return self._run(client, Move(VERIFY, self.sink, stored, self.source, task.files.count, self.work))
        with tempfile.TemporaryDirectory(dir=self.work) as folder:
            into = Path(folder)
            done = self._run(client, Move("restore", self.sink, stored, into, task.files.count, self.work))
            arrived = sum(path.stat().st_size for path in into.rglob("*") if path.is_file())
        if arrived != task.files.total_bytes:
            raise ClientError(f"it restored {arrived} bytes of {task.files.total_bytes}")
        return done

    def _run(self, client: str, move: Move) -> Measured:
        """Run a client as a process.

        Raises:
            ClientError: it failed, or takes more than `CLIENT_SECONDS`.
        """
        meter = [sys.executable, "-I", "-S", str(Path(__file__).with_name("metered.py")), str(self.work / "took.json")]
        try:
            done = subprocess.run(
                [*meter, *command(client, move, self.programs)],
                env=environment(move),
                cwd=self.work,
                capture_output=True,
                text=True,
                timeout=CLIENT_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as late:
            raise ClientError(f"it takes more than {CLIENT_SECONDS} s") from late
        if done.returncode:
            said = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["no word"]
            raise ClientError(f"status {done.returncode}: {said[0][:REASON_MAX]}")
        metered = json.loads((self.work / "took.json").read_bytes())
        return Measured(**took(client, done.stdout, metered))


def _roomy() -> Path | None:
    """Return a file system in memory if it has room for the largest set, a restored copy and more; None: where temporary files go."""
    needed = 2 * max(files.total_bytes for files in SETS) + SPARE_BYTES
    return MEMORY if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > needed else None


def _note(text: str) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\033[K{text}\r")
        sys.stderr.flush()
