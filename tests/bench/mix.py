"""An operator, as the image runs it, among runs that are hostile in every way at once."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import yaml
from bench.world import GOOD, KINDS, kinds_of, looks_of

if TYPE_CHECKING:
    from collections.abc import Iterator

TESTS: Final = Path(__file__).parents[1]
VALUES: Final = TESTS.parent / "charts" / "trainingrun-operator" / "values.yaml"
LOOK_SECONDS: Final = 1.0
HELD_MS: Final = 50
"""CPU time of one callback of the event loop."""
ENOUGH: Final = {GOOD: 1, "template": 1, "manifest": 1}
"""Looks that are enough, by kind: a refused template is not looked at again, a good run's checkpoint is proven once, and a manifest is the same each time."""
TOLD: Final = {
    "template": "Accepted=InvalidTemplate",
    "report": "CheckpointSaved=ReportRefused",
    "authority": "CheckpointSaved=HandshakeFailed",
    "status": "CheckpointSaved=Flips",
    "credentials": "CheckpointSaved=Verified",
    GOOD: "CheckpointSaved=Verified",
}
"""What a status tells of a run, by kind. A page and a list are refused in several ways, a commit that does not verify is told once."""


@dataclass(frozen=True)
class Mixed:
    """What was measured."""

    held_ms: float
    """The most CPU time of one callback of the event loop."""
    worst: tuple[str, ...]
    peak_mib: float
    counts: dict[str, Any]
    """Of `world.World.counts`."""
    seconds: float
    cpu_seconds: float
    log: str
    exit_code: int


def measure(runs: int, hostile: int, *, looks: int = 2, deadline_seconds: float = 3600) -> Mixed:
    """Run an operator until each run was looked at so many times, or often enough for its kind, and the statuses tell it; then end it."""
    with tempfile.TemporaryDirectory() as folder, World.open(runs, hostile) as world:
        place, began = Path(folder), time.monotonic()
        command = [sys.executable, "-m", "bench.held", str(place / "held"), world.agent_port, limit_file(place)]
        with (
            (place / "log").open("wb") as log,
            subprocess.Popen(command, env=operator_env(place, world.api), stdout=log, stderr=log) as operator,
        ):
            try:
                counts = _until(world, operator, looks, began + deadline_seconds)
            finally:
                operator.terminate()
        text = (place / "log").read_text(encoding="utf-8")
        assert (place / "held").exists(), f"the operator was ended by signal {-operator.returncode}: {text}"
        said = json.loads((place / "held").read_text(encoding="utf-8"))
    return Mixed(
        held_ms=said["worst"][0]["ms"],
        worst=tuple(f"{one['ms']:.0f} ms: #{one['number']} {one['what']}" for one in said["worst"]),
        peak_mib=said["peak_mib"],
        counts=counts,
        seconds=time.monotonic() - began,
        cpu_seconds=said["cpu_seconds"],
        log=text,
        exit_code=operator.returncode,
    )


def memory_limit_mib() -> float:
    """The chart's default."""
    text = yaml.safe_load(VALUES.read_text(encoding="utf-8"))["resources"]["limits"]["memory"]
    assert text.endswith("Mi"), text
    return float(text.removesuffix("Mi"))


def limit_file(place: Path) -> str:
    """Write the limit as a container's cgroup says it; returns the path."""
    path = place / "memory.max"
    path.write_text(f"{int(memory_limit_mib() * 2**20)}\n", encoding="ascii")
    return str(path)


def _until(world: World, operator: subprocess.Popen[bytes], looks: int, deadline: float) -> dict[str, Any]:
    while True:
        time.sleep(LOOK_SECONDS)
        counts = world.counts()
        looked = all(one["looks"] >= min(looks, ENOUGH.get(kind, looks)) for kind, one in counts.items())
        told = all(TOLD.get(kind, "") in said for kind, one in counts.items() for said in one["said"])
        if (looked and told) or operator.poll() is not None or time.monotonic() > deadline:
            return counts


@dataclass
class World:
    """Two processes, as of `world`: the API server answers while a tenant's bucket or pod is busy."""

    kinds: list[str]
    api: str
    s3: str
    agent_port: str

    @classmethod
    @contextlib.contextmanager
    def open(cls, runs: int, hostile: int) -> Iterator[World]:
        """Start both; kill them at the end."""
        command = [sys.executable, "-m", "bench.world", str(runs), str(hostile)]
        with contextlib.ExitStack() as stack:
            s3, agent_port, metrics_port = started(stack, command)
            (api,) = started(stack, [*command, "--s3", s3, "--metrics-port", metrics_port])
            yield cls(kinds_of(runs, hostile), api, s3, agent_port)

    def counts(self) -> dict[str, Any]:
        """By kind: runs, the least number of looks at one of them, and what their statuses tell."""
        asked: list[Counter[str]] = [Counter() for _ in self.kinds]
        said = [""] * len(self.kinds)
        for address in (self.api, self.s3):
            with urllib.request.urlopen(f"{address}/bench/seen") as answer:  # noqa: S310 - of our own process
                for number, one in json.load(answer).items():
                    said[int(number)] = one.pop("said") or said[int(number)]
                    asked[int(number)].update(one)
        found: dict[str, Any] = {}
        for kind in dict.fromkeys(self.kinds):
            of_kind = [number for number, one in enumerate(self.kinds) if one == kind]
            looks = min(looks_of(kind, asked[number]) for number in of_kind)
            found[kind] = {"runs": len(of_kind), "looks": looks, "said": dict(Counter(said[n] for n in of_kind))}
        return found


def started(stack: contextlib.ExitStack, command: list[str]) -> list[str]:
    """Start a process; returns the words that it prints."""
    process = stack.enter_context(subprocess.Popen(command, env=_python(), stdout=subprocess.PIPE, text=True))
    stack.callback(process.kill)
    assert process.stdout is not None
    return process.stdout.readline().split()


def _python() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(TESTS)}


def operator_env(place: Path, api: str) -> dict[str, str]:
    """As the chart sets it, as far as it matters here."""
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "bench",
        "contexts": [{"name": "bench", "context": {"cluster": "bench", "user": "bench"}}],
        "clusters": [{"name": "bench", "cluster": {"server": api}}],
        "users": [{"name": "bench", "user": {"token": "bench"}}],
    }
    (place / "kubeconfig").write_text(yaml.safe_dump(config), encoding="utf-8")
    return {
        **_python(),
        "KUBECONFIG": str(place / "kubeconfig"),
        "MALLOC_ARENA_MAX": "2",
        "TRAININGRUN_ALLOWED_DESTINATIONS": json.dumps([{"endpoint": f"{s}://127.0.0.1:*"} for s in ("http", "https")]),
        "TRAININGRUN_RELEASE_NODES": "false",
        "TRAININGRUN_PORT": "0",
        "TRAININGRUN_AGENT_IMAGE": "bench",
        # What is measured is CPU time: an API server without a CPU of its own answers late, and no other replica is there to lead.
        "TRAININGRUN_LEASE_SECONDS": "3600",
    }


def bench(runs: int, hostile: int) -> None:
    """Measure, print, and fail if the loop was held longer or the memory is more than the chart allows."""
    limit = memory_limit_mib()
    print(
        f"an operator and {runs:,} runs, of which {hostile} are hostile in each of {len(KINDS)} ways, all at once: {', '.join(KINDS)}"
    )
    found = measure(runs, hostile)
    for kind, one in found.counts.items():
        print(f"  {kind:12}{one['runs']:6} runs, {one['looks']:4} looks or more: {_words(one['said'])}")
    print(
        f"  the process takes {found.peak_mib:.0f} MiB of the {limit:.0f} MiB that the chart allows, and {found.cpu_seconds:.0f} s of CPU in {found.seconds:.0f} s;"
        f" the event loop is held for {found.held_ms:.0f} ms of CPU at most: {found.worst[0]}"
    )
    check(found)
    assert found.peak_mib < limit, found.log
    assert found.held_ms < HELD_MS, "\n".join(found.worst)


def check(found: Mixed) -> None:
    """Check that the operator ended as it was told to, that each kind was looked at, and that the statuses tell it."""
    assert found.exit_code == 0, found.log
    for kind, one in found.counts.items():
        assert one["looks"], (kind, one, found.log)
        assert all(TOLD.get(kind, "") in said for said in one["said"]), (kind, one, found.log)


def _words(said: dict[str, int]) -> str:
    most, count = max(said.items(), key=lambda one: one[1])
    return f"{most or 'no status yet'}{f' ({count}, others differ)' if len(said) > 1 else ''}"
