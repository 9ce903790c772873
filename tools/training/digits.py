#!/usr/bin/env python3
"""A real training of a real model on real data, small enough for every cluster: handwritten digits.

The data are the 1,797 digits that scikit-learn ships (its file alone is read; scikit-learn is never imported, which saves a second at start and
200 MB in the image). The model is a network with one hidden layer, trained by plain mini-batch SGD: 12 digits a step, 120 steps an epoch.

    digits.py --epochs 5                      train; metrics on :8000/metrics, checkpoints in $TRAININGRUN_CHECKPOINT_DIR
    digits.py --score checkpoint-120          recompute loss and accuracy of a checkpoint from its weights and the data

Contract with the operator, the same for any training:

* metrics: training_loss (of the whole training set), training_step, training_epoch, training_total_epochs;
* checkpoints: `checkpoint-<step>/` with `model.npz` and `trainer_state.json`, written beside and renamed when whole;
* a file STOP_TRAINING in $TRAININGRUN_CHECKPOINT_DIR or $TRAININGRUN_CONTROL: save now, leave with exit 0;
* at the start: go on from the highest checkpoint in $TRAININGRUN_CHECKPOINT_DIR. The order of the data depends on seed and epoch alone, so a
  resumed training takes the very steps that the uninterrupted one would have taken;
* SIGTERM: leave at once with exit 143, a save in progress is finished first.
"""

import argparse
import contextlib
import importlib.util
import json
import math
import os
import re
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import FrameType

import numpy as np
from prometheus_client import CollectorRegistry, Gauge, generate_latest

HIDDEN = 64  # units of the hidden layer
TRAINED_ON = 1440  # digits; the other 357 are held out for the accuracy
STOP_FILE = "STOP_TRAINING"
ORDERS = Path("/dev/shm")  # noqa: S108 - the only folder that every container may write to; nothing in it is saved
TERMINATED = 128 + signal.SIGTERM
FAULTS = ("nan", "inf", "zero", "unset", "filtered", "ranks", "missing", "huge", "hang")

Weights = dict[str, np.ndarray]


@dataclass(frozen=True)
class Digits:
    """Pixels (64 a digit, mean about 0, variance about 1) and what they show (0 to 9), for training and held out."""

    pixels: np.ndarray
    labels: np.ndarray
    held_pixels: np.ndarray
    held_labels: np.ndarray

    @classmethod
    def load(cls) -> "Digits":
        """Read scikit-learn's file without importing scikit-learn; the split is always the same."""
        spec = importlib.util.find_spec("sklearn")
        if spec is None or not spec.submodule_search_locations:
            raise SystemExit("digits.csv.gz not found: install scikit-learn, whose copy of the data is read")
        table = np.loadtxt(Path(spec.submodule_search_locations[0]) / "datasets/data/digits.csv.gz", delimiter=",")
        table = table[np.random.default_rng(0).permutation(len(table))]
        pixels, labels = 3 * (table[:, :64] / 16 - 0.3), table[:, 64].astype(int)
        return cls(pixels[:TRAINED_ON], labels[:TRAINED_ON], pixels[TRAINED_ON:], labels[TRAINED_ON:])


def initial_weights(seed: int) -> Weights:
    """Small random weights: the first loss is close to ln 10 = 2.303, a guess."""
    random = np.random.default_rng(seed)
    return {
        "hidden": random.normal(0, 1 / 8, (64, HIDDEN)),
        "hidden_bias": np.zeros(HIDDEN),
        "output": random.normal(0, 0.02, (HIDDEN, 10)),
        "output_bias": np.zeros(10),
    }


def forward(weights: Weights, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Activations of the hidden layer and the logarithms of the ten probabilities."""
    hidden = np.tanh(pixels @ weights["hidden"] + weights["hidden_bias"])
    scores = hidden @ weights["output"] + weights["output_bias"]
    scores = scores - scores.max(axis=1, keepdims=True)
    return hidden, scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))


def take_step(weights: Weights, pixels: np.ndarray, labels: np.ndarray, rate: float) -> None:
    """One step of gradient descent on one mini-batch, in place."""
    hidden, log_probabilities = forward(weights, pixels)
    error = np.exp(log_probabilities)
    error[np.arange(len(labels)), labels] -= 1
    error /= len(labels)
    back = (error @ weights["output"].T) * (1 - hidden**2)
    weights["output"] -= rate * hidden.T @ error
    weights["output_bias"] -= rate * error.sum(axis=0)
    weights["hidden"] -= rate * pixels.T @ back
    weights["hidden_bias"] -= rate * back.sum(axis=0)


def mean_loss(weights: Weights, data: Digits) -> float:
    """Cross-entropy over the whole training set: falls steadily, where the loss of a batch jumps."""
    _, log_probabilities = forward(weights, data.pixels)
    return float(-log_probabilities[np.arange(TRAINED_ON), data.labels].mean())


def held_out_accuracy(weights: Weights, data: Digits) -> float:
    """Share of the held-out digits that the model reads correctly, 0 to 1."""
    _, log_probabilities = forward(weights, data.held_pixels)
    return float((log_probabilities.argmax(axis=1) == data.held_labels).mean())


def batches(seed: int, batch: int, first_step: int, last_step: int) -> Iterator[tuple[int, np.ndarray]]:
    """Steps first_step to last_step, each with the digits it learns from; a new order every epoch."""
    steps_per_epoch = math.ceil(TRAINED_ON / batch)
    order, order_of = np.empty(0, dtype=int), -1
    for step in range(first_step, last_step + 1):
        epoch, position = divmod(step - 1, steps_per_epoch)
        if epoch != order_of:
            order, order_of = np.random.default_rng((seed, epoch)).permutation(TRAINED_ON), epoch
        yield step, order[position * batch : (position + 1) * batch]


class Termination:
    """SIGTERM ends the process at once, unless it is saving: then right after. With `later`, it is only noted."""

    def __init__(self, *, later: bool) -> None:
        self.saving = self.asked = False
        self.later = later
        signal.signal(signal.SIGTERM, self)

    def __call__(self, _signal: int, _frame: FrameType | None) -> None:
        """Handle the signal."""
        self.asked = True
        if self.later:
            print(f"SIGTERM {'in the middle of a save' if self.saving else 'between two steps'}", flush=True)
        elif not self.saving:
            sys.exit(TERMINATED)

    @contextlib.contextmanager
    def held_back(self) -> Iterator[None]:
        """Finish what is inside first."""
        self.saving = True
        yield
        self.saving = False
        if self.asked and not self.later:
            sys.exit(TERMINATED)


class Checkpoints:
    """The directory of the checkpoints. What is called checkpoint-<step> is whole: it was renamed when all was written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def save(self, weights: Weights, state: dict[str, float]) -> None:
        """Write the checkpoint of this step, once."""
        target = self.folder / f"checkpoint-{state['step']}"
        if target.exists():
            return
        unfinished = self.folder / f".tmp-{target.name}"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        np.savez(unfinished / "model.npz", allow_pickle=False, **weights)
        (unfinished / "trainer_state.json").write_text(json.dumps(state, indent=2) + "\n")
        unfinished.rename(target)
        print(f"saved {target.name} loss {state['loss']:.4f} accuracy {state['accuracy']:.4f}", flush=True)

    def newest(self) -> Path | None:
        """The whole checkpoint of the highest step."""
        named = ((re.fullmatch(r"checkpoint-(\d+)", path.name), path) for path in self.folder.iterdir())
        whole = [(int(name[1]), path) for name, path in named if name and (path / "trainer_state.json").is_file()]
        return max(whole)[1] if whole else None

    @staticmethod
    def load(path: Path) -> tuple[Weights, dict[str, float]]:
        """Weights and state of one checkpoint."""
        with np.load(path / "model.npz") as stored:
            return dict(stored), json.loads((path / "trainer_state.json").read_text())


class MetricsPage:
    """Serves /metrics. `fault` (from step `fault_from` on) makes it answer what a broken training might."""

    def __init__(self, port: int, fault: str, fault_from: int) -> None:
        self.fault, self.fault_from = fault, fault_from
        self.active = fault if fault_from <= 0 else ""
        # Made once: on a busy machine it takes longer than a scrape may.
        lines = (b'other_metric{number="%d"} 1\n' % number for number in range(330_000 if fault == "huge" else 0))
        self.bulk = b"".join(lines)
        self.published = self.read = 0  # the newest step on the page, and the newest that was read from it
        self.registry = CollectorRegistry()
        self.loss = Gauge("training_loss", "Mean cross-entropy over the training set", registry=self.registry)
        self.step = Gauge("training_step", "Optimizer steps taken", registry=self.registry)
        self.epoch = Gauge("training_epoch", "The current epoch", registry=self.registry)
        self.total_epochs = Gauge("training_total_epochs", "Epochs to train", registry=self.registry)
        page = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = page.answer()
                self.send_response(200)
                self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                with contextlib.suppress(ConnectionError):
                    self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """A scrape is no event of the training."""

        server = ThreadingHTTPServer(("", port), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()

    def publish(self, step: int, epoch: int, epochs: int, loss: float) -> None:
        """Set the gauges after a step."""
        if self.fault and step >= self.fault_from:
            self.active = self.fault
        if self.active == "zero":
            return
        if self.active != "unset":
            self.loss.set({"nan": math.nan, "inf": math.inf, "filtered": 0}.get(self.active, loss))
        self.step.set(step)
        self.epoch.set(epoch)
        self.total_epochs.set(epochs)
        self.published = step

    def answer(self) -> bytes:
        """The page as one scrape sees it."""
        if self.active == "hang":
            time.sleep(3600)
        published, page = self.published, generate_latest(self.registry)
        self.read = max(self.read, published)
        if self.active == "missing":
            return b"".join(line for line in page.splitlines(keepends=True) if b"training_loss" not in line)
        if self.active == "ranks":
            return page.replace(b"\ntraining_loss ", b'\ntraining_loss{rank="1"} 0.1\ntraining_loss{rank="0"} ')
        if self.active == "huge":
            return self.bulk + page
        return page


class Training:
    """One run of the program."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.data = Digits.load()
        self.checkpoints = Checkpoints(options.checkpoint_dir)
        self.termination = Termination(later=options.sigterm_only)
        self.metrics = MetricsPage(options.port, options.gauge, options.gauge_from)
        self.steps_per_epoch = math.ceil(TRAINED_ON / options.batch)
        self.total_steps = options.epochs * self.steps_per_epoch
        self.weights, self.step, self.loss = initial_weights(options.seed), 0, math.nan
        folders = [options.checkpoint_dir, *([Path(options.control_dir)] if options.control_dir else [])]
        self.stop_files = [folder / STOP_FILE for folder in folders]

    def run(self) -> int:
        """Train to the end, or until somebody says stop; the exit code."""
        resumed = self.resume()
        for step, chosen in batches(self.options.seed, self.options.batch, self.step + 1, self.total_steps):
            while self.must_stay() and not (self.stop_requested() or self.termination.asked):
                time.sleep(0.05)
            if self.stop_requested():
                return self.leave_early()
            if self.termination.asked:
                return self.leave_on_signal()
            time.sleep(self.options.step_seconds)
            take_step(self.weights, self.data.pixels[chosen], self.data.labels[chosen], self.options.learning_rate)
            self.step, self.loss = step, mean_loss(self.weights, self.data)
            self.report()
            if step == self.options.crash_at_step and not resumed:
                print(f"crash at step {step}, as asked", file=sys.stderr, flush=True)
                return 1
            if self.is_to_save(step):
                self.save()
            if step % self.steps_per_epoch == 0 and self.options.evaluate_seconds:
                print(f"evaluation after epoch {self.epoch}", flush=True)
                time.sleep(self.options.evaluate_seconds)
        if self.stop_requested():
            return self.leave_early()
        return self.complete()

    def resume(self) -> bool:
        """Go on from the newest checkpoint, if there is one."""
        newest = self.checkpoints.newest()
        if newest is None:
            return False
        self.weights, state = self.checkpoints.load(newest)
        self.step, self.loss = int(state["step"]), float(state["loss"])
        print(f"resumed from {newest.name} at step {self.step}", flush=True)
        return True

    @property
    def epoch(self) -> int:
        """The epoch of the last step taken, counted from --first-epoch."""
        return max(self.step - 1, 0) // self.steps_per_epoch + self.options.first_epoch

    def report(self) -> None:
        """Metrics after every step, a line now and then."""
        self.metrics.publish(self.step, self.epoch, self.options.epochs, self.loss)
        if self.step % self.options.log_every == 0 or self.step == self.total_steps:
            progress = f"step {self.step}/{self.total_steps} epoch {self.epoch}/{self.options.epochs}"
            print(f"{progress} loss {self.loss:.4f}", flush=True)

    def must_stay(self) -> bool:
        """Whether the options ask to make no step further yet."""
        unread = 0 < self.step <= self.options.reads and self.metrics.read < self.step
        return unread or (self.step in self.options.hold_at and not ordered("go"))

    def is_to_save(self, step: int) -> bool:
        """Whether a checkpoint of this step is due."""
        return ordered("save") if self.options.save_when_told else step % self.options.save_every == 0

    def stop_requested(self) -> bool:
        """Whether a stop file lies in one of its two places."""
        deaf = self.options.deaf or self.options.sigterm_only
        return not deaf and any(path.exists() for path in self.stop_files)

    def save(self) -> None:
        """Write a checkpoint of the current step, if a step was taken."""
        if not self.step:
            return
        accuracy = round(held_out_accuracy(self.weights, self.data), 6)
        state = {
            "step": self.step,
            "global_step": self.step,
            "max_steps": self.total_steps,
            "epoch": self.epoch,
            "loss": round(self.loss, 6),
            "accuracy": accuracy,
        }
        with self.termination.held_back():
            self.checkpoints.save(self.weights, state)

    def leave_early(self) -> int:
        """Save and leave because a stop file says so."""
        self.save()
        print(f"stopped at step {self.step}/{self.total_steps}: {STOP_FILE} found", flush=True)
        return 0

    def leave_on_signal(self) -> int:
        """Save and leave because SIGTERM says so."""
        self.save()
        print(f"stopped at step {self.step}/{self.total_steps}: SIGTERM", flush=True)
        return TERMINATED

    def complete(self) -> int:
        """The last step was taken."""
        if self.options.final_save:
            self.save()
        if self.options.marker:
            (self.options.checkpoint_dir / self.options.marker).write_text(f"complete at step {self.step}\n")
        print(f"Training complete: step {self.step}/{self.total_steps} loss {self.loss:.4f}", flush=True)
        until = time.monotonic() + self.options.linger
        while time.monotonic() < until and not self.stop_requested():
            time.sleep(0.2)
        return int(self.options.exit_code)


def ordered(what: str) -> bool:
    """Whether a test has written this order. It is taken away, so that it counts once."""
    with contextlib.suppress(FileNotFoundError):
        (ORDERS / what).unlink()
        return True
    return False


def score(folder: Path) -> dict[str, float]:
    """What a checkpoint is worth, recomputed: equals what the training wrote into its trainer_state.json."""
    data = Digits.load()
    try:
        weights, state = Checkpoints.load(folder)
    except FileNotFoundError as error:
        raise SystemExit(f"{folder} is no checkpoint directory: {error.filename} is missing") from error
    loss, accuracy = mean_loss(weights, data), held_out_accuracy(weights, data)
    return {"step": state["step"], "loss": round(loss, 6), "accuracy": round(accuracy, 6)}


def arguments() -> argparse.Namespace:
    """The command line, and the contract's two variables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--score", type=Path, metavar="DIR", help="print loss and accuracy of a checkpoint, and leave")
    parser.add_argument("--epochs", type=int, default=5, help="epochs to train (5)")
    parser.add_argument(
        "--step-seconds", type=float, default=0.2, help="pause before every step, so that a run lasts (0.2)"
    )
    parser.add_argument("--batch", type=int, default=12, help="digits per step (12: 120 steps an epoch)")
    parser.add_argument("--learning-rate", type=float, default=0.13, help="step size of the descent (0.13)")
    parser.add_argument("--seed", type=int, default=1, help="first weights and order of the data (1)")
    parser.add_argument("--save-every", type=int, default=40, metavar="STEPS", help="steps between checkpoints (40)")
    parser.add_argument("--log-every", type=int, default=10, metavar="STEPS", help="steps between log lines (10)")
    parser.add_argument("--port", type=int, default=8000, help="where /metrics answers (8000)")
    parser.add_argument(
        "--final-save", action=argparse.BooleanOptionalAction, default=True, help="save after the last step (yes)"
    )

    test = parser.add_argument_group(
        "scenarios of the e2e tests", "ways in which other trainings behave or fail; none is needed to train"
    )
    test.add_argument("--linger", type=float, default=0, metavar="SECONDS", help="stay, idle, after the last step")
    test.add_argument(
        "--reads", type=int, default=0, metavar="N", help="stay at each of the first N steps until /metrics was read"
    )
    test.add_argument(
        "--hold-at",
        type=int,
        nargs="+",
        default=(),
        metavar="STEP",
        help=f"stay at each of these steps until somebody writes {ORDERS}/go",
    )
    test.add_argument(
        "--save-when-told",
        action="store_true",
        help=f"save when somebody has written {ORDERS}/save, and at the end, in place of every few steps",
    )
    test.add_argument("--exit-code", type=int, default=0, metavar="N", help="leave with N after the last step")
    test.add_argument("--crash-at-step", type=int, metavar="N", help="exit 1 after step N, unless resumed")
    test.add_argument("--marker", metavar="FILE", help="write FILE into the checkpoint directory after the last step")
    test.add_argument(
        "--evaluate-seconds", type=float, default=0, metavar="S", help="no step for S seconds after every epoch"
    )
    test.add_argument("--deaf", action="store_true", help="ignore the stop file")
    test.add_argument(
        "--sigterm-only", action="store_true", help="ignore the stop file; on SIGTERM save after the step, and exit 143"
    )
    test.add_argument("--first-epoch", type=int, choices=(0, 1), default=1, help="what the first epoch is called (1)")
    test.add_argument(
        "--gauge",
        choices=FAULTS,
        default="",
        help="what /metrics answers: loss is NaN, +Inf; gauges never set; loss never set; loss is 0; losses of two ranks; no loss; 10 MB; no end",
    )
    test.add_argument(
        "--gauge-from", type=int, default=0, metavar="STEP", help="--gauge takes effect at this step (0: at once)"
    )
    options = parser.parse_args()
    options.checkpoint_dir = Path(os.environ.get("TRAININGRUN_CHECKPOINT_DIR") or "/checkpoints")
    options.control_dir = os.environ.get("TRAININGRUN_CONTROL", "")
    return options


def main() -> int:
    """Train, or score a checkpoint; the exit code."""
    options = arguments()
    if options.score:
        print(json.dumps(score(options.score)))
        return 0
    return Training(options).run()


if __name__ == "__main__":
    sys.exit(main())
