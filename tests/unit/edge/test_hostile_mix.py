"""A real operator among a few runs that are hostile in every way at once. `make bench` has 2,000 runs and measures the same."""

from __future__ import annotations

import pytest
from bench.mix import HELD_MS, check, measure, memory_limit_mib


@pytest.mark.timeout(600)
def test_runs_that_are_hostile_in_every_way_at_once_neither_hold_the_loop_nor_fill_the_memory():
    found = measure(20, 1, looks=2, deadline_seconds=500)
    check(found)
    assert found.held_ms < HELD_MS, found.worst
    assert found.peak_mib < memory_limit_mib() / 2, found.log
    assert "Traceback" not in found.log
