"""What the wheel brings: pages and assets are files, and no linter misses one that was left out."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path

from trainingrun_operator.dashboard import pages

ROOT = Path(__file__).parents[3]
FILES = [path for folder in ("static", "templates") for path in (pages.HERE / folder).rglob("*") if path.is_file()]


def test_the_wheel_has_every_page_and_asset_and_the_licence_of_what_is_not_ours(tmp_path):
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    inside = set(zipfile.ZipFile(wheel).namelist())
    assert FILES
    assert not {str(path.relative_to(ROOT / "operator")) for path in FILES} - inside
    assert "trainingrun_operator/dashboard/static/vendor/uplot/LICENSE" in inside


def test_a_page_loads_nothing_from_elsewhere():
    own = [path for path in FILES if "vendor" not in path.parts and path.suffix in (".html", ".css", ".js")]
    foreign = {
        str(path.name): re.findall(r"(?:https?:)?//[\w.]+\.\w+[^\s\"']*", path.read_text("utf-8")) for path in own
    }
    assert not {name: found for name, found in foreign.items() if found}
