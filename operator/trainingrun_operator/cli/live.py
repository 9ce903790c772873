"""Live output of runs: redrawn on a terminal, one line per change elsewhere."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from rich.console import Group
from rich.live import Live
from rich.text import Text

from trainingrun_operator.api import names
from trainingrun_operator.cli.curve import points_of
from trainingrun_operator.cli.draw import sparkline
from trainingrun_operator.cli.explain import explain
from trainingrun_operator.cli.rows import Row, read, row_of
from trainingrun_operator.cli.screen import Column, explained, table
from trainingrun_operator.core.words import finite

if TYPE_CHECKING:
    from collections.abc import Iterable

    from trainingrun_operator.cli.screen import Screen
    from trainingrun_operator.core.facts.run import Run

TREND: Final = 16
"""Width of a sparkline, in characters."""
KEPT: Final = 500
"""Number of losses kept per run."""
COLUMNS: Final = (
    Column("NAME"),
    Column("PHASE"),
    Column("LOSS"),
    Column("TARGET", drop=4),
    Column("STEP", drop=3),
    Column("DONE", drop=5),
    Column("LEFT", drop=6),
    Column("AGE", drop=7),
    Column("WHY", drop=1),
)
"""Columns of the list; if too wide, the age is dropped first."""
NAMESPACE: Final = Column("NAMESPACE")
WIDE: Final = (Column("BEST", drop=8), Column("NODES", drop=9), Column("CHECKPOINT", drop=10))


def cells(row: Row, *, everywhere: bool, wide: bool = False) -> list[str]:
    """Cells of a row in column order."""
    usual = [row.name, row.phase, row.loss, row.target, row.step, row.done, row.left, row.age, row.why]
    return [*([row.namespace] if everywhere else []), *usual, *([row.best, row.nodes, row.checkpoint] if wide else [])]


class KnownRuns:
    """The known state of each run."""

    def __init__(self, *, everywhere: bool, one: bool) -> None:
        self._everywhere, self._one = everywhere, one
        self.runs: dict[tuple[str, str], tuple[dict[str, Any], Run | None]] = {}
        """As stored and as parsed: parsing is slow, and drawing is more frequent than changes."""
        self._losses: dict[str, list[float]] = {}
        self._told: dict[str, tuple[int, float]] = {}
        """By run UID, the latest step in the status and its loss."""

    def take_curves(self, config_maps: Iterable[dict[str, Any]]) -> None:
        """Load the losses recorded before the watch began."""
        for one in config_maps:
            if uid := (one["metadata"].get("labels") or {}).get(names.RUN_UID_LABEL):
                self._losses[uid] = [point.loss for point in points_of(one, uid)]

    def take(self, kind: str, stored: dict[str, Any]) -> None:
        """Apply one watch event."""
        key = (stored["metadata"]["namespace"], stored["metadata"]["name"])
        if kind == "DELETED":
            self.runs.pop(key, None)
            return
        self.runs[key] = (stored, read(stored))
        progress = (stored.get("status") or {}).get("progress") or {}
        loss, step, uid = finite(progress.get("loss")), progress.get("step"), stored["metadata"]["uid"]
        if loss is None or step is None or self._told.get(uid) == (step, loss):
            return
        losses = self._losses.setdefault(uid, [])
        # The stored curve already ends with the first reading from the status.
        if uid in self._told or not losses:
            losses.append(loss)
            del losses[:-KEPT]
        self._told[uid] = (step, loss)

    def drawn(self, width: int, *, plain: bool) -> list[Text]:
        """Draw all runs as lines."""
        now = datetime.now(UTC)
        columns = [*([NAMESPACE] if self._everywhere else []), *COLUMNS, Column("TREND", drop=2)]
        known = sorted(self.runs.items())
        rows = [
            [
                *cells(row_of(stored, run, now), everywhere=self._everywhere),
                sparkline(self._losses.get(stored["metadata"]["uid"], []), TREND, plain=plain),
            ]
            for _, (stored, run) in known
        ]
        lines = table(columns, rows, width)
        # A single run leaves room for the explanation.
        for _, (_, run) in known if self._one else ():
            if run is not None:
                lines += [Text(), *explained(explain(run, now))]
        return lines


def follow(changes: Iterable[tuple[str, dict[str, Any]]], seen: KnownRuns, screen: Screen, *, one: bool) -> None:
    """Show changes until the watch ends or, with `one`, the run finishes."""
    if not screen.is_terminal:
        _print(changes, screen, one=one)
        return

    def drawn() -> Group:
        return Group(*seen.drawn(screen.width, plain=screen.plain))

    with Live(get_renderable=drawn, console=screen.console, refresh_per_second=2, vertical_overflow="visible"):
        for kind, stored in changes:
            seen.take(kind, stored)
            if one and (kind == "DELETED" or finished(stored)):
                return


def _print(changes: Iterable[tuple[str, dict[str, Any]]], screen: Screen, *, one: bool) -> None:
    """Print a line when the visible state of a run changes."""
    said: dict[tuple[str, str], str] = {}
    for kind, stored in changes:
        now = datetime.now(UTC)
        row = row_of(stored, read(stored), now)
        line = "deleted" if kind == "DELETED" else sentence(row)
        if said.get((row.namespace, row.name)) != line:
            said[row.namespace, row.name] = line
            screen.say(f"{now:%Y-%m-%dT%H:%M:%SZ}  {row.namespace}/{row.name}  {line}")
            screen.console.file.flush()
        if one and (kind == "DELETED" or finished(stored)):
            return


def sentence(row: Row) -> str:
    """The state of a run in one line."""
    target = f" (target {row.target})" if row.target else ""
    parts = (
        row.phase or "not observed yet",
        f"step {row.step}" if row.step else "",
        f"loss {row.loss}{target}" if row.loss else "",
        row.why,
    )
    return "  ".join(part for part in parts if part)


def finished(stored: dict[str, Any]) -> bool:
    """Whether the run has ended and its condition Finished is true."""
    conditions = (stored.get("status") or {}).get("conditions") or ()
    return any(one["type"] == "Finished" and one["status"] == "True" for one in conditions)
