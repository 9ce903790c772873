"""What the plugin shows of a folder: what the agent would make of it."""

from __future__ import annotations

import json
import os

import pytest
import trees
from documented import ROOT

from trainingrun_operator.cli.main import run
from trainingrun_operator.cli.trouble import Exit

HF = ("config.json", "model.safetensors", "training_args.bin", "optimizer.pt", "trainer_state.json")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.delenv("TRAININGRUN_CONTROL", raising=False)
    first, second = ([f"checkpoint-{step}/{name}" for name in HF[:count]] for step, count in ((500, 5), (1000, 3)))
    trees.write(tmp_path / "checkpoints", *first, *second, "tmp-checkpoint-1500/model.safetensors", "train.log")
    return tmp_path / "checkpoints"


def test_the_page_shows_what_it_prints(folder, capsys):
    command = "kubectl trainingrun inspect checkpoints --ended"
    (session,) = (text for text in (ROOT / "docs/kubectl.md").read_text().split("```") if f"$ {command}\n" in text)
    assert run(command.split()[2:]) == 0
    shown = capsys.readouterr()
    assert shown.out + shown.err == session.split(f"$ {command}\n")[1]


def test_json_has_everything(folder, capsys):
    assert run(["inspect", "checkpoints", "--output", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found) == ["checkpoints", "newest", "ignored"]
    assert found["newest"] == "checkpoint-500"
    assert found["checkpoints"][0] == {
        "name": "checkpoint-500", "dir": "checkpoint-500", "files": 5, "bytes": 636, "step": 500, "epoch": None, "complete": True, "layout": "HFTrainer",
        "why": "trainer_state.json, which the Trainer writes last, is there, and no file is broken",
    }  # fmt: skip
    assert [(one["name"], one["complete"]) for one in found["checkpoints"]] == [
        ("checkpoint-500", True),
        ("checkpoint-1000", False),
    ]
    assert [one["path"] for one in found["ignored"]] == ["tmp-checkpoint-1500", "train.log"]


def test_a_folder_that_is_being_written_is_incomplete_until_it_is_quiet_or_has_ended(tmp_path, capsys):
    trees.write(tmp_path, "step_1/w.dat")
    os.utime(tmp_path / "step_1/w.dat")
    answers = []
    for flags in ((), ("--ended",)):
        assert run(["inspect", str(tmp_path), "-o", "json", *flags]) == 0
        answers.append(json.loads(capsys.readouterr().out)["newest"])
    assert answers == [None, "step_1"]


def test_in_the_training_container_its_own_word_counts(folder, tmp_path, monkeypatch, capsys):
    (tmp_path / "saved").write_text('{"path": "checkpoint-1000"}\n')
    monkeypatch.setenv("TRAININGRUN_CONTROL", str(tmp_path))
    assert run(["inspect", "checkpoints", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["newest"] == "checkpoint-1000"


def test_an_empty_folder_has_no_checkpoint(tmp_path, capsys):
    assert run(["inspect", str(tmp_path)]) == 0
    assert capsys.readouterr().err == f"There is no checkpoint in {tmp_path}.\n"
    assert run(["inspect", str(tmp_path), "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"checkpoints": [], "newest": None, "ignored": []}


def test_what_is_no_folder_is_told(tmp_path, capsys):
    assert run(["inspect", str(tmp_path / "gone")]) == Exit.USAGE
    assert "does not exist" in capsys.readouterr().err


def test_many_ignored_names_are_counted(tmp_path, capsys):
    trees.write(tmp_path, "step_1/w.dat", *(f"a{chr(97 + n)}.yaml" for n in range(12)))
    assert run(["inspect", str(tmp_path), "--ended"]) == 0
    assert "Ignored: 2 more; --output json lists them." in capsys.readouterr().err
