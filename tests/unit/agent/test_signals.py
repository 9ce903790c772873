"""Which process trains, and when it may be sent its signal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from trainingrun_operator.agent import signals
from trainingrun_operator.agent.config import PodMemory, Task
from trainingrun_operator.agent.signals import NotFoundError, Signaller, main_process
from trainingrun_operator.agent.volume.look import View, Watcher
from trainingrun_operator.api import names
from trainingrun_operator.api.exchange import AgentConfig, StopRequest
from trainingrun_operator.checkpoints.documents import PodRef

OWN, TRAINS = 7, f"HOME=/\0{names.TRAINS_ENV}=1\0"
NOBODY = "HOME=/\0"
HIDDEN = None
"""An environment that this process may not read."""


class Proc:
    """A folder like /proc: the pause container, the agent itself, and whatever is added."""

    def __init__(self, folder, monkeypatch):
        self.folder = folder
        self.hidden: set[Path] = set()
        folder.mkdir()
        (folder / "uptime").write_text("1 1")
        self.add(1, name="pause")
        self.add(OWN, name="python3")
        really = Path.read_bytes

        def read_bytes(path):
            if path in self.hidden:
                raise PermissionError(path)
            return really(path)

        monkeypatch.setattr(Path, "read_bytes", read_bytes)

    def add(self, pid, *, parent=0, name="python", environ=NOBODY, started=100):
        folder = self.folder / str(pid)
        folder.mkdir()
        fields = ["S", str(parent), *["0"] * 17, str(started), "0"]
        (folder / "stat").write_text(f"{pid} ({name}) {' '.join(fields)}\n")
        (folder / "environ").write_text(environ or "")
        if environ is HIDDEN:
            self.hidden.add(folder / "environ")

    @property
    def main(self):
        found = main_process(self.folder, OWN)
        return found.pid if found else None


@pytest.fixture
def proc(tmp_path, monkeypatch):
    return Proc(tmp_path / "proc", monkeypatch)


# -- which process ------------------------------------------------------------------------------------------------


def test_the_one_whose_container_trains_among_those_without_a_parent(proc):
    proc.add(20, name="python3")  # the gate
    proc.add(30, environ=TRAINS)
    proc.add(31, parent=30, environ=TRAINS)
    proc.add(40, name="tensorboard")
    assert proc.main == 30


def test_what_somebody_started_beside_it_is_younger(proc):
    proc.add(50, name="bash", environ=TRAINS, started=900)
    proc.add(90, environ=TRAINS, started=300)
    assert proc.main == 90


@pytest.mark.parametrize("name", ["sh", "bash"])
def test_behind_a_shell_the_one_command_that_it_waits_for(proc, name):
    proc.add(30, name=name, environ=TRAINS)
    proc.add(31, parent=30, name="sh", environ=TRAINS)
    proc.add(32, parent=31, name="python) 0 (", environ=TRAINS)
    assert proc.main == 32


def test_a_shell_of_several_commands_is_left_alone_for_it_would_die_and_all_of_them_with_it(proc):
    proc.add(30, name="sh", environ=TRAINS)
    proc.add(31, parent=30)
    proc.add(32, parent=30, name="tee")
    with pytest.raises(NotFoundError, match="shell runs 2 commands"):
        proc.main  # noqa: B018 - asking is what fails


def test_a_shell_that_runs_nothing_is_the_training(proc):
    proc.add(30, name="bash", environ=TRAINS)
    assert proc.main == 30


def test_of_processes_that_hide_the_only_one(proc):
    proc.add(20, name="python3")
    proc.add(30, environ=HIDDEN)
    assert proc.main == 30


def test_of_several_that_hide_none_is_guessed(proc):
    proc.add(30, environ=HIDDEN)
    proc.add(40, environ=HIDDEN)
    with pytest.raises(NotFoundError, match="2 processes could be the training"):
        proc.main  # noqa: B018 - asking is what fails


def test_a_training_that_has_ended_is_nobody(proc):
    proc.add(20, name="python3")
    assert proc.main is None


def test_processes_that_are_not_shared(proc):
    with pytest.raises(NotFoundError, match="do not share a process namespace"):
        main_process(proc.folder, 1)


def test_processes_that_end_under_the_look_are_passed_over(proc):
    proc.add(30, environ=TRAINS)
    proc.add(31, environ=TRAINS)
    (proc.folder / "31" / "stat").unlink()
    (proc.folder / "30" / "environ").unlink()
    assert proc.main is None


# -- when ---------------------------------------------------------------------------------------------------------

TRAINING = """
import signal, sys
signal.signal(signal.SIGUSR1, lambda *_: print("asked", flush=True))
print("trains", flush=True)
while True:
    signal.pause()
"""


class Clock:
    """Time that only a test moves."""

    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now


class Stage:
    """A real training as a process, a fake /proc that knows it, and a volume."""

    def __init__(self, tmp_path, proc, clock):
        self.proc, self.clock, self.control = proc, clock, tmp_path / "control"
        self.volume = tmp_path / "volume"
        for folder in (self.control, self.volume):
            folder.mkdir()
        self.training = subprocess.Popen([sys.executable, "-c", TRAINING], stdout=subprocess.PIPE, text=True)
        assert self.said() == "trains"
        proc.add(self.training.pid, environ=TRAINS)
        self.config = AgentConfig(
            namespace="ml",
            run="bert",
            run_uid="u",
            path=str(self.volume),
            destination="",
            quiet_seconds=10,
            stop_signal="SIGUSR1",
        )
        self.watcher = Watcher(self.config, "STOP_TRAINING")
        self.agent = self.restarted()

    def restarted(self):
        """An agent of the same pod that starts now."""
        task = Task(self.config, PodRef(name="bert-x", uid="pod", node=""))
        return Signaller(task, PodMemory(self.control, "pod"), self.proc.folder)

    def said(self):
        assert self.training.stdout is not None
        return self.training.stdout.readline().strip()

    def ask(self, seconds=60):
        self.agent.ask(StopRequest(id="stop-u", grace_seconds=seconds))

    def look(self, seconds=0.0):
        self.clock.now += seconds
        return self.agent.look(self.watcher.look())

    @property
    def signalled(self):
        return PodMemory(self.control, "pod").signalled == "stop-u"


@pytest.fixture
def system(monkeypatch):
    """What the module asks of the system; of this module only."""
    system = SimpleNamespace(getpid=lambda: OWN, getuid=os.getuid, kill=os.kill)
    monkeypatch.setattr(signals, "os", system)
    return system


@pytest.fixture
def stage(tmp_path, proc, system, monkeypatch):
    clock = Clock()
    monkeypatch.setattr(signals, "time", clock)
    stage = Stage(tmp_path, proc, clock)
    yield stage
    stage.training.kill()
    stage.training.communicate()


def checkpoint(stage, name="checkpoint-40"):
    """One that is whole, written long ago."""
    folder = stage.volume / name
    folder.mkdir()
    (folder / "trainer_state.json").write_text("{}")
    os.utime(folder / "trainer_state.json", (time.time() - 3600,) * 2)
    return folder


def test_it_is_sent_once_when_half_the_grace_has_passed(stage):
    checkpoint(stage)
    assert stage.look() == "", "Nobody has asked."
    stage.ask()
    assert (stage.look(29.9), stage.signalled) == ("", False)
    assert (stage.look(0.1), stage.signalled) == ("", True)
    assert stage.said() == "asked"
    for agent in (stage.agent, stage.restarted()):
        stage.agent = agent
        stage.ask()
        assert stage.look(3600) == ""
    stage.training.send_signal(signal.SIGTERM)
    assert stage.said() == "", "It was not asked a second time."


def test_asking_again_does_not_begin_the_grace_anew(stage):
    stage.ask()
    stage.clock.now += 20
    stage.ask()
    stage.look(10)
    assert stage.signalled


def test_without_a_signal_nothing_is_sent(stage):
    stage.config = stage.config.model_copy(update={"stop_signal": ""})
    stage.agent = stage.restarted()
    stage.ask()
    assert (stage.look(3600), stage.signalled) == ("", False)


def test_never_while_a_checkpoint_is_being_written(stage):
    checkpoint(stage)
    written = checkpoint(stage, "checkpoint-80")
    (written / "trainer_state.json").unlink()
    (written / "model.safetensors").write_bytes(b"half")
    stage.ask()
    for _ in range(3):
        assert (stage.look(30), stage.signalled) == ("checkpoint-80 is being written", False)
    (written / "model.safetensors").unlink()
    (written / "trainer_state.json").write_text("{}")
    # Of a folder with its last file, the watcher wants a second of quiet by the real clock.
    until = time.monotonic() + 10
    while stage.look() and time.monotonic() < until:
        time.sleep(0.05)
    assert stage.signalled, "Once it is whole, the signal is sent."


def test_never_while_something_changes_under_a_temporary_name(stage):
    checkpoint(stage)
    unfinished = stage.volume / ".tmp-checkpoint-80"
    unfinished.mkdir()
    stage.ask()
    for size in range(1, 5):
        (unfinished / "model.npz").write_bytes(b"x" * size)
        assert ("temporary names" in stage.look(30), stage.signalled) == (True, False)
    assert ("temporary names" in stage.look(9.9), stage.signalled) == (True, False)
    assert (stage.look(0.2), stage.signalled) == ("", True), "What has not changed for settleSeconds was left behind."


def test_what_an_earlier_pod_left_half_written_is_no_write(stage):
    left = checkpoint(stage, "checkpoint-80")
    (left / "trainer_state.json").unlink()
    (left / "model.safetensors").write_bytes(b"half")
    os.utime(left / "model.safetensors", (time.time() - 3600,) * 2)
    stage.ask()
    assert (stage.look(30), stage.signalled) == ("", True)


def test_a_training_of_another_user_is_said_and_tried_again(stage, system):
    def refuse(*_):
        raise PermissionError

    system.kill = refuse
    stage.ask()
    why = stage.look(30)
    assert why.startswith(f"process {stage.training.pid} (python) belongs to another user")
    assert f"({os.getuid()})" in why
    assert not stage.signalled


def test_a_training_that_ends_in_that_moment_is_no_trouble(stage, system):
    def gone(*_):
        raise ProcessLookupError

    system.kill = gone
    stage.ask()
    assert stage.look(30) == ""


def test_why_nobody_can_be_found_is_said(stage, system):
    system.getpid = lambda: 1
    stage.ask()
    assert "do not share a process namespace" in stage.look(30)
    assert "do not share a process namespace" in stage.agent.look(View())
