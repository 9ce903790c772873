"""One generation is sent: what is removed, replaced or rewritten meanwhile, what is there already, what leads elsewhere."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import objects
import pytest
import rights

from trainingrun_operator.agent import reading, upload
from trainingrun_operator.agent.cargo import ChangedError, LeftoverError, Tally, Wanted
from trainingrun_operator.agent.upload import Shipment
from trainingrun_operator.agent.volume.scan import Filter, scan

if TYPE_CHECKING:
    from collections.abc import Callable

    from trainingrun_operator.agent.cargo import Cargo

FOLDER, NEXT = "run/r0/i1-g0001-a/", "run/r0/i1-g0002-a/"


class Door(objects.Door):
    """Notes what is sent and what is copied; something may happen before a write."""

    def __init__(self) -> None:
        super().__init__(objects.Objects())
        self.sent: list[str] = []
        self.copied: list[str] = []
        self.aborted: list[str] = []
        self.meanwhile: Callable[[str], object] = lambda _: None
        self._order = threading.Lock()

    @property
    def bodies(self) -> dict[str, bytes]:
        return self._objects.bodies

    def put(self, key, body, counted=None):
        with self._order:
            self.meanwhile(key)
        self.sent.append(key)
        return super().put(key, body, counted)

    def put_part(self, key, upload, number, body, crc, counted=None):
        with self._order:
            self.meanwhile(f"{key}#{number}")
        self.sent.append(f"{key}#{number}")
        return super().put_part(key, upload, number, body, crc, counted)

    def copy(self, source, key, size, crc, counted=lambda _: None):
        self.copied.append(key)
        return super().copy(source, key, size, crc, counted)

    def abort(self, key, upload):
        self.aborted.append(key)
        super().abort(key, upload)


@pytest.fixture
def door(monkeypatch) -> Door:
    monkeypatch.setattr(upload, "PART_BYTES", 1 << 20)
    return Door()


def write(root: Path, **files: bytes) -> dict[str, bytes]:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return files


def wanted(root: Path) -> list[Wanted]:
    return [Wanted(path, entry) for path, entry in sorted(scan(str(root), Filter()).everything.items())]


def send(door: Door, root: Path, files: list[Wanted] | None = None, folder=FOLDER, *, leftovers=(), **how) -> Cargo:
    files = wanted(root) if files is None else files
    return Shipment(door, str(root), folder, Tally(), lambda: False, leftovers).send(files, **how)


def names(cargo: Cargo) -> set[str]:
    return {file.path for file in cargo.files}


def content(door: Door, cargo: Cargo) -> dict[str, bytes]:
    return {file.path: door.bodies[file.key] for file in cargo.files if file.link_target is None}


# -- removed, replaced, rewritten -----------------------------------------------------------------------------------


def clear(root: Path) -> None:
    for path in root.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def once(act: Callable[[], object]) -> Callable[[str], object]:
    left = [act]
    return lambda _: left.pop()() if left else None


def test_a_checkpoint_that_is_removed_while_it_is_sent_is_sent_whole(door, tmp_path):
    files = write(
        tmp_path, **{f"step_1/{n:02d}": os.urandom(10) for n in range(40)}, **{"step_1/big": os.urandom(3 << 20)}
    )
    door.meanwhile = once(lambda: clear(tmp_path))
    cargo = send(door, tmp_path)
    assert not list(tmp_path.iterdir())
    assert content(door, cargo) == files
    assert cargo.skipped == []


def test_a_file_that_is_replaced_by_its_successor_is_sent_as_it_was(door, tmp_path):
    files = write(tmp_path, last=os.urandom(3 << 20), other=b"x" * 9)

    def successor() -> None:
        write(tmp_path, **{"last.new": b"the next one"})
        (tmp_path / "last.new").replace(tmp_path / "last")

    door.meanwhile = once(successor)
    assert content(door, send(door, tmp_path)) == files


def test_a_file_that_is_removed_before_its_turn_where_that_ends_it_is_said_in_these_words(door, tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "keeps_removed_files", lambda _: False)
    write(tmp_path, a=b"a")
    files = wanted(tmp_path)
    clear(tmp_path)
    with pytest.raises(ChangedError, match=r"^a: deleted while it was uploaded$"):
        send(door, tmp_path, files)


def test_a_removed_file_is_given_up_when_the_volume_may_need_its_space(door, tmp_path, monkeypatch):
    write(tmp_path, big=bytes(3 << 20))
    monkeypatch.setattr(reading, "_room_at", lambda _: (3 << 20) - 1)
    door.meanwhile = once(lambda: clear(tmp_path))
    monkeypatch.setattr(upload, "THREADS", 1)
    with pytest.raises(ChangedError, match=r"^big: deleted while it was uploaded, and the volume may need its space$"):
        send(door, tmp_path)
    assert not _open_below(tmp_path), "Its space is free again."


def test_a_removed_file_is_kept_while_there_is_room_for_another_like_it(door, tmp_path, monkeypatch):
    files = write(tmp_path, big=os.urandom(3 << 20))
    monkeypatch.setattr(reading, "_room_at", lambda _: 3 << 20)
    door.meanwhile = once(lambda: clear(tmp_path))
    assert content(door, send(door, tmp_path)) == files
    assert not _open_below(tmp_path)


def _open_below(root: Path) -> list[str]:
    found = []
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            found.append(str(link.readlink()))
    return [path for path in found if path.startswith(str(root))]


@pytest.mark.parametrize("at", ["first", "last"])
def test_a_file_that_is_written_into_while_it_is_read_is_not_sent_as_a_mixture(door, tmp_path, at):
    write(tmp_path, big=bytes(3 << 20))
    number = 1 if at == "first" else 3

    def meanwhile(key: str) -> None:
        if key.endswith(f"#{number}"):
            with (tmp_path / "big").open("r+b") as file:
                file.write(b"new")
            os.utime(tmp_path / "big", ns=(1, number))

    door.meanwhile = meanwhile
    with pytest.raises(ChangedError, match=r"^big: the file changed during the read$"):
        send(door, tmp_path)
    assert not any(key.startswith(FOLDER) for key in door.bodies)


def test_a_file_that_will_be_rewritten_soon_is_copied_first_and_sent_as_it_was(door, tmp_path):
    files = write(tmp_path, big=os.urandom(3 << 20), small=b"1")
    door.meanwhile = once(lambda: write(tmp_path, big=b"the next", small=b"2"))
    assert content(door, send(door, tmp_path, moment=True)) == files
    assert {path.name for path in tmp_path.iterdir()} == {"big", "small"}
    assert not _open_below(tmp_path)


@pytest.mark.parametrize("room", [0, 5 << 20])
def test_without_room_for_a_copy_the_file_itself_is_read(door, tmp_path, monkeypatch, room):
    files = write(tmp_path, big=os.urandom(3 << 20))
    monkeypatch.setattr(reading, "_room_at", lambda _: room)
    monkeypatch.setattr("trainingrun_operator.agent.scratch.copy_of", lambda *_: pytest.fail("no room"))
    assert content(door, send(door, tmp_path, moment=True)) == files


def test_a_change_after_the_read_counts_only_once_the_training_has_ended(door, tmp_path):
    write(tmp_path, a=b"a", b=bytes(3 << 20))
    meanwhile = lambda key: os.utime(tmp_path / "a") if key.endswith("b#3") else None  # noqa: E731
    door.meanwhile = meanwhile
    files = wanted(tmp_path)
    assert names(send(door, tmp_path, files)) == {"a", "b"}
    door.meanwhile = lambda _: os.utime(tmp_path / "a")
    with pytest.raises(ChangedError, match=r"^a: the file changed after the upload$"):
        send(door, tmp_path, [one for one in wanted(tmp_path) if one.path == "a"], NEXT, ended=True)


# -- what an earlier try left ------------------------------------------------------------------------------------------


def test_what_an_abandoned_generation_has_is_copied_where_it_fits_and_its_parts_are_aborted(door, tmp_path):
    files = write(tmp_path, same=os.urandom(500), other=b"now", grown=b"longer now", fresh=b"new")
    door.bodies[f"{FOLDER}same"] = files["same"]
    door.bodies[f"{FOLDER}other"] = b"was"
    door.bodies[f"{FOLDER}grown"] = b"short"
    door.bodies[f"{FOLDER}gone"] = b"of a file that is gone"
    door.begin(f"{FOLDER}half")
    with pytest.raises(LeftoverError) as left:
        send(door, tmp_path)
    assert left.value.key == f"{FOLDER}gone"
    cargo = send(door, tmp_path, folder=NEXT, leftovers=(FOLDER,))
    assert content(door, cargo) == files
    assert door.copied == [f"{NEXT}same"]
    assert sorted(door.sent) == [f"{NEXT}fresh", f"{NEXT}grown", f"{NEXT}other"]
    assert door.aborted == [f"{FOLDER}half"]


def test_an_object_of_an_earlier_try_with_other_bytes_is_left_as_it_is(door, tmp_path):
    write(tmp_path, a=b"now")
    door.bodies[f"{FOLDER}a"] = b"was"
    with pytest.raises(LeftoverError):
        send(door, tmp_path)
    assert door.bodies == {f"{FOLDER}a": b"was"}


# -- one file under several names ---------------------------------------------------------------------------------------


def test_a_file_with_several_names_is_sent_once(door, tmp_path):
    files = write(tmp_path, **{"best.pt": os.urandom(3 << 20), "last.pt": os.urandom(10), "alone": b"x"})
    os.link(tmp_path / "best.pt", tmp_path / "epoch_7.pt")
    os.link(tmp_path / "best.pt", tmp_path / "epoch_8.pt")
    cargo = send(door, tmp_path)
    assert content(door, cargo) == files | dict.fromkeys(("epoch_7.pt", "epoch_8.pt"), files["best.pt"])
    assert sum("best.pt" in key or "epoch" in key for key in door.sent) == 3, "Three parts, once."
    assert sorted(door.copied) == [f"{FOLDER}epoch_7.pt", f"{FOLDER}epoch_8.pt"]


def test_equal_files_of_their_own_are_each_sent(door, tmp_path):
    files = write(tmp_path, a=b"same", b=b"same")
    for name in files:
        os.utime(tmp_path / name, ns=(1, 1))
    one, other = wanted(tmp_path)
    alike = replace(other, entry=other.entry._replace(inode=one.entry.inode))
    with pytest.raises(ChangedError):
        send(door, tmp_path, [one, alike])
    assert content(door, send(door, tmp_path, folder=NEXT)) == files
    assert door.copied == []


# -- links, and what cannot be read -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "out"),
    [
        ("/root/.cache/hub/model.safetensors", True),
        ("../elsewhere", True),
        ("step_1/../../elsewhere", True),
        ("/etc", True),
        ("step_1", False),
        ("./step_1/w", False),
        ("not-there-yet", False),
        ("{root}/step_1", False),
        ("{root}/../elsewhere", True),
        ("latest", False),
    ],
)
def test_a_link_that_leads_out_is_recorded_as_skipped(door, tmp_path, target, out):
    root = tmp_path / "checkpoints"
    write(root, **{"step_1/w": b"w"})
    (root / "latest").symlink_to(target.replace("{root}", str(root)))
    cargo = send(door, root)
    assert names(cargo) == {"step_1/w"} | (set() if out else {"latest"})
    assert [(one.path, one.regular) for one in cargo.skipped] == ([("latest", False)] if out else [])
    if out:
        assert "leads out of the checkpoint path" in cargo.skipped[0].reason


def test_a_link_through_one_that_leads_out_is_skipped_with_it(door, tmp_path):
    root = tmp_path / "checkpoints"
    write(root, w=b"w")
    (root / "cache").symlink_to(tmp_path)
    (root / "model").symlink_to("cache/model")
    (root / "own").symlink_to("w")
    cargo = send(door, root)
    assert names(cargo) == {"w", "own"}
    assert {one.path for one in cargo.skipped} == {"cache", "model"}


def test_thousands_of_small_files_are_each_sent_once_and_one_that_cannot_be_read_blocks_none(door, tmp_path):
    files = write(tmp_path, **{f"shards/{n % 50:02d}/{n:04d}.bin": str(n).encode() for n in range(5000)})
    (tmp_path / "shards/07/0007.bin").chmod(0)
    with rights.of_a_user():
        cargo = send(door, tmp_path)
    (tmp_path / "shards/07/0007.bin").chmod(0o644)
    del files["shards/07/0007.bin"]
    assert content(door, cargo) == files
    assert len(door.sent) == len(set(door.sent)) == 4999
    assert [one.path for one in cargo.skipped] == ["shards/07/0007.bin"]
    assert not _open_below(tmp_path)
