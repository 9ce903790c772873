"""Lines of logs that are read in a second on one core, by CPU time: how much one operator can follow."""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

from trainingrun_operator.api.run import MetricNames
from trainingrun_operator.core.facts.reading import Reading
from trainingrun_operator.edge.metrics.log.fold import Fold
from trainingrun_operator.edge.metrics.log.words import names

NAME: Final = "parse/logs"
PIECE: Final = 5_000
"""Lines of one poll."""
PIECES: Final = 20
_SHORT: Final = "step={step} loss={loss:.4f}"
_TALK: Final = (
    "loading shard 17 of 64 from the cache",
    "[2025-01-02 03:04:05] INFO worker 3 is ready",
    "memory: 2.70GiB reserved",
)


@dataclass(frozen=True)
class Parsed:
    """Lines in a second: of lines with a loss alone, and of a log in which one line of ten has one."""

    only_losses: float
    mixed: float
    name: str = NAME

    def document(self) -> dict[str, Any]:
        """The row in the results' file."""
        return {"unit": "lines/s", "ours": round(self.only_losses), "one_in_ten": round(self.mixed), "peers": {}}


def bench(rounds: int) -> Parsed:
    """Measure and print."""
    found = Parsed(_rate(1, rounds), _rate(10, rounds))
    print(f"{NAME}: {found.only_losses:,.0f} short lines/s per core, {found.mixed:,.0f} if one in ten has a loss")
    return found


def _rate(every: int, rounds: int) -> float:
    """Return lines in a second of CPU time, if one line of `every` has a loss. The last one of each piece does, and is read."""
    pieces = [_piece(number * PIECE, every) for number in range(PIECES)]
    rates = []
    for _ in range(rounds):
        fold, began = Fold(names(MetricNames())), time.process_time()
        for piece in pieces:
            fold.add(piece)
        rates.append(PIECE * PIECES / (time.process_time() - began))
        last = fold.reading()
        if not isinstance(last, Reading) or last.step != PIECE * PIECES:
            raise RuntimeError(f"the last line was not read: {last}")
    return median(rates)


def _piece(first: int, every: int) -> str:
    lines = (
        _TALK[number % len(_TALK)] if number % every else _SHORT.format(step=number, loss=1 / number)
        for number in range(first + 1, first + PIECE + 1)
    )
    return "".join(f"{line}\n" for line in lines)
