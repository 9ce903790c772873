"""Which files belong together."""

from __future__ import annotations

import pytest

from trainingrun_operator.agent.volume import units
from trainingrun_operator.agent.volume.layouts.reading import Reading, read
from trainingrun_operator.agent.volume.scan import Entry, Filter, scan


def entries(*paths: str):
    return {path: Entry(1, number, number, 0o644) for number, path in enumerate(paths)}


@pytest.mark.parametrize(
    ("name", "step", "epoch"),
    [
        ("checkpoint-1200", 1200, None),
        ("step_1200", 1200, None),
        ("global_step1200", 1200, None),
        ("epoch=3-step=1200", 1200, 3),
        ("iter_0001200", 1200, None),
        ("epoch_3", None, 3),
        ("3epoch", None, 3),
        ("model_1200_steps", 1200, None),
        ("03-0.09", None, 3),
        ("step_100_loss_0.5", 100, None),
        ("checkpoint-2024-01-05", None, None),
        ("checkpoint_20240105", None, None),
        ("checkpoint-1700000000", None, None),
        ("checkpoint-7b", None, None),
        ("checkpoint-v2", None, None),
        ("step=0.95", None, None),
        ("1200", None, None),
        ("model-1200", None, None),
        ("run-2024", None, None),
        ("rank0", None, None),
        ("logs", None, None),
        ("deepstep", None, None),
        ("resnet50-0676ba61", None, None),
    ],
    ids=[
        "Hugging Face's folder",
        "a step folder",
        "DeepSpeed's folder",
        "Lightning's name has both",
        "Megatron's folder with leading zeros",
        "an epoch is no step",
        "the word may stand behind the number",
        "also behind a step",
        "Keras' own example",
        "the decimals behind a step are none",
        "a day is no step",
        "also without dashes",
        "seconds since 1970 are no step",
        "a model's size is no step",
        "a version is no step",
        "a decimal is no step",
        "digits alone do not say what they count",
        "neither does a number behind another word",
        "a year is no step",
        "a rank is no step",
        "a name without a number",
        "a word without a number",
        "a hash is no step",
    ],
)
def test_a_name_says_what_its_number_counts(name, step, epoch):
    assert read(name) == Reading(step, epoch)


@pytest.mark.parametrize(
    ("paths", "numbered", "rest"),
    [
        (["checkpoint-2/a", "checkpoint-10/a", "latest"], ["checkpoint-2", "checkpoint-10"], ["latest"]),
        (["model-1.pt", "model-2.pt", "log.txt"], ["model-1.pt", "model-2.pt"], ["log.txt"]),
        (["checkpoint-1/a", "model-9.pt"], ["checkpoint-1"], ["model-9.pt"]),
        (["model-1.pt", "optim-1.pt"], ["."], []),
        (["model-00001-of-00003.safetensors"], [], ["model-00001-of-00003.safetensors"]),
        (["rng_state_0.pth", "notes-1200.txt"], [], ["rng_state_0.pth", "notes-1200.txt"]),
        (["events.out.tfevents.1700000000.host"], [], ["events.out.tfevents.1700000000.host"]),
        (["a/checkpoint-1/x", "model.pt"], [], ["a/checkpoint-1/x", "model.pt"]),
        ([], [], []),
    ],
    ids=[
        "numbered folders go by number, not by name",
        "without folders, numbered files are units",
        "beside numbered folders, a numbered file is rest",
        "files of the same number belong together",
        "a shard has no number",
        "a rank's state and a text have none",
        "a log's time is none",
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
