"""What the shipper makes of a try that did not end in a commit, and when a released agent leaves."""

from __future__ import annotations

import shutil
import time
from typing import TYPE_CHECKING, Any

import objects
import pytest

from trainingrun_operator.agent import main, reading, ship
from trainingrun_operator.agent.cargo import Tally
from trainingrun_operator.agent.config import Pace, Paths, PodMemory, Task
from trainingrun_operator.agent.ledger import Ledger, Request
from trainingrun_operator.agent.report import Board
from trainingrun_operator.agent.ship import Shipper
from trainingrun_operator.agent.volume.look import Watcher
from trainingrun_operator.api.exchange import AgentConfig, SaveRequest
from trainingrun_operator.checkpoints.documents import PodRef

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from trainingrun_operator.api.exchange import AgentError

PACE = Pace(scan=0, backoff_max=0, fence=1e9)


class Door(objects.Door):
    """Something may happen before a file is written."""

    meanwhile: Callable[[str], None] = staticmethod(lambda _: None)

    def keys(self, prefix, *, flat=False):
        self.meanwhile(prefix)
        return super().keys(prefix, flat=flat)

    def put(self, key, body, counted=None):
        self.meanwhile(key)
        return super().put(key, body, counted)


class Place:
    """A shipper over a bucket in memory, turn by turn."""

    def __init__(self, folder: Path) -> None:
        self.volume = folder / "volume"
        self.volume.mkdir()
        config = AgentConfig(
            namespace="team",
            run="llm",
            run_uid="uid",
            path=str(self.volume),
            destination="s3://runs/p",
            quiet_seconds=0,
        )
        task = Task(config, PodRef(name="a", uid="pod"))
        self.bodies = objects.Objects()
        self.door = Door(self.bodies)
        self.board = Board(task.pod, 0)
        self.ledger = Ledger(self.door, task, PodMemory(folder, "pod"))
        self.shipper = Shipper(task, self.door, self.ledger, Watcher(config, "STOP"), self.board, PACE)

    def save(self, step: int) -> Path:
        file = self.volume / f"step_{step}" / "weights.dat"
        file.parent.mkdir()
        file.write_text(f"step {step}")
        return file

    @property
    def error(self) -> AgentError | None:
        return self.board.report().error

    def commits(self) -> list[str]:
        return [key for key in self.bodies.keys() if "/commits/" in key]  # noqa: SIM118  # not a mapping


def test_a_checkpoint_that_is_gone_before_it_was_read_is_said_until_another_one_is_saved(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "keeps_removed_files", lambda _: False)
    place = Place(tmp_path)
    place.save(1)

    def rotate(key: str) -> None:
        if "/i1-g0001-" in key:
            shutil.rmtree(place.volume / "step_1", ignore_errors=True)

    place.door.meanwhile = rotate
    place.shipper._turn()
    error = place.error
    assert error is not None
    assert (error.code, error.message) == (
        "ChangedDuringUpload",
        "Not committed: step_1/weights.dat: deleted while it was uploaded",
    )
    place.shipper._turn()
    assert place.error is not None, "Nothing has been saved since."
    place.save(2)
    place.shipper._turn()
    assert len(place.commits()) == 1
    assert place.board.report().error is None


def test_leftovers_of_one_try_cost_a_generation_and_no_failure(tmp_path):
    place = Place(tmp_path)
    place.save(1)
    place.shipper._begin()
    place.bodies.write(f"{place.ledger.folder}gone.dat", b"of a try before")
    place.shipper._turn()
    assert (place.commits(), place.error) == ([], None)
    place.shipper._turn()
    assert [key[-len("i1-g0002.json") :] for key in place.commits()] == ["i1-g0002.json"]
    assert place.board.report().upload_failures == 0


def test_objects_that_appear_in_every_folder_are_another_writers(tmp_path):
    place = Place(tmp_path)
    place.save(1)
    place.shipper._begin()

    def plant(prefix: str) -> None:
        if prefix == place.ledger.folder:
            place.bodies.write(f"{prefix}planted", b"x")

    place.door.meanwhile = plant
    for _ in range(ship.LEFTOVERS_MAX):
        place.shipper._turn()
        assert place.error is None
    place.shipper._turn()
    error = place.error
    assert error is not None
    assert error.code == "Conflict"
    assert error.message.endswith("/i1-g0004-a/planted")
    place.door.meanwhile = lambda _: None
    place.shipper._turn()
    assert (len(place.commits()), place.error) == (1, None)


def test_a_file_whose_object_has_gone_bad_is_sent_again(tmp_path):
    place = Place(tmp_path)
    place.save(1)
    (place.volume / "beside.dat").write_bytes(b"good")
    place.shipper._turn()
    bad = next(key for key in place.bodies.bodies if key.endswith("/beside.dat"))
    place.bodies.bodies[bad] = b"evil"
    place.save(2)
    place.shipper.ask(SaveRequest(id="t1", ended=True), None)
    # The last commit compares by the checksum of the commit, not by the object: only the copy shows it.
    for _ in range(3):
        place.shipper._turn()
    assert place.error is None
    *_, last = [key for key in place.bodies.bodies if key.endswith("/beside.dat")]
    assert place.bodies.bodies[last] == b"good"
    assert place.bodies.bodies[bad] == b"evil", "Nothing is overwritten."
    assert place.ledger.answered == {Request("t1", 1): True}


@pytest.fixture
def released(tmp_path, monkeypatch) -> tuple[main.Agent, list[float], Board]:
    """An agent whose pod was released and is told to leave, and a clock."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    config = AgentConfig(namespace="ml", run="bert", run_uid="u1", path=str(tmp_path), destination="")
    agent = main.Agent(Task(config, PodRef(name="bert-0", uid="p1")), Paths(tmp_path, tmp_path), Pace())
    (tmp_path / "annotations").write_text('trainingrun.dev/released="true"\n')
    agent._sigterm = True
    return agent, now, agent._board


class Saving:
    """A shipper that has something to save."""

    outcome: int | None = None

    def terminate(self, *, released: bool = False) -> None:
        assert released

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(name)


def test_a_released_agent_leaves_when_everything_is_saved(released):
    agent, now, _ = released
    agent._shipper = saving = Saving()
    assert agent._poll() is None
    now[0] = main.LEAVE_SECONDS - 1
    assert agent._poll() is None
    saving.outcome = 1
    assert agent._poll() == 0, "The kubelet has no use for another code."


def test_a_released_agent_leaves_a_store_that_takes_nothing_and_not_one_that_takes_its_time(released):
    agent, now, board = released
    agent._shipper = Saving()
    tally = Tally()
    board.shipping(tally)
    for _ in range(20):
        now[0] += main.LEAVE_SECONDS - 1
        assert agent._poll() is None
        tally.sent(1)
    assert agent._poll() is None
    now[0] += main.LEAVE_SECONDS
    assert agent._poll() == 0
