"""The table of endings: every row is complete, shown by something that is there, and documented."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainingrun_operator.api.endings import ENDINGS, Ending, ending_of

ROOT = Path(__file__).parents[3]
DASHBOARD = ROOT / "operator" / "trainingrun_operator" / "dashboard"


@pytest.mark.parametrize(
    ("status", "reason"), [("auto_low_loss", "AutoLowLoss"), ("failed", "Failed"), ("user_stop", "UserStop")]
)
def test_a_conditions_reason_is_the_status_in_camel_case(status, reason):
    assert ending_of(status).reason == reason


@pytest.mark.parametrize(
    ("status", "phase", "succeeds", "saves", "complete", "by_hand"),
    [
        ("auto_low_loss", "Succeeded", True, True, False, False),
        ("auto_threshold", "Succeeded", True, True, False, False),
        ("auto_plateau", "Succeeded", True, True, False, False),
        ("auto_rising", "Succeeded", True, True, False, False),
        ("auto_non_finite", "Failed", False, False, False, False),
        ("auto_complete", "Succeeded", True, False, True, False),
        ("max_duration", "Stopped", False, True, False, False),
        ("user_stop", "Stopped", False, True, False, True),
        ("budget_exhausted", "Stopped", False, True, False, False),
        ("hung", "Failed", False, False, False, False),
        ("idle", "Failed", False, False, False, False),
        ("failed", "Failed", False, False, False, False),
        ("deleted", "Stopped", False, False, False, False),
    ],
)
def test_what_an_ending_counts_as(status, phase, succeeds, saves, complete, by_hand):
    row = ENDINGS[status]
    assert (row.phase, row.succeeds, row.saves, row.complete, row.by_hand) == (
        phase,
        succeeds,
        saves,
        complete,
        by_hand,
    )


@pytest.mark.parametrize(
    ("status", "phase", "row"),
    [
        (
            "auto_marginal_gain",
            "Succeeded",
            Ending("auto_marginal_gain", "Succeeded", "Auto-stopped (marginal gain)", "check", "good"),
        ),
        (
            "group_superseded",
            "Stopped",
            Ending("group_superseded", "Stopped", "Stopped (group superseded)", "square", "stopped"),
        ),
        ("too_slow", "Failed", Ending("too_slow", "Failed", "Failed (too slow)", "cross", "bad")),
        ("", "Failed", Ending("", "Failed", "Failed", "cross", "bad")),
    ],
)
def test_an_ending_that_is_not_known_has_a_row_all_the_same(status, phase, row):
    assert ending_of(status, phase) == row


@pytest.mark.parametrize("row", ENDINGS.values(), ids=ENDINGS)
def test_every_row_is_drawn_and_documented(row):
    assert f'name == "{row.icon}"' in (DASHBOARD / "templates" / "_icons.html").read_text(encoding="utf-8")
    assert f".tone-{row.tone}" in (DASHBOARD / "static" / "app.css").read_text(encoding="utf-8")
    assert f"| `{row.status}` |" in (ROOT / "docs" / "concepts.md").read_text(encoding="utf-8")
