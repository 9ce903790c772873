"""What a test measured or listed: into the test run's own output, and into `build/outputs` for the docs to quote."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from e2e.ground import OUTPUTS

if TYPE_CHECKING:
    import pytest


def tell(capsys: pytest.CaptureFixture[str], name: str, text: str) -> None:
    """Print, and keep as `build/outputs/NAME.txt`."""
    with capsys.disabled():
        sys.stderr.write(f"\n{text}\n")
    OUTPUTS.mkdir(parents=True, exist_ok=True)
    (OUTPUTS / f"{name}.txt").write_text(text + "\n")
