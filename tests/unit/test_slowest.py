"""The list at the end of `make test`: the slowest tests of all its parts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "tools" / "slowest.py"


def suite(**seconds):
    cases = "".join(f'<testcase classname="tests.x" name="{name}" time="{time}" />' for name, time in seconds.items())
    return f'<testsuites><testsuite name="pytest">{cases}</testsuite></testsuites>'


def test_the_ten_slowest_of_all_parts_come_first_to_last(tmp_path):
    (tmp_path / "unit.xml").write_text(suite(**{f"test_{number}": number / 10 for number in range(20)}))
    (tmp_path / "cluster.xml").write_text(suite(test_long=63.21))
    command = [sys.executable, str(SCRIPT), str(tmp_path)]
    title, *lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert title == "test: the 10 slowest"
    assert len(lines) == 10
    assert lines[0].split() == ["63.2", "s", "cluster", "tests.x::test_long"]
    assert lines[1].split() == ["1.9", "s", "unit", "tests.x::test_19"]
    assert lines[-1].split()[-1] == "tests.x::test_11"
