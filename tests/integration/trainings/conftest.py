"""The frameworks that the docs' trainings import."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from documented import ROOT


@pytest.fixture(scope="session")
def frameworks():
    """A folder with a Debian, PyTorch and the others in it; made if it is not there, which takes minutes."""
    made = subprocess.run([ROOT / "tools" / "frameworks" / "frameworks"], check=True, stdout=subprocess.PIPE, text=True)
    return Path(made.stdout.strip())
