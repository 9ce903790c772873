"""The lines that trainers really print, each with the code that writes it: which of their numbers are the training's."""

from __future__ import annotations

from math import isnan, nan
from typing import Any

import pytest

from trainingrun_operator.api.run import MetricNames
from trainingrun_operator.core.facts.reading import Reading
from trainingrun_operator.edge.metrics.log.fold import Fold
from trainingrun_operator.edge.metrics.log.words import names

NAMES = names(MetricNames())
TORCHTITAN = (
    "[titan] 2025-09-11 14:08:35,123 - root - INFO - \x1b[31mstep: 10  \x1b[32mloss:  7.0423  \x1b[38;2;180;60;0mgrad_norm:  1.2345  "
    "\x1b[36mmemory:  2.70GiB(3.41%)  \x1b[34mtps: 12,345  \x1b[36mtflops: 100.20  \x1b[35mmfu: 32.10%\x1b[39m"
)
MEGATRON = (
    " [2025-01-02 03:04:05] iteration       10/     100 | consumed samples:           80 | elapsed time per iteration (ms): 104.2 | learning rate: 1.5E-04"
    " | global batch size:     8 | lm loss: 9.123400E+00 | loss scale: 65536.0 | grad norm: 1.234 | number of skipped iterations:   0 |"
    " number of nan iterations:   0 |"
)


def read(*lines):
    fold = Fold(NAMES)
    fold.add("".join(f"{line}\n" for line in lines))
    return fold.reading()


def reads(*lines):
    found = read(*lines)
    assert isinstance(found, Reading), found
    return found


@pytest.mark.parametrize(
    ("line", "loss", "expected"),
    [
        # huggingface/transformers v4, src/transformers/trainer_callback.py, ProgressCallback.on_log: str(logs); PrinterCallback: print(logs).
        pytest.param(
            "{'loss': 1.9543, 'grad_norm': 2.5, 'learning_rate': 4.9e-05, 'epoch': 0.36}",
            1.9543,
            {"epoch": 0.36, "gradient_norm": 2.5},
            id="Hugging Face 4",
        ),
        # The same in v5: floats as f"{v:.4g}", so that they are text.
        pytest.param(
            "{'loss': '1.954', 'grad_norm': '2.5', 'learning_rate': '4.9e-05', 'epoch': '0.36'}",
            1.954,
            {"epoch": 0.36, "gradient_norm": 2.5},
            id="Hugging Face 5",
        ),
        # huggingface/trl, trl/trainer/dpo_trainer.py, DPOTrainer.log: the Trainer's logs with its own means.
        pytest.param(
            "{'loss': 0.6931, 'grad_norm': 1.1, 'learning_rate': 5e-07, 'rewards/chosen': 0.01, 'rewards/rejected': -0.02,"
            " 'rewards/margins': 0.03, 'logps/chosen': -250.5, 'epoch': 0.04}",
            0.6931,
            {"epoch": 0.04, "rewards_rejected": -0.02},
            id="TRL",
        ),
        # axolotl-ai-cloud/axolotl, src/axolotl/core/trainers/base.py: the Trainer's logs with memory, as text.
        pytest.param(
            "{'loss': '1.102', 'grad_norm': '0.81', 'learning_rate': '0.0002', 'ppl': '3.01', 'memory/max_active (GiB)': '5.51', 'epoch': '0.02'}",
            1.102,
            {"epoch": 0.02, "ppl": 3.01},
            id="Axolotl",
        ),
        # hiyouga/LLaMA-Factory, src/llamafactory/train/callbacks.py, LogCallback._write_log: json.dumps(logs).
        pytest.param(
            '{"current_steps": 10, "total_steps": 300, "loss": 1.61, "lr": 4.99e-05, "epoch": 0.1, "percentage": 3.33, "elapsed_time": "0:00:12",'
            ' "remaining_time": "0:05:48"}',
            1.61,
            {"step": 10, "epoch": 0.1, "percentage": 3.33},
            id="LLaMA-Factory",
        ),
        # modelscope/ms-swift, swift/megatron/callbacks: str(logs) with the step as text.
        pytest.param(
            "{'loss': 1.5, 'grad_norm': 0.8, 'iteration': '20/200', 'elapsed_time': '31s', 'memory(GiB)': 12.3, 'train_speed(s/it)': 1.55}",
            1.5,
            {"step": 20},
            id="ms-swift",
        ),
        # NVIDIA/Megatron-LM, megatron/training/training.py, training_log.
        pytest.param(MEGATRON, 9.1234, {"step": 10, "gradient_norm": 1.234, "loss_scale": 65536}, id="Megatron"),
        # deepspeedai/DeepSpeed, deepspeed/runtime/pipe/engine.py, train_batch.
        pytest.param(
            "steps: 10 loss: 0.6931 iter time (s): 0.105 samples/sec: 152.300", 0.6931, {"step": 10}, id="DeepSpeed"
        ),
        # pytorch/torchtitan, torchtitan/components/metrics.py, MetricsProcessor.log.
        pytest.param(TORCHTITAN, 7.0423, {"step": 10, "gradient_norm": 1.2345, "tps": 12345}, id="torchtitan"),
        # karpathy/nanoGPT, train.py.
        pytest.param("iter 250: loss 2.3456, time 50.12ms, mfu 10.20%", 2.3456, {"step": 250}, id="nanoGPT"),
        pytest.param("iter 260: loss nan, time 50.12ms, mfu 10.20%", nan, {"step": 260}, id="nanoGPT diverged"),
        pytest.param(
            "step 250: train loss 2.4321, val loss 2.5432",
            2.4321,
            {"step": 250, "val_loss": 2.5432},
            id="nanoGPT evaluates",
        ),
        # facebookresearch/fairseq, fairseq/logging/progress_bar.py, JsonProgressBar.log: numbers as text.
        pytest.param(
            '2023-01-02 03:04:05 | INFO | train_inner | {"epoch": 1, "update": 0.013, "loss": "8.512", "ppl": "365.1", "num_updates": "200",'
            ' "lr": "5e-05", "gnorm": "1.9", "loss_scale": "128"}',
            8.512,
            {"step": 200, "epoch": 1, "gradient_norm": 1.9},
            id="fairseq",
        ),
        # Lightning-AI/pytorch-lightning, src/lightning/pytorch/callbacks/progress/tqdm_progress.py: "Epoch N" before a bar of tqdm.
        pytest.param(
            "Epoch 3:  50%|█████     | 50/100 [00:01<00:01, 40.12it/s, v_num=0, train_loss=0.512, val_loss=0.613]",
            0.512,
            {"step": 350, "epoch": 3, "val_loss": 0.613},
            id="Lightning",
        ),
        # pytorch/examples, mnist/main.py, train: the numbers in brackets are samples.
        pytest.param(
            "Train Epoch: 1 [640/60000 (1%)]\tLoss: 2.301234",
            2.301234,
            {"step": None, "epoch": 1},
            id="PyTorch's MNIST",
        ),
        # pytorch/examples, imagenet/main.py, ProgressMeter: the newest value, and the mean in brackets.
        pytest.param(
            "Epoch: [0][ 100/5005]\tTime  0.210 ( 0.312)\tData  0.001 ( 0.045)\tLoss 6.9012e+00 (6.9555e+00)\tAcc@1   0.39 (  0.21)",
            6.9012,
            {"epoch": 0},
            id="PyTorch's ImageNet",
        ),
        # yunjey/pytorch-tutorial, tutorials/02-intermediate: print('Epoch [{}/{}], Step [{}/{}], Loss: {:.4f}').
        pytest.param(
            "Epoch [1/5], Step [100/600], Loss: 0.3012",
            0.3012,
            {"step": 100, "epoch": 1, "total_epochs": 5},
            id="a tutorial",
        ),
    ],
)
def test_the_numbers_of_a_trainer(line, loss, expected):
    found: Any = reads(line)
    assert found.loss == loss or (isnan(loss) and isnan(found.loss))
    told = {
        name: getattr(found, name) if name in {"step", "epoch", "total_epochs", "gradient_norm"} else found.values[name]
        for name in expected
    }
    assert told == expected


# keras-team/keras, keras/src/utils/progbar.py, Progbar.update; keras/src/callbacks/progbar_logger.py prints the header.
KERAS_BAR = (
    "\x08" * 80
    + "\r\x1b[1m32/32\x1b[0m \x1b[32m━━━━━━━━━━━━━━━━━━━━\x1b[0m\x1b[37m\x1b[0m \x1b[1m1s\x1b[0m 5ms/step - accuracy: 0.9100 - loss: 0.3012"
)


def test_bars_of_keras_count_the_steps_of_all_epochs_and_its_evaluation_is_none_of_the_training():
    found = reads("Epoch 2/10", KERAS_BAR, f"{KERAS_BAR} - val_accuracy: 0.88 - val_loss: 0.3501")
    assert (found.loss, found.step, found.epoch, found.total_epochs) == (0.3012, 64, 2, 10)
    assert found.values["val_loss"] == 0.3501
    evaluated = "\r\x1b[1m10/10\x1b[0m \x1b[32m━━━━━━━━━━━━━━━━━━━━\x1b[0m \x1b[1m0s\x1b[0m 5ms/step - accuracy: 0.97 - loss: 0.0712"
    found = reads("Epoch 2/10", KERAS_BAR, evaluated, "32/32 - 1s - 3ms/step - accuracy: 0.9700 - loss: 0.0800")
    assert (found.loss, found.step) == (0.3012, 64)


def test_keras_without_bars_is_read():
    found = reads(
        "Epoch 1/3", "32/32 - 1s - 30ms/step - accuracy: 0.8100 - loss: 0.5012 - val_accuracy: 0.8 - val_loss: 0.55"
    )
    assert (found.loss, found.step, found.epoch, found.total_epochs) == (0.5012, 32, 1, 3)


@pytest.mark.parametrize(
    "line",
    [
        # The trainers above, at their evaluations and at their end.
        pytest.param("{'eval_loss': 0.31, 'eval_runtime': 2.3, 'epoch': 1.0}", id="Hugging Face evaluates"),
        pytest.param(
            "{'train_runtime': 30.1, 'train_samples_per_second': 5.0, 'train_steps_per_second': 0.6, 'train_loss': 0.12, 'epoch': 3.0}",
            id="Hugging Face's mean of all steps",
        ),
        pytest.param(
            "----\n validation loss at iteration 1000 on validation set | lm loss value: 2.1E-01 | lm loss PPL: 1.2E+00 |\n----",
            id="Megatron evaluates",
        ),
        pytest.param("Test set: Average loss: 0.0493, Accuracy: 9845/10000 (98%)", id="PyTorch's MNIST evaluates"),
        pytest.param(
            '2023-01-02 | INFO | valid | {"epoch": 1, "valid_loss": "0.21", "valid_ppl": "12.1"}',
            id="fairseq evaluates",
        ),
        pytest.param(
            "Validation DataLoader 0: 100%|██████| 10/10 [00:00<00:00, 50.1it/s, loss=0.21]", id="Lightning evaluates"
        ),
        # Their kind.
        pytest.param('{"split": "eval", "loss": 0.3, "step": 4}', id="a word before"),
        pytest.param('{"loss": 0.3, "step": 4, "split": "validation"}', id="a word behind"),
        pytest.param('{"eval": {"loss": 0.4}}', id="an object of an evaluation"),
        pytest.param("[val] epoch 3 loss: 0.3 acc: 0.9", id="a tag"),
        pytest.param("Epoch 3: validation loss = 0.3", id="a name of two words"),
        pytest.param("Evaluating:  50%|█████     | 5/10 [00:01<00:01, 4.12it/s, loss=0.3]", id="a bar"),
        pytest.param("loss scale: 65536.0", id="the scale of losses"),
        pytest.param("loss_scale=128 step=4", id="the scale of losses, k=v"),
        pytest.param("step 4 | aux_loss 0.01 | kl_loss: 0.2 | box_loss=0.3", id="parts of a loss"),
        pytest.param("best loss: 0.2, previous loss: 0.3, initial loss 2.5", id="other losses"),
        pytest.param("Loss improved from 0.5 to 0.4, saving model", id="prose"),
        pytest.param("loss: 0,5", id="a decimal comma"),
        pytest.param("loss: 12ms", id="a duration"),
        pytest.param("loss: None step: 4", id="no number"),
        pytest.param('  "loss": 0.5,', id="a line of an object over several lines"),
        pytest.param("x" * 9000 + " loss: 0.5 step: 3", id="a line that is too long"),
    ],
)
def test_a_loss_that_is_not_clearly_the_training_s_is_none(line):
    found = read(line)
    assert not isinstance(found, Reading)
    assert found.reason == "NoSuchMetric"


@pytest.mark.parametrize(
    ("line", "loss", "step"),
    [
        pytest.param('{"step": 10, "train/loss": 1.25}', 1.25, 10, id="JSON with a slash"),
        pytest.param(
            '{"ts": "2025-01-02T03:04:05Z", "level": "info", "msg": "step=10 loss=1.25"}', 1.25, 10, id="text in JSON"
        ),
        pytest.param('{"train": {"loss": 1.25, "step": 10}, "eval": {"loss": 0.4}}', 1.25, 10, id="nested JSON"),
        pytest.param("2025-01-02 03:04:05,123 INFO loss: 1.25 step: 10", 1.25, 10, id="a logger's line"),
        pytest.param(
            "INFO:root:step 10 - Training Loss: 1.25 - Validation Loss: 0.4", 1.25, 10, id="names of two words"
        ),
        pytest.param(
            "global_step=10 loss=tensor(1.25, device='cuda:0', grad_fn=<NllLossBackward0>)", 1.25, 10, id="a tensor"
        ),
        pytest.param("step: 1,200 | loss: 1.25e+00", 1.25, 1200, id="thousands"),
        pytest.param("loss=-1.25 step=10", -1.25, 10, id="a negative loss"),
        pytest.param(
            "\x1b[1;32mstep\x1b[0m=\x1b[36m10\x1b[0m \x1b[1;32mloss\x1b[0m=\x1b[36m1.25\x1b[0m",
            1.25,
            10,
            id="colours between",
        ),
        pytest.param("step=9 loss=1.5\rstep=10 loss=1.25", 1.25, 10, id="carriage returns"),
        pytest.param("[rank0]: step=10 loss=1.25", 1.25, 10, id="a rank"),
        pytest.param("step=10 loss=inf", float("inf"), 10, id="infinity"),
    ],
)
def test_other_ways_to_print_a_loss(line, loss, step):
    found = reads(line)
    assert (found.loss, found.step) == (loss, step)
