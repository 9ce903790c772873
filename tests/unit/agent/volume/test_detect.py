"""When a checkpoint is complete."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from dataclasses import replace

import pytest
import trees

from trainingrun_operator.agent.volume import detect, formats, units
from trainingrun_operator.agent.volume.detect import Circumstances
from trainingrun_operator.agent.volume.formats import State
from trainingrun_operator.agent.volume.look import Watcher
from trainingrun_operator.agent.volume.scan import Entry
from trainingrun_operator.api.exchange import AgentConfig


def safetensors(size: int = 100) -> bytes:
    header = json.dumps({"__metadata__": {}, "w": {"data_offsets": [0, size]}}).encode()
    return len(header).to_bytes(8, "little") + header + bytes(size)


def zipped(*, comment: bytes = b"") -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr("data.pkl", b"x" * 1000)
        file.comment = comment
    return out.getvalue()


def zip64() -> bytes:
    """As PyTorch writes it: a zip64 end record although it is small."""
    plain = zipped()
    end = plain.rindex(b"PK\x05\x06")
    length, offset = (int.from_bytes(plain[end + at : end + at + 4], "little") for at in (12, 16))
    record = formats._EOCD64.pack(b"PK\x06\x06", 44, 45, 45, 0, 0, 1, 1, length, offset)
    locator = formats._EOCD64_LOCATOR.pack(b"PK\x06\x07", 0, end, 1)
    tail = formats._EOCD.pack(b"PK\x05\x06", 0, 0, 1, 1, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    return plain[:end] + record + locator + tail


def probe(name: str, content: bytes) -> formats.Probe:
    return formats.probe(name, len(content), lambda offset, length: content[offset : offset + length])


INDEX = json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}})


@pytest.mark.parametrize(
    ("name", "content", "state"),
    [
        ("model.safetensors", safetensors(), State.WHOLE),
        ("model.safetensors", safetensors(0), State.WHOLE),
        ("model.safetensors", safetensors()[:-1], State.BROKEN),
        ("model.safetensors", safetensors() + b"x", State.BROKEN),
        ("model.safetensors", safetensors()[:20], State.BROKEN),
        ("model.safetensors", b"", State.BROKEN),
        ("model.safetensors", bytes(64), State.BROKEN),
        ("model.pt", zipped(), State.WHOLE),
        ("model.pt", zipped(comment=b"hello"), State.WHOLE),
        ("model.pt", zip64(), State.WHOLE),
        ("model.pt", zip64()[:-1], State.BROKEN),
        ("model.ckpt", zipped()[:-1], State.BROKEN),
        ("model.ckpt", zipped()[:500], State.BROKEN),
        ("model.pth", b"", State.BROKEN),
        ("model.pt", b"\x80\x02pickle.", State.PLAIN),
        ("state.json", b'{"a": 1}', State.WHOLE),
        ("state.json", b'{\n"a": ', State.BROKEN),
        ("state.json", b"", State.BROKEN),
        ("lines.json", b'{"a": 1}\n{"a": 2}\n', State.PLAIN),
        ("weights.dat", b"x", State.PLAIN),
        ("a.json", b"[" * 100_000, State.PLAIN),
        ("a.safetensors", (100_000).to_bytes(8, "little") + b"[" * 100_000, State.BROKEN),
        ("w.h5", trees.hdf5(), State.WHOLE),
        ("w.h5", trees.hdf5(version=2), State.WHOLE),
        ("w.h5", trees.hdf5(version=1), State.WHOLE),
        ("w.hdf5", trees.hdf5(user_block=512), State.WHOLE),
        ("w.weights.h5", trees.hdf5()[:160], State.BROKEN),
        ("w.weights.h5", trees.hdf5(version=3)[:-1], State.BROKEN),
        ("w.h5", trees.hdf5() + b"x", State.BROKEN),
        ("w.h5", trees.hdf5()[:20], State.BROKEN),
        ("w.h5", b"", State.BROKEN),
        ("w.h5", bytes(96), State.BROKEN),
        ("w.h5", b"another format of this suffix", State.PLAIN),
        ("w.npy", trees.npy(), State.WHOLE),
        ("w.npy", trees.npy()[:-1], State.BROKEN),
        ("w.npy", trees.npy()[:20], State.BROKEN),
        ("w.pkl", zipped(), State.WHOLE),
        ("w.pkl", zipped()[:-1], State.BROKEN),
        ("w.pkl", pickle.dumps([1] * 100), State.PLAIN),
        ("w.pkl", pickle.dumps([1] * 100)[:-1], State.BROKEN),
        ("w.pt", bytes(100), State.BROKEN),
        ("w.pt", formats._OLD_TORCH + b"x", State.PLAIN),
        ("w.pth.tar", zipped()[:-1], State.BROKEN),
        (".metadata", trees.metadata("__0_0.distcp"), State.PLAIN),
        (".metadata", b"", State.BROKEN),
    ],
    ids=[
        "a safetensors file whose size adds up is whole",
        "a safetensors file without tensors is whole",
        "a safetensors file one byte short is broken",
        "a safetensors file with a byte too many is broken",
        "a safetensors file cut within its header is broken",
        "an empty safetensors file is broken",
        "a safetensors file of zeros is broken",
        "a zip is whole",
        "a zip with a comment is whole",
        "a zip64 is whole",
        "a zip64 one byte short is broken",
        "a zip one byte short is broken",
        "a zip without its directory is broken",
        "an empty zip is broken",
        "a pickle says nothing",
        "JSON that parses is whole",
        "JSON that is cut is broken",
        "empty JSON is broken",
        "JSON lines are never finished",
        "an unknown format says nothing",
        "JSON that is nested too deeply says nothing",
        "a header that is nested too deeply is broken",
        "an HDF5 file whose size is the superblock's end is whole",
        "also with a superblock of version 2",
        "or 1",
        "or behind a user block",
        "an HDF5 file that was cut is broken",
        "by one byte is enough",
        "an HDF5 file that is larger than its end is still open",
        "an HDF5 file cut within its superblock is broken",
        "an empty HDF5 file is broken",
        "an HDF5 file whose superblock is not written yet is broken",
        "a file that only has its suffix says nothing",
        "a numpy array of its size is whole",
        "a numpy array that was cut is broken",
        "also within its header",
        "a zip may have a pickle's suffix",
        "and is broken if it was cut",
        "a pickle with its end says nothing more",
        "a pickle without its end is broken",
        "a file of zeros is broken",
        "PyTorch's old format says nothing",
        "a zip may have the suffix of an archive",
        "metadata of a distributed checkpoint",
        "without a byte are broken",
    ],
)
def test_a_files_own_format(name, content, state):
    assert probe(name, content).state is state


def verdict(files: dict[str, bytes], *, quiet: float = 0, ended: bool = False, folder="checkpoint-1", **about):
    paths = {f"{folder}/{name}": content for name, content in files.items()} if folder != "." else files
    entries = {path: Entry(len(content), 1, 1, 0o644) for path, content in paths.items()}
    split = units.split(entries)
    unit = split.numbered[0] if split.numbered else split.rest
    assert unit
    probes = {path: probe(path, content) for path, content in paths.items()}
    return detect.judge(unit, probes, Circumstances(quiet, 10, ended, **about))


HF = {"model.safetensors": safetensors(), "training_args.bin": zipped()}
STATE = {"trainer_state.json": b"{}"}
SHARDS = {f"model-0000{n}-of-00002.safetensors": safetensors() for n in (1, 2)}


@pytest.mark.parametrize(
    ("files", "about", "complete", "word"),
    [
        (HF | STATE, {"quiet": 1.5}, True, "trainer_state.json"),
        (HF | STATE, {"quiet": 0.5}, False, "changed"),
        (HF, {"quiet": 1000}, False, "no trainer_state.json"),
        (HF, {"ended": True}, False, "no trainer_state.json"),
        (HF | {"trainer_state.json": b"{"}, {"quiet": 1000}, False, "does not parse"),
        (SHARDS | STATE | {"m.index.json": INDEX.encode()}, {"quiet": 2}, True, "trainer_state.json"),
        ({"m.index.json": INDEX.encode()} | STATE, {"quiet": 2}, False, "model-00001-of-00002.safetensors is missing"),
        (
            dict([next(iter(SHARDS.items()))]),
            {"ended": True, "folder": "step-1"},
            False,
            "00002-of-00002.safetensors is missing",
        ),
        ({"w.dat": b"x"}, {"quiet": 9}, False, "needs 10 s"),
        ({"w.dat": b"x"}, {"quiet": 11}, True, "unchanged for 10 s"),
        ({"w.dat": b"x"}, {"ended": True}, True, "ended"),
        ({"w.dat": b"x"}, {"ended": True, "lacking": "v.dat"}, False, "v.dat is missing"),
        (STATE | {"w.dat": b"x"}, {"ended": True, "lacking": "v.dat"}, True, "trainer_state.json"),
        ({"w.dat": b"x"}, {"ended": True, "temporary": "v.tmp"}, False, "v.tmp"),
        (HF, {"quiet": 10, "folder": "epoch-1"}, True, "unchanged"),
        ({"__8_0.distcp": b"x"}, {"ended": True, "alone": False, "folder": "step-1"}, True, "ended"),
        ({"__0_0.distcp": b"x"}, {"ended": True, "alone": False, "folder": "step-1"}, False, "no .metadata"),
        (
            {"__0_0.distcp": b"x", ".metadata": b"__8_0.distcp"},
            {"ended": True, "alone": False, "folder": "step-1"},
            True,
            ".metadata",
        ),
        ({"model.safetensors": safetensors()[:-1]}, {"ended": True, "quiet": 99}, False, "bytes"),
        ({".metadata": b"x", "__0_0.distcp": b"x"}, {"quiet": 1.5, "folder": "step-1"}, True, ".metadata"),
        ({"model-5.pt": zipped()}, {"folder": "."}, False, "needs 10 s"),
        ({"model-5.pt": zipped()}, {"folder": ".", "quiet": 1}, True, "central directory"),
        ({"model-5.pt": zipped()}, {"folder": ".", "precedent": True}, True, "central directory"),
        ({"model-5.pt": zipped()[:-1]}, {"folder": ".", "ended": True}, False, "central directory"),
        ({"model.pt": zipped()}, {"folder": "."}, False, "needs 10 s"),
        ({"model.pt": zipped()}, {"folder": ".", "quiet": 10}, True, "unchanged"),
    ],
    ids=[
        "Hugging Face's last file completes a checkpoint at once",
        "but other ranks get a second",
        "without it a checkpoint is unfinished however long it is quiet",
        "and also when the training has ended",
        "half of it does not count",
        "an index with all of its shards is complete",
        "an index without its shards is not",
        "a shard says how many there are",
        "an unknown format waits for quiet",
        "and is complete after it",
        "or when the training has ended",
        "unless it lacks a file that the others have",
        "which does not matter if its last file is there",
        "or a file is half-written in it",
        "a model saved with its arguments is no checkpoint of the Trainer",
        "the files of another pod's ranks come without the metadata",
        "which is where rank 0's files are",
        "and that pod does not have the files of all ranks",
        "a broken file outweighs quiet and end",
        "a distributed checkpoint is complete with its metadata",
        "a second file of its number may follow a single whole one",
        "which is complete a moment later",
        "or at once if an older one had no second file",
        "a single broken file is not",
        "a tree without numbers waits for quiet whatever its files say",
        "and is complete after it",
    ],
)
def test_a_unit(files, about, complete, word):
    found = verdict(files, **about)
    assert found.complete is complete
    assert word in found.evidence


def seen(step: int, *mtimes: int, complete: bool = True) -> detect.Seen:
    files = {f"{i}": Entry(1, mtime, 1, 0o644) for i, mtime in enumerate(mtimes)}
    unit = units.Unit(f"step_{step}", f"step_{step}", files, units.Number(-1, step))
    return detect.Seen(unit, detect.Verdict(complete, ""))


@pytest.mark.parametrize(
    ("lot", "expected"),
    [
        ([seen(100, 10), seen(200, 20)], 200),
        ([seen(100, 10, 30), seen(200, 20)], 200),
        ([seen(100, 10), seen(200, 20, 21), seen(50, 30, 31)], 50),
        ([seen(100, 40), seen(200, 20), seen(50, 30)], 100),
        ([seen(100, 50), seen(200, 20), seen(150, 30), seen(50, 60)], 50),
        ([seen(200, 20), seen(50, 30, complete=False)], 200),
        ([seen(100, 20), seen(2000, 1)], 100),
        ([seen(100, 2), seen(2000, 1)], 2000),
        ([seen(100, 10), seen(200, 20, complete=False)], 100),
        ([], None),
    ],
    ids=[
        "the later step is the newest",
        "also when an evaluator wrote into the older one",
        "a lower step written as a whole after it is of a later stage",
        "of a later stage the later step is the newest",
        "a third stage comes after the second",
        "an unfinished one of a later stage is not yet the newest",
        "what an earlier pod left counts only until this one has written",
        "and counts while it has not",
        "an unfinished one is not the newest",
        "of none there is none",
    ],
)
def test_the_newest(lot, expected):
    newest = detect.newest(lot, since_ns=5)
    assert (newest.unit.step if newest else None) == expected


@pytest.fixture
def watcher(tmp_path):
    config = AgentConfig(
        namespace="n", run="r", run_uid="u", path=str(tmp_path), destination="s3://bucket", quiet_seconds=10
    )
    return Watcher(config, "STOP_TRAINING")


def test_a_watcher_sees_growth_and_quiet(tmp_path, watcher):
    (tmp_path / "step_1").mkdir()
    (tmp_path / "step_1/w.dat").write_text("x")
    assert not watcher.look().seen[0].complete
    assert watcher.look(ended=True).seen[0].complete
    os.utime(tmp_path / "step_1/w.dat", (1, 1))
    assert not watcher.look().seen[0].complete  # changed just now, whatever its time says


def test_at_the_first_look_the_files_own_times_count(tmp_path, watcher):
    (tmp_path / "step_1").mkdir()
    (tmp_path / "step_1/w.dat").write_text("x")
    os.utime(tmp_path / "step_1/w.dat", (1, 1))
    assert watcher.look().seen[0].complete


def test_a_log_that_grows_for_ever_keeps_nothing_open(tmp_path, watcher):
    (tmp_path / "model.dat").write_text("x")
    os.utime(tmp_path / "model.dat", (1, 1))
    (tmp_path / "train.log").write_text("x")
    assert watcher.look().seen[0].complete


def test_deepspeeds_pointer_completes_what_it_names(tmp_path, watcher):
    for step in (100, 200):
        (tmp_path / f"global_step{step}").mkdir()
        (tmp_path / f"global_step{step}/w.dat").write_text("x")
        os.utime(tmp_path / f"global_step{step}/w.dat", (1, 1))
    (tmp_path / "latest").write_text("global_step100")
    assert [one.complete for one in watcher.look().seen] == [True, False]
    (tmp_path / "latest").write_text("global_step200")
    assert [one.complete for one in watcher.look().seen] == [True, True]


def test_a_later_stage_is_of_the_same_kind_of_numbers():
    step, epoch, merged = seen(900, 10), seen(1, 30), seen(900, 40)
    epoch = replace(epoch, unit=replace(epoch.unit, number=units.Number(-1, None, 3)))
    merged = replace(merged, unit=replace(merged.unit, derived=True))
    found = detect.newest([step, epoch, merged], 0)
    assert found == step


def test_what_has_been_incomplete_for_long_is_not_being_written():
    whole, half = seen(100, 10), seen(200, 20, complete=False)
    assert detect.being_written([whole, half], 0) == half
    assert detect.being_written([whole, replace(half, quiet=detect.WRITING_SECONDS)], 0) is None
    assert detect.being_written([seen(300, 30), half], 0) is None, "a newer one is complete"
