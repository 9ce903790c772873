"""What writers of no known layout write last: a file in the checkpoint, or a pointer beside it."""

from __future__ import annotations

import pytest
import trees

from trainingrun_operator.agent.volume.inspection import inspect

ZARR = ("model/w/.zarray", "model/w/c0", "training_state/.zarray")


def looked_at(root, files, *, ended):
    trees.write(root, *files)
    seen = inspect(root, ended=ended)
    return [one["complete"] for one in seen["checkpoints"]], seen["checkpoints"][-1]["why"]


@pytest.mark.parametrize(
    ("name", "begun", "last"),
    [
        ("step-{}", ZARR, "metadata.json"),
        ("step-{}", ("manifest.ocdbt", "d/{}0a1b2c3d4e5f67"), "metadata.json"),
        ("snapshot_step_{}", ("0/model/weight", "1/model/weight", "0/optim/state"), ".snapshot_metadata"),
        ("checkpoint_{:06d}", ("algorithm_state.pkl", "policies/p/policy_state.pkl"), "rllib_checkpoint.json"),
        ("{}", ("model/w.safetensors", "optimizer/o.bin"), "checkpoint_metadata.json"),
        ("epoch_{}", ("w.bin",), "DONE"),
        ("step_{}", ("w.bin", "o.bin"), "_SUCCESS"),
        ("ckpt-{}", ("shard_0.bin", "shard_1.bin"), "COMPLETE"),
        ("step_{}", ("params/a.bin", "params/b.bin"), "commit.json"),
        ("iter_{}", ("w.bin",), ".complete"),
        ("global_step_{}", ("actor/w.bin", "critic/w.bin"), "data.bin"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("before", [1, 2, 3])
@pytest.mark.parametrize("ended", [False, True], ids=["while it trains", "after the end"])
def test_a_checkpoint_without_the_last_file_of_those_before_it_is_incomplete(
    tmp_path, name, begun, last, before, ended
):
    def files(number, *inside):
        return [f"{name.format(number)}/{one.format(number)}" for one in inside]

    whole = [file for number in range(1, before + 1) for file in files(number, *begun, last)]
    complete, why = looked_at(tmp_path, [*whole, *files(before + 1, *begun)], ended=ended)
    assert complete == [True] * before + [False]
    assert last in why
    trees.write(tmp_path, *whole, *files(before + 1, *begun, last))
    assert all(one["complete"] for one in inspect(tmp_path, ended=ended)["checkpoints"])


@pytest.mark.parametrize(
    ("names", "pointer", "text"),
    [
        ("{}/w.bin", "latest.txt", "{}"),
        ("{}/w.bin", "latest.txt", "{}\n"),
        ("step_{}/w.bin", "latest", "step_{}"),
        ("step_{}/w.bin", "latest.json", '{{"path": "/work/out/step_{}", "loss": 0.5}}'),
        ("step_{}/w.bin", "latest_checkpoint.txt", "out/step_{}"),
        ("ckpt-{}/w.bin", "last_checkpoint", "ckpt-{}"),
        ("epoch_{}/w.bin", "last_epoch.txt", "{}"),
        ("step_{}.bin", "latest.txt", "step_{}.bin"),
        ("step_{}.pt", "latest_step.txt", "{}"),
        ("step_{}/w.bin", "checkpoint_latest", "step_{}"),
        ("step_{}/w.bin", "latest.yaml", "checkpoint: step_{}"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("ended", [False, True], ids=["while it trains", "after the end"])
def test_a_checkpoint_that_the_pointer_does_not_name_yet_is_incomplete(tmp_path, names, pointer, text, ended):
    first, second = names.format(1000), names.format(2000)
    complete, why = looked_at(tmp_path, [first, (pointer, text.format(1000)), second], ended=ended)
    assert complete == [True, False]
    assert f"the pointer file {pointer} still names" in why
    trees.write(tmp_path, first, second, (pointer, text.format(2000)))
    assert all(one["complete"] for one in inspect(tmp_path, ended=ended)["checkpoints"])


@pytest.mark.parametrize(
    "files",
    [
        ["1000/w.bin", ("latest.txt", "1000"), "2000/w.bin", "3000/w.bin"],
        ["1000/w.bin", ("best.txt", "1000"), "2000/w.bin"],
        ["1000/w.bin", ("latest.txt", "500"), "2000/w.bin"],
        ["1000/w.bin", ("latest.txt", "no number"), "2000/w.bin"],
        [("latest.txt", "1000"), "1000/w.bin", "2000/w.bin"],
        ["1000/w.bin", ("notes_latest_idea.txt", "1000"), "2000/w.bin"],
        ["step_10/w.bin", ("latest.txt", "step_100"), "step_20/w.bin"],
        ["2000/w.bin", ("latest.txt", "1000")],
    ],
    ids=["its writer does not keep it", "of the best", "of what is gone", "of nothing", "older than both", "not a pointer", "another's name", "alone"],
)  # fmt: skip
@pytest.mark.parametrize("ended", [False, True], ids=["while it trains", "after the end"])
def test_a_pointer_that_says_nothing_about_the_newest_holds_nothing_up(tmp_path, files, ended):
    complete, _ = looked_at(tmp_path, files, ended=ended)
    assert all(complete)


def test_an_evaluator_that_writes_into_an_older_checkpoint_makes_it_no_unnamed_one(tmp_path):
    complete, _ = looked_at(
        tmp_path, ["1000/w.bin", "2000/w.bin", ("latest.txt", "2000"), "1000/eval.json"], ended=True
    )
    assert complete == [True, True]
