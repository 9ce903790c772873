"""Texts that are compared as a whole. UPDATE_GOLDENS=1 rewrites them; then read the difference."""

from __future__ import annotations

import os
from pathlib import Path

GOLDENS = Path(__file__).parent / "golden"
CHART_ROWS = sorted(path.name.removesuffix(".values.yaml") for path in (GOLDENS / "chart").glob("*.values.yaml"))
"""Names of the values that the chart is rendered with, besides none."""


def assert_golden(name: str, made: str) -> None:
    """Compare with the file of this name under tests/golden."""
    file = GOLDENS / name
    if os.environ.get("UPDATE_GOLDENS"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(made, encoding="utf-8")
    assert made == file.read_text(encoding="utf-8"), "look at the difference; UPDATE_GOLDENS=1 accepts it"
