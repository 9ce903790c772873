"""What the documentation names is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TESTS = "".join(
    path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py") if path != Path(__file__)
)
SECURITY = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "name", sorted(set(re.findall(r"\btest_\w+(?!\.py)\b", SECURITY)) - {"test_tenancy", "test_guard", "test_metrics"})
)
def test_a_test_that_shows_a_claim_about_security_exists(name):
    assert f"def {name}(" in TESTS


@pytest.mark.parametrize("row", sorted(set(re.findall(r"\[([a-z][^\]`]*)\]`", SECURITY))))
def test_an_attack_that_is_told_of_is_tried(row):
    assert f'    "{row}": (' in TESTS
