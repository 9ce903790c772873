"""What was in the volume before the training started."""

from __future__ import annotations

import time

import pytest

from trainingrun_operator.agent import left


@pytest.mark.parametrize(
    ("mtimes", "newest"),
    [((), 0), ((5, 7, 6), 7), ((7, time.time_ns() + 10**18), 7)],
    ids=["an empty volume", "the newest file counts", "a time in the far future is none"],
)
def test_the_restore_notes_the_newest_file(tmp_path, mtimes, newest):
    left.note(tmp_path, "pod", mtimes)
    assert left.read(tmp_path, "pod") == newest
    assert left.read(tmp_path, "another pod") is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "no json",
        '{"podUid": "pod"}',
        '{"podUid": "pod", "leftNs": "7"}',
        '{"podUid": "pod", "leftNs": -1}',
        "[" * 4000,
    ],
)
def test_any_other_content_is_no_note(tmp_path, text):
    (tmp_path / "left.json").write_text(text)
    assert left.read(tmp_path, "pod") is None


def test_without_a_note_nothing_is_known(tmp_path):
    assert left.read(tmp_path, "pod") is None
    left.note(tmp_path / "gone", "pod", (1,))
    assert left.read(tmp_path / "gone", "pod") is None
