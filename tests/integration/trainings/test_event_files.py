"""Event files that TensorBoard's real writers have written: what the agent reads of them is what the training itself says."""

from __future__ import annotations

import csv
import json
from math import isnan
from typing import TYPE_CHECKING, Any

import pytest
from builders import POD_UID
from integration.trainings.test_sources import HUGGING_FACE, LIGHTNING, NAMES, Trained

from trainingrun_operator.agent.measure.files import Measures
from trainingrun_operator.agent.volume.scan import Filter, scan
from trainingrun_operator.api.exchange import Measured
from trainingrun_operator.api.run import MetricNames
from trainingrun_operator.core.facts.reading import Failure
from trainingrun_operator.edge.metrics.files import of_files
from trainingrun_operator.edge.metrics.log.words import names

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from trainingrun_operator.api.exchange import MeasuredFile

pytestmark = [pytest.mark.trainings, pytest.mark.timeout(420)]

# One process for all writers that take numbers as a loop has them: what takes long is the import of torch.
LOOPS = """
import os
import numpy
import tensorboardX
import torch
from tensorboard.summary import Writer
from torch.utils.tensorboard import SummaryWriter

def plain(writer):
    for step in range(1, 31):
        writer.add_scalar("Loss/train", 3 / step, step)
        if step % 10 == 0:
            writer.add_scalar("Loss/test", -step, step)
            writer.add_text("note", f"Loss/train: {step}", step)
    writer.add_histogram("weights", numpy.arange(1000.0), 30)
    writer.add_image("samples", numpy.random.rand(3, 200, 200), 30)
    writer.close()

def steps(writer, last=1.5, **how):
    for step, loss in ((2**31, 2.5), (2**40 + 1, last)):
        writer.add_scalar("train_loss", torch.tensor(loss, dtype=torch.float64), step, **how)
    writer.close()

plain(SummaryWriter("/checkpoints/torch"))
plain(tensorboardX.SummaryWriter("/checkpoints/tensorboardX"))
steps(SummaryWriter("/checkpoints/far"))
steps(SummaryWriter("/checkpoints/tensors"), new_style=True)
steps(SummaryWriter("/checkpoints/doubles"), 0.1, new_style=True, double_precision=True)
steps(SummaryWriter("/checkpoints/diverged"), float("nan"))
steps(tensorboardX.SummaryWriter("/checkpoints/overflown"), float("inf"))

split = SummaryWriter("/checkpoints/split")
for step in range(1, 11):
    split.add_scalars("loss", {"train": 1 / step, "val": 9.0}, step)
split.close()

tensorboard = Writer("/checkpoints/tensorboard")
for step in range(1, 11):
    tensorboard.add_scalar("loss", 1 / step, step)
tensorboard.flush()

unclosed = SummaryWriter("/checkpoints/unclosed")
for step in range(1, 6):
    unclosed.add_scalar("loss", 1 / step, step)
unclosed.flush()
os._exit(0)  # as a process that is killed
"""
EVENTS_OF_HUGGING_FACE = HUGGING_FACE.replace('report_to="none"', 'report_to="tensorboard"')
EVENTS_OF_LIGHTNING = LIGHTNING.replace("import CSVLogger", "import CSVLogger, TensorBoardLogger").replace(
    'logger=CSVLogger("/checkpoints")', 'logger=[TensorBoardLogger("/checkpoints"), CSVLogger("/checkpoints")]'
)
KERAS = """
import json
import keras, numpy
import tensorflow as tf

x = numpy.random.rand(256, 4)
model = keras.Sequential([keras.layers.Dense(1)])
model.compile("adam", "mse", metrics=["mae"])
callbacks = [keras.callbacks.TensorBoard("/checkpoints/epochs"), keras.callbacks.TensorBoard("/checkpoints/batches", update_freq=6)]
history = model.fit(x, x.sum(1), epochs=3, batch_size=32, validation_split=0.25, verbose=0, callbacks=callbacks).history
with open("/checkpoints/history.json", "w") as file:
    json.dump(history, file)

writer = tf.summary.create_file_writer("/checkpoints/summary")
with writer.as_default():
    for step in range(1, 21):
        tf.summary.scalar("train/loss", 2 / step, step=step)
        tf.summary.scalar("count", step, step=step)
        tf.summary.text("note", "loss: 9", step=step)
        tf.summary.histogram("weights", numpy.arange(100.0), step=step)
writer.close()
"""


class Read:
    """What the agent has read of the event files in a folder, and what the operator makes of it."""

    def __init__(self, folder: Path) -> None:
        measures = Measures(str(folder), POD_UID, 0)
        measures.looked(scan(str(folder), Filter()).entries)
        found = Measured.model_validate_json(measures.page()).files
        self.files: Sequence[MeasuredFile] = [one for one in found if one.kind == "TensorBoard"]

    @property
    def values(self) -> dict[str, Any]:
        """Value and step by name, of the one file."""
        (file,) = self.files
        return {one.name: (float(one.value), one.step) for one in file.values}

    def reading(self, *loss: str) -> Any:
        return of_files(self.files, names(MetricNames(loss=loss)) if loss else NAMES)


def in_folders(read):
    """Values of the files that have some, by folder."""
    return {
        file.path.split("/")[0]: {one.name: (float(one.value), one.step) for one in file.values}
        for file in read.files
        if file.values
    }


@pytest.fixture(scope="module")
def loops(frameworks, tmp_path_factory):
    return Trained(frameworks, tmp_path_factory.mktemp("loops"), LOOPS).folder


@pytest.mark.parametrize("writer", ["torch", "tensorboardX"])
def test_the_newest_number_of_each_name_is_read_among_texts_histograms_and_images(writer, loops):
    read = Read(loops / writer)
    assert read.values == {"Loss/train": (pytest.approx(0.1), 30), "Loss/test": (-30, 30)}
    assert (read.reading().loss, read.reading().step) == (pytest.approx(0.1), 30)


@pytest.mark.parametrize("how", ["far", "tensors"])
def test_steps_beyond_32_bits_are_exact_in_both_styles_of_a_scalar(how, loops):
    assert Read(loops / how).values == {"train_loss": (1.5, 2**40 + 1)}


def test_a_double_keeps_its_digits(loops):
    assert Read(loops / "doubles").values == {"train_loss": (0.1, 2**40 + 1)}


def test_a_loss_that_is_no_number_any_more_is_read_as_such(loops):
    diverged, overflown = Read(loops / "diverged").reading(), Read(loops / "overflown").reading()
    assert isnan(diverged.loss)
    assert overflown.loss == float("inf")
    assert diverged.step == overflown.step == 2**40 + 1


def test_scalars_of_one_chart_are_told_apart_by_their_folders(loops):
    read = Read(loops / "split")
    assert in_folders(read).keys() == {"loss_train", "loss_val"}
    assert (read.reading().loss, read.reading().step) == (pytest.approx(0.1), 10)


def test_tensorboard_s_own_writer_is_read(loops):
    assert Read(loops / "tensorboard").values == {"loss": (pytest.approx(0.1), 10)}


def test_the_file_of_a_process_that_was_killed_is_read_as_far_as_it_was_written(loops):
    assert Read(loops / "unclosed").values == {"loss": (pytest.approx(0.2), 5)}


def test_an_unchanged_hugging_face_trainer_is_read_by_the_writer_that_it_chooses(frameworks, tmp_path):
    trained = Trained(frameworks, tmp_path, EVENTS_OF_HUGGING_FACE)
    state = json.loads((trained.folder / "checkpoint-24" / "trainer_state.json").read_text())
    rows = state["log_history"]
    losses, evaluations = ([one for one in rows if name in one] for name in ("loss", "eval_loss"))
    read = Read(trained.folder)
    values = read.values
    assert values["train/loss"] == (pytest.approx(losses[-1]["loss"]), losses[-1]["step"])
    assert values["train/grad_norm"] == (pytest.approx(losses[-1]["grad_norm"]), 20)
    assert values["eval/loss"] == (pytest.approx(evaluations[-1]["eval_loss"]), 24)
    reading = read.reading()
    assert (reading.loss, reading.step) == (values["train/loss"][0], 20)
    assert reading.gradient_norm == values["train/grad_norm"][0]
    assert reading.values["eval_loss"] == values["eval/loss"][0]


def test_an_unchanged_lightning_training_is_read_as_in_its_table(frameworks, tmp_path):
    trained = Trained(frameworks, tmp_path, EVENTS_OF_LIGHTNING)
    (table,) = trained.folder.rglob("metrics.csv")
    rows = list(csv.DictReader(table.read_text().splitlines()))
    last = {name: [(float(row[name]), float(row["step"])) for row in rows if row[name]][-1] for name in rows[0]}
    read = Read(trained.folder)
    values, reading = read.values, read.reading()
    assert last["train_loss"][1] == last["val_loss"][1] == 23
    assert values == {name: (pytest.approx(last[name][0]), 23) for name in ("train_loss", "val_loss", "epoch")}
    assert (reading.loss, reading.step, reading.epoch) == (values["train_loss"][0], 23, 2)


@pytest.fixture(scope="module")
def tensorflow(frameworks, tmp_path_factory):
    return Trained(frameworks, tmp_path_factory.mktemp("keras"), KERAS, PYTHONPATH="/opt/tensorflow").folder


def test_tensorflow_s_summaries_are_read(tensorflow):
    assert Read(tensorflow / "summary").values == {"train/loss": (pytest.approx(0.1), 20), "count": (20, 20)}


def test_keras_callback_writes_a_loss_of_each_epoch_that_counts_once_the_spec_names_it(tensorflow):
    history = json.loads((tensorflow / "history.json").read_text())
    read = Read(tensorflow / "epochs")
    written = in_folders(read)
    assert written["train"]["epoch_loss"] == (pytest.approx(history["loss"][-1]), 2)
    assert written["train"]["epoch_mae"] == (pytest.approx(history["mae"][-1]), 2)
    assert written["validation"]["epoch_loss"] == (pytest.approx(history["val_loss"][-1]), 2)
    unnamed, named = read.reading(), read.reading("epoch_loss")
    assert isinstance(unnamed, Failure)
    assert unnamed.reason == "NoSuchMetric"
    assert (named.loss, named.step) == written["train"]["epoch_loss"]


def test_keras_callback_writes_a_loss_at_batches_if_it_is_asked_to(tensorflow):
    read = Read(tensorflow / "batches")
    batches = in_folders(read)["train"]["batch_loss"]
    reading = read.reading()
    assert (reading.loss, reading.step) == batches
    # 192 of 256 rows train, 32 in a batch, in 3 epochs.
    assert batches[1] == 18


def test_files_of_several_writers_that_disagree_are_not_chosen_from(loops):
    refused = Read(loops).reading()
    assert isinstance(refused, Failure)
    assert refused.reason == "AmbiguousSeries"
