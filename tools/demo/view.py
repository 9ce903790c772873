"""The live view: runs above machines. Without a terminal: plain lines."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any, Self

import story
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from types import TracebackType

    from ground import Look, Machine
    from proof import Check

PLAIN_SECONDS = 5.0
"""Interval of state lines without a terminal."""
COLOURS = {
    "Running": "cyan",
    "Stopping": "yellow",
    "Held": "red",
    "Succeeded": "green",
    "Stopped": "green",
    "Failed": "red",
}

Json = dict[str, Any]


class View:
    """Shows snapshots and events; a context manager that restores the terminal."""

    def __init__(self) -> None:
        live = sys.stdout.isatty()
        self.console = Console(highlight=False, soft_wrap=not live)
        self.live = Live(console=self.console, auto_refresh=False, transient=True) if live else None
        self.began = time.monotonic()
        self._plain_at = 0.0

    def __enter__(self) -> Self:
        if self.live:
            self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.live:
            self.live.stop()

    def tell(self, who: str, what: str, style: str = "") -> None:
        """Print a lasting line with the time since the start."""
        line = Text(f"{time.monotonic() - self.began:4.0f} s  ", style="dim")
        line.append(f"{who:<10} ", style="bold").append(what, style=style)
        self.console.print(line)

    def line(self, text: str = "", style: str = "") -> None:
        """Print a lasting text."""
        self.console.print(Text(text, style=style), soft_wrap=True)

    def check(self, check: Check) -> None:
        """Print a promise and whether it is kept."""
        self.line(f"  {'✓' if check.true else '✗'} {check.sentence}", "green" if check.true else "bold red")

    def show(self, look: Look) -> None:
        """Show the current state."""
        if self.live:
            self.live.update(Group(Text(), _runs(look), Text(), _machines(look)), refresh=True)
        elif time.monotonic() - self._plain_at >= PLAIN_SECONDS:
            self._plain_at = time.monotonic()
            self.tell("state", "; ".join(_plain(name, run) for name, run in sorted(look.runs.items())), "dim")


def _runs(look: Look) -> Table:
    table = Table(title="Training runs", title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    for heading in ("run", "phase", "loss", "stops below", "step", "epoch", "newest proven checkpoint"):
        table.add_column(heading, header_style="dim", no_wrap=heading != "newest proven checkpoint")
    for name, run in sorted(look.runs.items()):
        status = run.get("status", {})
        progress, saved = status.get("progress", {}), status.get("checkpoint", {})
        phase = _phase(status)
        table.add_row(
            Text(name, style="bold"),
            Text(phase, style=COLOURS.get(phase.partition(" ")[0], "")),
            progress.get("loss", "-"),
            str(status.get("effective", {}).get("autoStopLoss", "never")),
            str(progress.get("step", "-")),
            f"{progress.get('epoch', '-')} of {progress.get('totalEpochs', '-')}",
            f"{saved.get('dir') or '-'} {story.size(saved['bytes'])}" if saved.get("digest") else "-",
        )
    return table


def _phase(status: Json) -> str:
    phase, stop = str(status.get("phase") or "Pending"), status.get("termination")
    return f"{phase} ({stop['phase']})" if stop and stop["phase"] != "Done" else phase


def _machines(look: Look) -> Table:
    title = f"GPU machines: the cloud's group wants {look.desired}"
    table = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    for heading in ("machine", "cloud says", "node", "Kubernetes says", "GPUs", "used by"):
        table.add_column(heading, header_style="dim", no_wrap=heading != "used by")
    for machine in look.machines or ():
        table.add_row(
            machine.instance,
            Text(machine.state, style="green" if machine.state == "running" else "dim"),
            machine.node or "-",
            _node_state(machine),
            f"{machine.used} of {machine.gpus}" if machine.node else "-",
            ", ".join(machine.used_by) or "-",
        )
    if not look.machines:
        table.add_row("none", "", "", "", "", "")
    return table


def _node_state(machine: Machine) -> str:
    if not machine.node:
        return "gone" if machine.state == "terminated" else "not joined yet"
    return "being released" if machine.leaving else "Ready" if machine.ready else "NotReady"


def _plain(name: str, run: Json) -> str:
    status = run.get("status", {})
    progress = status.get("progress", {})
    facts = [_phase(status)]
    if "step" in progress:
        facts.append(f"step {progress['step']} loss {progress.get('loss', '-')}")
    if status.get("checkpoint", {}).get("dir"):
        facts.append(status["checkpoint"]["dir"])
    return f"{name}: {', '.join(facts)}"
