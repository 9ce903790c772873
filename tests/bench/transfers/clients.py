"""The clients of the transfer bench: the agent and its peers, each as a command that moves one set of files."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bench.results import OURS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bench.transfers.sink import Sink

TESTS: Final = Path(__file__).parents[2]
BUCKET: Final = "bench"
ACCESS_KEY: Final = "bench"
SECRET_KEY: Final = "bench-secret"
REGION: Final = "us-east-1"
PART_MIB: Final = 16
IN_FLIGHT: Final = 16
SMALL_IN_FLIGHT: Final = 64
MANY: Final = 1000
"""So many files are moved by more requests at once, by the peers that can be told so."""
LIBRARIES: Final = ("boto3", "crt", "obstore")
PEERS: Final = ("s5cmd", "rclone", "boto3", "awscli", "crt", "obstore")
HEAD_LOOPS: Final = ("boto3", "obstore")
"""Peers with a call for one object's size."""
CANNOT: Final = {("restore", "obstore"): "it has no download in parts"}
AWS_CONFIG: Final = f"""\
[default]
s3 =
  max_concurrent_requests = {IN_FLIGHT}
  multipart_chunksize = {PART_MIB}MB
  multipart_threshold = {PART_MIB}MB
  addressing_style = path
"""


@dataclass(frozen=True)
class Programs:
    """What `tools/bench/programs` has built."""

    paths: Mapping[str, Path]
    missing: Mapping[str, str] = field(default_factory=dict)
    """Why one was not built, by its name."""

    @classmethod
    def parse(cls, document: str) -> Programs:
        """Parse what `tools/bench/programs` prints: a line for each program, its name, a tab, and its path or ``missing: `` and why."""
        paths, missing = {}, {}
        for line in document.splitlines():
            name, _, found = line.partition("\t")
            if found.startswith("missing: "):
                missing[name] = found.removeprefix("missing: ")
            else:
                paths[name] = Path(found)
        return cls(paths, missing)

    def why_missing(self, client: str) -> str | None:
        """Why a client cannot run; None if it can."""
        return self.missing.get("python" if client in {*LIBRARIES, "awscli"} else client)


@dataclass(frozen=True)
class Move:
    """One client's task."""

    way: str
    """``upload``, ``restore`` or ``verify``."""
    sink: Sink
    prefix: str
    """Of the objects, with a slash at the end."""
    folder: Path
    """The files, and nothing else."""
    count: int
    work: Path
    """Folder for what clients need beside."""

    @property
    def in_flight(self) -> int:
        return SMALL_IN_FLIGHT if self.count >= MANY else IN_FLIGHT


def prepare(work: Path) -> None:
    """Write the files that name keys and settings."""
    (work / "secret").mkdir()
    (work / "secret" / "AWS_ACCESS_KEY_ID").write_text(ACCESS_KEY, encoding="utf-8")
    (work / "secret" / "AWS_SECRET_ACCESS_KEY").write_text(SECRET_KEY, encoding="utf-8")
    (work / "secret" / "ca.crt").write_bytes((work / "ca.crt").read_bytes())
    (work / "aws.config").write_text(AWS_CONFIG, encoding="utf-8")


def environment(move: Move) -> dict[str, str]:
    """Return all that a client sees: no settings, keys or proxies of this machine's user."""
    authority = str(move.sink.authority)
    return {
        "PATH": os.defpath,
        "HOME": str(move.work),
        "PYTHONPATH": os.pathsep.join((str(TESTS), str(TESTS.parent / "operator"))),
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_REGION": REGION,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": str(move.work / "aws.config"),
        "AWS_CA_BUNDLE": authority,
        "SSL_CERT_FILE": authority,
    }


def command(client: str, move: Move, programs: Programs) -> list[str]:
    """Return the command by which a client does the task."""
    url, remote = move.sink.url, f"s3://{BUCKET}/{move.prefix}"
    upload = move.way == "upload"
    if client == OURS and move.way == "verify":
        program = [sys.executable, "-m", "bench.transfers.proving", url]
        return [*program, str(move.work / "secret"), str(move.work / "manifest.json")]
    if client == OURS:
        work = (str(move.work / "secret"), str(move.work / "manifest.json"))
        return [sys.executable, "-m", "bench.transfers.agent", move.way, url, str(move.folder), *work]
    if client in LIBRARIES:
        script = str(Path(__file__).with_name("python_peers.py"))
        asked = [move.way, client, url, BUCKET, move.prefix, str(move.folder)]
        return [str(programs.paths["python"]), "-P", script, *asked]
    if client == "awscli":
        sides = (str(move.folder), remote) if upload else (remote, str(move.folder))
        python = programs.paths["python"]
        program = [str(python), "-P", str(python.with_name("aws"))]
        return [*program, "--endpoint-url", url, "s3", "cp", "--only-show-errors", "--recursive", *sides]
    if client == "s5cmd":
        sides = (f"{move.folder}/*", remote) if upload else (f"{remote}*", f"{move.folder}/")
        limits = ["--concurrency", str(IN_FLIGHT), "--part-size", str(PART_MIB)]
        return [str(programs.paths["s5cmd"]), "--endpoint-url", url, "--log", "error", "cp", *limits, *sides]
    return _rclone(move, programs)


def _rclone(move: Move, programs: Programs) -> list[str]:
    remote = f":s3:{BUCKET}/{move.prefix}"
    upload = move.way == "upload"
    ways = {
        "s3-provider": "Other",
        "s3-endpoint": move.sink.url,
        "s3-access-key-id": ACCESS_KEY,
        "s3-secret-access-key": SECRET_KEY,
        "s3-region": REGION,
        "s3-upload-concurrency": IN_FLIGHT,
        "s3-chunk-size": f"{PART_MIB}Mi",
        "multi-thread-streams": IN_FLIGHT,
        "multi-thread-cutoff": f"{2 * PART_MIB}Mi",
        "multi-thread-chunk-size": f"{PART_MIB}Mi",
        "transfers": move.in_flight,
        "checkers": 2 * IN_FLIGHT,
        "ca-cert": move.sink.authority,
        "config": "/dev/null",
        "log-level": "ERROR",
        "retries": 1,
    }
    switches = ["s3-no-check-bucket", "ignore-checksum", "s3-disable-checksum", "s3-no-head"]
    given = [f"--{name}={value}" for name, value in ways.items()] + [f"--{name}" for name in switches]
    if upload:
        given.append("--no-check-dest")
    sides = (str(move.folder), remote) if upload else (remote, str(move.folder))
    return [str(programs.paths["rclone"]), "copy", *given, *sides]


def took(client: str, output: str, metered: Mapping[str, float]) -> dict[str, float]:
    """Merge what a Python client says of its work with what its process took: its start and its imports are not counted."""
    if client != OURS and client not in LIBRARIES:
        return dict(metered)
    return {**metered, **json.loads(output.strip().splitlines()[-1])}
