"""A download into a real folder, from a bucket in memory: all of it, or nothing."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest
from botocore import exceptions

from trainingrun_operator.checkpoints import download
from trainingrun_operator.checkpoints.bucket import crc64, encode
from trainingrun_operator.checkpoints.documents import Checkpoint, FileEntry, Manifest, PodRef, RunRef
from trainingrun_operator.checkpoints.download import Download, NoSpaceError
from trainingrun_operator.checkpoints.keys import Layout
from trainingrun_operator.checkpoints.proof import BadCommitError

LAYOUT = Layout.of("s3://bucket/prefix", "ml", "bert", "uid")
WEIGHTS = os.urandom(100_000)


@dataclass
class Memory:
    """A bucket in memory, which counts what it is asked for."""

    objects: dict[str, bytes] = field(default_factory=dict)
    asked: list[tuple[int, int]] = field(default_factory=list)

    def get_range(self, key, offset, length, version_id=None):
        self.asked.append((offset, length))
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
    assert Download(bucket, LAYOUT, tmp_path).fetch(manifest(*files)) == len(WEIGHTS)
    assert tree(tmp_path) == ["latest", "step_1", "step_1/l", "step_1/w"]
    assert (tmp_path / "latest/l").read_bytes() == WEIGHTS


@pytest.mark.parametrize(
    "links",
    [
        pytest.param((("esc", "../secret"),), id="it climbs"),
        pytest.param((("d2/e/f/l", "../../.."), ("esc", "d2/e/f/l/../../../secret")), id="through another"),
        pytest.param((("esc", "d/../.."), ("d", "step_1")), id="in any order"),
        pytest.param((("a", "step_1"), ("a", "step_1/w")), id="one name, two links"),
        pytest.param((("step_1", "elsewhere"),), id="the folder of a file"),
    ],
)
def test_a_link_that_leads_out_is_refused_before_a_byte_is_asked_for(bucket, tmp_path, links):
    whole = manifest(bucket.file("step_1/w", WEIGHTS), *(link(*one) for one in links))
    folder = tmp_path / "volume"
    with pytest.raises(BadCommitError):
        Download(bucket, LAYOUT, folder).fetch(whole)
    assert bucket.asked == []
    assert not folder.exists()


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
    with pytest.raises(BadCommitError, match="shorter"):
        Download(bucket, LAYOUT, tmp_path).fetch(manifest(bucket.file("step_1/w", b"x", size=2**60)))
    assert len(bucket.asked) <= 3 * download.THREADS
    assert tree(tmp_path) == []


def test_what_an_earlier_try_has_on_disk_counts_as_there(bucket, tmp_path, monkeypatch):
    """A download that goes on needs space for the rest only."""
    (tmp_path / "step_1").mkdir()
    (tmp_path / "step_1/w.partial").write_bytes(WEIGHTS[:90_000])
    os.sync()
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=5, f_frsize=4096, f_blocks=100))
    Download(bucket, LAYOUT, tmp_path).fetch(manifest(bucket.file("step_1/w", WEIGHTS)))
    assert (tmp_path / "step_1/w").read_bytes() == WEIGHTS
