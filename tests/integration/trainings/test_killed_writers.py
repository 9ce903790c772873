"""Real writers, killed at every operation of their saves: what the agent commits then loads in the writer's own loader, and nothing that was whole is lost.

A file system records the folder after every operation (`writers/recorder.py`). A SIGKILL leaves exactly such a state, so one run of a writer gives all of them.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import pytest
from integration.trainings.recorded import File, recorded

from trainingrun_operator.agent import plan
from trainingrun_operator.agent.restore import candidates
from trainingrun_operator.agent.volume import detect
from trainingrun_operator.agent.volume.look import Watcher
from trainingrun_operator.api.exchange import AgentConfig
from trainingrun_operator.api.run import Shutdown
from trainingrun_operator.checkpoints import names
from trainingrun_operator.checkpoints.documents import Checkpoint, Commit, RankManifest, RunRef

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from integration.trainings.recorded import Recording, State

pytestmark = [pytest.mark.trainings, pytest.mark.timeout(420)]

SCRIPTS = ("torch_writers.py", "jax_writers.py")
ENDED, TRAINS = True, False


class EmptyBucket:
    """What the agent knows of the bucket before its first commit."""

    def earlier(self, path, entry):
        return None

    def covers(self, unit):
        return False

    def manifest_of(self, unit, *, complete):
        return None

    def finite(self, spoiled):
        return None


class Committed(NamedTuple):
    """What a commit would hold as a complete checkpoint."""

    checkpoint: Checkpoint
    files: Mapping[str, File]
    """Its files, without their times."""


def committed(root: Path, state: State, *, ended: bool) -> Committed | None:
    """What the agent commits as complete, once nothing changes any more. None if it finds nothing complete."""
    config = AgentConfig(namespace="ml", run="digits", run_uid="1", path=str(root), destination="", quiet_seconds=10)
    view = Watcher(config, Shutdown().file).look(ended=ended)
    assert not view.scan.error
    job = plan.next_job(view, EmptyBucket(), plan.Wish("save" if ended else "checkpoint", ended=ended), since_ns=0)
    if job is None or job.checkpoint is None or not job.checkpoint.complete:
        return None
    shipped = {one.path for one in job.files if not names.is_temporary(one.path)}
    newest = detect.newest(view.seen, since_ns=0)
    assert newest
    assert names.to_text(newest.unit.dir) == job.checkpoint.dir
    return Committed(job.checkpoint, {path: state.files[path].bare for path in newest.unit.files if path in shipped})


@dataclass
class Judge:
    """Looks at the states of one writer."""

    recording: Recording
    writer: str

    def __post_init__(self) -> None:
        self.problems: dict[str, list[str]] = defaultdict(list)
        self.states = self.loads = self.saves = 0
        self._progress: dict[str, int | str] = {}
        self._bucket: list[Committed] = []

    def judge_all(self) -> None:
        root = self.recording.work / self.writer
        for state in self.recording.states(self.writer):
            self.recording.place(state.files, root, iter(state.changed))
            self.states += 1
            for ended in (ENDED, TRAINS):
                commit = committed(root, state, ended=ended)
                self._judge(state, commit, "ended" if ended else "trains")
                if ended:
                    self._judge_restore(state, commit)
                elif commit and len(state.saves) > self.saves:
                    self._bucket.append(commit)
            self.saves = len(state.saves)

    def progress_of(self, commit: Committed) -> int | str:
        """What the writer's loader finds in a commit: a number, or its error."""
        key = repr((commit.checkpoint.dir, sorted(commit.files.items())))
        if key not in self._progress:
            self.loads += 1
            self._progress[key] = self.recording.load(self.writer, commit.files, names.from_text(commit.checkpoint.dir))
        return self._progress[key]

    def _judge(self, state: State, commit: Committed | None, when: str) -> None:
        whole = [save.progress for save in state.saves if save.files.items() <= state.files.items()]
        if commit is None:
            if whole:
                self._problem(f"{when}: no commit, {whole[-1]} is whole", state)
            return
        progress, checkpoint = self.progress_of(commit), commit.checkpoint
        if isinstance(progress, str):
            self._problem(f"{when}: its loader refuses {checkpoint.dir}", state, f"{progress}; {checkpoint.evidence}")
        elif progress < max(whole, default=0):
            self._problem(f"{when}: commits {checkpoint.dir} of {progress}, {max(whole)} is whole", state)
        elif checkpoint.step not in {None, progress}:
            self._problem(f"{when}: calls {checkpoint.dir} step {checkpoint.step}, it is {progress}", state)

    def _judge_restore(self, state: State, commit: Committed | None) -> None:
        """The agent has committed at every save, and once more after the kill: the next pod gets all that was saved."""
        if not state.saves:
            return
        held = [*self._bucket, *([commit] if commit else [])]
        best = candidates([_document(one, number) for number, one in enumerate(held)], 1)
        progress = self.progress_of(held[best[0].generation]) if best else "nothing"
        if isinstance(progress, str) or progress < state.saves[-1].progress:
            self._problem(f"the next pod does not get {state.saves[-1].progress}", state, f"but {progress}")

    def _problem(self, what: str, state: State, detail: str = "") -> None:
        self.problems[f"{self.writer}, {what}"].append(f"{state.number} ({state.after}) {detail}")


def _document(commit: Committed, number: int) -> Commit:
    return Commit(
        run=RunRef(namespace="ml", name="digits", uid="1"),
        incarnation=1,
        generation=number,
        reason="checkpoint",
        checkpoint=commit.checkpoint,
        ranks=(RankManifest(rank=0, incarnation=1, key=str(number), sha256=f"{number:064}"),),
        total_files=len(commit.files),
    )


@pytest.mark.parametrize("script", SCRIPTS)
def test_killed_at_any_operation_a_writer_leaves_a_commit_that_it_can_load_and_loses_nothing(
    script, frameworks, tmp_path
):
    problems: dict[str, str] = {}
    with recorded(frameworks, tmp_path, script) as recording:
        for writer in recording.writers:
            judge = Judge(recording, writer)
            judge.judge_all()
            assert judge.saves > 1, f"{writer} has saved {judge.saves} times"
            assert judge.loads >= judge.saves, f"{writer}: {judge.loads} commits were loaded in {judge.states} states"
            problems |= {what: f"{len(states)} states, first {states[0]}" for what, states in judge.problems.items()}
    assert problems == {}
