"""Which files belong together."""

from __future__ import annotations

import pytest

from trainingrun_operator.agent.volume import units
from trainingrun_operator.agent.volume.scan import Entry, Filter, scan
from trainingrun_operator.agent.volume.units import Number


def entries(*paths: str):
    return {path: Entry(1, number, number, 0o644) for number, path in enumerate(paths)}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("checkpoint-1200", Number(1200, 1200)),
        ("step_1200", Number(1200, 1200)),
        ("global_step1200", Number(1200, 1200)),
        ("epoch=3-step=1200", Number(1200, 1200)),
        ("epoch=3-step=1200.ckpt", Number(1200, 1200)),
        ("1200", Number(1200, 1200)),
        ("iter_0001200", Number(1200, 1200)),
        ("epoch_3", Number(3, None)),
        ("run-2024", None),
        ("rank0", None),
        ("logs", None),
    ],
    ids=[
        "Hugging Face's folder",
        "a step folder",
        "DeepSpeed's folder",
        "Lightning's name counts by step, not by epoch",
        "Lightning's sharded folder",
        "digits only",
        "Megatron's folder with leading zeros",
        "an epoch orders but is no step",
        "a year is no step",
        "a rank is no step",
        "a name without a number",
    ],
)
def test_the_number_in_a_folders_name(name, expected):
    assert units.number_of(name) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("model-1200.pt", Number(1200, 1200)),
        ("epoch=1-step=200.ckpt", Number(200, 200)),
        ("ckpt_500.npz", Number(500, 500)),
        ("model-00001-of-00003.safetensors", None),
        ("rng_state_0.pth", None),
        ("events.out.tfevents.1700000000.host", None),
        ("model-abc123.pt", None),
        ("notes-1200.txt", None),
        ("last.ckpt", None),
    ],
    ids=[
        "a trailing number",
        "Lightning's file",
        "a keyword and a number",
        "a shard is no step",
        "a rank's state is no step",
        "a log's time is no step",
        "a hash is no step",
        "a text is no checkpoint",
        "no number at all",
    ],
)
def test_the_number_in_a_files_name(name, expected):
    assert units.number_of_file(name) == expected


@pytest.mark.parametrize(
    ("paths", "numbered", "rest"),
    [
        (["checkpoint-2/a", "checkpoint-10/a", "latest"], ["checkpoint-2", "checkpoint-10"], ["latest"]),
        (["model-1.pt", "model-2.pt", "log.txt"], ["model-1.pt", "model-2.pt"], ["log.txt"]),
        (["checkpoint-1/a", "model-9.pt"], ["checkpoint-1"], ["model-9.pt"]),
        (["model-1.pt", "optim-1.pt"], ["."], []),
        (["a/checkpoint-1/x", "model.pt"], [], ["a/checkpoint-1/x", "model.pt"]),
        ([], [], []),
    ],
    ids=[
        "numbered folders go by number, not by name",
        "without folders, numbered files are units",
        "beside numbered folders, a numbered file is rest",
        "files of the same number belong together",
        "only direct children are units",
        "nothing is nothing",
    ],
)
def test_files_are_sorted_into_units(paths, numbered, rest):
    split = units.split(entries(*paths))
    assert [unit.dir for unit in split.numbered] == numbered
    assert sorted(split.rest.files if split.rest else ()) == sorted(rest)


@pytest.mark.parametrize(
    ("include", "exclude", "path", "kept"),
    [
        (["**"], [], "a/b.pt", True),
        (["**"], ["*.log"], "deep/down/train.log", False),
        (["**"], ["wandb"], "wandb/run/x", False),
        (["**"], ["cache/**"], "cache/x", False),
        (["**"], ["cache/**"], "other/cache/x", True),
        (["checkpoint-*/**"], [], "checkpoint-1/a/b", True),
        (["checkpoint-*/**"], [], "logs/x", False),
        (["*.pt", "*.json"], [], "a/b.json", True),
        (["**/model.pt"], [], "model.pt", True),
        (["a?c[0-9].pt"], [], "abc7.pt", True),
        (["**"], [], "STOP_TRAINING", False),
        (["**"], [], "checkpoint-1/STOP_TRAINING", True),
    ],
    ids=[
        "everything by default",
        "a bare name matches at any depth",
        "a folder's name holds for what is in it",
        "a pattern with a slash starts at the top",
        "and only there",
        "a star stops at a slash, two do not",
        "what no pattern includes is left out",
        "one of several patterns is enough",
        "two stars and a slash match nothing as well",
        "single characters and classes",
        "the stop file never counts",
        "but one inside a checkpoint is the checkpoint's",
    ],
)
def test_globs_choose_what_counts(include, exclude, path, kept):
    assert Filter(include, exclude, own=["STOP_TRAINING"]).keeps(path) is kept


def test_a_scan_follows_no_link_and_passes_over_unfinished_names(tmp_path):
    (tmp_path / "checkpoint-1").mkdir()
    (tmp_path / "checkpoint-1/model.pt").write_text("x")
    (tmp_path / "tmp-checkpoint-2").mkdir()
    (tmp_path / "tmp-checkpoint-2/model.pt").write_text("x")
    (tmp_path / "a.partial").write_text("x")
    (tmp_path / ".tmp_a").write_text("x")
    (tmp_path / "loop").symlink_to(tmp_path)
    found = scan(str(tmp_path), Filter())
    assert set(found.entries) == {"checkpoint-1/model.pt", "loop"}
    assert not found.error


def test_a_scan_is_bounded(tmp_path):
    for number in range(12):
        (tmp_path / f"{number}.dat").write_text("")
    assert scan(str(tmp_path), Filter(), limit=10).too_many
    assert not scan(str(tmp_path), Filter(), limit=12).too_many


def test_a_path_that_is_not_there_yet_is_empty(tmp_path):
    assert scan(str(tmp_path / "later"), Filter()).error == ""
