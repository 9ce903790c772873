"""Scalars of TensorBoard's event files that the agent reads in a second on one core, by CPU time."""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

from event_files import TENSORBOARD

from trainingrun_operator.agent.measure import events

NAME: Final = "parse/events"
COPIES: Final = 10_000
"""Of a file that TensorBoard's writer has written, one after the other: its records stand for those of a longer one."""


@dataclass(frozen=True)
class Parsed:
    """Scalars in a second, and the bytes of the files that they were in."""

    scalars: float
    bytes: float
    name: str = NAME

    def document(self) -> dict[str, Any]:
        """The row in the results' file."""
        return {"unit": "scalars/s", "ours": round(self.scalars), "bytes_per_s": round(self.bytes), "peers": {}}


def bench(rounds: int) -> Parsed:
    """Measure and print."""
    once, data = len(read(TENSORBOARD)), TENSORBOARD * COPIES
    took = median(_seconds(data, once * COPIES) for _ in range(rounds))
    found = Parsed(once * COPIES / took, len(data) / took)
    print(f"{NAME}: {found.scalars:,.0f} scalars/s per core, of files of {found.bytes / 1e6:.1f} MB/s")
    return found


def read(data: bytes) -> list[events.Scalar]:
    """Read what the agent reads of a file."""
    return [scalar for _, record in events.records(data) if record is not None for scalar in events.scalars(record)]


def _seconds(data: bytes, expected: int) -> float:
    began = time.process_time()
    found = len(read(data))
    took = time.process_time() - began
    if found != expected:
        raise RuntimeError(f"{found} scalars were read, and the file has {expected}")
    return took
