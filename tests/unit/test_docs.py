"""What the documentation names is there."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from trainingrun_operator.api.notification import CloudEvent, EventType

ROOT = Path(__file__).parents[2]
TESTS = "".join(
    path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py") if path != Path(__file__)
)
SECURITY = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", sorted(set(re.findall(r"\btest_\w+(?!\.py)\b", SECURITY))))
def test_a_test_that_shows_a_claim_about_security_exists(name):
    assert f"def {name}(" in TESTS


@pytest.mark.parametrize("row", sorted(set(re.findall(r"\[([a-z][^\]`]*)\]`", SECURITY))))
def test_an_attack_that_is_told_of_is_tried(row):
    assert f'    "{row}": (' in TESTS


def test_the_event_on_the_page_is_one_that_is_posted_and_the_page_names_all_types():
    page = (ROOT / "docs" / "notifications.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    event = CloudEvent.parse_strict(json.loads(example))
    assert event.dump() == json.loads(example)
    assert event.id == f"{event.data.termination_id}-{event.type.slug}"
    assert re.findall(r"^\| `(dev\.\S+)`", page, re.MULTILINE) == list(EventType)
