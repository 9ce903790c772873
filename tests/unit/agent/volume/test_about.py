"""What a training writes about itself before its first step is no checkpoint: a rule would end it with nothing to resume from."""

from __future__ import annotations

import pytest
import trees

from trainingrun_operator.agent.volume import detect
from trainingrun_operator.agent.volume.about import is_about
from trainingrun_operator.agent.volume.inspection import inspect
from trainingrun_operator.agent.volume.look import Watcher
from trainingrun_operator.api.exchange import AgentConfig

EVENTS = "events.out.tfevents.1767323045.host.1.0"
LIGHTNING = ("lightning_logs/version_0/hparams.yaml", f"lightning_logs/version_0/{EVENTS}")


@pytest.mark.parametrize(
    "path",
    [
        "lightning_logs/version_0/hparams.yaml",
        ".hydra/config.yaml",
        ".hydra/overrides.yaml",
        "config.json",
        "run/model_config.json",
        "config_train.json",
        "args.json",
        "training_args.json",
        "args.txt",
        "command.txt",
        "requirements.txt",
        "hyperparameters.json",
        "train.py",
        "run.sh",
        "README.md",
        "notebook.ipynb",
        "samples/0.png",
        "loss.PDF",
        "wandb/run-20260101_000000-abc/files/wandb-metadata.json",
        "wandb/run-20260101_000000-abc/run-abc.wandb",
        "mlruns/0/3f2a/metrics/loss",
        "mlruns/0/3f2a/params/rate",
        "mlruns/0/meta.yaml",
    ],
)
def test_a_file_about_a_training(path):
    assert is_about(path)


@pytest.mark.parametrize(
    "path",
    [
        "model.pt",
        "config.pt",
        "config",
        "hparams.pkl",
        "state.json",
        "params.json",
        "trainer_state.json",
        "weights.txt",
        "optimizer.json",
        "reconfigured.json",
        "wandb/run-20260101_000000-abc/files/model.h5",
        "mlruns/0/3f2a/artifacts/model/data",
        "yaml",
        "vocab.txt",
        "png/weights.bin",
    ],
)
def test_a_file_that_may_have_its_state(path):
    assert not is_about(path)


@pytest.mark.parametrize(
    ("files", "newest"),
    [
        pytest.param(LIGHTNING, None, id="Lightning before its first epoch ends"),
        pytest.param(
            (*LIGHTNING, "lightning_logs/version_0/checkpoints/epoch=0-step=300.ckpt"),
            "lightning_logs/version_0/checkpoints/epoch=0-step=300.ckpt",
            id="and after it",
        ),
        pytest.param((".hydra/config.yaml", ".hydra/hydra.yaml", "train.log"), None, id="Hydra's settings and log"),
        pytest.param(("args.json", "metrics.csv", "curve.png"), None, id="arguments, numbers and a picture"),
        pytest.param(("config.json", EVENTS, "model.safetensors"), ".", id="settings beside a model"),
        pytest.param(("config.json", "state.json"), ".", id="settings beside what may be a state"),
        pytest.param(("sample_100.png", "sample_200.png"), None, id="numbered pictures"),
        pytest.param(("step_100/config.json",), None, id="a folder of which only the settings are there"),
    ],
)
@pytest.mark.parametrize("ended", [False, True], ids=["while it trains", "after the end"])
def test_settings_code_and_pictures_alone_are_no_checkpoint(tmp_path, files, newest, ended):
    trees.write(tmp_path, *files)
    seen = inspect(tmp_path, ended=ended)
    assert seen["newest"] == newest
    assert {one["name"] for one in seen["checkpoints"]} == ({newest} if newest else set())


def test_they_are_named_with_the_reason(tmp_path):
    trees.write(tmp_path, *LIGHTNING)
    why = {one["path"]: one["why"] for one in inspect(tmp_path, ended=False)["ignored"]}
    assert why == {
        LIGHTNING[0]: "settings, code or a picture: no checkpoint without other files",
        LIGHTNING[1]: "a log: no checkpoint waits for it",
    }


def test_the_training_s_own_word_counts(tmp_path):
    trees.write(tmp_path, "config.yaml")
    saved = tmp_path.parent / "saved"
    saved.write_text('{"path": "config.yaml", "step": 5}\n')
    config = AgentConfig(namespace="ml", run="x", run_uid="1", path=str(tmp_path), destination="")
    newest = detect.newest(Watcher(config, "STOP", saved).look().seen, 0)
    assert newest is not None
    assert newest.unit.step == 5
