"""Which worker runs which test.

Tests that need something for themselves share one worker, so that no worker waits for a lock; so do tests that look at the same runs, which are
then made once. Everything else goes, one test at a time and in the order of `conftest.FIRST`, to the worker that is free.

xdist 3.8 with pytest 9.2 does not: its `loadgroup` writes marks into an attribute of items that is not there any more
(`Item._nodeid` is gone): so the fixtures are read from the source.
"""

from __future__ import annotations

import ast
import functools
from pathlib import Path
from typing import TYPE_CHECKING, Final

from xdist.scheduler import LoadScopeScheduling

if TYPE_CHECKING:
    import pytest
    from xdist.remote import Producer
    from xdist.workermanage import WorkerController

TOGETHER: Final = (
    "gpu_nodes", "own_operator", "own_release", "stage", "fenced", "leaver", "refusals"
)  # fmt: skip
"""Fixtures that hold something alone, and those of a module that its tests share."""
SOME: Final = 2
ROOT: Final = Path(__file__).parents[2]


class Scheduling(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types
    """One test at a time to whoever is free; those that ask for the same fixture of `TOGETHER` to one worker."""

    def __init__(self, config: pytest.Config, log: Producer | None = None) -> None:
        super().__init__(config, log)
        # In the order in which they were collected, not those with many tests first: many tests may take little time.
        config.option.loadscopereorder = False

    def _reschedule(self, node: WorkerController) -> None:
        """Give a worker more only when it has one test left, which it holds back until it knows the next: xdist would queue a third behind a long one."""
        if node.shutting_down or not self.workqueue or self._pending_of(self.assigned_work[node]) < SOME:
            super()._reschedule(node)

    def _split_scope(self, nodeid: str) -> str:
        return together_with(nodeid) or nodeid


def together_with(nodeid: str) -> str:
    """The fixture of `TOGETHER` that a test asks for; empty if none."""
    file, _, name = nodeid.partition("::")
    asked = _arguments(ROOT / file).get(name.partition("[")[0], frozenset())
    return next((fixture for fixture in TOGETHER if fixture in asked), "")


@functools.cache
def _arguments(file: Path) -> dict[str, frozenset[str]]:
    """Of every test of a file, by name."""
    tests = (node for node in ast.parse(file.read_text()).body if isinstance(node, ast.FunctionDef))
    return {test.name: frozenset(argument.arg for argument in test.args.args) for test in tests}
