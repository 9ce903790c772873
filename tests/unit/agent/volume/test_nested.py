"""What recordings of real writers show: folders that a writer adds itself, the order in which it writes, and saves into the same folder again."""

from __future__ import annotations

import pytest
import trees

from trainingrun_operator.agent.volume.inspection import inspect

SAVED = ("model.safetensors", "optimizer.bin", "random_states_0.pkl")
"""Of Accelerate, in the order of its writes."""


def folder(path: str, names=SAVED):
    return tuple(f"{path}/{name}" for name in names)


def found(root, *files, ended=True):
    trees.write(root, *files)
    seen = inspect(root, ended=ended)
    return seen["newest"], {one["name"]: one for one in seen["checkpoints"]}


@pytest.mark.parametrize(
    ("files", "newest", "step"),
    [
        ((*folder("checkpoints/checkpoint_8"), *folder("checkpoints/checkpoint_9")), "checkpoints/checkpoint_9", None),
        (
            ("a/version_0/checkpoints/epoch=0-step=2.ckpt", "a/version_0/checkpoints/epoch=1-step=4.ckpt"),
            "a/version_0/checkpoints/epoch=1-step=4.ckpt",
            4,
        ),
        (("checkpoints/step_100/w.pt", "checkpoints/step_200/w.pt", "config.yaml"), "checkpoints/step_200", 200),
        (("a/checkpoints/step_1.pt", "b/checkpoints/step_2.pt"), ".", None),
        (("checkpoint-100/checkpoints/step_900.pt",), "checkpoint-100", 100),
        (("a/b/c/d/checkpoints/step_1.pt",), ".", None),
        (("my-checkpoints/step_1/w.pt",), "my-checkpoints/step_1", 1),
        (("weights/epoch0.pt", "weights/epoch10.pt", "weights/last.pt", "args.yaml"), "weights/epoch10.pt", None),
        (("nerfstudio_models/step-000002000.ckpt", "config.yml"), "nerfstudio_models/step-000002000.ckpt", 2000),
        (("ckpts/ckpt_6999_rank0.pt", "stats/val_step6999.json", "r/step_9/x.png"), "ckpts/ckpt_6999_rank0.pt", 6999),
        (("dcp/step-10/.metadata", "dcp/step-10/w.bin", "dcp/step-20/w.bin"), "dcp/step-20", 20),
        (("sft/checkpoint-100/w.pt", "dpo/checkpoint-50/w.pt"), ".", None),
        (("ckpt.pt", "samples/step_100.npz"), ".", None),
        (("model/layer_0.pt", "model/layer_1.pt"), ".", None),
        (("models/model_0.pth", "models/model_1.pth", "export.pkl"), ".", None),
        (("a/step_1/epoch_2/w.pt", "a/step_2/epoch_3/w.pt"), "a/step_2", 2),
    ],
    ids=[
        "Accelerate's automatic names",
        "Lightning's default folder",
        "a file beside it is no obstacle",
        "two such folders are two trainings",
        "inside a checkpoint it is part of it",
        "deeper than a writer makes it",
        "a folder of another name, if a name in it says a step",
        "or an epoch: ultralytics",
        "nerfstudio",
        "texts and pictures of a step are no checkpoints",
        "folders of steps",
        "two folders of steps are two trainings",
        "a saved file elsewhere may be the checkpoint",
        "numbers that may be those of parts",
        "numbers that may be anything",
        "the outer of two numbers",
    ],
)
@pytest.mark.parametrize("ended", [False, True], ids=["trains", "ended"])
def test_the_only_folder_of_checkpoints_below_the_path_is_looked_into(tmp_path, files, newest, step, ended):
    name, seen = found(tmp_path, *files, ended=ended)
    assert name == newest
    assert (seen[name]["dir"], seen[name]["step"], seen[name]["complete"]) == (newest, step, True)


def test_files_of_one_number_in_such_a_folder_are_restored_with_the_folder(tmp_path):
    name, seen = found(tmp_path, "checkpoints/model000100.pt", "checkpoints/opt000100.pt")
    assert name == "checkpoints/model000100.pt"
    assert (seen[name]["dir"], seen[name]["files"]) == ("checkpoints", 2)


def test_a_temporary_name_in_such_a_folder_is_no_checkpoint(tmp_path):
    name, seen = found(tmp_path, *folder("checkpoints/checkpoint_0"), *folder("checkpoints/checkpoint_1.tmp"))
    assert name == "checkpoints/checkpoint_0"
    assert list(seen) == [name]


@pytest.mark.parametrize("count", range(1, len(SAVED)))
@pytest.mark.parametrize("ended", [False, True], ids=["trains", "ended"])
@pytest.mark.parametrize("where", ["checkpoints/checkpoint_", "checkpoint_", "step_"])
def test_accelerate_has_not_finished_before_its_random_states(tmp_path, where, count, ended):
    name, seen = found(tmp_path, *folder(f"{where}8"), *folder(f"{where}9", SAVED[:count]), ended=ended)
    assert name == f"{where}8"
    assert not seen[f"{where}9"]["complete"]


WEIGHTS = [
    ("model.safetensors",),
    ("pytorch_model.bin",),
    ("model.safetensors", "model_1.safetensors"),
    ("pytorch_model.bin", "pytorch_model_1.bin"),
    ("pytorch_model_fsdp.bin",),
    ("pytorch_model_fsdp_0/__0_0.distcp", "pytorch_model_fsdp_0/.metadata"),
]


@pytest.mark.parametrize("names", WEIGHTS, ids=" and ".join)
@pytest.mark.parametrize("ended", [False, True], ids=["trains", "ended"])
@pytest.mark.parametrize(
    "number", [0, 7], ids=["the first save", "a later one, where total_limit has removed the others"]
)
def test_accelerates_first_save_is_unfinished_while_it_has_weights_alone(tmp_path, names, ended, number):
    where = f"checkpoints/checkpoint_{number}"
    name, seen = found(tmp_path, *folder(where, names), ended=ended)
    assert name is None
    assert "no random_states_0.pkl, which Accelerate writes last" in seen[where]["why"]
    name, seen = found(tmp_path, *folder(where, SAVED[1:]), ended=ended)
    assert name == where


@pytest.mark.parametrize(
    "files",
    [
        pytest.param(folder("checkpoints/checkpoint_0", ("config.json", "model.safetensors")), id="save_pretrained"),
        pytest.param(folder("checkpoints/checkpoint_0", ("weights.safetensors",)), id="another name of the file"),
        pytest.param(folder("checkpoints/step_100", SAVED[:1]), id="another name of the folder"),
        pytest.param(folder("checkpoint_0", SAVED[:1]), id="not in a folder that Accelerate adds"),
        pytest.param(
            (*folder("checkpoints/checkpoint_0", SAVED[:1]), *folder("checkpoints/checkpoint_1", SAVED[:1])),
            id="two that never get random states",
        ),
    ],
)
@pytest.mark.parametrize("ended", [False, True], ids=["trains", "ended"])
def test_weights_alone_are_a_checkpoint_of_other_writers(tmp_path, files, ended):
    name, seen = found(tmp_path, *files, ended=ended)
    assert name == files[-1].rpartition("/")[0]
    assert all(one["complete"] for one in seen.values())


@pytest.mark.parametrize("ended", [False, True], ids=["trains", "ended"])
def test_accelerate_writes_registered_objects_after_the_random_states(tmp_path, ended):
    whole = (*SAVED, "custom_checkpoint_0.pkl")
    files = [one for number in (1, 2) for one in folder(f"checkpoint_{number}", whole)]
    name, seen = found(tmp_path, *files, *folder("checkpoint_3"), ended=ended)
    assert name == "checkpoint_2"
    assert not seen["checkpoint_3"]["complete"]


@pytest.mark.parametrize("ended", [False, True], ids=["trains", "ended"])
@pytest.mark.parametrize("where", ["step_100", "step_100/optimizer"])
def test_a_distributed_checkpoint_that_is_saved_again_is_incomplete_until_its_metadata_is_new(tmp_path, where, ended):
    data = (f"{where}/__0_0.distcp", f"{where}/__1_0.distcp")
    metadata = (f"{where}/.metadata", trees.metadata("__0_0.distcp", "__1_0.distcp"))
    assert found(tmp_path, *data, metadata, ended=ended)[0] == "step_100"
    name, seen = found(tmp_path, data[0], metadata, data[1], ended=ended)
    assert name is None
    assert "__1_0.distcp" in seen["step_100"]["why"]
    assert found(tmp_path, *data, metadata, ended=ended)[0] == "step_100"


def test_what_is_beside_the_checkpoints_in_such_a_folder_is_named_by_its_path(tmp_path):
    trees.write(tmp_path, "weights/epoch0.pt", "weights/last.pt", "weights/x/a.txt", "weights/x/b.txt", "args.yaml")
    assert [one["path"] for one in inspect(tmp_path, ended=True)["ignored"]] == [
        "args.yaml",
        "weights/last.pt",
        "weights/x",
    ]
