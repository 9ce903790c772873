"""A download into a real folder, from a bucket in memory: all of it, or nothing."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest
from botocore import exceptions

from trainingrun_operator.checkpoints import download
from trainingrun_operator.checkpoints.bucket import DamagedError, Stored, crc64, encode
from trainingrun_operator.checkpoints.documents import Checkpoint, FileEntry, Manifest, PodRef, RunRef
from trainingrun_operator.checkpoints.download import Download, NoSpaceError, staging
from trainingrun_operator.checkpoints.keys import Layout
from trainingrun_operator.checkpoints.names import is_temporary
from trainingrun_operator.checkpoints.proof import BadCommitError

LAYOUT = Layout.of("s3://bucket/prefix", "ml", "bert", "uid")
WEIGHTS = os.urandom(100_000)


@dataclass
class Memory:
    """A bucket in memory, which counts what it is asked for."""

    objects: dict[str, bytes] = field(default_factory=dict)
    asked: list[tuple[int, int]] = field(default_factory=list)

    def head(self, key):
        body = self.objects.get(key)
        return None if body is None else Stored(len(body), encode(crc64(body)))

    def get_range(self, key, offset, length, take, version_id=None):
        body = self.answer(key, offset, length, version_id)
        if len(body) == length:
            take(0, memoryview(body))
        return len(body)

    def answer(self, key, offset, length, version_id=None):
        self.asked.append((offset, length))
        if version_id not in (None, "v1"):
            raise exceptions.ClientError({"Error": {"Code": "NoSuchVersion"}}, "GetObject")
        if key not in self.objects:
            raise exceptions.ClientError({"Error": {"Code": "NoSuchKey"}}, "GetObject")
        if offset >= len(self.objects[key]):
            raise exceptions.ClientError({"Error": {"Code": "InvalidRange"}}, "GetObject")
        return self.objects[key][offset : offset + length]

    def file(self, path, body, **changes):
        key = f"{LAYOUT.base}r0/i1-g0001-bert-0/{path}"
        self.objects[key] = body
        return FileEntry(path=path, size=len(body), key=key, crc64nvme=encode(crc64(body))).model_copy(update=changes)


def link(path, target):
    return FileEntry(path=path, link_target=target)


def manifest(*files):
    return Manifest(
        run=RunRef(namespace="ml", name="bert", uid="uid"),
        pod=PodRef(name="bert-0", uid="x"),
        incarnation=1,
        generation=1,
        checkpoint=Checkpoint(dir="step_1", step=1, complete=True, evidence=""),
        files=files,
    )


def tree(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.fixture
def bucket():
    return Memory()


def test_files_and_links_are_what_the_manifest_says(bucket, tmp_path):
    files = bucket.file("step_1/w", WEIGHTS), link("step_1/l", "w"), link("latest", "step_1")
    assert Download(bucket, LAYOUT, tmp_path).fetch(manifest(*files)).size == len(WEIGHTS)
    assert tree(tmp_path) == ["latest", "step_1", "step_1/l", "step_1/w"]
    assert (tmp_path / "latest/l").read_bytes() == WEIGHTS


@pytest.mark.parametrize(
    ("links", "left_out", "made"),
    [
        pytest.param((("esc", "../secret"),), {"esc"}, set(), id="it climbs"),
        pytest.param((("esc", "/root/.cache/model"), ("ok", "step_1/w")), {"esc"}, {"ok"}, id="into a cache elsewhere"),
        pytest.param(
            (("d2/e/f/l", "../../.."), ("esc", "d2/e/f/l/../../../x")), {"esc"}, {"d2/e/f/l"}, id="through another"
        ),
        pytest.param((("esc", "d/../.."), ("d", "step_1")), {"esc"}, {"d"}, id="in any order"),
        pytest.param((("a", "step_1"), ("a", "/etc")), set(), {"a"}, id="one name, two links: the first"),
        pytest.param((("step_1", "elsewhere"),), {"step_1"}, set(), id="the folder of a file"),
        pytest.param((("step_1/w", "elsewhere"),), set(), set(), id="the name of a file"),
    ],
)
def test_a_link_that_leads_out_is_left_out_and_everything_else_is_restored(bucket, tmp_path, links, left_out, made):
    whole = manifest(bucket.file("step_1/w", WEIGHTS), *(link(*one) for one in links))
    folder = tmp_path / "volume"
    assert Download(bucket, LAYOUT, folder).fetch(whole).left_out.keys() == left_out
    assert (folder / "step_1/w").read_bytes() == WEIGHTS
    assert {path for path in tree(folder) if (folder / path).is_symlink()} == made


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "step_1/../../w", "..", ".", "", "step_1//w", "step_1/", "a\0b", f"step_1/{'n' * 256}"],
)
def test_a_path_that_leads_out_is_refused_before_a_byte_is_asked_for(bucket, tmp_path, path):
    folder = tmp_path / "volume"
    for one in (bucket.file("x", b"x").model_copy(update={"path": path}), link(path, "w")):
        with pytest.raises(BadCommitError):
            Download(bucket, LAYOUT, folder).fetch(manifest(bucket.file("step_1/w", WEIGHTS), one))
    assert bucket.asked == []
    assert not folder.exists()


def test_a_key_of_another_run_is_refused_before_a_byte_is_asked_for(bucket, tmp_path):
    with pytest.raises(BadCommitError, match="outside this run's prefix"):
        Download(bucket, LAYOUT, tmp_path).fetch(
            manifest(bucket.file("step_1/w", WEIGHTS, key="prefix/ml/bert/other/w"))
        )
    assert bucket.asked == []


def test_a_folder_may_be_named_from_where_one_is(bucket, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files = bucket.file("step_1/w", WEIGHTS), link("latest", f"{tmp_path}/here/step_1")
    Download(bucket, LAYOUT, Path("here")).fetch(manifest(*files))
    assert (tmp_path / "here/latest/w").read_bytes() == WEIGHTS


@pytest.fixture
def small_ranges(monkeypatch):
    monkeypatch.setattr(download, "RANGE_BYTES", 1000)


def test_a_large_file_is_put_together_from_its_ranges(bucket, tmp_path, small_ranges):
    Download(bucket, LAYOUT, tmp_path).fetch(manifest(bucket.file("step_1/w", WEIGHTS)))
    assert (tmp_path / "step_1/w").read_bytes() == WEIGHTS
    assert sorted(bucket.asked) == [(at, 1000) for at in range(0, 100_000, 1000)]


def test_a_size_that_fits_nowhere_is_refused_with_both_numbers(bucket, tmp_path):
    folder = tmp_path / "volume"
    with pytest.raises(NoSpaceError, match=r"need 1152921504606846976 bytes, and \d+ are free"):
        Download(bucket, LAYOUT, folder).fetch(manifest(bucket.file("step_1/w", b"x", size=2**60)))
    assert bucket.asked == []
    assert tree(folder) == []


@pytest.mark.parametrize("blocks", [pytest.param(0, id="no size known"), pytest.param(1 << 60, id="room for it")])
def test_a_false_size_costs_a_few_requests_and_no_memory(bucket, tmp_path, monkeypatch, blocks):
    """Where free space says nothing against it, as on a network file system."""
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=blocks, f_frsize=4096, f_blocks=blocks))
    with pytest.raises(BadCommitError, match=r"has 1 bytes in the bucket, the manifest says 1152921504606846976"):
        Download(bucket, LAYOUT, tmp_path).fetch(manifest(bucket.file("step_1/w", b"x", size=2**60)))
    assert len(bucket.asked) <= 3 * download.THREADS
    assert tree(tmp_path) == []


def cut(files):
    """A bucket whose connection ends after these files."""

    class Cut(Memory):
        def answer(self, key, offset, length, version_id=None):
            if len(self.asked) == files:
                raise exceptions.EndpointConnectionError(endpoint_url="s3")
            return super().answer(key, offset, length, version_id)

    return Cut()


@pytest.fixture
def in_turn(monkeypatch):
    monkeypatch.setattr(download, "THREADS", 1)
    monkeypatch.setattr(download, "SMALL_THREADS", 1)


def test_an_interrupted_download_goes_on_with_what_it_has(tmp_path, in_turn):
    bucket = cut(2)
    whole = manifest(*(bucket.file(f"step_1/{name}", os.urandom(1000)) for name in "abc"))
    with pytest.raises(exceptions.EndpointConnectionError):
        Download(bucket, LAYOUT, tmp_path).fetch(whole)
    assert not (tmp_path / "step_1").exists(), "no file has its name, and no folder its"
    assert all(is_temporary(path) for path in tree(tmp_path))
    again = Memory(bucket.objects)
    Download(again, LAYOUT, tmp_path).fetch(whole)
    assert len(again.asked) == 1
    assert tree(tmp_path) == ["step_1", "step_1/a", "step_1/b", "step_1/c"]


def test_an_interrupted_download_of_another_generation_leaves_nothing(tmp_path, in_turn):
    bucket = cut(1)
    with pytest.raises(exceptions.EndpointConnectionError):
        Download(bucket, LAYOUT, tmp_path).fetch(
            manifest(bucket.file("step_2/w", WEIGHTS), bucket.file("step_2/x", b"x"))
        )
    Download(Memory(bucket.objects), LAYOUT, tmp_path).fetch(manifest(bucket.file("step_1/w", WEIGHTS)))
    assert tree(tmp_path) == ["step_1", "step_1/w"]


def test_a_download_that_was_cut_is_not_taken_for_the_file(tmp_path, in_turn):
    bucket = cut(1)
    whole = manifest(bucket.file("step_1/a", b"a"), bucket.file("step_1/w", WEIGHTS))
    with pytest.raises(exceptions.EndpointConnectionError):
        Download(bucket, LAYOUT, tmp_path).fetch(whole)
    for half in staging(tmp_path, 0).iterdir():
        half.write_bytes(WEIGHTS[:10])
    Download(Memory(bucket.objects), LAYOUT, tmp_path).fetch(whole)
    assert (tmp_path / "step_1/a").read_bytes() == b"a"
    assert (tmp_path / "step_1/w").read_bytes() == WEIGHTS


def test_what_an_earlier_try_has_on_disk_counts_as_there(tmp_path, in_turn, monkeypatch):
    """A download that goes on needs space for the rest only."""
    bucket = cut(1)
    whole = manifest(bucket.file("step_1/a", WEIGHTS), bucket.file("step_1/b", b"b"))
    with pytest.raises(exceptions.EndpointConnectionError):
        Download(bucket, LAYOUT, tmp_path).fetch(whole)
    os.sync()
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=5, f_frsize=4096, f_blocks=100))
    Download(Memory(bucket.objects), LAYOUT, tmp_path).fetch(whole)
    assert (tmp_path / "step_1/a").read_bytes() == WEIGHTS


def test_a_partial_file_of_the_trainings_own_stays(bucket, tmp_path):
    (tmp_path / "step_1").mkdir()
    other = tmp_path / "another"
    other.write_bytes(b"theirs")
    (tmp_path / "step_1/w.partial").hardlink_to(other)
    Download(bucket, LAYOUT, tmp_path).fetch(manifest(bucket.file("step_1/w", WEIGHTS)))
    assert (other.read_bytes(), (tmp_path / "step_1/w").read_bytes()) == (b"theirs", WEIGHTS)


def test_a_link_in_the_place_of_the_downloads_is_not_followed(bucket, tmp_path):
    folder, outside = tmp_path / "volume", tmp_path / "outside"
    folder.mkdir()
    outside.mkdir()
    (outside / "theirs").write_bytes(b"theirs")
    staging(folder, 0).symlink_to(outside)
    Download(bucket, LAYOUT, folder).fetch(manifest(bucket.file("step_1/w", WEIGHTS)))
    assert tree(outside) == ["theirs"]
    assert tree(folder) == ["step_1", "step_1/w"]


@pytest.mark.parametrize("version", ["v1", "gone"])
def test_an_object_whose_version_is_gone_is_taken_as_it_is_now(bucket, tmp_path, version):
    """A bucket that was copied has other versions, and the checksums tell whether the objects are the same."""
    Download(bucket, LAYOUT, tmp_path).fetch(manifest(bucket.file("step_1/w", WEIGHTS, version_id=version)))
    assert (tmp_path / "step_1/w").read_bytes() == WEIGHTS


def flipping(times, length):
    """A bucket whose answers of this length arrive with a flipped bit, so many times."""

    class Flipping(Memory):
        left = times

        def answer(self, key, offset, length_, version_id=None):
            body = super().answer(key, offset, length_, version_id)
            if self.left and length_ == length and not offset:
                self.left -= 1
                return bytes([body[0] ^ 1]) + body[1:]
            return body

    return Flipping()


@pytest.mark.parametrize("length", [pytest.param(100_000, id="in one piece"), pytest.param(1000, id="in ranges")])
@pytest.mark.parametrize("times", [1, 1000], ids=["once", "always"])
def test_bytes_that_arrive_damaged_are_asked_for_again_and_never_put_in_place(tmp_path, monkeypatch, length, times):
    monkeypatch.setattr(download, "RANGE_BYTES", length)
    bucket = flipping(times, length)
    whole = manifest(bucket.file("step_1/w", WEIGHTS))
    if times == 1:
        Download(bucket, LAYOUT, tmp_path).fetch(whole)
        assert (tmp_path / "step_1/w").read_bytes() == WEIGHTS
    else:
        with pytest.raises(DamagedError, match="arrive damaged"):
            Download(bucket, LAYOUT, tmp_path).fetch(whole)
        assert not (tmp_path / "step_1").exists()


@pytest.mark.parametrize(
    "body", [b"other", WEIGHTS[:-1], WEIGHTS[:-1] + b"!", None], ids=["shorter", "cut", "flipped", "missing"]
)
def test_an_object_that_differs_is_a_bad_commit_and_leaves_nothing(bucket, tmp_path, body):
    file = bucket.file("step_1/w", WEIGHTS)
    if body is None:
        del bucket.objects[file.key]
    else:
        bucket.objects[file.key] = body
    with pytest.raises(BadCommitError, match="step_1/w"):
        Download(bucket, LAYOUT, tmp_path).fetch(manifest(bucket.file("step_1/a", b"a"), file))
    assert tree(tmp_path) == []


def test_of_a_file_and_a_folder_of_one_name_the_folder_is_restored(bucket, tmp_path):
    first = bucket.file("step_1/w", WEIGHTS)
    second = first.model_copy(update={"size": 1})
    Download(bucket, LAYOUT, tmp_path).fetch(manifest(bucket.file("step_1", b"x"), first, second))
    assert tree(tmp_path) == ["step_1", "step_1/w"]
    assert (tmp_path / "step_1/w").read_bytes() == WEIGHTS, "of two entries of one path, the first"
