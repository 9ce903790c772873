"""A checkpoint path that cannot be read or written is named with what to do."""

from __future__ import annotations

import errno
import os
from types import SimpleNamespace

import pytest

from trainingrun_operator.agent import main
from trainingrun_operator.agent.config import Pace, Paths, Task
from trainingrun_operator.agent.volume import root
from trainingrun_operator.api.exchange import AgentConfig
from trainingrun_operator.checkpoints.documents import PodRef


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        (NotADirectoryError(errno.ENOTDIR, "Not a directory"), "it is a file or below one"),
        (OSError(errno.ELOOP, "Too many levels"), "its symbolic links lead in a circle"),
        (OSError(errno.EROFS, "Read-only file system"), "its file system is read-only: mount the volume for writing"),
        (PermissionError(errno.EACCES, "Permission denied"), "Permission denied"),
        (OSError(), "it cannot be read"),
    ],
)
def test_the_words(failure, said):
    assert said in root.complaint(failure)


def test_a_path_that_is_missing_is_not_known_to_be_read_only(tmp_path):
    assert not root.is_read_only(str(tmp_path / "none"))
    assert not root.is_read_only(str(tmp_path))


@pytest.mark.parametrize(
    ("options", "files", "code"),
    [
        pytest.param({}, (), "ReadOnly", id="nothing can be written to it"),
        pytest.param({}, ("weights.pt",), None, id="it has files, which can be saved"),
        pytest.param({"rescues": True}, (), None, id="a rescue mounts it so"),
    ],
)
def test_a_read_only_volume_without_files_is_reported(tmp_path, monkeypatch, options, files, code):
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_flag=os.ST_RDONLY))
    volume = tmp_path / "checkpoints"
    volume.mkdir()
    for name in files:
        (volume / name).write_bytes(b"x")
    config = AgentConfig(namespace="ml", run="bert", run_uid="u1", path=str(volume), destination="", **options)
    agent = main.Agent(Task(config, PodRef(name="bert-0", uid="p1")), Paths(tmp_path, tmp_path), Pace())
    trouble = agent._volume_trouble(agent._watcher.look())
    assert (trouble and trouble[0]) == code
    if trouble:
        assert trouble[1] == f"{volume}: its file system is read-only: mount the volume for writing"
