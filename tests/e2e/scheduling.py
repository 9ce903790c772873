"""Which worker runs which test.

What must be alone with something shares one worker, so that nobody waits for a lock; and so does what looks at the same runs, so
that they are made once.

xdist 3.8 with pytest 9.2 does not: its `loadgroup` writes marks into an attribute of items that is not there any more
(`Item._nodeid` is gone): so the fixtures are read from the source.
"""

from __future__ import annotations

import ast
import functools
from pathlib import Path
from typing import Final

from xdist.scheduler import LoadScopeScheduling

TOGETHER: Final = ("gpu_nodes", "own_operator", "own_release", "stage", "fenced")
"""Fixtures that hold something alone, and those of a module that its tests share."""
ROOT: Final = Path(__file__).parents[2]


class Scheduling(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types
    """One test at a time to whoever is free; those that ask for the same fixture of `TOGETHER` to one worker, first of all."""

    def _split_scope(self, nodeid: str) -> str:
        return _together_with(nodeid) or nodeid


def _together_with(nodeid: str) -> str:
    """The fixture of `TOGETHER` that a test asks for; empty if none."""
    file, _, name = nodeid.partition("::")
    asked = _arguments(ROOT / file).get(name.partition("[")[0], frozenset())
    return next((fixture for fixture in TOGETHER if fixture in asked), "")


@functools.cache
def _arguments(file: Path) -> dict[str, frozenset[str]]:
    """Of every test of a file, by name."""
    tests = (node for node in ast.parse(file.read_text()).body if isinstance(node, ast.FunctionDef))
    return {test.name: frozenset(argument.arg for argument in test.args.args) for test in tests}
