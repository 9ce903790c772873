"""Which of two commits is the one to resume from, and where it lies."""

from __future__ import annotations

import itertools

import pytest
import trees
from builders import commit_key, make_commit, make_saved

from trainingrun_operator.agent.restore import candidates
from trainingrun_operator.agent.volume.inspection import inspect
from trainingrun_operator.checkpoints.documents import Checkpoint, Commit, ManifestHead, PodRef, RankManifest, RunRef
from trainingrun_operator.checkpoints.keys import Layout, Order
from trainingrun_operator.checkpoints.proof import uri_of
from trainingrun_operator.checkpoints.reached import Reached


def commit(incarnation: int, **checkpoint) -> Commit:
    about = Checkpoint(**{"dir": "here", "complete": True, "evidence": "whole", **checkpoint})
    made: Commit = make_commit(incarnation=incarnation, checkpoint=about, total_files=3)
    return made


def manifest(number: int) -> RankManifest:
    return RankManifest(rank=0, incarnation=1, key=f"{number}", sha256=f"{number}")


@pytest.mark.parametrize(
    ("less", "more"),
    [
        pytest.param(commit(2, step=45), commit(1, step=60), id="the step decides, not the time"),
        pytest.param(commit(2, epoch=1), commit(1, epoch=12), id="without steps the epoch decides, not the time"),
        pytest.param(commit(1), commit(2), id="with neither, the later one"),
        pytest.param(commit(2, epoch=12), commit(1, step=5), id="a step is known better than an epoch"),
        pytest.param(commit(2), commit(1, epoch=0), id="the epoch 0 is one"),
        pytest.param(commit(2, step=5), commit(1, step=5, epoch=1), id="of one step, the epoch decides"),
        pytest.param(commit(2, step=500, epoch=1), commit(1, step=100, epoch=2), id="steps that begin again with each epoch: the epoch decides"),
        pytest.param(commit(2, step=100, epoch=2), commit(1, step=500, epoch=2), id="of one epoch, the step decides"),
        pytest.param(commit(2, step=1000, epoch=1), commit(1, step=1500), id="a step without an epoch is compared by the step"),
        pytest.param(commit(2, step=1500), commit(1, step=2000, epoch=2), id="and the other way round"),
        pytest.param(commit(2, epoch=9), commit(1, step=100, epoch=2), id="an epoch without a step comes before both"),
        pytest.param(commit(2, step=0, epoch=0), commit(1, step=0, epoch=1), id="also of the step 0"),
        pytest.param(commit(1, step=5), commit(2, step=5), id="of one step, the later one"),
        pytest.param(commit(2, step=99, complete=False), commit(1), id="what is whole comes before what is not"),
        pytest.param(commit(2, step=2000, inherited=True), commit(1, step=100), id="what the run wrote comes before what an earlier run had left"),
        pytest.param(commit(2, step=300), commit(1, step=200, finite=True), id="what is published as the last finite one comes before later ones"),
        pytest.param(commit(2, step=300, finite=False), commit(1, step=100, finite=True), id="also before one that is known not to be finite"),
        pytest.param(commit(2, step=300), commit(1, step=200, finite=True, inherited=True), id="also if an earlier run had left it"),
        pytest.param(commit(1, step=200, finite=False), commit(2, step=300), id="a checkpoint that is not known to be finite has its usual place"),
        pytest.param(commit(2, step=200, finite=True, complete=False), commit(1, step=100), id="if it is whole"),
        pytest.param(commit(1, step=100, inherited=True), commit(2, step=2000, inherited=True), id="what was left is in the same order"),
    ],
)  # fmt: skip
def test_one_commit_is_further_than_another(less, more):
    assert Reached.of(less) < Reached.of(more)


def test_a_record_of_the_status_has_the_place_of_its_commit():
    for one in (
        commit(1, step=60),
        commit(2, epoch=3),
        commit(3),
        commit(1, step=9, inherited=True),
        commit(1, step=9, finite=True),
    ):
        found = one.checkpoint
        assert found is not None
        record = make_saved(
            commit=commit_key(*one.order),
            step=found.step,
            epoch=found.epoch,
            inherited=found.inherited,
            finite=found.finite,
        )
        assert Reached.recorded(record) == Reached.of(one)


def test_a_commit_without_a_checkpoint_and_a_record_without_a_commit_are_before_all_others():
    nothing = make_commit(incarnation=9, checkpoint=None, total_files=0)
    assert Reached.of(nothing) < Reached.of(commit(1))
    assert Reached.recorded(make_saved(commit="", files=0)) < Reached.of(nothing)


@pytest.mark.parametrize(
    ("commits", "best"),
    [
        pytest.param([commit(1, epoch=12), commit(2, epoch=1)], 12, id="an attempt that began again counts epochs from 1"),
        pytest.param([commit(1, epoch=3), commit(2, epoch=4), commit(3, epoch=4, complete=False)], 4, id="the last one is not whole"),
    ],
)  # fmt: skip
def test_the_restore_takes_the_furthest_in_whatever_order_they_are_listed(commits, best):
    unlike = [one.model_copy(update={"ranks": (manifest(i),)}) for i, one in enumerate(commits)]
    for listed in itertools.permutations(unlike):
        first = candidates(listed, 1)[0]
        assert first.checkpoint is not None
        assert (first.checkpoint.epoch, first.checkpoint.complete) == (best, True)


@pytest.mark.parametrize(
    ("checkpoint", "address"),
    [
        ({"dir": "epoch=3-step=1200.ckpt", "file": True}, "epoch=3-step=1200.ckpt"),
        ({"dir": "checkpoint-1200"}, "checkpoint-1200/"),
        ({"dir": "."}, ""),
        ({"dir": "epoch=3-step=1200.ckpt"}, "epoch=3-step=1200.ckpt/"),
    ],
    ids=["a file is one object", "a folder ends with a slash", "the path itself", "a commit of an earlier version does not say"],
)  # fmt: skip
def test_the_address_of_a_checkpoint_is_its_object_or_its_folder(checkpoint, address):
    layout = Layout.of("s3://bucket/runs", "team", "bert", "uid")
    folder = layout.folder(0, Order(1, 7), "pod")
    about = Checkpoint(complete=True, evidence="whole", **checkpoint)
    head = ManifestHead(
        run=RunRef(namespace="team", name="bert", uid="uid"), pod=PodRef(name="pod", uid="p"), incarnation=1, generation=7, checkpoint=about, folder=folder
    )  # fmt: skip
    assert uri_of(layout, head) == f"s3://bucket/{folder}{address}"
    assert uri_of(layout, head.model_copy(update={"checkpoint": None})) == ""


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        ("epoch1_iter500.pth", "epoch2_iter100.pth"),
        ("epoch_1_step_900.pt", "epoch_2_step_0.pt"),
        ("ckpt-epoch9-batch70.pt", "ckpt-epoch10-batch3.pt"),
        ("step_900_epoch_1.pt", "step_100_epoch_2.pt"),
        ("epoch-1-step-900/w.bin", "epoch-2-step-100/w.bin"),
        ("epoch=1-step=900.ckpt", "epoch=2-step=1800.ckpt"),
        ("epoch=9-step=90.ckpt", "epoch=10-step=100.ckpt"),
        ("ep0-ba100-rank0.pt", "ep1-ba200-rank0.pt"),
        ("checkpoint_3_5000.pt", "checkpoint_3_10000.pt"),
        ("step_900.pt", "step_1000.pt"),
        ("epoch_9.pt", "epoch_10.pt"),
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    "swapped", [False, True], ids=["in the order of their times", "an evaluator wrote into the earlier one"]
)
def test_the_volume_and_the_bucket_have_one_order(tmp_path, earlier, later, swapped):
    trees.write(tmp_path, *((later, earlier) if swapped else (earlier, later)))
    seen = inspect(tmp_path, ended=True)
    places = {
        one["name"]: Reached.of(commit(number, step=one["step"], epoch=one["epoch"]))
        for number, one in enumerate(reversed(seen["checkpoints"]))
    }
    assert max(places, key=lambda name: places[name]) == later.split("/")[0]
    assert [one["name"] for one in seen["checkpoints"]] == [earlier.split("/")[0], later.split("/")[0]]
    assert swapped or seen["newest"] == later.split("/")[0]
