"""Which worker runs which test: what must be alone with something shares one worker, so that nobody waits for a lock.

xdist 3.8 with pytest 9.2 does not: its `loadgroup` writes marks into an attribute of items that is not there any more
(`Item._nodeid` is gone): so the fixtures are read from the source.
"""

from __future__ import annotations

import ast
import functools
from pathlib import Path
from typing import Final

from xdist.scheduler import LoadScopeScheduling

ALONE: Final = ("gpu_nodes", "own_operator", "own_release")
"""Fixtures of conftest.py that hold something alone."""
ROOT: Final = Path(__file__).parents[2]


class Scheduling(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types
    """One test at a time to whoever is free; those that share a fixture of `ALONE` to one worker, first of all."""

    def _split_scope(self, nodeid: str) -> str:
        return _alone_with(nodeid) or nodeid


def _alone_with(nodeid: str) -> str:
    """The fixture of `ALONE` that a test asks for; empty if none."""
    file, _, name = nodeid.partition("::")
    asked = _arguments(ROOT / file).get(name.partition("[")[0], frozenset())
    return next((fixture for fixture in ALONE if fixture in asked), "")


@functools.cache
def _arguments(file: Path) -> dict[str, frozenset[str]]:
    """Of every test of a file, by name."""
    tests = (node for node in ast.parse(file.read_text()).body if isinstance(node, ast.FunctionDef))
    return {test.name: frozenset(argument.arg for argument in test.args.args) for test in tests}
