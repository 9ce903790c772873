"""Unchanged trainings on the real libraries: what the operator reads from what they print, write and post."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from builders import POD_UID

from trainingrun_operator.agent import serve
from trainingrun_operator.agent.measure.files import Measures
from trainingrun_operator.agent.measure.push import Pushed, write_token
from trainingrun_operator.agent.volume.scan import Filter, scan
from trainingrun_operator.api.exchange import Measured
from trainingrun_operator.api.run import MetricNames
from trainingrun_operator.core.facts.reading import Reading
from trainingrun_operator.edge.metrics.files import of_files
from trainingrun_operator.edge.metrics.log.fold import Fold
from trainingrun_operator.edge.metrics.log.words import names

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.trainings, pytest.mark.timeout(420)]

NAMES = names(MetricNames())
IN_ITS_ROOT = """set -eu
mount --rbind /proc "$ROOT/proc"
mount --rbind /dev "$ROOT/dev"
mount -t tmpfs -o mode=1777 tmpfs "$ROOT/tmp"
mount --bind "$SCRIPT" "$ROOT/training"
mount --bind "$FOLDER" "$ROOT/checkpoints"
exec chroot "$ROOT" /usr/bin/env --ignore-environment --chdir=/training PATH=/usr/bin:/bin HOME=/tmp PYTHONUNBUFFERED=1 KERAS_BACKEND=jax "$@"
"""
HUGGING_FACE = """
import torch
from transformers import Trainer, TrainingArguments

class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 1)

    def forward(self, x=None, labels=None):
        predicted = self.layer(x)
        return {"loss": ((predicted - labels) ** 2).mean(), "logits": predicted}

torch.manual_seed(0)
data = [{"x": torch.randn(4), "labels": torch.randn(1) * 3} for _ in range(64)]
arguments = TrainingArguments(
    "/checkpoints", num_train_epochs=3, per_device_train_batch_size=8, logging_steps=5, eval_strategy="epoch", save_strategy="epoch",
    report_to="none", use_cpu=True,
)
Trainer(model=Model(), args=arguments, train_dataset=data, eval_dataset=data[:32]).train()
"""
LIGHTNING = """
import lightning, torch
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader, TensorDataset

class Model(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 1)

    def loss(self, batch):
        return ((self.layer(batch[0]) - batch[1]) ** 2).mean()

    def training_step(self, batch, _):
        loss = self.loss(batch)
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch, _):
        self.log("val_loss", self.loss(batch), prog_bar=True)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.01)

data = DataLoader(TensorDataset(torch.randn(64, 4), torch.randn(64, 1)), batch_size=8)
lightning.Trainer(
    max_epochs=3, accelerator="cpu", log_every_n_steps=2, logger=CSVLogger("/checkpoints"), default_root_dir="/checkpoints",
    callbacks=[TQDMProgressBar()],
).fit(Model(), data, data)
"""
KERAS = """
import keras, numpy
x = numpy.random.rand(256, 4)
model = keras.Sequential([keras.layers.Dense(1)])
model.compile("adam", "mse", metrics=["mae"])
model.fit(x, x.sum(1), epochs=3, batch_size=32, validation_split=0.2, verbose=VERBOSE)
model.evaluate(x, x.sum(1), verbose=VERBOSE)
"""


class Trained:
    """A script that has run to its end, what it has printed and the folder that it has written into."""

    def __init__(self, frameworks: Path, folder: Path, script: str, **variables: str) -> None:
        self.folder = folder / "checkpoints"
        code = folder / "script"
        for one in (self.folder, code):
            one.mkdir()
        (code / "train.py").write_text(script)
        write_token(code)
        told = [f"{name}={value}" for name, value in variables.items()]
        paths = {
            "ROOT": str(frameworks),
            "SCRIPT": str(code),
            "FOLDER": str(self.folder),
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        }
        ran = subprocess.run(
            ["unshare", "--mount", "sh", "-c", IN_ITS_ROOT, "sh", *told, "python3", "train.py"],
            env=paths, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip
        self.printed = ran.stdout.decode(errors="replace")
        assert ran.returncode == 0, self.printed

    def logged(self) -> Any:
        """What the operator reads at the end of what was printed."""
        fold = Fold(NAMES)
        fold.add(f"{self.printed}\n")
        return fold.reading()

    def written(self) -> Any:
        """What it reads from the files."""
        measures = Measures(str(self.folder), POD_UID, 0)
        measures.looked(scan(str(self.folder), Filter()).entries)
        return of_files(Measured.model_validate_json(measures.page()).files, NAMES)


def test_hugging_face_prints_writes_and_posts_its_loss(frameworks, tmp_path):
    pushed = Pushed()
    served = serve.start(0, lambda: "{}", None, pushed.take)
    try:
        trained = Trained(
            frameworks,
            tmp_path,
            HUGGING_FACE,
            KUBEFLOW_TRAINER_SERVER_URL=f"http://127.0.0.1:{served.port}/push",
            KUBEFLOW_TRAINER_SERVER_TOKEN="/training/push_token",
        )
    finally:
        served.close()
    newest = pushed.newest()
    assert newest is not None
    posted = newest[0]["loss"][0]
    written, logged = trained.written(), trained.logged()
    assert isinstance(written, Reading)
    assert isinstance(logged, Reading)
    assert (written.loss, written.step, written.total_epochs) == (posted, 20, 3)
    assert logged.loss == pytest.approx(posted, rel=1e-3)
    assert (logged.step, logged.epoch) == (24, 3)
    assert {"eval_loss", "train_runtime"} <= logged.values.keys()
    assert "train_loss" not in newest[0]


def test_lightning_prints_and_writes_its_loss(frameworks, tmp_path):
    trained = Trained(frameworks, tmp_path, LIGHTNING)
    written, logged = trained.written(), trained.logged()
    assert isinstance(written, Reading)
    assert isinstance(logged, Reading)
    assert (written.step, written.epoch) == (23, 2)
    assert (logged.step, logged.epoch) == (24, 2)
    assert logged.loss == pytest.approx(written.loss, rel=1e-2)
    assert logged.values["val_loss"] == pytest.approx(written.values["val_loss"], rel=1e-2)


@pytest.mark.parametrize("verbose", [1, 2])
def test_keras_prints_the_loss_of_its_training_and_of_its_evaluation(frameworks, tmp_path, verbose):
    trained = Trained(frameworks, tmp_path, KERAS.replace("VERBOSE", str(verbose)))
    logged = trained.logged()
    assert isinstance(logged, Reading)
    assert (logged.step, logged.epoch, logged.total_epochs) == (21, 3, 3)
    evaluated = Fold(NAMES)
    evaluated.add(trained.printed.rsplit("Epoch 3/3", 1)[0] + "\n")
    before = evaluated.reading()
    assert isinstance(before, Reading)
    assert before.step == 14
