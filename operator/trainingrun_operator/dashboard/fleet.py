"""The table of runs: rows from printer columns, and the rows of one page."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode

from trainingrun_operator.core.words import finite
from trainingrun_operator.dashboard.words import Look, look

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

Json = dict[str, Any]

PAGE_ROWS: Final = 50
STATES: Final = ("Held", "Stopping", "Running", "Pending", "Queued", "Suspended", "Failed", "Stopped", "Succeeded")
"""By urgency; unknown phases come last."""
_TEXT_MAX: Final = 200


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Row:
    """One run."""

    uid: str
    namespace: str
    name: str
    phase: str
    reason: str
    loss: str
    target: str
    step: int | None
    percent: int | None
    eta_seconds: int | None
    created: str

    @property
    def look(self) -> Look:
        """Badge of the state."""
        return look(self.phase, self.reason)


def row_of(columns: Sequence[str], stored: Json) -> Row:
    """Read a table row by column name; columns and their order may change."""
    meta, cells = stored["object"]["metadata"], dict(zip(columns, stored["cells"], strict=False))

    def text(name: str) -> str:
        value = cells.get(name)
        return "" if value is None or value == "<none>" else str(value)

    def number(name: str) -> int | None:
        value = cells.get(name)
        return int(value) if isinstance(value, int | float) else None

    return Row(
        uid=str(meta["uid"]),
        namespace=str(meta["namespace"]),
        name=str(meta["name"]),
        phase=text("Phase"),
        reason=text("Reason"),
        loss=text("Loss"),
        target=text("Target"),
        step=number("Step"),
        percent=number("Progress"),
        eta_seconds=number("ETA"),
        created=str(meta["creationTimestamp"]),
    )


_SORTS: Final[Mapping[str, tuple[Callable[[Row], Any], bool]]] = {
    "new": (lambda row: row.created, True),
    "old": (lambda row: row.created, False),
    "name": (lambda row: (row.name, row.namespace), False),
    "state": (lambda row: (_place(row.phase), row.name), False),
    "progress": (lambda row: -1 if row.percent is None else row.percent, True),
    "loss": (lambda row: _loss(row.loss), False),
}
SORTS: Final = {
    "new": "Newest first",
    "old": "Oldest first",
    "name": "Name",
    "state": "State",
    "progress": "Progress",
    "loss": "Lowest loss",
}


@dataclass(frozen=True)
class Query:
    """The requested part of the fleet, as encoded in the page's URL."""

    namespace: str = ""
    text: str = ""
    state: str = ""
    sort: str = "new"
    page: int = 1

    @classmethod
    def of(cls, params: Mapping[str, str]) -> Query:
        """Parse query parameters; invalid values are ignored."""
        page = params.get("page", "")
        return cls(
            namespace=params.get("namespace", "").strip()[:63],
            text=params.get("q", "").strip()[:_TEXT_MAX],
            state=params.get("state", "")[:_TEXT_MAX],
            sort=sort if (sort := params.get("sort", "")) in _SORTS else "new",
            page=max(1, int(page)) if page.isascii() and page.isdecimal() and len(page) < 7 else 1,  # noqa: PLR2004 - no fleet has a million pages
        )

    def address(self, **changes: str | int) -> str:
        """The query string with `changes` applied; any change but of the page resets to page 1."""
        now: dict[str, str | int] = {
            "namespace": self.namespace,
            "q": self.text,
            "state": self.state,
            "sort": self.sort,
            "page": self.page,
        }
        after = now | ({} if "page" in changes else {"page": 1}) | changes
        said = {name: value for name, value in after.items() if value not in ("", {"sort": "new", "page": 1}.get(name))}
        return f"?{urlencode(said)}" if said else "?"


@dataclass(frozen=True)
class FleetPage:
    """The content of one page."""

    rows: tuple[Row, ...]
    found: int
    """Runs that match the query, on all pages."""
    total: int
    counts: tuple[tuple[str, int], ...]
    """Number of runs by phase, among runs that match the text; includes the chosen phase."""
    page: int
    pages: int


def page_of(rows: Iterable[Row], query: Query) -> FleetPage:
    """Filter, count, sort and paginate rows."""
    everything = list(rows)
    words = query.text.lower().split()
    fitting = [row for row in everything if _fits(row, words)]
    counts = Counter(row.phase or "Pending" for row in fitting)
    shown = [row for row in fitting if query.state in ("", row.phase or "Pending")]
    key, backwards = _SORTS[query.sort]
    # Sort by name first: rows with equal keys keep a stable order.
    shown.sort(key=lambda row: (row.namespace, row.name))
    shown.sort(key=key, reverse=backwards)
    pages = max(1, -(-len(shown) // PAGE_ROWS))
    page = min(query.page, pages)
    phases = sorted(set(counts) | ({query.state} if query.state else set()), key=lambda phase: (_place(phase), phase))
    return FleetPage(
        rows=tuple(shown[(page - 1) * PAGE_ROWS : page * PAGE_ROWS]),
        found=len(shown),
        total=len(everything),
        counts=tuple((phase, counts[phase]) for phase in phases),
        page=page,
        pages=pages,
    )


def _fits(row: Row, words: Sequence[str]) -> bool:
    where = f"{row.namespace}/{row.name} {row.look.words} {row.reason}".lower()
    return all(word in where for word in words)


def _place(phase: str) -> int:
    return STATES.index(phase) if phase in STATES else len(STATES)


def _loss(text: str) -> float:
    number = finite(text)
    return inf if number is None else number
