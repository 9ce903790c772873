"""A checkpoint that was proven and does not verify any more is no longer shown as proven."""

from __future__ import annotations

from dataclasses import replace

import pytest
from builders import (
    WALL,
    commit_key,
    make_mismatch,
    make_pod,
    make_run,
    make_status,
    make_stop,
    make_verified,
    make_workload,
)

from trainingrun_operator.api.restored import PassedOver, Restored
from trainingrun_operator.api.status import CheckpointStatus, Phase, Refuted
from trainingrun_operator.checkpoints.documents import Checkpoint
from trainingrun_operator.checkpoints.keys import Order
from trainingrun_operator.core.decide import decide
from trainingrun_operator.core.effects import Advance
from trainingrun_operator.core.facts.gathered import Facts
from trainingrun_operator.core.memory import Memory, remember
from trainingrun_operator.core.refuted import KEPT_MAX, sentence
from trainingrun_operator.core.status import render

GONE = "model.safetensors is not in the bucket"


def proven(incarnation: int, step: int, **fields):
    checkpoint = Checkpoint(dir=f"checkpoint-{step}", step=step, complete=True, evidence="whole")
    return make_verified(incarnation=incarnation, checkpoint=checkpoint, total_files=3, **fields)


def wrong(incarnation: int, complaint: str = GONE):
    return make_mismatch(key=commit_key(incarnation, 7), complaint=complaint)


def fell_back(*names: str, commit: str = "", run: str = "", uid: str = "pod-2"):
    over = tuple(PassedOver(commit=name, why=GONE) for name in names)
    return make_pod(
        uid=uid, name="bert-x2", restored=Restored(commit=commit, run=run, dir="checkpoint-20", passed_over=over)
    )


def advanced(seen):
    return next(effect.termination for effect in decide(seen).effects if isinstance(effect, Advance))


class Looks:
    """Looks of one process, each with the status that the one before has written."""

    def __init__(self, status=None):
        self.memory, self.status, self.now = Memory(), status or make_status(), 0.0

    def __call__(self, **fields):
        self.now += 10
        facts = Facts(make_run(status=self.status), WALL, workload=make_workload(), pods=(make_pod(),))
        self.memory, seen = remember(self.memory, replace(facts, **fields), self.now)
        self.status = render(seen)
        return self.status

    @property
    def condition(self):
        return next(one for one in self.status.conditions if one.type == "CheckpointSaved")


@pytest.mark.parametrize(
    "learned",
    [
        pytest.param({"answer": wrong(2), "refuted": (wrong(2),)}, id="its proof fails"),
        pytest.param({"refuted": (wrong(2),)}, id="it is passed over for an older one"),
        pytest.param({"pods": (fell_back("i2-g0007"),)}, id="a restore falls back"),
    ],
)
def test_the_status_names_no_checkpoint_that_is_known_to_be_damaged(learned):
    look = Looks()
    assert look(verified=proven(2, 60)).checkpoint.step == 60
    shown = look(**learned).checkpoint
    assert (shown.uri, shown.commit, shown.dir, shown.step) == ("", "", "", None)
    assert (shown.refuted.commit, shown.refuted.step) == (commit_key(2, 7), 60)
    assert GONE in shown.refuted.why
    assert (look.condition.status, look.condition.reason) == ("False", "Mismatch")
    assert GONE in look.condition.message
    assert look().checkpoint.refuted == shown.refuted, "It stays."
    assert look.condition.status == "False"
    assert "was proven and does not verify any more" in look.condition.message


@pytest.mark.parametrize(
    "learned",
    [
        pytest.param({"verified": replace(proven(1, 20), passed_over=(wrong(2),)), "refuted": (wrong(2),)}, id="its proof fails"),
        pytest.param({"verified": proven(1, 20), "pods": (fell_back("i2-g0007"),)}, id="a restore falls back"),
    ],
)  # fmt: skip
def test_an_older_one_that_verifies_takes_its_place(learned):
    look = Looks()
    look(verified=proven(2, 60))
    shown = look(**learned).checkpoint
    assert (shown.commit, shown.step, shown.refuted.step) == (commit_key(1, 7), 20, 60)
    assert look.condition.status == "True"
    assert look.condition.message.startswith("Checkpoint checkpoint-20 verified")
    assert "Checkpoint checkpoint-60 (step 60) was proven and does not verify any more" in look.condition.message
    shown = look().checkpoint
    assert (shown.step, shown.refuted.step) == (20, 60), "It stays."
    shown = look(verified=proven(3, 30)).checkpoint
    assert (shown.step, shown.refuted) == (30, None), "Until a newer one is proven: that is the one to resume from."


def test_one_that_verifies_again_is_shown_again():
    look = Looks()
    look(verified=proven(2, 60))
    look(refuted=(wrong(2),))
    shown = look(verified=proven(2, 60)).checkpoint
    assert (shown.step, shown.refuted) == (60, None)
    shown = look(pods=(fell_back("i2-g0007"),)).checkpoint
    assert (shown.commit, shown.refuted.step) == ("", 60)
    shown = look(verified=proven(2, 60), pods=(fell_back("i2-g0007"),)).checkpoint
    assert (shown.step, shown.refuted) == (60, None), "What the same pod said before counts once."
    shown = look(pods=(fell_back("i2-g0007"),)).checkpoint
    assert (shown.step, shown.refuted) == (60, None)


def test_an_operator_that_was_restarted_knows_it_from_the_status():
    look = Looks()
    look(verified=proven(2, 60))
    before = look(refuted=(wrong(2),))
    again = Looks(before)
    assert again().checkpoint.refuted == before.checkpoint.refuted
    assert again.condition.reason == "Mismatch"
    assert again(verified=proven(2, 60)).checkpoint.refuted is None
    again.status = before
    assert again().checkpoint.refuted is None, "though the write of the status was lost"


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(fell_back("i2-g0007", run="ml/other"), id="another run's"),
        pytest.param(fell_back("the second"), id="under no name of a commit"),
        pytest.param(fell_back("i3-g0007"), id="another one"),
        pytest.param(fell_back(), id="none"),
        pytest.param(make_pod(uid="pod-2"), id="a restore that is not over"),
    ],
)
def test_what_a_restore_says_of_others_counts_for_nothing(said):
    look = Looks()
    look(verified=proven(2, 60))
    shown = look(pods=(said,)).checkpoint
    assert (shown.step, shown.refuted) == (60, None)


def test_a_key_that_is_no_commits_counts_for_nothing():
    look = Looks()
    look(verified=proven(2, 60))
    shown = look(refuted=(make_mismatch(key="elsewhere"),)).checkpoint
    assert (shown.step, shown.refuted) == (60, None)
    record = CheckpointStatus(refuted=Refuted(commit="elsewhere", why=GONE))
    assert Looks(make_status(checkpoint=record))().checkpoint.refuted is None


def test_so_many_are_remembered():
    look = Looks()
    look(refuted=tuple(wrong(number) for number in range(1, KEPT_MAX + 3)))
    assert list(look.memory.refuted) == [Order(number, 7) for number in range(3, KEPT_MAX + 3)]


def test_a_stop_without_a_pod_takes_no_damaged_checkpoint_as_the_last_one():
    stopping = make_status(termination=make_stop(Phase.SAVING), termination_status="user_stop")
    memory, _ = remember(Memory(), Facts(make_run(status=stopping), WALL, verified=proven(2, 60)), 0)
    memory, seen = remember(memory, Facts(make_run(status=stopping), WALL, refuted=(wrong(2),)), 10)
    assert seen.verified is None
    stop = advanced(seen)
    assert (stop.phase, stop.saved.commit) == (Phase.DELETING, "")
    assert f"no checkpoint of this run verifies: {GONE}." in stop.data_loss
    older = replace(proven(1, 20), passed_over=(wrong(2),))
    _, seen = remember(memory, Facts(make_run(status=stopping), WALL, verified=older, refuted=(wrong(2),)), 20)
    stop = advanced(seen)
    assert (stop.phase, stop.saved.step) == (Phase.DELETING, 20)


@pytest.mark.parametrize(
    ("record", "said"),
    [
        (Refuted(dir="checkpoint-60", step=60, why="lost."), "Checkpoint checkpoint-60 (step 60) was proven and does not verify any more: lost."),
        (Refuted(dir=".", why="lost"), "The checkpoint was proven and does not verify any more: lost."),
    ],
)  # fmt: skip
def test_the_sentence(record, said):
    assert sentence(record) == said
