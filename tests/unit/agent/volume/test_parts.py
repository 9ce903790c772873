"""Which names of one number are parts of one checkpoint, and when one of them is missing."""

from __future__ import annotations

import pytest
import trees

from trainingrun_operator.agent.plan import Wish, next_job
from trainingrun_operator.agent.volume.inspection import inspect
from trainingrun_operator.agent.volume.look import Watcher
from trainingrun_operator.api.exchange import AgentConfig

BIG = b"\x80\x02" + bytes(2 << 20) + b"."
"""More than what is shipped beside a checkpoint anyway."""


class EmptyBucket:
    def earlier(self, path, entry):
        return None

    def covers(self, unit):
        return False

    def manifest_of(self, unit, *, complete):
        return None

    def finite(self, spoiled):
        return None


def planned(root, files, *, ended=False) -> tuple[str, ...]:
    """Return what is shipped next, without what is small enough to lie beside any checkpoint."""
    trees.write(root, *((one, BIG) if not one.endswith((".safetensors", ".pt")) else one for one in files))
    config = AgentConfig(namespace="n", run="r", run_uid="u", path=str(root), destination="s3://b")
    job = next_job(Watcher(config, "STOP_TRAINING").look(ended=ended), EmptyBucket(), Wish(ended=ended), 0)
    return tuple(sorted(one.path for one in job.files)) if job else ()


def of_one(root, files) -> list[set[str]]:
    """Return the files of each checkpoint."""
    trees.write(root, *files)
    config = AgentConfig(namespace="n", run="r", run_uid="u", path=str(root), destination="s3://b")
    return [set(one.unit.files) for one in Watcher(config, "STOP_TRAINING").look().seen]


@pytest.mark.parametrize(
    "names",
    [
        ("step_{}.pt", "step_{}_optim/x.bin"),
        ("lora_step{}.safetensors", "lora_step{}_state/x.bin"),
        ("lora_step{}.safetensors", "lora_step{}_state/random_states_0.pkl"),
        ("step_{}_optim/x.bin", "step_{}.pt"),
        ("epoch_{}.ckpt.pt", "epoch_{}-state/a/b.bin"),
        ("ckpt_{}/shard.bin", "ckpt_{}.optim.pt"),
        ("model_step_{}/w.bin", "optimizer_step_{}/o.bin"),
        ("model_{}/w.bin", "optimizer_{}/o.bin"),
        ("step_{}/w.bin", "step_{}_optimizer/o.bin"),
        ("actor_step_{}/w.bin", "critic_step_{}/w.bin"),
        ("model_{}.pt", "model_{}_state/x.bin"),
        ("weights-{}.pt", "scheduler-{}/s.bin", "optimizer-{}/o.bin"),
        ("{}/w.bin", "{}.pt"),
        ("step_{}.pt", "step_{}_ema/e.bin", "step_{}_optim/o.bin"),
        ("step_{}/__0_0.distcp", "step_{}/.metadata", "step_{}_optim.pt"),
        ("step-{}_model/__0_0.distcp", "step-{}_model/.metadata", "step-{}.pt"),
        ("step_{}/optimizer.bin", "step_{}/random_states_0.pkl", "step_{}_ema.pt"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_files_and_folders_of_one_number_are_one_checkpoint(tmp_path, names):
    files = [name.format(step) for step in (100, 200) for name in names]
    assert of_one(tmp_path, files) == [{name.format(step) for name in names} for step in (100, 200)]


def test_a_folder_of_a_number_does_not_hide_the_file_of_it(tmp_path):
    files = ["step_100.pt", "step_100_optim/x.bin", "step_200.pt", "step_200_optim/x.bin"]
    assert planned(tmp_path, files) == ("step_200.pt", "step_200_optim/x.bin")


@pytest.mark.parametrize("archive", ["step_100.zip", "step_100.tar"])
def test_an_archive_of_a_folder_is_no_part_of_it(tmp_path, archive):
    trees.write(tmp_path, "step_100/w.bin", archive, "step_200/w.bin")
    assert inspect(tmp_path, ended=True)["newest"] == "step_200"


@pytest.mark.parametrize(
    "files",
    [["step_100/model.pt", "step_100_merged/model.pt"], ["step_100/model.pt", "best_step_100/model.pt"]],
    ids=["a merged model", "a copy of the best"],
)
def test_a_folder_made_from_another_is_a_checkpoint_of_its_own(tmp_path, files):
    assert of_one(tmp_path, files) == [{file} for file in sorted(files, reverse=True)]


@pytest.mark.parametrize(
    "names",
    [
        ("epoch_{}.pt", "epoch_{}.opt"),
        ("epoch_{}.pt", "epoch_{}.optim"),
        ("epoch_{}.pdparams", "epoch_{}.pdopt", "epoch_{}.pdstates"),
        ("step_{}.safetensors", "step_{}.state"),
        ("step_{}.safetensors", "step_{}"),
        ("model_{}.pt", "model_{}.rng"),
        ("model_{}.pt", "optimizer_{}.opt"),
        ("step_{}_model.pt", "step_{}_trainer.dat"),
        ("{:02d}.keras", "{:02d}.opt"),
        ("epoch={}.ckpt", "epoch={}.optim"),
        ("model_{:07d}.pth", "model_{:07d}.ema"),
        ("model_{:06d}.pt", "meta_{:06d}.json", "optim_{:06d}_rank0.pt"),
        ("epoch_{}.pt", "trainer_state_epoch_{}.json"),
        ("step_{}.pt", "step_{}_config.yaml"),
        ("step_{}/w.bin", "step_{}_rng.json"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_a_suffix_in_no_list_belongs_to_the_checkpoint_of_its_number(tmp_path, names):
    files = [name.format(number) for number in (1, 2) for name in names]
    assert of_one(tmp_path, files) == [{name.format(number) for name in names} for number in (1, 2)]


@pytest.mark.parametrize(
    "name",
    [
        "step_2.png",
        "step_2.txt",
        "step_2.log",
        "step_2.yaml",
        "eval_step_2.jsonl",
        "eval_step_2.json",
        "step_2_metrics.json",
        "step_2.mp4",
    ],
)
def test_what_is_written_about_a_checkpoint_is_no_part_of_it(tmp_path, name):
    assert of_one(tmp_path, ["step_1.pt", "step_2.pt", name]) == [{"step_1.pt"}, {"step_2.pt"}]


@pytest.mark.parametrize(
    "names",
    [
        ("step_{}.pt", "step_{}_optim/x.bin"),
        ("step_{}_optim/x.bin", "step_{}.pt"),
        ("model_step_{}/w.bin", "optimizer_step_{}/o.bin"),
        ("lora_step{}.safetensors", "lora_step{}_state/random_states_0.pkl"),
        ("lora_step{}_state/random_states_0.pkl", "lora_step{}.safetensors"),
        ("step_{}/random_states_0.pkl", "step_{}_ema.pt"),
        ("step-{}.pt", "step-{}_state/.metadata"),
        ("step-{}_state/.metadata", "step-{}.pt"),
    ],
    ids=" ".join,
)  # fmt: skip
@pytest.mark.parametrize("ended", [False, True], ids=["while it trains", "after the end"])
def test_half_of_a_number_is_no_checkpoint(tmp_path, names, ended):
    trees.write(tmp_path, *(name.format(100) for name in names), names[0].format(200))
    seen = inspect(tmp_path, ended=ended)
    assert [(one["step"], one["complete"]) for one in seen["checkpoints"]] == [(100, True), (200, False)]


@pytest.mark.parametrize(
    ("names", "before"),
    [
        (("model_step_{}.pt", "optimizer_step_{}.pt"), 1),
        (("optimizer_step_{}.pt", "model_step_{}.pt"), 1),
        (("model_{}.pt", "optimizer_{}.pt"), 2),
        (("model_{}/w.bin", "optimizer_{}/o.bin"), 2),
        (("model_step_{}/w.bin", "optimizer_step_{}/o.bin"), 1),
        (("epoch_{}.pdparams", "epoch_{}.pdopt"), 1),
        (("epoch_{}.pdparams", "epoch_{}.pdopt"), 3),
        (("epoch_{}.pdopt", "epoch_{}.pdparams"), 3),
        (("epoch_{}.pt", "epoch_{}.opt"), 1),
        (("generator_step_{}.pt", "discriminator_step_{}.pt"), 1),
        (("step_{}/model.pt", "step_{}/optimizer.pt"), 1),
        (("ckpt_{}/a.bin", "ckpt_{}/b.bin", "ckpt_{}/c.bin"), 1),
    ],
)  # fmt: skip
@pytest.mark.parametrize("ended", [False, True], ids=["while it trains", "after the end"])
def test_one_checkpoint_before_it_shows_what_belongs_to_the_next(tmp_path, names, before, ended):
    whole = [name.format(number) for number in range(1, before + 1) for name in names]
    trees.write(tmp_path, *whole, names[0].format(before + 1))
    seen = inspect(tmp_path, ended=ended)["checkpoints"]
    assert [one["complete"] for one in seen] == [True] * before + [False]
    assert "is missing, which the others have" in seen[-1]["why"]


@pytest.mark.parametrize(
    "files",
    [
        ["step_1/model.pt", "step_1/best.pt", "step_2/model.pt"],
        ["step_1/model.pt", "step_1/eval_results.json", "step_2/model.pt"],
        ["model_step_1.pt", "best_step_1.pt", "model_step_2.pt"],
        [*(f"{name}epoch_{number}.pt" for number in (1, 2, 3) for name in ("", "best_")), "epoch_4.pt"],
        ["step_1/w.bin", "step_2/w.bin", "step_2/extra.bin"],
        ["step_1/a1b2c3.bin", "step_2/d4e5f6.bin"],
        ["step_1/model.pt", "step_1/ema.pt", "step_2/model.pt", "step_3/model.pt"],
    ],
    ids=["the best", "an evaluation", "the best as a file", "the best of three", "the next has more", "names of their own", "no longer written"],
)  # fmt: skip
def test_a_checkpoint_that_lacks_nothing_of_its_own_kind_is_the_newest(tmp_path, files):
    trees.write(tmp_path, *files)
    seen = inspect(tmp_path, ended=True)
    assert seen["newest"] == seen["checkpoints"][-1]["name"]


def test_a_part_that_is_no_longer_written_is_not_awaited(tmp_path):
    state = "lora_step1_state/random_states_0.pkl"
    trees.write(tmp_path, "lora_step1.safetensors", state, "lora_step2.safetensors", "lora_step3.safetensors")
    assert inspect(tmp_path, ended=True)["newest"] == "lora_step3.safetensors"


def test_what_lacks_a_part_at_the_end_is_saved_beside_the_whole_one(tmp_path):
    files = ["model_step_1.pt", "optimizer_step_1.pt", "model_step_2.pt"]
    assert planned(tmp_path, files, ended=True) == tuple(sorted(files))
