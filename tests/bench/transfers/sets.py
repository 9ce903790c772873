"""The sets of files to move, and the networks to move them over."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

BLOCK_BYTES: Final = 4 << 20


@dataclass(frozen=True)
class FileSet:
    """So many files of one size."""

    name: str
    count: int
    size: int

    @property
    def total_bytes(self) -> int:
        return self.count * self.size

    def write(self, folder: Path) -> None:
        """Write the files: no two are equal, and none compresses."""
        folder.mkdir(parents=True)
        noise = os.urandom(min(self.size, BLOCK_BYTES))
        for number in range(self.count):
            with (folder / f"shard-{number:05}.bin").open("wb") as file:
                for at in range(0, self.size, BLOCK_BYTES):
                    head = f"{number} {at} ".encode()
                    file.write((head + noise)[: min(BLOCK_BYTES, self.size - at)])


@dataclass(frozen=True)
class Network:
    """What lies between client and store."""

    suffix: str
    latency_ms: int
    """Before each request is answered."""
    rate: int
    """MB/s of each connection; 0: as fast as it goes."""


SETS: Final = (
    FileSet("big", 1, 2 << 30),
    FileSet("shards", 200, 5 << 20),
    FileSet("small", 5000, 64 << 10),
)
PROVEN: Final = FileSet("5000", 5000, 1)
"""Objects to be verified. Nothing of their bytes is read."""
NETWORKS: Final = (Network("", 0, 0), Network("/wan", 40, 90))
