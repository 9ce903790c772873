"""What a download finds in the folder already: what is newer and whole stays, everything else gives way, and nothing is lost."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import rights
from unit.checkpoints.test_download import LAYOUT, Memory, link, manifest, tree

from trainingrun_operator.checkpoints.download import Download, Fetched
from trainingrun_operator.checkpoints.in_place import ASIDE
from trainingrun_operator.checkpoints.names import is_temporary
from trainingrun_operator.checkpoints.proof import BadCommitError

if TYPE_CHECKING:
    from collections.abc import Mapping

SAVED = 1_700_000_000 * 10**9
"""When the manifest's files were written, in ns."""
OLDER, NEWER = SAVED - 10**9, SAVED + 10**9


def zipped(body: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr("data", body)
    return out.getvalue()


def judge(place: Path) -> bool | None:
    """By its format, as the agent does for zip files."""
    if place.suffix != ".pt":
        return None
    with place.open("rb") as file:
        return zipfile.is_zipfile(file)


PROVEN = zipped(b"epoch 40" * 100)
LATER = zipped(b"epoch 50" * 50)
TEXT = b"epoch,loss\n" + b"40,0.1\n" * 40


@pytest.fixture
def bucket() -> Memory:
    return Memory()


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    folder = tmp_path / "volume"
    folder.mkdir()
    return folder


def put(place: Path, body: bytes, mtime_ns: int) -> Path:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(body)
    os.utime(place, ns=(mtime_ns, mtime_ns))
    return place


def restore(bucket: Memory, volume: Path, files: Mapping[str, bytes | str]) -> Fetched:
    """Restore files, and links for texts."""
    entries = (
        bucket.file(path, body, mtime_ns=SAVED)
        if isinstance(body, bytes)
        else link(path, body).model_copy(update={"mtime_ns": SAVED})
        for path, body in files.items()
    )
    return Download(bucket, LAYOUT, volume, judge).fetch(manifest(*entries))


@pytest.mark.parametrize(
    ("name", "proven", "local", "mtime_ns", "stays"),
    [
        pytest.param("last.pt", PROVEN, LATER, NEWER, True, id="a newer whole file, though it is smaller"),
        pytest.param("last.pt", PROVEN, LATER[:-30], NEWER, False, id="a newer file that was cut"),
        pytest.param("last.pt", PROVEN, b"", NEWER, False, id="a newer file without a byte"),
        pytest.param("last.pt", PROVEN, bytes(len(PROVEN)), NEWER, False, id="a newer file of zeros"),
        pytest.param("last.pt", PROVEN, LATER, OLDER, False, id="an older whole file"),
        pytest.param("last.pt", PROVEN, LATER, SAVED, False, id="another file of the same time"),
        pytest.param("w.dat", os.urandom(1000), os.urandom(1000), NEWER, True, id="newer data of the same size"),
        pytest.param("w.dat", os.urandom(1000), os.urandom(1200), NEWER, True, id="newer data of a larger size"),
        pytest.param("w.dat", os.urandom(1000), os.urandom(400), NEWER, False, id="newer data that was cut"),
        pytest.param("w.bin", b"weights" * 100, b"weights" * 40, NEWER, False, id="newer data that looks like text, cut"),
        pytest.param("w", os.urandom(1000), os.urandom(400), NEWER, False, id="newer data without a suffix, cut"),
        pytest.param("w.dat", os.urandom(1000), bytes(1000), NEWER, False, id="data of zeros, as a dead machine leaves it"),
        pytest.param("results.csv", TEXT, TEXT + b"41,0.1\n", NEWER, True, id="a table that has grown"),
        pytest.param("results.csv", TEXT, TEXT[:20], NEWER, True, id="a table that was begun anew"),
        pytest.param("results.csv", TEXT, TEXT[:20], OLDER, False, id="an older table"),
        pytest.param("results.csv", TEXT, b"", NEWER, False, id="a table without a byte"),
        pytest.param("latest", b"step_100\n", b"step_90\n", NEWER, True, id="a newer pointer file"),
        pytest.param("latest", b"step_100\n", b"step_90\n", OLDER, False, id="an older pointer file"),
        pytest.param("latest", b"step_100\n", bytes(9), NEWER, False, id="a pointer file of zeros"),
        pytest.param("empty", b"", b"", OLDER, True, id="the same empty file"),
        pytest.param("empty", b"", b"more", NEWER, True, id="a newer file in the place of an empty one"),
    ],
)  # fmt: skip
def test_a_local_file_stays_if_it_is_newer_and_whole(bucket, volume, name, proven, local, mtime_ns, stays):
    place = put(volume / "step_1" / name, local, mtime_ns)
    done = restore(bucket, volume, {f"step_1/{name}": proven})
    assert place.read_bytes() == (local if stays else proven)
    assert done.kept == ((f"step_1/{name}",) if stays and local != proven else ())
    assert tree(volume) == ["step_1", f"step_1/{name}"], "nothing else is left"


@pytest.mark.parametrize("folder", ["step_1", "beside", "."], ids=["in the checkpoint", "beside it", "at the top"])
def test_the_rule_is_the_same_wherever_the_file_is(bucket, volume, folder):
    newer, older = put(volume / folder / "newer.pt", LATER, NEWER), put(volume / folder / "older.pt", LATER, OLDER)
    paths = [str(place.relative_to(volume)) for place in (newer, older)]
    restore(bucket, volume, dict.fromkeys(paths, PROVEN))
    assert (newer.read_bytes(), older.read_bytes()) == (LATER, PROVEN)


def test_files_that_no_manifest_names_stay(bucket, volume):
    put(volume / "step_1/eval.json", b"{}", OLDER)
    put(volume / "step_9/w.pt", LATER, OLDER)
    restore(bucket, volume, {"step_1/w.pt": PROVEN})
    assert tree(volume) == ["step_1", "step_1/eval.json", "step_1/w.pt", "step_9", "step_9/w.pt"]


def test_a_name_of_a_hard_link_is_replaced_and_the_other_names_keep_their_bytes(bucket, volume):
    last = put(volume / "last.pt", LATER, OLDER)
    (volume / "epoch_50.pt").hardlink_to(last)
    restore(bucket, volume, {"last.pt": PROVEN})
    assert (last.read_bytes(), (volume / "epoch_50.pt").read_bytes()) == (PROVEN, LATER)


@pytest.mark.parametrize(("mtime_ns", "stays"), [(NEWER, True), (OLDER, False)], ids=["newer", "older"])
def test_a_read_only_file_is_judged_like_any_other(bucket, volume, mtime_ns, stays):
    place = put(volume / "last.pt", LATER, mtime_ns)
    place.chmod(0o444)
    with rights.of_a_user():
        restore(bucket, volume, {"last.pt": PROVEN})
    assert place.read_bytes() == (LATER if stays else PROVEN)


@pytest.mark.parametrize(("mtime_ns", "stays"), [(NEWER, True), (OLDER, False)], ids=["newer", "older"])
def test_a_file_that_may_not_be_read_stays_if_it_is_newer(bucket, volume, mtime_ns, stays):
    place = put(volume / "last.pt", LATER, mtime_ns)
    place.chmod(0)
    with rights.of_a_user():
        restore(bucket, volume, {"last.pt": PROVEN})
    place.chmod(0o600)
    assert place.read_bytes() == (LATER if stays else PROVEN)


@pytest.mark.parametrize(("mtime_ns", "stays"), [(NEWER, True), (OLDER, False)], ids=["newer", "older"])
def test_a_folder_in_the_place_of_a_file(bucket, volume, mtime_ns, stays):
    put(volume / "last.ckpt/shard.pt", LATER, mtime_ns)
    done = restore(bucket, volume, {"last.ckpt": PROVEN, "w.pt": PROVEN})
    assert (volume / "w.pt").read_bytes() == PROVEN, "the rest is restored"
    if stays:
        assert tree(volume) == ["last.ckpt", "last.ckpt/shard.pt", "w.pt"]
        assert done.kept == ("last.ckpt",)
    else:
        assert (volume / "last.ckpt").read_bytes() == PROVEN
        assert (volume / f"{ASIDE}last.ckpt/shard.pt").read_bytes() == LATER, "it is renamed, not removed"
        assert is_temporary(f"{ASIDE}last.ckpt"), "and no checkpoint"


def test_an_empty_folder_in_the_place_of_a_file_gives_way(bucket, volume):
    (volume / "last.ckpt").mkdir()
    restore(bucket, volume, {"last.ckpt": PROVEN})
    assert (volume / "last.ckpt").read_bytes() == PROVEN


@pytest.mark.parametrize(("mtime_ns", "stays"), [(NEWER, True), (OLDER, False)], ids=["newer", "older"])
@pytest.mark.parametrize("depth", [1, 3])
def test_a_file_in_the_place_of_a_folder(bucket, volume, mtime_ns, stays, depth):
    local = put(volume / "last.pt", LATER, mtime_ns)
    below = "/".join(["last.pt", *"abc"[:depth]])
    done = restore(bucket, volume, {f"{below}/w.pt": PROVEN, f"{below}/v.pt": PROVEN, "w.pt": PROVEN})
    assert (volume / "w.pt").read_bytes() == PROVEN, "the rest is restored"
    if stays:
        assert local.read_bytes() == LATER
        assert sorted(done.kept) == [f"{below}/v.pt", f"{below}/w.pt"]
    else:
        assert {(volume / below / name).read_bytes() for name in ("v.pt", "w.pt")} == {PROVEN}
        assert (volume / f"{ASIDE}last.pt").read_bytes() == LATER, "it is renamed, not removed"


def test_a_file_that_was_cut_in_the_place_of_a_folder_gives_way_though_it_is_newer(bucket, volume):
    put(volume / "last.pt", LATER[:-30], NEWER)
    restore(bucket, volume, {"last.pt/w.pt": PROVEN})
    assert (volume / "last.pt/w.pt").read_bytes() == PROVEN


def test_what_was_renamed_by_an_earlier_restore_is_kept_as_well(bucket, volume):
    for body in (b"first", b"second"):
        put(volume / "last.ckpt/w", body, OLDER)
        restore(bucket, volume, {"last.ckpt": PROVEN})
        (volume / "last.ckpt").unlink()
    kept = {(folder / "w").read_bytes() for folder in volume.iterdir()}
    assert kept == {b"first", b"second"}


def make_link(place: Path, target: str, mtime_ns: int) -> None:
    place.symlink_to(target)
    os.utime(place, ns=(mtime_ns, mtime_ns), follow_symlinks=False)


@pytest.mark.parametrize(
    ("target", "mtime_ns", "stays"),
    [
        pytest.param("step_2", NEWER, True, id="a newer link to what is there"),
        pytest.param("step_2", OLDER, False, id="an older link"),
        pytest.param("gone", NEWER, False, id="a newer link to nothing"),
        pytest.param("/etc", NEWER, False, id="a newer link that leads out"),
    ],
)
@pytest.mark.parametrize("proven", ["step_1", PROVEN], ids=["a link", "a file"])
def test_a_link_in_the_place_of(bucket, volume, proven, target, mtime_ns, stays):
    put(volume / "step_2/w.pt", LATER, OLDER)
    make_link(volume / "latest", target, mtime_ns)
    restore(bucket, volume, {"latest": proven, "step_1/w.pt": PROVEN})
    if stays:
        assert (volume / "latest").readlink() == Path(target)
    elif isinstance(proven, str):
        assert (volume / "latest").readlink() == Path(proven)
    else:
        assert (volume / "latest").read_bytes() == PROVEN
        assert not (volume / "latest").is_symlink()
    assert (volume / "step_2/w.pt").read_bytes() == LATER, "no file is written through a link"


@pytest.mark.parametrize(("mtime_ns", "stays"), [(NEWER, True), (OLDER, False)], ids=["newer", "older"])
def test_a_file_in_the_place_of_a_link(bucket, volume, mtime_ns, stays):
    put(volume / "last.pt", LATER, mtime_ns)
    restore(bucket, volume, {"last.pt": "step_1/w.pt", "step_1/w.pt": PROVEN})
    assert (volume / "last.pt").is_symlink() is not stays
    assert (volume / "last.pt").read_bytes() == (LATER if stays else PROVEN)


@pytest.mark.parametrize("outside", [True, False], ids=["a folder elsewhere", "a folder of the volume"])
def test_nothing_is_written_through_a_link_to_a_folder(bucket, volume, tmp_path, outside):
    theirs = tmp_path / "theirs" if outside else volume / "theirs"
    put(theirs / "w.pt", LATER, OLDER)
    make_link(volume / "step_1", str(theirs), OLDER)
    restore(bucket, volume, {"step_1/w.pt": PROVEN})
    assert (theirs / "w.pt").read_bytes() == LATER
    assert (volume / "step_1/w.pt").read_bytes() == PROVEN
    assert not (volume / "step_1").is_symlink()


def test_a_pipe_in_the_place_of_a_file_gives_way_and_is_not_opened(bucket, volume):
    os.mkfifo(volume / "last.pt")
    os.utime(volume / "last.pt", ns=(NEWER, NEWER))
    restore(bucket, volume, {"last.pt": PROVEN})
    assert (volume / "last.pt").read_bytes() == PROVEN


def test_a_restore_that_is_repeated_changes_nothing_and_asks_for_nothing(bucket, volume):
    files: dict[str, bytes | str] = {"step_1/w.pt": PROVEN, "latest": "step_1", "results.csv": TEXT}
    restore(bucket, volume, files)
    before = {path: (volume / path).lstat() for path in tree(volume)}
    bucket.asked.clear()
    assert restore(bucket, volume, files).size == 0
    assert bucket.asked == []
    assert {path: (volume / path).lstat().st_mtime_ns for path in tree(volume)} == {
        path: there.st_mtime_ns for path, there in before.items()
    }


def test_a_commit_that_turns_out_bad_changes_nothing(bucket, volume):
    put(volume / "last.ckpt/shard", b"x", OLDER)
    put(volume / "w.pt", LATER, OLDER)
    before = tree(volume)
    entries = [bucket.file("last.ckpt", PROVEN, mtime_ns=SAVED), bucket.file("w.pt", PROVEN, mtime_ns=SAVED)]
    bucket.objects.popitem()
    with pytest.raises(BadCommitError, match="not in the bucket"):
        Download(bucket, LAYOUT, volume, judge).fetch(manifest(*entries))
    assert tree(volume) == before
    assert (volume / "w.pt").read_bytes() == LATER
