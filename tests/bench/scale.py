"""What an operator, as the image runs it, takes for N runs that train: the rows `scale/N`."""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from bench.mix import limit_file, operator_env, started
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterator

SETTLE_SECONDS: Final = 30
"""After each run was polled: first statuses, curves and proofs are written."""
WINDOW_SECONDS: Final = 60
STOPS: Final = 50
HEARD_SECONDS: Final = 120
POLLED_SECONDS: Final = 900
_TICKS: Final = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Scaled:
    """What was measured of one operator."""

    cpu_share: float
    """Of one core, in the window."""
    rss_mib: float
    """At the end of the window."""
    peak_mib: float
    late_p50_s: float
    """By how much a run was polled later than ten seconds after its last poll."""
    late_p99_s: float
    stop_p50_s: float
    """From the change of `spec.stop` to the annotation of the pod."""
    stop_p99_s: float
    api_per_s: float
    """Requests to the API server."""
    start_s: float
    """From the start of the process until each run was polled once."""
    start_cpu_s: float
    """CPU time until then."""
    again_s: float
    """The same for an operator that is started again, or takes over: the statuses are written."""
    again_cpu_s: float


@dataclass(frozen=True)
class ScaleRow:
    """A row of the results."""

    name: str
    found: Scaled

    def document(self) -> dict[str, Any]:
        """The row in the results' file."""
        return asdict(self.found)

    def table(self) -> Table:
        """The row for a person."""
        made = Table(title=self.name, title_justify="left")
        for name in self.document():
            made.add_column(name, justify="right")
        made.add_row(*map(str, self.document().values()))
        return made


def row(name: str, runs: int) -> ScaleRow:
    """Measure a row."""
    return ScaleRow(name, measure(runs))


def measure(
    runs: int,
    *,
    settle_seconds: float = SETTLE_SECONDS,
    window_seconds: float = WINDOW_SECONDS,
    stops: int = STOPS,
    commits: bool = True,
    environment: dict[str, str] | None = None,
) -> Scaled:
    """Run an operator among so many runs, and measure it for a while once all of them were polled."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with tempfile.TemporaryDirectory() as folder, World.open(runs, commits=commits) as world:
        place = Path(folder)
        command = [sys.executable, "-m", "bench.held", "", world.agent_port, limit_file(place)]
        env = operator_env(place, world.api) | {"TRAININGRUN_RELEASE_NODES": "true"} | (environment or {})
        with _started(place, command, env) as operator:
            start = _until_polled(world, operator)
            working = _working(world, operator, settle_seconds, window_seconds)
        world.forget()
        with _started(place, command, env) as operator:
            again = _until_polled(world, operator)
            time.sleep(settle_seconds)
            return _scaled(working, start, again, _stopped(world, operator, min(stops, runs)))


@contextlib.contextmanager
def _started(place: Path, command: list[str], env: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Start an operator; end it as the kubelet does, so that it gives back its Lease."""
    with (place / "log").open("wb") as log, subprocess.Popen(command, env=env, stdout=log, stderr=log) as operator:
        try:
            yield operator
        except Exception:
            print((place / "log").read_text(encoding="utf-8")[-5000:])
            raise
        finally:
            operator.terminate()


def _until_polled(world: World, operator: subprocess.Popen[bytes]) -> tuple[float, float]:
    """Return the seconds until each run was polled once, and the CPU time until then."""
    began = time.monotonic()
    _until(operator, lambda: not world.polls()["never"], POLLED_SECONDS, "polled each run")
    return round(time.monotonic() - began, 1), round(_cpu_seconds(operator.pid), 1)


def _working(world: World, operator: subprocess.Popen[bytes], settle: float, window: float) -> dict[str, float]:
    time.sleep(settle)
    world.clear()
    requests, cpu, since = world.counts()["requests"], _cpu_seconds(operator.pid), time.monotonic()
    time.sleep(window)
    seconds, late = time.monotonic() - since, world.polls()["late"]
    share = (_cpu_seconds(operator.pid) - cpu) / seconds
    asked, rss = (world.counts()["requests"] - requests) / seconds, _memory_mib(operator.pid, "VmRSS")
    return {
        "cpu_share": round(share, 3),
        "rss_mib": round(rss, 1),
        "peak_mib": round(_memory_mib(operator.pid, "VmHWM"), 1),
        "late_p50_s": late["p50"],
        "late_p99_s": late["p99"],
        "api_per_s": round(asked, 1),
    }


def _stopped(world: World, operator: subprocess.Popen[bytes], stops: int) -> dict[str, float]:
    world.stop(stops)
    _until(operator, lambda: world.counts()["heard"] >= stops, HEARD_SECONDS, "stopped each run that was to stop")
    heard = world.counts()["stop"]
    return {"stop_p50_s": heard["p50"], "stop_p99_s": heard["p99"]}


def _scaled(
    working: dict[str, float], start: tuple[float, float], again: tuple[float, float], heard: dict[str, float]
) -> Scaled:
    starts = {"start_s": start[0], "start_cpu_s": start[1], "again_s": again[0], "again_cpu_s": again[1]}
    return Scaled(**working, **heard, **starts)


def _until(operator: subprocess.Popen[bytes], so: Any, seconds: float, what: str) -> None:
    end = time.monotonic() + seconds
    while not so():
        assert operator.poll() is None, "the operator has ended"
        assert time.monotonic() < end, f"the operator has not {what} within {seconds:.0f} s"
        time.sleep(0.5)


@dataclass
class World:
    """Two processes, as of `fleet`."""

    api: str
    tenants: str
    agent_port: str

    @classmethod
    @contextlib.contextmanager
    def open(cls, runs: int, *, commits: bool, older_agents: bool = False) -> Iterator[World]:
        """Start both; kill them at the end."""
        command = [sys.executable, "-m", "bench.fleet", str(runs), *(["--commits"] if commits else [])]
        command += ["--older-agents"] if older_agents else []
        with contextlib.ExitStack() as stack:
            tenants, agent_port, metrics_port = started(stack, command)
            (api,) = started(stack, [*command, "--s3", tenants, "--metrics-port", metrics_port])
            yield cls(api, tenants, agent_port)

    def polls(self) -> dict[str, Any]:
        """As of `fleet.Fleet.polls`."""
        return _ask(f"{self.tenants}/bench/polls")

    def clear(self) -> None:
        """Count polls from now on."""
        _ask(f"{self.tenants}/bench/clear", method="POST")

    def forget(self) -> None:
        """As of `fleet.Fleet.forget`."""
        _ask(f"{self.tenants}/bench/forget", method="POST")

    def counts(self) -> dict[str, Any]:
        """As of `fleet.Api.counts`."""
        return _ask(f"{self.api}/bench/counts")

    def stop(self, runs: int) -> None:
        """Begin to stop so many runs."""
        _ask(f"{self.api}/bench/stop?runs={runs}", method="POST")


def _ask(address: str, method: str = "GET") -> dict[str, Any]:
    request = urllib.request.Request(address, method=method)  # noqa: S310 - of our own process
    with urllib.request.urlopen(request) as answer:  # noqa: S310
        return dict(json.loads(answer.read() or "{}"))


def _cpu_seconds(pid: int) -> float:
    user, system = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / _TICKS


def _memory_mib(pid: int, what: str) -> float:
    return float(re.findall(rf"{what}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(encoding="ascii"))[0]) / 1024
