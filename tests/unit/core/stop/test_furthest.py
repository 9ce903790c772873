"""Status, message and condition name the checkpoint that a replaced pod resumes from."""

from __future__ import annotations

from dataclasses import replace

import pytest
from builders import WALL, commit_key, make_observed, make_run, make_saved, make_status, make_stop, make_verified

from trainingrun_operator.api.status import CheckpointStatus, Phase
from trainingrun_operator.checkpoints.documents import Checkpoint
from trainingrun_operator.core.facts.gathered import Facts
from trainingrun_operator.core.memory import Memory, remember
from trainingrun_operator.core.status import render
from trainingrun_operator.core.stop.furthest import furthest


def proven(incarnation: int, step: int | None = None, **fields):
    checkpoint = Checkpoint(dir=f"checkpoint-{step}", step=step, complete=True, evidence="whole", **fields)
    return make_verified(incarnation=incarnation, checkpoint=checkpoint, total_files=3)


def recorded(incarnation: int, step: int | None = None, **fields) -> CheckpointStatus:
    return CheckpointStatus(
        commit=commit_key(incarnation, 7), dir=f"checkpoint-{step}", step=step, digest="d", files=3, **fields
    )


def of(before=None, stop=None, **fields):
    return make_observed(run=make_run(status=make_status(checkpoint=before, termination=stop)), **fields)


LESS = make_saved(commit=commit_key(4, 7), dir="checkpoint-45", step=45)


@pytest.mark.parametrize(
    ("seen", "step"),
    [
        pytest.param(of(verified=proven(4, 45), furthest=proven(1, 60)), 60, id="while it trains"),
        pytest.param(of(recorded(1, 60), verified=proven(4, 45), furthest=proven(4, 45)), 60, id="an operator that was restarted knows it from the status"),
        pytest.param(of(recorded(1, 60), make_stop(Phase.DONE, saved=LESS)), 60, id="after the end"),
        pytest.param(of(None, make_stop(Phase.DONE, saved=LESS), furthest=proven(1, 60)), 60, id="after the end, known from this process"),
        pytest.param(of(recorded(1, 30), verified=proven(4, 45), furthest=proven(4, 45)), 45, id="the newest is the furthest"),
        pytest.param(of(recorded(5, 60), make_stop(Phase.DONE, saved=LESS)), 45, id="a newer record whose commit is gone does not count"),
        pytest.param(of(recorded(1, 2000, inherited=True), verified=proven(4, 45), furthest=proven(4, 45)), 45, id="an earlier run's does not count"),
        pytest.param(of(recorded(1, 60, complete=False), verified=proven(4, 45), furthest=proven(4, 45)), 45, id="an incomplete one does not count"),
    ],
)  # fmt: skip
def test_status_and_message_name_the_furthest_proven_checkpoint(seen, step):
    status = render(seen)
    assert status.checkpoint is not None
    assert (status.checkpoint.step, status.checkpoint.dir) == (step, f"checkpoint-{step}")
    condition = next(one for one in status.conditions if one.type == "CheckpointSaved")
    assert condition.message.startswith(f"Checkpoint checkpoint-{step} verified")
    if seen.run.status.termination:
        assert f"Checkpoint checkpoint-{step} verified" in (status.termination_message or "")


def test_the_message_says_what_the_last_attempt_reached():
    last = LESS.model_copy(update={"note": "After that, sidecar could still write."})
    message = render(of(recorded(1, 60), make_stop(Phase.DONE, saved=last))).termination_message or ""
    assert "The last attempt reached less: checkpoint-45 (step 45), verified as well." in message
    assert message.count("After that, sidecar could still write.") == 1
    unnumbered = LESS.model_copy(update={"step": None, "dir": "."})
    message = render(of(recorded(1, 60), make_stop(Phase.DONE, saved=unnumbered))).termination_message or ""
    assert "The last attempt reached less: ., verified as well." in message


def test_a_run_without_a_commit_has_no_furthest_checkpoint():
    assert furthest(of()) is None
    nothing = make_saved(commit="", files=0, note="Nothing to save.")
    assert furthest(of(recorded(1, 60), make_stop(Phase.DONE, saved=nothing))) == nothing


def make_facts(**fields) -> Facts:
    return replace(Facts(make_run(), WALL), **fields)


def test_the_memory_keeps_the_furthest_beside_the_newest():
    memory, seen = Memory(), None
    for found in (proven(1, 60), proven(2, 15), proven(3, 30)):
        memory, seen = remember(memory, make_facts(verified=found), 10.0)
    memory, seen = remember(memory, make_facts(), 11.0)
    assert seen.verified is not None
    assert seen.furthest is not None
    steps = [one.commit.checkpoint.step for one in (seen.verified, seen.furthest) if one.commit.checkpoint]
    assert steps == [30, 60]
