"""`make` sets itself up on a machine that never saw it: with the Python of Debian 12, of Debian 13, and of this machine."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from documented import ROOT

pytestmark = [pytest.mark.bare, pytest.mark.timeout(600)]

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
# Nothing of `make` or pip itself is there, so that the oldest pip fetches the installer; what that installs comes out of its cache.
FRESH = [f"UV_CACHE_DIR={CACHE}/uv", f"PIP_CACHE_DIR={CACHE}/pip"]
NEVER_COPIED = shutil.ignore_patterns(".git", ".venv", ".cluster", "build", ".*_cache", ".hypothesis", "__pycache__")
LINE = re.compile(
    r"==> [^=]+ \.\.\.( \d+)* \d+ s|set-up: .*|installing Debian packages on this machine: python3-venv|make: (Enter|Leav)ing directory .*"
)


class Machine:
    """A checkout, and a way to run commands beside it that sees nothing else of this project."""

    def __init__(self, folder: Path, inside: str, options: list[str | Path], environment: list[str]):
        self.inside = inside
        self.begin = [ROOT / "tools" / "bare", *options, *FRESH, *environment]
        shutil.copytree(ROOT, folder, ignore=NEVER_COPIED, symlinks=True)

    def run(self, *command: str) -> str:
        """Standard output and error of a command; it must succeed."""
        done = subprocess.run(
            [*self.begin, *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        assert done.returncode == 0, done.stdout
        return done.stdout


@pytest.fixture
def debian(tmp_path, request):
    """A Debian with make, python3 and nothing more of Python: no pip, no venv."""
    root = tmp_path / "root"
    subprocess.run(
        [ROOT / "tools" / "debian-root", request.param, "make,python3,ca-certificates", root],
        check=True,
        capture_output=True,
    )
    return Machine(root / "checkout", "/checkout", ["--in", root], ["XDG_CACHE_HOME=/tmp/cache"])


@pytest.fixture
def this_machine(tmp_path):
    """The Python that this very environment is made of, which may be none of the distribution's."""
    python = Path(sys.executable).resolve()  # a virtual environment's is a link to it
    checkout = tmp_path / "checkout"
    return Machine(checkout, str(checkout), [], [f"XDG_CACHE_HOME={tmp_path}/cache", f"PYTHON={python}"])


def sets_itself_up(machine):
    """Every line of `make .venv/.ready`, having seen that it is all that was said, and that the environment works."""
    said = machine.run("make", "-C", machine.inside, ".venv/.ready").strip().splitlines()
    assert [line for line in said if not LINE.fullmatch(line)] == []
    assert machine.run(f"{machine.inside}/.venv/bin/kubectl-trainingrun", "--help").startswith("Usage: ")
    (locked,) = re.findall(r"(?m)^pytest==(\S+)", (ROOT / "requirements-dev.lock").read_text())
    assert machine.run(f"{machine.inside}/.venv/bin/pytest", "--version").split() == ["pytest", locked]
    return said


@pytest.mark.parametrize(
    ("debian", "python", "pip"),
    [
        pytest.param("bookworm", "Python 3.11.2", "23.0.1", id="Debian 12"),
        pytest.param("trixie", "Python 3.13.5", "25.1.1", id="Debian 13"),
    ],
    indirect=["debian"],
)
def test_a_fresh_debian_needs_nothing_installed_by_hand(debian, python, pip):
    said = sets_itself_up(debian)
    assert "installing Debian packages on this machine: python3-venv" in said
    assert debian.run(f"{debian.inside}/.venv/bin/python", "-V").strip() == python
    assert debian.run("python3", "-c", "import ensurepip; print(ensurepip.version())").strip() == pip
    debian.run("make", "-C", debian.inside, "plugin")
    assert debian.run("/root/.local/bin/kubectl-trainingrun", "--help").startswith("Usage: ")


def test_this_machines_python_needs_nothing_of_this_machine(this_machine):
    said = sets_itself_up(this_machine)
    assert [line for line in said if line.startswith("==> uv, the installer")]
