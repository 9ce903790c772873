"""The training's own word about its checkpoints."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
import trees

from trainingrun_operator.agent.volume import saved
from trainingrun_operator.agent.volume.look import Watcher
from trainingrun_operator.api.exchange import AgentConfig

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def volume(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "control").mkdir()
    return tmp_path / "checkpoints"


@dataclass
class Say:
    """Appends to the file what the pages of the docs append."""

    file: Path

    def __call__(self, path, **more):
        with self.file.open("a") as out:
            print(json.dumps({"path": path, **more}), file=out)


@pytest.fixture
def word(volume):
    return Say(volume.parent / "control" / saved.NAME)


@pytest.fixture
def watcher(volume, word):
    config = AgentConfig(
        namespace="n", run="r", run_uid="u", path=str(volume), destination="s3://bucket", quiet_seconds=1000
    )
    return Watcher(config, "STOP_TRAINING", word.file)


def seen(watcher):
    return {one.unit.name: (one.complete, one.unit.step, one.unit.epoch) for one in watcher.look().seen}


@pytest.mark.parametrize(
    ("files", "said", "name", "found"),
    [
        (["checkpoint-1200/w.dat"], {"path": "checkpoint-1200", "step": 1200}, "checkpoint-1200", (True, 1200, None)),
        (["checkpoint-1200/config.json"], {"path": "checkpoint-1200"}, "checkpoint-1200", (True, 1200, None)),
        (["a-7.pt"], {"path": "a-7.pt", "step": 70, "epoch": 7}, "a-7.pt", (True, 70, 7)),
        (["last/w.dat", "other/x"], {"path": "last", "step": 5}, "last", (True, 5, None)),
        (["out/run/last/w.dat", "out/x"], {"path": "out/run/last/", "step": 5}, "out/run/last", (True, 5, None)),
        (["last.pt", "x"], {"path": "./last.pt", "step": 5.0}, "last.pt", (True, 5, None)),
        (["w.dat"], {"path": ".", "step": 5}, ".", (True, 5, None)),
        ([("step-3/w.pt", b"PK\x03\x04 half")], {"path": "step-3"}, "step-3", (True, 3, None)),
        (["last.pt"], {"path": "last.pt", "step": -1}, "last.pt", (True, None, None)),
        (["last.pt"], {"path": "last.pt", "step": True, "epoch": "7"}, "last.pt", (True, None, None)),
        (["last.pt"], {"path": "last.pt", "step": 10**30}, "last.pt", (True, None, None)),
        (["last.pt"], {"path": "last.pt", "step": 0.5, "epoch": 1e400}, "last.pt", (True, None, None)),
    ],
    ids=[
        "a folder", "one that its layout calls incomplete", "a step and an epoch outweigh the name", "a folder without a number",
        "a folder further down", "a file", "everything", "a file that its format calls broken", "a step below 0 is none", "neither is anything else",
        "nor one that no training reaches", "nor a fraction",
    ],
)  # fmt: skip
def test_a_declared_checkpoint_is_complete_whatever_its_files_say(volume, watcher, word, files, said, name, found):
    trees.write(volume, *files)
    for file in volume.rglob("*"):
        os.utime(file)
    assert not seen(watcher).get(name, (False,))[0]
    word(**said)
    assert seen(watcher)[name] == found


def test_an_absolute_path_below_the_checkpoint_path_is_taken(volume, watcher, word):
    trees.write(volume, "step-3/w.dat")
    os.utime(volume / "step-3/w.dat")
    word(str(volume / "step-3"))
    assert seen(watcher) == {"step-3": (True, 3, None)}


def test_a_file_that_is_written_again_needs_another_word(volume, watcher, word):
    trees.write(volume, "last.pt")
    word("last.pt", step=1)
    assert seen(watcher)["last.pt"] == (True, 1, None)
    (volume / "last.pt").write_bytes(b"PK\x03\x04 half of the next one")
    assert seen(watcher)["last.pt"][0] is False
    (volume / "last.pt").write_bytes(trees.zipped())
    word("last.pt", step=2)
    assert seen(watcher)["last.pt"] == (True, 2, None)


def test_of_two_declared_paths_one_in_the_other_each_has_its_own_files(volume, watcher, word):
    trees.write(volume, "out/a", "out/last/b")
    word("out")
    word("out/last")
    assert {one.unit.name: set(one.unit.files) for one in watcher.look().seen} == {
        "out": {"out/a"},
        "out/last": {"out/last/b"},
    }


HOSTILE = [
    "", "\n\n\n", "no json", "[]", "1", "null", '{"path": 1}', '{"path": null, "step": 1}', '{"step": 1}', '{"path": "../outside"}', '{"path": "a/../../b"}',
    '{"path": "/etc/passwd"}', '{"path": "/"}', '{"path": "a\\u0000b"}', '{"path": "\\ud800"}', '{"path": "link"}', '{"path": "link/passwd"}', '{"path": "gone"}',
    "[" * 5000, '{"path": "' + "x" * 9000 + '"}', '{"path": "last.pt"', '{"path": "step-3", "step": ' + "9" * 5000 + "}",
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_any_other_content_is_harmless(volume, watcher, word, text):
    trees.write(volume, "step-3/w.dat", "last.pt")
    os.utime(volume / "step-3/w.dat")
    (volume / "link").symlink_to("/etc")
    word.file.write_text(text + "\n" if text.endswith("}") else text)
    assert seen(watcher) == {"step-3": (False, 3, None)}


def test_a_line_that_is_being_written_waits_for_its_end(volume, watcher, word):
    trees.write(volume, "step-3/w.dat")
    os.utime(volume / "step-3/w.dat")
    word.file.write_text('{"path": "step-3"}')
    assert seen(watcher)["step-3"][0] is False
    word.file.write_text('{"path": "step-3"}\n')
    assert seen(watcher)["step-3"][0] is True


def test_only_the_end_of_a_long_file_is_read(volume, word):
    with word.file.open("w") as out:
        for step in range(60_000):
            print(json.dumps({"path": f"step-{step}"}), file=out)
    words = saved.read(word.file, str(volume))
    assert word.file.stat().st_size > saved.READ_MAX_BYTES
    assert list(words) == [f"step-{step}" for step in range(60_000 - saved.WORDS_MAX, 60_000)]
    assert words["step-59999"].line == word.file.stat().st_size


@pytest.mark.parametrize("kind", ["a link", "a folder", "a pipe", "nothing"])
def test_what_is_no_file_says_nothing(volume, word, kind):
    match kind:
        case "a link":
            (volume / "elsewhere").write_text('{"path": "step-3"}\n')
            word.file.symlink_to(volume / "elsewhere")
        case "a folder":
            word.file.mkdir()
        case "a pipe":
            os.mkfifo(word.file)
        case _:
            assert not word.file.exists()
    assert saved.read(word.file, str(volume)) == {}
    assert saved.read(None, str(volume)) == {}
