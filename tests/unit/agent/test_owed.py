"""Files that the last commit had to skip."""

from __future__ import annotations

from trainingrun_operator.agent.ledger import Request
from trainingrun_operator.agent.owed import Owed
from trainingrun_operator.agent.volume.scan import Entry, Scan
from trainingrun_operator.checkpoints.documents import Skipped

ASKED, OTHER = Request("t1", 1), Request("t1", 2)


def skipped(path="beat", *, regular=True):
    return Skipped(path=path, reason="it changed", regular=regular)


def seen(size, at):
    entries = {"beat": Entry(size, size, 1, 0o644)} if size is not None else {}
    return Scan(entries, at=at)


def test_only_the_answer_that_lacks_regular_files_is_owed():
    owed = Owed(10)
    assert not owed.by(ASKED)
    owed.committed(ASKED, (skipped(regular=False),))
    assert not owed.by(ASKED)
    owed.committed(ASKED, (skipped(),))
    assert (owed.by(ASKED), owed.by(OTHER)) == (True, False)
    owed.committed(ASKED, ())
    assert not owed.by(ASKED)


def test_it_is_due_once_the_files_are_quiet():
    owed = Owed(10)
    owed.committed(ASKED, (skipped(),))
    looks = [(1, 100), (2, 105), (2, 114), (2, 115)]
    assert [owed.is_quiet(seen(size, at)) for size, at in looks] == [False, False, False, True]


def test_a_file_that_is_removed_is_quiet_after_the_same_time():
    owed = Owed(10)
    owed.committed(ASKED, (skipped(),))
    assert [owed.is_quiet(seen(size, at)) for size, at in [(1, 100), (None, 105), (None, 115)]] == [False, False, True]
