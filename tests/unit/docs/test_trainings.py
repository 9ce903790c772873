"""Of the training scripts of the docs, what no run shows at will: which loss goes with which step, and what lies about in the folder.

The stand-ins for the libraries have what the scripts use of the documented hooks, and nothing else. On the real libraries the scripts are run by
`tests/integration/trainings`.
"""

from __future__ import annotations

import re
import sys
from types import ModuleType, SimpleNamespace

import documented
import prometheus_client
import pytest
from documented import ROOT
from prometheus_client import REGISTRY

from trainingrun_operator.agent.volume.layouts.reading import read, stem_of
from trainingrun_operator.api.run import MetricNames
from trainingrun_operator.checkpoints.names import is_set_aside, is_temporary

GUIDE = ROOT / "docs" / "training"


def source(page):
    (block,) = [one for one in documented.blocks(GUIDE / f"{page}.md") if one.title == "train.py"]
    return block.text


def module(name, **members):
    made = ModuleType(name)
    vars(made).update(members)
    return made


class Anything:
    """Whatever a script only passes on."""

    def __init__(self, *args, **kwargs):
        pass

    def __getattr__(self, name):
        return Anything()

    def __call__(self, *args, **kwargs):
        return Anything()


class Base:
    """Of a class that a library has its users inherit from."""


def stand_ins():
    anything = Anything()
    torch = module(
        "torch",
        nn=SimpleNamespace(Module=Base),
        optim=SimpleNamespace(Optimizer=Base),
        device=Base,
        utils=SimpleNamespace(data=SimpleNamespace(Dataset=Base)),
    )
    transformers = module("transformers", TrainerCallback=Base)
    for name in ("GPT2Config", "GPT2LMHeadModel", "Trainer", "TrainingArguments"):
        setattr(transformers, name, anything)
    callbacks = module("lightning.pytorch.callbacks", ModelCheckpoint=anything)
    return {
        "torch": torch,
        "transformers": transformers,
        "transformers.trainer_utils": module("transformers.trainer_utils", get_last_checkpoint=anything),
        "lightning": module("lightning", Callback=Base, LightningModule=Base, Trainer=anything),
        "lightning.pytorch": module("lightning.pytorch", callbacks=callbacks),
        "lightning.pytorch.callbacks": callbacks,
        "numpy": module("numpy"),
        "keras": module("keras", callbacks=SimpleNamespace(Callback=Base), Model=Base),
    }


@pytest.fixture
def ports():
    return []


@pytest.fixture
def load(monkeypatch, tmp_path, ports):
    """The script of a page as a module, its folder empty, its metrics forgotten afterwards."""
    monkeypatch.setenv("TRAININGRUN_CHECKPOINT_DIR", str(tmp_path))
    monkeypatch.setattr(prometheus_client, "start_http_server", ports.append)
    for name, stand_in in stand_ins().items():
        monkeypatch.setitem(sys.modules, name, stand_in)
    before = set(REGISTRY._collector_to_names)

    def loaded(page):
        made = module("train")
        exec(compile(source(page), f"{page}.md", "exec"), vars(made))  # noqa: S102 - the docs' own script
        return made

    yield loaded
    for collector in set(REGISTRY._collector_to_names) - before:
        REGISTRY.unregister(collector)


def shown():
    """What the metrics page says, by the name of the field that it is read for."""
    return {
        field: next((value for name in names if (value := REGISTRY.get_sample_value(name)) is not None), None)
        for field, names in MetricNames().model_dump().items()
    }


def test_plain_pytorch_goes_on_from_the_highest_step_that_is_whole(load, tmp_path):
    train = load("pytorch")
    assert train.newest() is None
    for name in ("checkpoint-90", "checkpoint-1200", ".tmp-checkpoint-1300"):
        (tmp_path / name).mkdir()
    assert train.newest() == tmp_path / "checkpoint-1200"


def test_hugging_face_shows_a_loss_with_its_step_and_saves_before_it_leaves(load, ports, tmp_path):
    callback = load("hugging-face").TrainingRunCallback()
    arguments = SimpleNamespace(output_dir=str(tmp_path), num_train_epochs=3)
    state = SimpleNamespace(is_world_process_zero=True, global_step=10, epoch=0.5, num_train_epochs=30)
    control = SimpleNamespace(should_save=False, should_training_stop=False)

    callback.on_train_begin(arguments, state, control, model=None)
    assert ports == [8000]
    callback.on_log(arguments, state, control, logs={"loss": 0.25, "learning_rate": 1e-5})
    callback.on_log(arguments, SimpleNamespace(global_step=11, epoch=0.6), control, logs={"eval_loss": 0.1})
    assert shown() == {"loss": 0.25, "step": 10, "epoch": 0.5, "total_epochs": 30}, (
        "max_steps overrules what the arguments say."
    )

    callback.on_step_end(arguments, state, control)
    assert not control.should_training_stop
    (tmp_path / "STOP_TRAINING").touch()
    callback.on_step_end(arguments, state, control)
    assert control.should_save
    assert control.should_training_stop


def test_lightning_shows_the_mean_of_ten_losses_and_saves_once_before_it_leaves(load, ports, tmp_path):
    train = load("lightning")
    callback = train.TrainingRunCallback()
    trainer = SimpleNamespace(is_global_zero=True, max_epochs=20, current_epoch=3, global_step=0, should_stop=False)
    trainer.save_checkpoint = lambda path: path.write_text(str(trainer.global_step))
    callback.on_train_start(trainer, None)
    assert ports == [8000]
    for step in range(1, 16):
        trainer.global_step = step
        callback.on_train_batch_end(trainer, None, {"loss": step}, None, step)
    assert shown() == {"loss": 5.5, "step": 10, "epoch": 4, "total_epochs": 20}
    assert train.newest() is None

    (tmp_path / "STOP_TRAINING").touch()
    for trainer.global_step in (16, 17):
        callback.on_train_batch_end(trainer, None, {"loss": 1}, None, 0)
    assert trainer.should_stop
    assert train.newest() == tmp_path / "epoch=3-step=16.ckpt"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["STOP_TRAINING", "epoch=3-step=16.ckpt"]


def test_keras_goes_on_from_the_highest_step_that_is_whole(load, tmp_path):
    train = load("keras")
    assert train.newest() == (0, None)
    for name in ("step-90.keras", "step-1200.keras", ".tmp-step-1300.keras"):
        (tmp_path / name).touch()
    assert train.newest() == (1200, tmp_path / "step-1200.keras")


# -- what the guide says of names -------------------------------------------------------------------------------


def rows():
    """Of the table of names: each name with what it is said to be read as."""
    table = [line.split("|")[1:3] for line in (GUIDE / "index.md").read_text().split("## Names")[1].splitlines() if line.startswith("| `")]  # fmt: skip
    return [
        (name, said.strip()) for names, said in table[: next(n for n, row in enumerate(table) if "unfinished" in row[1]) + 1] for name in re.findall(r"`([^`]+)`", names)
    ]  # fmt: skip


@pytest.mark.parametrize(("name", "said"), rows(), ids=[name for name, _ in rows()])
def test_a_name_is_read_as_the_guide_says(name, said):
    stem, _ = stem_of(name)
    found = read(stem)
    if said.startswith("unfinished"):
        assert is_temporary(name.replace("*", "1200"))
        assert is_temporary(f"{name.replace('*', '1200')}/model.safetensors"), "so is everything in such a folder"
    elif said.startswith("set aside"):
        assert is_set_aside(name)
        assert not is_temporary(name), "it is restored"
    elif said.startswith("step"):
        assert f"step {found.step}" == said
    elif said.startswith("epoch"):
        assert said.startswith(f"epoch {found.epoch}:")
        assert found.step is None
    else:
        assert not found.known
