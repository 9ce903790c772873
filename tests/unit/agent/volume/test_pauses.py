"""Files that are written anew more often than the quiet time: the moments at which they are whole."""

from __future__ import annotations

import pytest

from trainingrun_operator.agent.volume.formats import PLAIN, Probe, State
from trainingrun_operator.agent.volume.pauses import TOLD_QUIETS, Pauses
from trainingrun_operator.agent.volume.scan import Entry, Kind
from trainingrun_operator.agent.volume.units import Unit
from trainingrun_operator.checkpoints.documents import WHOLE

SETTLE = 10.0
ZIP, BROKEN, JSON = Probe(State.WHOLE, "zip"), Probe(State.BROKEN, "cut"), Probe(State.WHOLE, "parses as JSON")
EPOCH = 1_000_000.0
"""Wall clock at which the test begins."""


class Volume:
    """A training that writes files, and looks at it every second."""

    def __init__(self, *, skew: float = 0.0) -> None:
        self.now = 0.0
        self.skew = skew
        self.pauses = Pauses(SETTLE, wall=lambda: EPOCH + self.now)
        self.files: dict[str, tuple[Entry, Probe]] = {}
        self.inode = 0

    def write(
        self, path: str, probe: Probe = ZIP, size: int = 5 << 20, *, renamed: bool = False, kind=Kind.FILE
    ) -> None:
        self.inode += renamed
        at = int((EPOCH + self.now + self.skew) * 1e9)
        self.files[path] = Entry(size, at, self.inode, 0o644, kind), probe

    def look(self):
        entries = {path: entry for path, (entry, _) in self.files.items()}
        probes = {path: probe for path, (_, probe) in self.files.items()}
        return self.pauses.moment(Unit(WHOLE, WHOLE, entries), probes, self.now)

    def epochs(self, seconds: float, every: float, *, look: float = 1.0, save=None) -> list[float]:
        """Let it save every so often, and look every second. Return the times of the moments."""
        save = save or (lambda: self.write("last.pt"))
        found, end, saved = [], self.now + seconds, self.now
        save()
        while self.now < end:
            self.now = round(self.now + 0.1, 3)
            if self.now >= saved + every:
                saved = self.now
                save()
            if abs(self.now / look - round(self.now / look)) < 0.001 and self.look():
                found.append(self.now)
        return found


@pytest.mark.parametrize("every", [0.7, 1.9, 3.3, 9.0])
@pytest.mark.parametrize("renamed", [True, False])
def test_a_file_that_is_written_anew_all_the_time_has_moments(every, renamed):
    volume = Volume()
    found = volume.epochs(120, every, save=lambda: volume.write("last.pt", renamed=renamed))
    assert found
    assert found[0] >= 2 * SETTLE


@pytest.mark.parametrize("skew", [-5.0, 5.0, 3600.0])
def test_the_looks_alone_tell_where_the_clock_of_the_files_differs(skew):
    volume = Volume(skew=skew)
    found = volume.epochs(200, 5.0)
    assert found
    assert all(at % 5 >= 1 for at in found), "Not at the look that sees the change."


def test_a_moment_is_no_gap_between_the_files_of_one_save():
    volume = Volume()
    pair = ["optimizer.pt", "model.pt"]

    def save() -> None:
        pair.reverse()
        volume.write(pair[0])

    # model.pt, a second later optimizer.pt, then seven seconds of training.
    found, volume.now = [], 0.0
    for _ in range(30):
        save()
        volume.look()
        volume.now += 1
        gap = volume.look()
        save()
        for _ in range(7):
            volume.now += 1
            found.append(volume.look() is not None)
        assert gap is None
    assert any(found)


@pytest.mark.parametrize(
    "files",
    [
        pytest.param({"last.pt": BROKEN}, id="cut"),
        pytest.param({"last.pt": ZIP, "best.pt": BROKEN}, id="one of two is cut"),
        pytest.param({"weights.dat": PLAIN}, id="a format that cannot tell"),
        pytest.param({"last.pt": ZIP, "weights.dat": PLAIN}, id="beside one that can tell"),
        pytest.param({"state.json": JSON}, id="a state without weights"),
    ],
)
def test_what_may_be_half_written_has_no_moment(files):
    volume = Volume()

    def save() -> None:
        for path, probe in files.items():
            volume.write(path, probe)

    assert volume.epochs(200, 3.0, save=save) == []


@pytest.mark.parametrize(
    "beside",
    [
        pytest.param({"results.csv": (PLAIN, 900, Kind.FILE)}, id="a small table"),
        pytest.param({"train.log": (PLAIN, 9 << 20, Kind.FILE)}, id="a log"),
        pytest.param({"latest": (PLAIN, 7, Kind.LINK)}, id="a link"),
    ],
)
def test_small_files_beside_it_do_not_hinder(beside):
    volume = Volume()

    def save() -> None:
        volume.write("last.pt")
        for path, (probe, size, kind) in beside.items():
            volume.write(path, probe, size, kind=kind)

    assert volume.epochs(100, 3.0, save=save)


def test_a_large_file_that_stands_still_beside_it_does_not_hinder():
    volume = Volume()
    volume.write("dataset.dat", PLAIN)
    assert volume.epochs(100, 3.0)


def test_a_first_save_that_grows_for_a_long_time_has_no_moment_and_is_not_said():
    volume = Volume()
    for second in range(200):
        volume.now = float(second)
        volume.write("model.pt", ZIP, size=second + 1)
        assert volume.look() is None
    assert volume.pauses.never_quiet(volume.now) == ""


def test_a_file_that_never_has_a_moment_is_said():
    volume = Volume()
    volume.epochs(TOLD_QUIETS * SETTLE - 2, 3.0, save=lambda: volume.write("weights.dat", PLAIN))
    assert volume.pauses.never_quiet(volume.now) == ""
    volume.epochs(5, 3.0, save=lambda: volume.write("weights.dat", PLAIN))
    assert volume.pauses.never_quiet(volume.now) == "weights.dat"
    volume.pauses.keep(())
    assert volume.pauses.never_quiet(volume.now) == "", "It is complete, or gone."


def test_a_file_with_moments_is_not_said():
    volume = Volume()
    volume.epochs(200, 3.0)
    assert volume.pauses.never_quiet(volume.now) == ""
