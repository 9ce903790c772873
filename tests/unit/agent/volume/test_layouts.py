"""Which files are one checkpoint, how far it is, and what is still missing: folders as the writers' sources leave them."""

from __future__ import annotations

import json

import pytest
import trees

from trainingrun_operator.agent.volume import layouts
from trainingrun_operator.agent.volume.inspection import inspect
from trainingrun_operator.agent.volume.look import Watcher
from trainingrun_operator.api.exchange import AgentConfig
from trainingrun_operator.api.run import CheckpointFormat

INDEX = json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}})
HF = ("model.safetensors", "config.json", "training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth")


def inside(folder: str, *files):
    return tuple((f"{folder}/{one[0]}", one[1]) if isinstance(one, tuple) else f"{folder}/{one}" for one in files)


def found(root, files, *, ended=True):
    trees.write(root, *files)
    return inspect(root, ended=ended)


def numbers(found) -> dict[str, tuple[int | None, int | None]]:
    return {one["name"]: (one["step"], one["epoch"]) for one in found["checkpoints"]}


@pytest.mark.parametrize(
    ("files", "newest", "step", "epoch"),
    [
        (["01-0.95.keras", "02-0.71.keras", "03-0.09.keras"], "03-0.09.keras", None, 3),
        (["weights.02-0.32.weights.h5", "weights.10-0.20.weights.h5"], "weights.10-0.20.weights.h5", None, 10),
        (["model.05-1.23.hdf5", "model.06-0.99.hdf5"], "model.06-0.99.hdf5", None, 6),
        (["ckpt-04.weights.h5", "ckpt-05.weights.h5"], "ckpt-05.weights.h5", None, 5),
        (["cp_0009_0.913.keras", "cp_0010_0.902.keras"], "cp_0010_0.902.keras", None, 10),
        (["03-0.23.ckpt", "04-0.21.ckpt"], "04-0.21.ckpt", None, 4),
        (["model-12-0.95.pt", "model-13-0.07.pt"], "model-13-0.07.pt", None, 13),
        (["epoch=3-val_loss=0.98.ckpt", "epoch=4-val_loss=0.12.ckpt"], "epoch=4-val_loss=0.12.ckpt", None, 4),
        (["step_100_loss_0.97.pt", "step_200_loss_0.12.pt"], "step_200_loss_0.12.pt", 200, None),
        (["ckpt_loss0.97_11.pt", "ckpt_loss0.12_12.pt"], "ckpt_loss0.12_12.pt", None, None),
        (["best_acc_0.99.pt", "best_acc_0.71.pt"], "best_acc_0.71.pt", None, None),
        (["last_run_ep_100_rew_9.3.pth", "last_run_ep_200_rew_1.5.pth"], "last_run_ep_200_rew_1.5.pth", None, 200),
        (["checkpoint_1000.pt", "checkpoint_2000.pt", "checkpoint_3000.pt"], "checkpoint_3000.pt", 3000, None),
    ],
)  # fmt: skip
def test_decimals_of_a_metric_are_no_number(tmp_path, files, newest, step, epoch):
    seen = found(tmp_path, files)
    assert seen["newest"] == newest
    assert numbers(seen)[newest] == (step, epoch)


@pytest.mark.parametrize(
    ("files", "newest"),
    [
        (["llama-7b-1.pt", "llama-7b-2.pt"], "llama-7b-2.pt"),
        (["model-9.pt", "model-5.pt", "model-7.pt"], "model-7.pt"),
        (["model-2024-01-05.pt", "model-2024-01-06.pt"], "model-2024-01-06.pt"),
        (["m_20240106.pt", "m_20240105.pt"], "m_20240105.pt"),
        (["m_1700000002.pt", "m_1700000001.pt"], "m_1700000001.pt"),
        (["model_v2.pt", "model_v1.pt"], "model_v1.pt"),
        (["save-8x7b-v3-10.pt", "save-8x7b-v3-20.pt"], "save-8x7b-v3-20.pt"),
        (["llama-70b.pt", "llama-7b.pt"], "."),
        (["resnet50-0676ba61.pth", "resnet18-f37072fd.pth"], "."),
        (["model_rank0.pt", "model_rank1.pt"], "."),
        (["run-1/model.pt", "run-2/model.pt"], "."),
        (["checkpoint-7b/model.pt"], "."),
        (["best_0.95.pt", "best_0.97.pt", "optimizer/state.bin"], "."),
    ],
)  # fmt: skip
def test_a_number_without_a_word_orders_only_if_it_rises_with_time_and_is_never_a_step(tmp_path, files, newest):
    seen = found(tmp_path, files)
    assert seen["newest"] == newest
    assert set(numbers(seen).values()) == {(None, None)}


@pytest.mark.parametrize(
    ("files", "newest", "count", "step", "epoch"),
    [
        (
            [*(f"rl_model_{what}{step}_steps.{end}" for step in (1000, 2000) for what, end in (("", "zip"), ("replay_buffer_", "pkl"), ("vecnormalize_", "pkl"))), "progress.csv"],
            "rl_model_2000_steps.zip", 3, 2000, None,
        ),
        (["ep0-ba100-rank0.pt", "ep0-ba100-rank1.pt", "ep1-ba200-rank0.pt", "ep1-ba200-rank1.pt"], "ep1-ba200-rank0.pt", 2, 200, 1),
        (["ep0-ba100/w.pt", "ep0-ba200/w.pt"], "ep0-ba200", 1, 200, 0),
        (["4epoch.pth", "checkpoint.pth", "5epoch.pth"], "5epoch.pth", 2, None, 5),
        (["5_net_G.pth", "5_net_D.pth", "10_net_G.pth", "10_net_D.pth", "latest_net_G.pth"], "10_net_D.pth", 2, None, 10),
        (["checkpoint_90", "checkpoint_100"], "checkpoint_100", 1, 100, None),
        (["checkpoint", "ckpt-9.data-00000-of-00001", "ckpt-9.index", "ckpt-12.data-00000-of-00001", "ckpt-12.index"], "ckpt-12.index", 2, None, None),
        (["model.ckpt-9.data-00000-of-00001", "model.ckpt-9.index", "model.ckpt-9.meta"], "model.ckpt-9.index", 3, 9, None),
        (["cp-0004.ckpt.data-00000-of-00001", "cp-0004.ckpt.index"], "cp-0004.ckpt.index", 2, None, 4),
        (["model_state_e1_b0.th", "training_state_e1_b0.th"], "model_state_e1_b0.th", 2, None, 1),
        (["9.pdparams", "9.pdopt", "10.pdparams", "10.pdopt"], "10.pdopt", 2, None, 10),
        (["model000100.pt", "ema_0.9999_000100.pt", "opt000100.pt"], "model000100.pt", 3, 100, None),
        (["lora-000009.safetensors", "lora-000009-state/random_states_0.pkl", "lora-000010.safetensors", "lora-000010-state/random_states_0.pkl"], "lora-000010.safetensors", 2, None, 10),
        (["lora-step00000500.safetensors", "lora-step00000500-state/optimizer.bin"], "lora-step00000500.safetensors", 2, 500, None),
        (["epoch_0/model.safetensors", "epoch_1/model.safetensors", "recipe_state/recipe_state.pt"], "epoch_1", 2, None, 1),
        (["hf_model_0001_0.pt", "hf_model_0002_0.pt", "recipe_state.pt"], "hf_model_0001_0.pt", 3, None, 0),
        (["checkpoint_3_5000.pt", "checkpoint_3_10000.pt", "checkpoint_last.pt"], "checkpoint_3_10000.pt", 2, 10000, 3),
        (["checkpoint9.pt", "checkpoint10.pt", "checkpoint_last.pt"], "checkpoint10.pt", 2, None, 10),
        (["checkpoint_3_5000-shard0.pt", "checkpoint_3_5000-shard1.pt"], "checkpoint_3_5000-shard0.pt", 2, 5000, 3),
        (["model_1000.pt", "optimizer_1000.pt", "model_2000.pt", "optimizer_2000.pt"], "model_2000.pt", 2, None, None),
        (["step_1000_model.pt", "step_1000_optim.pt"], "step_1000_model.pt", 2, 1000, None),
        (["G_900.pth", "D_900.pth", "G_1000.pth", "D_1000.pth"], "D_1000.pth", 2, 1000, None),
        (["checkpoint-9.pth.tar", "checkpoint-10.pth.tar", "model_best.pth.tar"], "checkpoint-10.pth.tar", 1, None, 10),
        (["model_0004999.pth", "model_0009999.pth", ("last_checkpoint", "model_0009999.pth")], "model_0009999.pth", 1, 9999, None),
        (["epoch_11.pth", "epoch_12.pth", ("last_checkpoint", "/work/epoch_12.pth")], "epoch_12.pth", 1, None, 12),
        (["checkpoint_000000/a.pt", "checkpoint_000001/a.pt"], "checkpoint_000001", 1, None, None),
        (["12epoch/model.pt"], "12epoch", 1, None, 12),
        (["900steps.pt", "1000steps.pt"], "1000steps.pt", 1, 1000, None),
    ],
    ids=lambda value: str(value[0])[:40] if isinstance(value, list) else None,
)  # fmt: skip
def test_files_and_folders_of_one_number_are_one_checkpoint(tmp_path, files, newest, count, step, epoch):
    seen = found(tmp_path, files, ended=False)
    assert seen["newest"] == newest
    (one,) = (one for one in seen["checkpoints"] if one["name"] == newest)
    assert (one["files"], one["step"], one["epoch"], one["complete"]) == (count, step, epoch, True)


@pytest.mark.parametrize(
    ("files", "newest", "unfinished"),
    [
        (["model000100.pt", "opt000100.pt", "model000200.pt"], "model000100.pt", "the opt file"),
        (["model000200.pt"], None, "the opt file"),
        (["a-000009.safetensors", "a-000009-state/x.bin", "a-000010.safetensors"], "a-000009.safetensors", "the state file"),
        (["ep0-ba100-rank0.pt", "ep0-ba100-rank1.pt", "ep0-ba200-rank0.pt"], "ep0-ba100-rank0.pt", "the rank1 file"),
        (["model_state_e1_b0.th", "training_state_e1_b0.th", "model_state_e2_b0.th"], "model_state_e1_b0.th", "the training file"),
        (["ckpt-9.data-00000-of-00001", "ckpt-9.index", "ckpt-12.data-00000-of-00001"], "ckpt-9.index", "ckpt-12.index"),
        (["ckpt-9.index", "ckpt-9.data-00000-of-00002"], None, "ckpt-9.data-00001-of-00002"),
        (["rl_model_9_steps.zip", "rl_model_vecnormalize_9_steps.pkl", "rl_model_10_steps.zip"], "rl_model_9_steps.zip", "vecnormalize"),
    ],
)  # fmt: skip
def test_a_number_that_lacks_a_file_of_its_writer_is_incomplete(tmp_path, files, newest, unfinished):
    seen = found(tmp_path, files)
    assert seen["newest"] == newest
    assert any(unfinished in one["why"] for one in seen["checkpoints"] if not one["complete"])


@pytest.mark.parametrize(
    "name",
    [
        "step2000-tmp", "tmp_step_2000", "checkpoint_2000.tmp-1699999999", "checkpoint-2000-tmp", "tmp-checkpoint-2000", ".tmp-step-2000",
        "step_2000.tmp", "step_2000.partial", "step_2000_incomplete", "unfinished-step_2000", "2000.orbax-checkpoint-tmp-7", "checkpoint_tmp",
        "temp_step_2000", "step2000.tmp.17", "tmpab12cd_3", "step_2000__tmp__", "step_2000.__tmp__", "step_2000.__incomplete__", "__tmp__step_2000",
        "step_2000.saving", "step_2000_writing", "step_2000_staging", "step_2000.pending", "saving-step_2000", "step_2000-in_progress_", ".writing_step_2000",
    ],
)  # fmt: skip
@pytest.mark.parametrize("ended", [False, True], ids=["while it trains", "after the end"])
def test_a_writers_name_for_what_is_not_there_yet_is_no_checkpoint(tmp_path, name, ended):
    seen = found(tmp_path, ["step1000/train/rank0.pt", "step1000/model.pt", f"{name}/train/rank0.pt"], ended=ended)
    assert (seen["newest"], [one["name"] for one in seen["checkpoints"]]) == ("step1000", ["step1000"])
    assert [one["path"] for one in seen["ignored"]] == [name]


@pytest.mark.parametrize(
    "name",
    ["step_2000.bak", "step_2000.old", "step_2000_old", "step_2000-backup", "step_2000.bak.1", "step_2000~", "old_step_2000", "step_2000.orig", "step_2000_prev", "step_2000.tmp.pt"],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["{}", "{}/w.bin"], ids=["a file", "a folder"])
@pytest.mark.parametrize("ended", [False, True], ids=["while it trains", "after the end"])
def test_what_is_kept_of_an_earlier_save_is_no_checkpoint(tmp_path, name, kind, ended):
    seen = found(tmp_path, ["step_1000.pt" if kind == "{}" else "step_1000/w.bin", kind.format(name)], ended=ended)
    assert [one["step"] for one in seen["checkpoints"]] == [1000]
    assert [one["path"] for one in seen["ignored"]] == [name], "it is saved at the end, and no checkpoint waits for it"


@pytest.mark.parametrize(
    "name", ["bold_step_2000", "step_2000_gold", "household-2000", "threshold_step_2000", "manifold-step_2000"]
)
def test_a_word_that_only_ends_like_that_is_a_name(tmp_path, name):
    assert [
        one["name"]
        for one in found(tmp_path, [f"{name}/w.bin", f"{name.replace('2000', '3000')}/w.bin"])["checkpoints"]
    ] != ["."]


def test_a_copy_that_is_older_inside_of_a_checkpoint_does_not_keep_it_open(tmp_path):
    assert found(tmp_path, ["step_1/model.pt", "step_1/config.yaml.bak"])["newest"] == "step_1"


def test_a_left_over_temporary_folder_hides_no_bundle(tmp_path):
    left = "ckpt-12_temp/part-00000-of-00001"
    seen = found(tmp_path, [left, "ckpt-13.data-00000-of-00001", "ckpt-13.index"], ended=False)
    assert seen["newest"] == "ckpt-13.index"


@pytest.mark.parametrize(
    ("files", "newest", "word"),
    [
        (inside("step-100", "__0_0.distcp", "__1_0.distcp"), None, "no .metadata"),
        (inside("step-100", "__0_0.distcp", (".metadata", trees.metadata("__0_0.distcp"))), "step-100", ""),
        (inside("step-100", "__0_0.distcp", (".metadata", trees.metadata("__0_0.distcp", "__1_0.distcp"))), None, "__1_0.distcp is missing"),
        (inside("step-100", "__0_0.distcp", ".metadata.tmp"), None, "no .metadata"),
        (inside("checkpoint-600", "optimizer_0/.metadata", "optimizer_0/__0_0.distcp", "pytorch_model_fsdp_0/__0_0.distcp", "trainer_state.json"), None, "pytorch_model_fsdp_0: no .metadata"),
        (inside("step_9", "dist/model/__0_0.distcp", "dist/model/.metadata", "dist/optim/__0_0.distcp"), None, "dist/optim: no .metadata"),
        (inside("epoch=1-step=9.ckpt", "__0_0.distcp", "meta.pt"), None, "no .metadata"),
        (inside("epoch=1-step=9.ckpt", "__0_0.distcp", ".metadata"), None, "no meta.pt"),
        (inside("m--step=9-consumed_samples=8.0", "weights/__0_0.distcp", "context/io.json"), None, "weights: no .metadata"),
        (["__0_0.distcp", "config.json"], None, "no .metadata"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("ended", [False, True], ids=["while it trains", "after the end"])
def test_a_distributed_checkpoint_needs_its_metadata_wherever_it_lies(tmp_path, files, newest, word, ended):
    seen = found(tmp_path, files, ended=ended)
    assert seen["newest"] == newest
    assert word in seen["checkpoints"][0]["why"]


@pytest.mark.parametrize(
    ("files", "newest", "word"),
    [
        (["iter_0000100/common.pt", "iter_0000100/__0_0.distcp", ("latest_checkpointed_iteration.txt", "100")], None, "no .metadata"),
        (["iter_0000100/mp_rank_00/model_optim_rng.pt"], None, "no file latest_checkpointed_iteration.txt"),
        (["iter_0000100/mp_rank_00/model_optim_rng.pt", ("latest_checkpointed_iteration.txt", "100"), "iter_0000200/mp_rank_00/model_optim_rng.pt"], "iter_0000100", "still names 100"),
        (["iter_0000200/mp_rank_01/model_optim_rng.pt"], "iter_0000200", ""),
        (["global_step100/mp_rank_00_model_states.pt", ("latest", "global_step100"), "global_step200/mp_rank_00_model_states.pt"], "global_step100", "still names global_step100"),
        (["global_step100/mp_rank_00_model_states.pt"], None, "no file latest"),
        (["global_step100/mp_rank_00_model_states.pt", "global_step200/mp_rank_00_model_states.pt"], "global_step200", ""),
        (["global_step100/zero_pp_rank_8_mp_rank_00_optim_states.pt"], "global_step100", ""),
        (["epoch3/mp_rank_00_model_states.pt", ("latest", "epoch3"), "epoch4/mp_rank_00_model_states.pt"], "epoch3", "still names epoch3"),
        (["global_step_100/actor/model_world_size_2_rank_0.pt", ("latest_checkpointed_iteration.txt", "50")], None, "still names 50"),
    ],
)  # fmt: skip
def test_a_pointer_beside_the_checkpoints_is_written_last(tmp_path, files, newest, word):
    seen = found(tmp_path, files)
    assert seen["newest"] == newest
    assert any(word in one["why"] for one in seen["checkpoints"])
    assert not any("trainer_state" in one["why"] for one in seen["checkpoints"]), "that is another writer's file"


@pytest.mark.parametrize(
    ("files", "newest", "word"),
    [
        (inside("checkpoint-500", "config.json"), None, "no trainer_state.json"),
        (inside("checkpoint-500", "config.json", "model.safetensors"), None, "no trainer_state.json"),
        (inside("checkpoint-500", "model.safetensors"), None, "no trainer_state.json"),
        (inside("checkpoint-500", "adapter_config.json", "adapter_model.safetensors"), None, "no trainer_state.json"),
        (inside("checkpoint-500", *HF), None, "no trainer_state.json"),
        (inside("checkpoint-500", *HF, "trainer_state.json"), "checkpoint-500", "trainer_state.json"),
        (inside("checkpoint-500", *HF, ("trainer_state.json", '{"a":')), None, "does not parse"),
        (inside("checkpoint-500", "trainer_state.json", "zero_to_fp32.py", ("latest", "global_step500")), None, "global_step500"),
        (inside("checkpoint-500", "trainer_state.json", "global_step500/x.pt", ("latest", "global_step500")), "checkpoint-500", ""),
        (inside("checkpoint-500", "config.json", "mm_projector.bin"), "checkpoint-500", "ended"),
        (inside("checkpoint-500", "unet/diffusion_pytorch_model.safetensors"), None, "no random_states_0.pkl"),
        (inside("checkpoint-500", "model.safetensors", "optimizer.bin"), None, "no random_states_0.pkl"),
        (inside("checkpoint-500", "model.safetensors", "optimizer.bin", "random_states_0.pkl"), "checkpoint-500", ""),
        (inside("checkpoint_3", "model.safetensors", "optimizer.bin", "scheduler.bin"), None, "no random_states_0.pkl"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("ended", [False, True], ids=["while it trains", "after the end"])
def test_a_save_that_was_killed_is_incomplete(tmp_path, files, newest, word, ended):
    seen = found(tmp_path, files, ended=ended)
    assert seen["newest"] == newest
    assert word in seen["checkpoints"][0]["why"] or (word == "ended" and not ended)


@pytest.mark.parametrize(
    ("files", "newest", "also"),
    [
        ((*inside("checkpoint-900", *HF, "trainer_state.json"), *inside("checkpoint-epoch-3", "model.safetensors", "config.json")), "checkpoint-900", "checkpoint-epoch-3"),
        ((*inside("epoch-1", "model.safetensors", "training_args.bin"), *inside("epoch-2", "model.safetensors", "training_args.bin")), "epoch-2", "epoch-1"),
        ((*inside("checkpoint-1000", *HF, "trainer_state.json"), *inside("checkpoint-1000-merged", "model.safetensors")), "checkpoint-1000", "checkpoint-1000-merged"),
        ((*inside("checkpoint-100", "config.json", "model.safetensors"), *inside("checkpoint-200", "config.json", "model.safetensors")), "checkpoint-200", "checkpoint-100"),
        (inside("checkpoint-1", ("model.safetensors.index.json", INDEX), "model.safetensors", "trainer_state.json"), "checkpoint-1", "checkpoint-1"),
    ],
    ids=[
        "a callback saves the model beside the Trainer's checkpoints",
        "the model is saved after each epoch, with its arguments",
        "a merged model beside the checkpoint that it was made from",
        "a loop of one's own that calls save_pretrained",
        "an index of an earlier, sharded save",
    ],
)  # fmt: skip
def test_a_folder_that_never_gets_the_trainers_last_file_is_complete_once_it_is_quiet(tmp_path, files, newest, also):
    seen = found(tmp_path, files, ended=False)
    assert seen["newest"] == newest
    assert {one["name"]: one["complete"] for one in seen["checkpoints"]} | {newest: True, also: True} == {
        one["name"]: True for one in seen["checkpoints"]
    }


def test_a_model_that_is_sharded_still_needs_all_of_its_shards(tmp_path):
    shard = "model-00001-of-00002.safetensors"
    files = inside(
        "checkpoint-1", ("model.safetensors.index.json", INDEX), "model.safetensors", shard, "trainer_state.json"
    )
    seen = found(tmp_path, files)
    assert seen["newest"] is None


@pytest.mark.parametrize(
    ("files", "newest"),
    [
        (["100/default/manifest.ocdbt", "100/_CHECKPOINT_METADATA", "200/default.orbax-checkpoint-tmp-1/x"], "100"),
        (["100/default/manifest.ocdbt", "200/default/ocdbt.process_0/d/x", "200/default/_METADATA"], "100"),
        (["100/state/_METADATA", "100/commit_success.txt", "200/state/_METADATA"], "100"),
        (["step_100/_METADATA", "step_200/_METADATA", "step_300.orbax-checkpoint-tmp/_METADATA"], "step_200"),
    ],
    ids=["an item is not renamed yet", "the processes are not merged yet", "a store without rename", "a folder is not renamed yet"],
)  # fmt: skip
def test_orbax_renames_last(tmp_path, files, newest):
    assert found(tmp_path, files)["newest"] == newest


def test_nemos_marker_says_that_a_checkpoint_is_unfinished(tmp_path):
    first, second = (f"m--val_loss=2.00-step={step}-consumed_samples=800.0" for step in (100, 200))
    seen = found(tmp_path, [f"{first}.ckpt", f"{second}.ckpt", (f"{second}-unfinished", "")])
    assert (seen["newest"], numbers(seen)[f"{first}.ckpt"]) == (f"{first}.ckpt", (100, None))
    (tmp_path / f"{second}-unfinished").unlink()
    assert inspect(tmp_path, ended=True)["newest"] == f"{second}.ckpt"


def test_a_pointer_that_still_names_an_older_file_is_awaited(tmp_path):
    from trainingrun_operator.agent.volume import units  # noqa: PLC0415 - this test alone needs it
    from trainingrun_operator.agent.volume.scan import Entry  # noqa: PLC0415 - likewise

    entries = {
        name: Entry(1, at, at, 0o644)
        for at, name in enumerate(("model_0000001.pth", "last_checkpoint", "model_0000002.pth"))
    }
    texts = {"last_checkpoint": "model_0000001.pth"}
    evidence = [unit.evidence.pending for unit in units.split(entries, text=lambda path: texts.get(path, "")).numbered]
    assert evidence == ["", "the pointer file last_checkpoint still names model_0000001.pth"]
    texts["last_checkpoint"] = "model_0000002.pth"
    assert not any(
        unit.evidence.pending for unit in units.split(entries, text=lambda path: texts.get(path, "")).numbered
    )


def test_a_file_that_all_others_have_is_missing_in_the_last_one(tmp_path):
    files = [f"ckpt-x-{n}/{name}" for n in (1, 2, 3) for name in ("weights.dat", "state.dat")]
    assert found(tmp_path, files)["newest"] == "ckpt-x-3"
    (tmp_path / "ckpt-x-3/state.dat").unlink()
    seen = inspect(tmp_path, ended=True)
    assert seen["newest"] == "ckpt-x-2"
    assert seen["checkpoints"][-1]["why"] == "state.dat is missing, which the others have"


def test_a_file_under_a_temporary_name_in_a_folder_keeps_it_open(tmp_path):
    seen = found(tmp_path, ["step_1/model.pt", "step_2/model.pt", "step_2/optim.pt.tmp"])
    assert seen["newest"] == "step_1"
    assert "step_2/optim.pt.tmp" in seen["checkpoints"][-1]["why"]


@pytest.mark.parametrize("name", sorted(layouts.LAYOUTS))
def test_a_pinned_layout_is_the_only_one(name):
    assert [layout.name for layout in layouts.LAYOUTS[name]] == {
        "": [layout.name for layout in (*layouts.KNOWN, layouts.UNKNOWN)],
        "Tree": [],
    }.get(name, [name])


def test_the_api_names_every_layout_and_no_other():
    assert set(layouts.LAYOUTS) - {""} == {one.value for one in CheckpointFormat}


def test_a_pinned_layout_finds_its_own_checkpoints_alone(tmp_path):
    trees.write(tmp_path, "step-100/.metadata", "checkpoint-200/trainer_state.json")

    def found_by(pinned):
        config = AgentConfig(
            namespace="n", run="r", run_uid="u", path=str(tmp_path), destination="s3://b", format=pinned
        )
        return [one.unit.name for one in Watcher(config, "STOP_TRAINING").look(ended=True).seen]

    assert found_by("") == ["step-100", "checkpoint-200"]
    assert found_by("TorchDCP") == ["step-100"]
    assert found_by("HFTrainer") == ["checkpoint-200"]
    assert found_by("Tree") == ["."]
    assert found_by("Keras") == ["."]


def test_links_and_devices_are_no_checkpoints(tmp_path):
    trees.write(tmp_path, "step_1/model.pt")
    (tmp_path / "checkpoint_200").symlink_to("step_1")
    (tmp_path / "step_300.pt").symlink_to("/etc/passwd")
    seen = inspect(tmp_path, ended=True)
    assert [one["name"] for one in seen["checkpoints"]] == ["step_1"]
