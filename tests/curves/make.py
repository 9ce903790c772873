"""Trains the recorded curves of this folder: small networks on the handwritten digits that scikit-learn ships, each to its natural end.

    make.py OUT        with numpy and scikit-learn installed; scikit-learn is never imported

Each training writes `NAME.jsonl`, a row per evaluation: step, epoch, totalEpochs, loss (the mean of the batches since the last row), eval_loss and
accuracy. Everything follows from the seed.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import dataclass
from math import cos, pi
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

TRAINED_ON = 1400
Array = Any
"""Of numpy, which the tests do not need."""


@dataclass(frozen=True)
class Training:
    """One training: a network with one hidden layer, plain SGD with momentum."""

    rate: Callable[[float], float]
    """Learning rate by the share of the training that is done."""
    epochs: int = 30
    batch: int = 50
    hidden: int = 32
    scale: float = 0.2
    """Of the first weights."""
    momentum: float = 0.9
    samples: int = TRAINED_ON
    wrong: float = 0.0
    """Share of the training's labels that are wrong."""
    decay: float = 0.0
    every: int = 14
    """Steps between two rows."""
    seed: int = 0


def constant(rate: float) -> Callable[[float], float]:
    return lambda _: rate


def steps(*rates: float) -> Callable[[float], float]:
    """The rates one after another, each for the same time."""
    return lambda share: rates[min(len(rates) - 1, int(share * len(rates)))]


def restarts(rate: float, times: int) -> Callable[[float], float]:
    """Cosine with warm restarts."""
    return lambda share: rate * (0.01 + 0.99 * (1 + cos(pi * (share * times % 1))) / 2)


def warm_up(rate: float) -> Callable[[float], float]:
    return lambda share: rate * min(1.0, share / 0.1) * (1 + cos(pi * share)) / 2


def late(rate: float, at: float) -> Callable[[float], float]:
    """Almost nothing is learnt before a moment."""
    return lambda share: rate * (1e-3 if share < at else 1)


def grows(rate: float, decades: float = 5) -> Callable[[float], float]:
    """A rate that grows until the training diverges."""
    return lambda share: rate * 10 ** (decades * share)


TRAININGS = {
    "good-small-rate": Training(constant(0.003)),
    "good-usual-rate": Training(constant(0.01)),
    "good-large-batch": Training(constant(0.02), batch=200, epochs=80, every=10),
    "good-small-batch": Training(constant(0.002), batch=10, epochs=12, every=28),
    "good-cosine": Training(warm_up(0.05)),
    "good-cosine-long": Training(warm_up(0.02), epochs=60),
    "good-wide": Training(constant(0.005), hidden=128),
    "good-narrow": Training(constant(0.01), hidden=6, epochs=40),
    "good-without-momentum": Training(constant(0.05), momentum=0.0),
    "good-seed-1": Training(constant(0.01), seed=1),
    "good-seed-2": Training(warm_up(0.05), seed=2),
    "slow-tiny-rate": Training(constant(0.0002), epochs=60),
    "slow-tiny-weights": Training(constant(0.01), scale=0.001, epochs=40),
    "slow-tiny-weights-and-rate": Training(constant(0.003), scale=0.0003, epochs=60, seed=3),
    "noisy-labels": Training(constant(0.01), wrong=0.3),
    "noisy-large-rate": Training(constant(0.15), momentum=0.5),
    "noisy-tiny-batch": Training(constant(0.01), batch=3, epochs=4, every=60),
    "noisy-tiny-batch-large-rate": Training(constant(0.03), batch=3, epochs=4, every=60, momentum=0.5, seed=4),
    "steps-two": Training(steps(0.1, 0.001)),
    "steps-three": Training(steps(0.2, 0.02, 0.002), momentum=0.5, epochs=45),
    "steps-late": Training(steps(0.12, 0.12, 0.12, 0.12, 0.01), momentum=0.5, epochs=50),
    "restarts-three": Training(restarts(0.1, 3), epochs=45),
    "restarts-five": Training(restarts(0.05, 5), epochs=50, batch=20, every=35),
    "late-drop-half": Training(late(0.02, 0.5), epochs=40),
    "late-drop-last-fifth": Training(late(0.03, 0.8), epochs=50),
    "overfit-few-samples": Training(constant(0.05), samples=60, batch=20, epochs=400, every=8),
    "overfit-few-samples-wide": Training(constant(0.02), samples=100, hidden=128, batch=20, epochs=300, every=15),
    "overfit-wrong-labels": Training(constant(0.03), samples=300, wrong=0.4, batch=30, epochs=150, every=14),
    "overfit-wrong-labels-wide": Training(
        constant(0.02), samples=500, wrong=0.5, hidden=256, batch=50, epochs=150, every=15
    ),
    "diverges-at-once": Training(constant(50.0), epochs=10, seed=5),
    "diverges-late": Training(grows(0.001), epochs=30),
    "diverges-late-wide": Training(grows(0.0005), epochs=40, hidden=128, seed=6),
    "diverges-in-between": Training(steps(0.01, 0.01, 100.0), epochs=30),
    "not-finite-at-once": Training(constant(1e200), epochs=10),
    "diverges-and-dies": Training(grows(0.001, 300), epochs=30, seed=7),
    "not-finite-in-between": Training(steps(0.02, 0.02, 0.02, 1e250), epochs=40),
    "never-learns": Training(constant(0.0), epochs=20),
}


def digits() -> tuple[Array, Array]:
    """Return pixels and labels."""
    spec = importlib.util.find_spec("sklearn")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("scikit-learn is not installed: its copy of the digits is read")
    table = np.loadtxt(Path(spec.submodule_search_locations[0]) / "datasets/data/digits.csv.gz", delimiter=",")
    table = table[np.random.default_rng(0).permutation(len(table))]
    return table[:, :64] / 8 - 1, table[:, 64].astype(int)


def forward(weights: list[Array], pixels: Array) -> tuple[Array, Array]:
    hidden = np.maximum(0, pixels @ weights[0] + weights[1])
    scores = hidden @ weights[2] + weights[3]
    scores = scores - scores.max(axis=1, keepdims=True)
    return hidden, scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))


def loss_of(logs: Array, labels: Array) -> float:
    return float(-logs[np.arange(len(labels)), labels].mean())


def train(training: Training) -> list[dict[str, float]]:
    """Return the rows of a training."""
    pixels, labels = digits()
    random = np.random.default_rng(training.seed)
    known, right = pixels[: training.samples], labels[: training.samples].copy()
    wrong = random.random(len(right)) < training.wrong
    right[wrong] = random.integers(0, 10, wrong.sum())
    unseen, truth = pixels[TRAINED_ON:], labels[TRAINED_ON:]
    sizes = ((64, training.hidden), (training.hidden,), (training.hidden, 10), (10,))
    weights = [random.normal(0, training.scale, size) if len(size) > 1 else np.zeros(size) for size in sizes]
    speed = [np.zeros_like(one) for one in weights]
    rows: list[dict[str, float]] = []
    losses: list[float] = []
    step, per_epoch = 0, len(known) // training.batch
    for _ in range(training.epochs):
        order = random.permutation(len(known))
        for at in range(per_epoch):
            chosen = order[at * training.batch : (at + 1) * training.batch]
            hidden, logs = forward(weights, known[chosen])
            losses.append(loss_of(logs, right[chosen]))
            slope = np.exp(logs)
            slope[np.arange(len(chosen)), right[chosen]] -= 1
            slope /= len(chosen)
            back = slope @ weights[2].T * (hidden > 0)
            gradients = [known[chosen].T @ back, back.sum(axis=0), hidden.T @ slope, slope.sum(axis=0)]
            rate = training.rate(step / (per_epoch * training.epochs))
            for place, gradient in enumerate(gradients):
                speed[place] = training.momentum * speed[place] - rate * (gradient + training.decay * weights[place])
                weights[place] = weights[place] + speed[place]
            step += 1
            if step % training.every == 0:
                _, logs = forward(weights, unseen)
                rows.append(
                    {
                        "step": step,
                        "epoch": round(step / per_epoch, 3),
                        "totalEpochs": training.epochs,
                        "loss": float(f"{np.mean(losses):.5g}"),
                        "eval_loss": float(f"{loss_of(logs, truth):.5g}"),
                        "accuracy": round(float((logs.argmax(axis=1) == truth).mean()), 4),
                    }
                )
                losses = []
    return rows


def main(out: Path) -> None:
    """Write all curves."""
    for name, training in TRAININGS.items():
        with np.errstate(all="ignore"):
            rows = train(training)
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (out / f"{name}.jsonl").write_text(text, encoding="utf-8")
        print(f"{name}: {len(rows)} rows, eval_loss {min(row['eval_loss'] for row in rows):.4g} at best")  # noqa: T201


if __name__ == "__main__":
    main(Path(sys.argv[1]))
