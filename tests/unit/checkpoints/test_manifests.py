"""Agent, restore and plugin read a manifest as the operator does: in pieces, and the same as it was written."""

from __future__ import annotations

import ast
import hashlib
import tracemalloc
from pathlib import Path

import pytest
from builders import BASE, make_commit

import trainingrun_operator
from trainingrun_operator.checkpoints import bucket, manifests, s3
from trainingrun_operator.checkpoints.documents import (
    MANIFEST_MAX_BYTES,
    FileEntry,
    Manifest,
    PodRef,
    RankManifest,
    RunRef,
    Skipped,
)
from trainingrun_operator.checkpoints.keys import Layout
from trainingrun_operator.checkpoints.proof import BadCommitError

KEY = "runs/ml/bert/u/r0/i1-g0001-bert-0.manifest.json"
MIB = 2**20


class Stored:
    """A bucket with one object; counts what is read of it."""

    def __init__(self, body, key=KEY):
        self.body, self.key, self.read = body, key, 0

    def read_range(self, key, start):
        if key != self.key:
            return None
        piece = self.body[start : start + s3.PIECE_BYTES]
        self.read += len(piece)
        return piece, len(self.body)

    def head(self, key):
        return bucket.Stored(len(self.body), bucket.encode(bucket.crc64(self.body))) if key == self.key else None


class Flipping(Stored):
    """The same behind a line that flips a bit of the first answers."""

    def __init__(self, body, times):
        super().__init__(body)
        self.times = times

    def read_range(self, key, start):
        body, size = super().read_range(key, start)
        self.times -= 1
        return (bytes([body[0] ^ 1]) + body[1:] if self.times >= 0 else body), size


def written(files=3, **fields):
    entries = tuple(FileEntry(path=f"step-1/{n}", size=n, key=f"k/{n}", crc64nvme="AAAAAAAAAAA=") for n in range(files))
    return Manifest(
        run=RunRef(namespace="ml", name="bert", uid="u"),
        pod=PodRef(name="bert-0", uid="p"),
        incarnation=1,
        generation=1,
        files=entries,
        total_files=len(entries),
        **fields,
    )


def dumped(manifest):
    return manifest.model_dump_json(by_alias=True, exclude_none=True).encode()


def named(body, sha256=""):
    return RankManifest(rank=0, incarnation=1, key=KEY, sha256=sha256 or hashlib.sha256(body).hexdigest())


@pytest.mark.parametrize("files", [0, 1, 5000])
def test_it_is_the_same_as_it_was_written_with_everything_that_was_skipped(files):
    skipped = (Skipped(path="fifo", reason="a pipe", regular=False), Skipped(path="w", reason="unread", regular=True))
    manifest = written(files, skipped=skipped, previous="before", written_at="2026-01-01T00:00:00Z", final=True)
    body = dumped(manifest)
    read = manifests.read_manifest(Stored(body), KEY, named(body))
    assert (read.manifest, read.digest) == (manifest, hashlib.sha256(body).hexdigest())
    assert dumped(read.manifest) == body


@pytest.mark.parametrize("times", [1, 2, 3, 4])
def test_what_is_damaged_on_its_way_is_no_complaint_about_the_manifest(times):
    body = dumped(written())
    line = Flipping(body, times)
    for _ in range((times + 1) // 2):
        with pytest.raises(bucket.DamagedError):
            manifests.read_manifest(line, KEY, named(body))
    assert manifests.read_manifest(line, KEY, named(body)).manifest == written()


@pytest.mark.parametrize(
    ("body", "said"),
    [
        pytest.param(dumped(written()).replace(b'"schema":2', b'"schema":3'), "has schema 3", id="another schema"),
        pytest.param(dumped(written()).replace(b'"path"', b'"pa"'), "does not parse", id="files without a path"),
        pytest.param(dumped(written(5000))[:-9], "does not parse", id="no end"),
        pytest.param(
            dumped(written(5000)).replace(b'"k/9"', b'[["k/9"]]'), "does not parse", id="an entry in the middle"
        ),
    ],
)
def test_a_complaint_about_the_very_bytes_that_the_commit_names_is_no_damage(body, said):
    with pytest.raises(BadCommitError, match=said):
        manifests.read_manifest(Stored(body), KEY, named(body))


def test_files_come_in_pieces_and_the_head_without_them():
    body, sizes = dumped(written(5000)), []
    read = manifests.read_head(Stored(body), KEY, None, lambda files: sizes.append(len(files)))
    assert (read.listed, sum(sizes), read.digest) == (5000, 5000, hashlib.sha256(body).hexdigest())
    assert max(sizes) <= 256
    assert read.head == written(0).model_copy(update={"files": (), "total_files": 5000})


@pytest.mark.parametrize(
    ("bucket", "entry", "said"),
    [
        pytest.param(Stored(b"", "other"), None, "is not in the bucket", id="missing"),
        pytest.param(Stored(b""), None, "does not parse", id="empty"),
        pytest.param(Stored(dumped(written())), named(b"", "0" * 64), "SHA-256 differs", id="another digest"),
        pytest.param(
            Stored(dumped(written()).replace(b'"schema":2', b'"schema":3')),
            None,
            "it has schema 3",
            id="another schema",
        ),
        pytest.param(Stored(dumped(written()) + b"x"), None, "does not parse", id="more than a manifest"),
    ],
)
def test_anything_else_is_refused(bucket, entry, said):
    with pytest.raises(BadCommitError, match=said):
        manifests.read_manifest(bucket, KEY, entry)


def test_one_that_is_too_large_is_refused_by_its_size_before_the_rest_is_read():
    class Huge(Stored):
        def read_range(self, key, start):
            piece, _ = super().read_range(key, start)
            return piece, MANIFEST_MAX_BYTES + 1

    bucket = Huge(dumped(written(5000)))
    with pytest.raises(BadCommitError, match="is larger than"):
        manifests.read_head(bucket, KEY)
    assert bucket.read <= s3.PIECE_BYTES


def test_a_store_that_sends_more_than_was_asked_for_is_refused():
    class Loud(Stored):
        def read_range(self, key, start):
            raise s3.TooLargeError

    with pytest.raises(BadCommitError, match="sends more of"):
        manifests.read_head(Loud(b""), KEY)


@pytest.mark.parametrize("unit", [b"{}", b"[]", b'{"path":""}', b'{"path":"","linkTarget":""}', b'""'])
def test_a_hostile_one_costs_an_agent_a_few_mib(unit):
    start = dumped(written(0)).removesuffix(b"]}")
    assert start.endswith(b'"files":[')
    bucket = Stored(start + b",".join([unit] * (12 * MIB // (len(unit) + 1))) + b"]}")
    tracemalloc.start()
    try:
        with pytest.raises(BadCommitError):
            manifests.read_head(bucket, KEY)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * MIB


def test_one_of_another_run_is_refused_by_its_commit():
    body, key = dumped(written()), f"{BASE}r0/i1-g0001-bert-0.manifest.json"
    entry = named(body).model_copy(update={"key": key})
    for load in (manifests.load_head, manifests.load_manifest):
        with pytest.raises(BadCommitError, match="belongs to another run"):
            load(Stored(body, key), Layout("bucket", BASE), make_commit(), entry)


@pytest.mark.parametrize("load", [manifests.load_head, manifests.load_manifest])
def test_no_request_is_made_for_a_key_of_another_run(load):
    with pytest.raises(BadCommitError, match="outside this run's prefix"):
        load(None, Layout("bucket", BASE), make_commit(), named(b"").model_copy(update={"key": "runs/ml/other/m"}))


def test_nothing_else_parses_a_manifest():
    """Besides the reader, only a model is named with `model_validate`: never the manifest's."""
    found = []
    for path in Path(trainingrun_operator.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and node.attr.startswith("model_validate"):
                owner = ast.unparse(node.value)
                if owner in {"Manifest", "ManifestHead"} or "document" in owner:
                    found.append(f"{path.name}: {owner}.{node.attr}")
    assert found == []
