"""While no test ends, pytest's line of dots still moves."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parents[2]
SLOW = "import time\ndef test_fast(): pass\ndef test_slow(): time.sleep(2.5)\n"


def test_a_slow_test_is_waited_for_aloud(tmp_path):
    (tmp_path / "test_it.py").write_text(SLOW)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "heartbeat", "-p", "no:cacheprovider", "-p", "xdist", "-n", "1"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(TESTS), "PROGRESS_SECONDS": "0.8", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    assert re.search(r"(?m)^( \d+s )*\.( \d+s ){2,}\. *\[100%\]$", done.stdout), done.stdout
    assert re.fullmatch(r"=+ 2 passed in .*=+", done.stdout.splitlines()[-1])
