"""Print which tests took longest, of all the parts of a test run that wrote a JUnit file into a folder.

tools/slowest.py build/junit
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree as ET

SHOWN = 10


class Row(NamedTuple):
    """One test."""

    seconds: float
    """Its fixtures included: what it waited for, too."""
    part: str
    name: str


def rows_of(file: Path) -> list[Row]:
    """Return the tests of one file."""
    cases = ET.parse(file).iter("testcase")  # noqa: S314 - pytest wrote it
    return [
        Row(float(case.get("time", 0)), file.stem, f"{case.get('classname')}::{case.get('name')}") for case in cases
    ]


def slowest(folder: Path, number: int = SHOWN) -> list[Row]:
    """Return the slowest tests of all files in a folder, the slowest first."""
    rows = [row for file in sorted(folder.glob("*.xml")) for row in rows_of(file)]
    return sorted(rows, reverse=True)[:number]


def main(folder: Path) -> None:
    """Print them."""
    print(f"test: the {SHOWN} slowest")
    for row in slowest(folder):
        print(f"  {row.seconds:6.1f} s  {row.part:9}  {row.name}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
