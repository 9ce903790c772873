"""The rows of `make bench`: medians, ratios, the table that is printed and the file that is kept."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any, Final, Protocol

from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

OURS: Final = "ours"
UNIT: Final = "MB/s"
MB: Final = 1_000_000
GB: Final = 1_000_000_000


@dataclass(frozen=True)
class Measured:
    """One client's work, once."""

    seconds: float
    cpu_seconds: float
    peak_rss_mib: float


@dataclass(frozen=True)
class Measure:
    """How work is counted."""

    unit: str
    """Of the rate."""
    one: int
    """So much work is one of the unit."""
    cost: str
    """Of the CPU time, in a table."""
    much: int
    """So much work is what the CPU time is of."""
    key: str
    """Of the CPU time, in the results' file."""


BYTES: Final = Measure(UNIT, MB, "CPU s per GB", GB, "cpu_s_per_gb")
OBJECTS: Final = Measure("objects/s", 1, "CPU s per 1,000", 1000, "cpu_s_per_1000")


@dataclass(frozen=True)
class Medians:
    """One client's work, several times."""

    rate: float
    cpu_seconds: float
    """For much work."""
    peak_rss_mib: float
    measure: Measure = BYTES

    @classmethod
    def of(cls, work: int, measured: Sequence[Measured], measure: Measure = BYTES) -> Medians:
        return cls(
            median(work / measure.one / one.seconds for one in measured),
            median(one.cpu_seconds / (work / measure.much) for one in measured),
            median(one.peak_rss_mib for one in measured),
            measure,
        )

    def costs(self) -> dict[str, float]:
        return {self.measure.key: round(self.cpu_seconds, 2), "peak_rss_mib": round(self.peak_rss_mib, 1)}


@dataclass(frozen=True)
class Row:
    """All clients on one set over one network."""

    name: str
    medians: Mapping[str, Medians]
    """By client; `OURS` is ours."""
    missing: Mapping[str, str] = field(default_factory=dict)
    """Why a client has no figures."""
    measure: Measure = BYTES

    @property
    def peers(self) -> list[str]:
        """Fastest first."""
        return sorted(self.medians.keys() - {OURS}, key=lambda peer: (-self.medians[peer].rate, peer))

    def ratio(self, peer: str) -> float | None:
        """How many times as fast as a peer ours is; None without figures of ours."""
        ours = self.medians.get(OURS)
        return ours.rate / self.medians[peer].rate if ours else None

    def document(self) -> dict[str, Any]:
        """The row in the results' file."""
        found: dict[str, Any] = {"unit": self.measure.unit}
        if ours := self.medians.get(OURS):
            found |= {"ours": round(ours.rate, 1), **ours.costs()}
        found["peers"] = {}
        for peer in self.peers:
            theirs, ratio = self.medians[peer], self.ratio(peer)
            found["peers"][peer] = {
                "theirs": round(theirs.rate, 1),
                "ratio": None if ratio is None else round(ratio, 3),
                **theirs.costs(),
            }
        if self.missing:
            found["missing"] = dict(self.missing)
        return found

    def table(self) -> Table:
        """The row for a person."""
        made = Table(title=self.name, title_justify="left")
        made.add_column("client")
        for title in (self.measure.unit, "ours / it", self.measure.cost, "peak RSS MiB"):
            made.add_column(title, justify="right")
        for client in [OURS, *self.peers] if OURS in self.medians else self.peers:
            one, ratio = self.medians[client], None if client == OURS else self.ratio(client)
            said = "" if ratio is None else f"{ratio:.2f}"
            made.add_row(client, f"{one.rate:.0f}", said, f"{one.cpu_seconds:.2f}", f"{one.peak_rss_mib:.0f}")
        for client, reason in self.missing.items():
            made.add_row(client, "missing", f"[dim]{escape(reason)}[/dim]")
        return made


class Kept(Protocol):
    """A row that the results' file keeps."""

    @property
    def name(self) -> str:
        """Its key in the file."""
        ...

    def document(self) -> dict[str, Any]:
        """Return its value in the file."""
        ...


def keep(path: Path, rows: Sequence[Kept]) -> None:
    """Write the rows into the results' file. Rows that were not measured now stay as they are."""
    kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    kept |= {row.name: row.document() for row in rows}
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(kept, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    part.replace(path)
