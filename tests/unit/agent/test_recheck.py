"""Reading again what an earlier commit has, before the last one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import rights

from trainingrun_operator.agent.cargo import PreemptedError, Sent, UnreadableError
from trainingrun_operator.agent.plan import Wish
from trainingrun_operator.agent.recheck import Recheck
from trainingrun_operator.agent.report import Board
from trainingrun_operator.agent.volume.scan import Filter, Scan, scan
from trainingrun_operator.checkpoints.bucket import crc64, encode
from trainingrun_operator.checkpoints.documents import PodRef

if TYPE_CHECKING:
    from pathlib import Path

ENDED, SIGTERM = Wish("save", ended=True), Wish("sigterm", ended=True)
AFRESH = Wish("save", ended=True, afresh=True)


class Ledger:
    """Covers every file, with the bytes that it was told."""

    def __init__(self, **crcs: str) -> None:
        self.crcs = crcs
        self.forgotten: list[str] = []

    def earlier(self, path, entry):
        return Sent(entry.size, entry.mtime_ns, f"key/{path}", self.crcs[path]) if path in self.crcs else None

    def forget(self, path):
        self.forgotten.append(path)
        del self.crcs[path]


class Place:
    def __init__(self, root: Path, *, halted=lambda _: False) -> None:
        self.root = root
        self.board = Board(PodRef(name="bert-0", uid="p1"), 0)
        self.seen: list[int] = []
        self.ledger = Ledger()
        self.recheck = Recheck(str(root), self.ledger, self.board, self._halted)  # type: ignore[arg-type]  # two of its methods
        self._stops = halted

    def _halted(self) -> bool:
        self.seen.append(self.board.report().hashed_bytes)
        return bool(self._stops(self.seen))

    def write(self, path: str, content: bytes, *, covered: bytes | None = None) -> None:
        (self.root / path).write_bytes(content)
        self.ledger.crcs[path] = encode(crc64(content if covered is None else covered))

    def check(self, wish: Wish = ENDED) -> list[str]:
        self.ledger.forgotten.clear()
        self.recheck.check(scan(str(self.root), Filter()), wish)
        return self.ledger.forgotten


def test_files_with_other_bytes_are_forgotten_under_any_name(tmp_path):
    place = Place(tmp_path)
    place.write("same", b"as it was")
    place.write("other", b"is", covered=b"was")
    place.write("x.tmp", b"is", covered=b"was")
    (tmp_path / "new").write_bytes(b"never sent")
    assert place.check() == ["other", "x.tmp"]


def test_what_was_read_once_is_not_read_again_unless_it_has_changed(tmp_path):
    place = Place(tmp_path)
    place.write("a", b"a" * 100)
    place.write("b", b"b" * 100)
    place.check()
    assert len(place.seen) == 2
    place.check()
    assert len(place.seen) == 2, "A bucket that is away costs no read of the volume at each try."
    place.write("a", b"c" * 101)
    place.check(SIGTERM)
    assert len(place.seen) == 3


def test_the_operator_sees_how_far_it_is(tmp_path):
    place = Place(tmp_path)
    place.write("large", bytes(3 << 20))
    place.check()
    assert place.seen == [1 << 20, 2 << 20, 3 << 20]
    assert place.board.report().hashed_bytes == 0, "Nothing is read any more."


def test_it_stops_when_the_agent_is_closed(tmp_path):
    place = Place(tmp_path, halted=lambda seen: len(seen) > 1)
    place.write("large", bytes(3 << 20))
    with pytest.raises(PreemptedError):
        place.check()
    assert place.ledger.forgotten == []


def test_what_is_sent_afresh_is_not_read_twice(tmp_path):
    place = Place(tmp_path)
    place.write("other", b"is", covered=b"was")
    assert place.check(AFRESH) == []
    assert place.seen == []


def test_a_covered_file_that_cannot_be_read_is_left_to_the_shipment_which_says_why(tmp_path):
    place = Place(tmp_path)
    place.write("secret", b"x")
    (tmp_path / "secret").chmod(0)
    with rights.of_a_user():
        assert place.check() == ["secret"]


def test_a_file_that_could_not_be_read_is_tried_first(tmp_path):
    place = Place(tmp_path)
    place.write("a", b"a")
    place.write("secret", b"x")
    (tmp_path / "secret").chmod(0)
    with rights.of_a_user():
        place.recheck.failed(UnreadableError("secret", "Permission denied"))
        with pytest.raises(UnreadableError, match="secret: Permission denied"):
            place.check()
        assert place.seen == []
    place.recheck.failed(UnreadableError("secret", "Permission denied"))
    (tmp_path / "secret").chmod(0o600)
    assert place.check() == []
    place.recheck.failed(UnreadableError("gone", "Permission denied"))
    assert place.check() == [], "It was removed."


def test_a_folder_that_cannot_be_read_matters_except_on_sigterm(tmp_path):
    place = Place(tmp_path)
    unread = Scan(at=1.0, unread=("tmp-1", "Permission denied"))
    with pytest.raises(UnreadableError, match="tmp-1: Permission denied"):
        place.recheck.check(unread, ENDED)
    place.recheck.check(unread, SIGTERM)
