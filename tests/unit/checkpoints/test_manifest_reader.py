"""A manifest is read in pieces: the same as whole, whatever its size, in a few MiB and without long holds."""

from __future__ import annotations

import gc
import hashlib
import json
import subprocess
import sys
import textwrap
import tracemalloc

import pytest
from cpu import REPEATS, longest_step

from trainingrun_operator.checkpoints.documents import (
    Checkpoint,
    FileEntry,
    Manifest,
    PodRef,
    RankManifest,
    RunRef,
    Skipped,
)
from trainingrun_operator.checkpoints.manifest_reader import ManifestReader, Piece
from trainingrun_operator.checkpoints.proof import BadCommitError

PIECE = 256 * 1024
HOLD_SECONDS = 0.05
PEAK_BYTES = 4 * 2**20

AWKWARD = (
    "a/plain.bin",
    'quote".bin',
    "back\\slash\\",
    '{"path":"x"},[',
    '"files":[{}]',
    "line\nfeed",
    r"\udcff\udcfe",
    "ünïcode/猫",
    "x" * 4096,
)


def manifest(paths=AWKWARD, **fields):
    files = tuple(FileEntry(path=path, size=number, key=f"k/{number}") for number, path in enumerate(paths))
    return Manifest(
        run=RunRef(namespace="ml", name="bert", uid="u"),
        pod=PodRef(name="bert-0", uid="p"),
        incarnation=1,
        generation=7,
        checkpoint=Checkpoint(dir='odd"[{', step=3, complete=True, evidence='says "files":[ and more'),
        files=files,
        total_files=len(files),
        **fields,
    )


def dumped(written, **options):
    body = written.model_dump(mode="json", by_alias=True, exclude_none=True)
    return json.dumps(body, **options).encode()


class Reading:
    """A reader that is fed what it wants."""

    def __init__(self, reader, pieces):
        self.reader, self.pieces = reader, pieces

    def __getattr__(self, name):
        return getattr(self.reader, name)

    def files(self):
        """The next files; empty only at the end."""
        while self.reader.head is None:
            if self.reader.wants:
                self.reader.feed(next(self.pieces))
            if files := self.reader.files():
                return files
        return []


def reader_of(body, *, piece=PIECE, files_max=200_000):
    starts = range(0, max(len(body), 1), piece)
    pieces = (Piece(body[at : at + piece], at + piece >= len(body)) for at in starts)
    entry = RankManifest(rank=0, incarnation=1, key="k", sha256=hashlib.sha256(body).hexdigest())
    return Reading(ManifestReader(entry, files_max), pieces)


def read(reader):
    found = []
    while files := reader.files():
        found += files
    return found


def drain(reader):
    while reader.files():
        pass


WRITTEN = manifest(skipped=(Skipped(path='fifo"]}', reason="a pipe", regular=False),))


@pytest.mark.parametrize("piece", [1, 7, 100, 4099, PIECE])
@pytest.mark.parametrize(
    "body",
    [
        pytest.param(WRITTEN.model_dump_json(by_alias=True, exclude_none=True).encode(), id="as agents write it"),
        pytest.param(dumped(WRITTEN, indent=2), id="indented"),
        pytest.param(dumped(WRITTEN, sort_keys=True, ensure_ascii=True), id="in another order, escaped"),
        pytest.param(dumped(manifest(paths=())), id="without files"),
        pytest.param(dumped(manifest(paths=()), indent=1), id="without files, indented"),
    ],
)
def test_read_in_pieces_it_is_the_same_as_read_whole(body, piece):
    whole = Manifest.model_validate_json(body, by_alias=True, by_name=False)
    reader = reader_of(body, piece=piece)
    assert tuple(read(reader)) == whole.files
    assert reader.listed == len(whole.files)
    assert reader.head == whole.model_copy(update={"files": (), "skipped": ()})
    assert reader.skipped is None


def test_a_list_that_is_missing_is_empty():
    body = WRITTEN.model_dump(mode="json", by_alias=True, exclude_none=True)
    del body["files"], body["skipped"]
    reader = reader_of(json.dumps(body).encode())
    assert read(reader) == []
    assert reader.head is not None


def test_a_regular_file_that_was_skipped_is_found_among_thousands():
    skipped = [Skipped(path=f"s{number}", reason="a socket", regular=False) for number in range(5000)]
    skipped[4321] = Skipped(path="weights", reason="unreadable", regular=True)
    reader = reader_of(dumped(manifest(skipped=tuple(skipped))))
    read(reader)
    assert reader.skipped == skipped[4321]


def test_the_digest_is_checked_before_the_last_piece_is_parsed():
    reader = reader_of(b"no json at all")
    reader.reader._entry = reader._entry.model_copy(update={"sha256": "0" * 64})
    with pytest.raises(BadCommitError, match="SHA-256 differs"):
        read(reader)


HEAD = dumped(manifest(paths=())).removesuffix(b', "files": []}')
assert HEAD.endswith(b'""')
MIB = 2**20


def bomb(unit, size=8 * MIB, *, end=b"]}"):
    """A manifest whose list of files is this many bytes of one unit."""
    return HEAD + b',"files":[' + b",".join([unit] * (size // (len(unit) + 1))) + end


BOMBS = [
    pytest.param(lambda: bomb(b'{"path":""}'), "more than 200000 files", id="as many empty entries as fit"),
    pytest.param(lambda: bomb(b'{"path":"","linkTarget":""}'), "more than 200000 files", id="links"),
    pytest.param(lambda: bomb(b"{}"), r"files\.path is invalid \(missing\)", id="entries without a field"),
    pytest.param(lambda: bomb(b"[]"), "entry 1 of its files is not a flat object|longer than", id="lists in the list"),
    pytest.param(lambda: bomb(b'{"path":"","x":[{}]}'), "not a flat object|longer than", id="entries with entries"),
    pytest.param(lambda: bomb(b'{"path":"x' + b"y" * MIB + b'"}'), "longer than 65536 bytes", id="one long path"),
    pytest.param(lambda: bomb(b'{"path":"x","size":' + b"9" * 5000 + b"}"), "is invalid", id="numbers of 5,000 digits"),
    pytest.param(lambda: bomb(b'{"path":"x"}', end=b""), "more than 200000 files", id="no end"),
    pytest.param(lambda: HEAD + b',"x":[' + b"{}," * (5 * MIB) + b"{}]}", "longer than 65536", id="an unknown field"),
    pytest.param(lambda: b"[" * (16 * MIB), "longer than 65536", id="nothing but brackets"),
    pytest.param(lambda: b" " * (16 * MIB), "longer than 65536", id="nothing but spaces"),
    pytest.param(
        lambda: HEAD + b',"files":[' + b" " * (16 * MIB) + b"]}", "longer than 65536", id="spaces in the list"
    ),
    pytest.param(lambda: HEAD + b',"files":[' + b"\\" * (16 * MIB), "longer than 65536", id="backslashes"),
    pytest.param(lambda: HEAD + b',"files":[{"' + b'\\"' * (8 * MIB), "longer than 65536", id="escaped quotes"),
    pytest.param(
        lambda: HEAD.replace(b'"skipped": []', b'"skipped": [' + b"{}," * (5 * MIB) + b"{}]") + b"}",
        r"skipped\.\w+ is invalid \(missing\)",
        id="skipped files without a field",
    ),
    pytest.param(
        lambda: HEAD + b',"f\\u0069les":[' + b'{"path":""},' * 5000 + b'{"path":""}]}',
        "names with escapes",
        id="a list whose name is escaped",
    ),
    pytest.param(
        lambda: HEAD + b',"files":[{"path":"a"}],"files":[' + b'{"path":""},' * (MIB + MIB // 2) + b'{"path":""}]}',
        "more than 200000 files",
        id="a second list of the same name",
    ),
    pytest.param(lambda: b"", "does not parse", id="no byte"),
    pytest.param(lambda: b"\x00" * 1000, "does not parse", id="no JSON"),
    pytest.param(lambda: HEAD + b',"files":[{"path":"a"},', "not a flat object", id="cut off"),
    pytest.param(lambda: HEAD + b',"files":[{"path":"a"} {"path":"b"}]}', "not a flat object", id="no comma"),
    pytest.param(lambda: HEAD + b',"files":[', "not a flat object", id="cut off at the list"),
]


@pytest.mark.parametrize(("made", "said"), BOMBS)
def test_whatever_lies_in_the_bucket_is_refused_in_a_few_mib(made, said):
    reader = reader_of(made(), files_max=20_000)
    tracemalloc.start()
    try:
        with pytest.raises(BadCommitError, match=said):
            drain(reader)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < PEAK_BYTES


@pytest.fixture
def frozen():
    """Collections of garbage leave out what the test process has in memory, as in the operator."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("frozen")
@pytest.mark.parametrize(("made", "said"), BOMBS)
def test_no_part_of_it_keeps_other_threads_waiting(made, said):
    """CPU time of one call at most: a call holds the interpreter's lock no longer than it computes."""
    body = made()
    readers = [reader_of(body) for _ in range(REPEATS)]

    def calls():
        reader = readers.pop()
        with pytest.raises(BadCommitError, match=said):
            yield from iter(reader.files, [])

    assert longest_step(calls) < HOLD_SECONDS


def test_an_entry_of_the_longest_path_fits():
    path = r"\udcff" * 4096
    body = manifest(paths=(path,)).model_dump_json(by_alias=True).encode()
    assert [file.path for file in read(reader_of(body))] == [path]


def test_the_largest_manifest_that_the_documents_allow_takes_a_few_mib():
    """200,000 files in 64 MiB, generated as they are read; the growth of the whole process."""
    script = """
        import hashlib, resource
        from trainingrun_operator.checkpoints.documents import *
        from trainingrun_operator.checkpoints.manifest_reader import ManifestReader, Piece
        head = Manifest(run=RunRef(namespace="ml", name="b", uid="u"), pod=PodRef(name="b-0", uid="p"), incarnation=1, generation=1)
        start, end = head.model_dump_json(by_alias=True, exclude_none=True).removesuffix("]}"), "]}"
        def entry(number):
            path = f"checkpoint-1200/{'x' * 8}_{number:06d}-model_states.pt"
            return FileEntry(path=path, size=number, mtime_ns=1764460800123456789, key=f"team/a/ml/b/{'0' * 36}/r0/i1-g0001-b-0/{path}",
                etag='"d41d8cd98f00b204e9800998ecf8427e"', crc64nvme="AAAAAAAAAAA=").model_dump_json(by_alias=True, exclude_none=True)
        def pieces():
            rest = start.encode()
            for number in range(FILES_MAX):
                rest += (("," if number else "") + entry(number)).encode()
                if len(rest) > 256 * 1024:
                    yield Piece(rest, False)
                    rest = b""
            yield Piece(rest + end.encode(), True)
        digest, size = hashlib.sha256(), 0
        for piece in pieces():
            digest.update(piece.body); size += len(piece.body)
        assert 55 * 2**20 < size <= MANIFEST_MAX_BYTES, size
        reader, fed = ManifestReader(RankManifest(rank=0, incarnation=1, key="k", sha256=digest.hexdigest())), pieces()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        while reader.head is None:
            if reader.wants:
                reader.feed(next(fed))
            reader.files()
        print(reader.listed, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, capture_output=True, text=True)
    listed, grown = map(int, done.stdout.split())
    assert listed == 200_000
    assert grown < PEAK_BYTES
