"""A step of a script counts aloud while it works, and ends the script when any of its commands fails."""

from __future__ import annotations

import functools
import itertools
import os
import re
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SCRIPT = f"""
set -euo pipefail
. {ROOT}/tools/lib/progress.sh
trap finish EXIT
"""


@pytest.fixture
def script(tmp_path):
    """Run bash with the helper read; the steps' logs are in tmp_path."""

    def run(body: str, **environment: str) -> subprocess.CompletedProcess[str]:
        given = {"PATH": os.environ["PATH"], "STEP_LOGS": str(tmp_path)} | environment
        return subprocess.run(["bash", "-c", SCRIPT + body], env=given, capture_output=True, text=True, check=False)

    return run


def test_the_line_of_a_long_step_never_stands_still(tmp_path):
    # 10 s between two signs of life, unless told otherwise: a step of 22 s shows two.
    began = time.monotonic()
    program = [str(ROOT / "tools" / "step"), "a long one (22 s)", "sleep", "22"]
    with subprocess.Popen(
        program, stdout=subprocess.PIPE, text=True, env={"PATH": os.environ["PATH"], "STEP_LOGS": str(tmp_path)}
    ) as process:
        assert process.stdout is not None
        seen = [(time.monotonic() - began, sign) for sign in iter(functools.partial(process.stdout.read, 1), "")]
    line = "".join(sign for _, sign in seen)
    assert re.fullmatch(r"==> a long one \(22 s\) \.\.\. 1\d 2\d 2\d s\n", line)
    at = [0.0, *(when for when, _ in seen)]
    assert max(later - earlier for earlier, later in itertools.pairwise(at)) < 15


def test_the_pace_may_be_set(script):
    assert re.fullmatch(
        r"==> a step \.\.\.( \d+){2,} \d+ s\n", script("step 'a step' sleep 2.4", PROGRESS_SECONDS="0.5").stdout
    )


def test_a_step_ends_at_its_first_failing_command(script):
    done = script("work() { echo begun; false; echo 'went on'; }; step 'a step' work; echo 'after it'")
    assert done.returncode == 1
    assert "begun" in done.stderr
    assert "went on" not in done.stderr
    assert "after it" not in done.stdout


def test_a_failed_step_shows_its_log_and_what_the_script_knows(script, tmp_path):
    done = script(
        "explain() { echo 'the disk is full'; false; }; work() { echo bang; return 7; }; step 'a step (long)' work"
    )
    assert done.returncode == 7
    assert "    | bang\n    | the disk is full\n" in done.stderr
    assert (tmp_path / "a-step.log").read_text() == "bang\n"


def test_what_a_step_must_undo_is_undone_when_it_fails(script, tmp_path):
    script(f"work() {{ on_exit 'touch {tmp_path}/undone'; false; }}; step 'a step' work")
    assert (tmp_path / "undone").exists()


def test_what_goes_on_aside_is_waited_for_where_it_is_needed(script, tmp_path):
    done = script(
        f"work() {{ sleep 1; touch {tmp_path}/made; }}; aside work; step one true; joined work 'the rest'; ls {tmp_path}/made"
    )
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(rf"==> one \.\.\. \d s\n(==> the rest \.\.\. \d s\n)?{tmp_path}/made\n", done.stdout)


def test_what_failed_aside_fails_where_it_is_needed(script):
    done = script("work() { echo bang; false; echo 'went on'; }; aside work; joined work 'the rest'; echo 'after it'")
    assert done.returncode == 1
    assert "| bang" in done.stderr
    assert "went on" not in done.stderr
    assert "after it" not in done.stdout


def test_a_script_that_fails_ends_what_goes_on_aside(script, tmp_path):
    script(f"work() {{ on_exit 'touch {tmp_path}/ended'; sleep 60; }}; aside work; sleep 0.5; false")
    deadline = time.monotonic() + 10
    while not (tmp_path / "ended").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
