"""Trains the curves of held-out/: networks, tasks and optimizers that those of make.py do not have, on PyTorch and JAX, each to its natural end.

    held_out.py OUT DATA      with PyTorch, JAX and numpy; DATA has digits.csv.gz and diabetes_data_raw.csv.gz of scikit-learn, and LICENSE, a text

The rows are those of make.py. One thread and fixed seeds: the same machine writes the same numbers again.
"""

from __future__ import annotations

import json
import math
import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import nn
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DATA = Path()
Tensor = torch.Tensor
Rows = list[dict[str, float]]


@dataclass
class Task:
    """A training on PyTorch: mini-batches in a new order every epoch."""

    model: nn.Module
    trained: tuple[Tensor, Tensor]
    held: tuple[Tensor, Tensor]
    optimizer: Callable[[Iterator[Any]], torch.optim.Optimizer]
    epochs: int
    batch: int
    every: int
    """Steps between two rows."""
    loss: Callable[[Tensor, Tensor], Tensor] = functional.cross_entropy
    rate: Callable[[float], float] = lambda _: 1.0
    """Factor of the learning rate by the share of the training that is done."""


def row(step: int, epoch: float, epochs: int, loss: float, held: float, accuracy: float) -> dict[str, float]:
    return {
        "step": step,
        "epoch": round(epoch, 3),
        "totalEpochs": epochs,
        "loss": float(f"{loss:.5g}"),
        "eval_loss": float(f"{held:.5g}"),
        "accuracy": round(accuracy, 4),
    }


def train(task: Task) -> Rows:
    """Return the rows of a training on PyTorch."""
    x, y = task.trained
    optimizer = task.optimizer(task.model.parameters())
    first = [group["lr"] for group in optimizer.param_groups]
    per_epoch = len(x) // task.batch
    rows: Rows = []
    losses: list[float] = []
    step = 0
    for _ in range(task.epochs):
        order = torch.randperm(len(x))
        for at in range(per_epoch):
            for group, rate in zip(optimizer.param_groups, first, strict=True):
                group["lr"] = rate * task.rate(step / (per_epoch * task.epochs))
            chosen = order[at * task.batch : (at + 1) * task.batch]
            task.model.train()
            loss = task.loss(task.model(x[chosen]), y[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            step += 1
            if step % task.every == 0:
                held, accuracy = evaluated(task)
                rows.append(row(step, step / per_epoch, task.epochs, float(np.mean(losses)), held, accuracy))
                losses = []
    return rows


def evaluated(task: Task) -> tuple[float, float]:
    task.model.eval()
    with torch.no_grad():
        found = task.model(task.held[0])
        right = (
            (found.argmax(dim=1) == task.held[1]).float().mean().item() if not task.held[1].is_floating_point() else 0
        )
        return task.loss(found, task.held[1]).item(), right


def cosine(share: float) -> float:
    return (1 + math.cos(math.pi * share)) / 2


def restarts(share: float) -> float:
    return cosine(share * 4 % 1)


def adam(rate: float, decay: float = 0.0) -> Callable[[Iterator[Any]], torch.optim.Optimizer]:
    return lambda parameters: torch.optim.AdamW(parameters, rate, weight_decay=decay)


def sgd(rate: float, momentum: float = 0.9) -> Callable[[Iterator[Any]], torch.optim.Optimizer]:
    return lambda parameters: torch.optim.SGD(parameters, rate, momentum=momentum)


def table(name: str, delimiter: str | None) -> Any:
    rows = np.loadtxt(DATA / name, delimiter=delimiter)
    return rows[np.random.default_rng(0).permutation(len(rows))]


def digits(
    wrong: float = 0.0, shape: tuple[int, ...] = (1, 8, 8)
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Images, some with a wrong label among those that are trained on."""
    read = table("digits.csv.gz", ",")
    images = torch.tensor(read[:, :64] / 8 - 1, dtype=torch.float32).reshape(-1, *shape)
    labels = torch.tensor(read[:, 64], dtype=torch.long)
    trained = labels[:1400].clone()
    changed = torch.rand(1400) < wrong
    trained[changed] = torch.randint(0, 10, (int(changed.sum()),))
    return (images[:1400], trained), (images[1400:], labels[1400:])


def cnn(*, normalized: bool = False) -> nn.Module:
    def norm(channels: int) -> nn.Module:
        return nn.BatchNorm2d(channels) if normalized else nn.Identity()

    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), norm(16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), norm(32), nn.ReLU(), nn.Flatten(), nn.Linear(512, 10),
    )  # fmt: skip


def perceptron(sizes: list[int], activation: type[nn.Module] = nn.ReLU) -> nn.Module:
    layers: list[nn.Module] = []
    for given, wanted in pairwise(sizes):
        layers += [nn.Linear(given, wanted), activation()]
    return nn.Sequential(*layers[:-1])


def letters(context: int) -> tuple[int, tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Windows of a text, and the same one letter later; its last tenth is held out."""
    text = (DATA / "LICENSE").read_text()
    known = sorted(set(text))
    codes = torch.tensor([known.index(letter) for letter in text])
    windows = codes.unfold(0, context + 1, 4)
    cut = len(windows) * 9 // 10
    parts = [(part[:, :-1], part[:, 1:]) for part in (windows[:cut], windows[cut + context // 4 + 1 :])]
    return len(known), parts[0], parts[1]


class Recurrent(nn.Module):
    def __init__(self, letters: int) -> None:
        super().__init__()
        self.embedding, self.cell, self.out = (
            nn.Embedding(letters, 24),
            nn.LSTM(24, 64, batch_first=True),
            nn.Linear(64, letters),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.cell(self.embedding(x))[0]).transpose(1, 2)


class Transformer(nn.Module):
    def __init__(self, letters: int, context: int, dropout: float) -> None:
        super().__init__()
        self.embedding, self.places = nn.Embedding(letters, 32), nn.Parameter(torch.randn(context, 32) * 0.02)
        layer = nn.TransformerEncoderLayer(32, 4, 64, dropout, batch_first=True, norm_first=True)
        self.layers, self.out = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(32, letters)
        self.mask = nn.Transformer.generate_square_subsequent_mask(context)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.layers(self.embedding(x) + self.places, mask=self.mask)).transpose(1, 2)


def transformer(dropout: float, rate: Callable[[float], float], epochs: int) -> Task:
    count, trained, held = letters(24)
    return Task(Transformer(count, 24, dropout), trained, held, adam(3e-3), epochs, 32, 14, rate=rate)


def addition(prime: int, share: float, decay: float, epochs: int) -> Task:
    """Addition modulo a prime: what is learnt by heart first is generalized much later."""
    pairs = torch.cartesian_prod(torch.arange(prime), torch.arange(prime))
    order = torch.randperm(len(pairs))
    pairs, cut = pairs[order], int(len(pairs) * share)
    sums = pairs.sum(dim=1) % prime
    model = nn.Sequential(nn.Embedding(prime, 32), nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, prime))
    return Task(
        model, (pairs[:cut], sums[:cut]), (pairs[cut:], sums[cut:]), adam(3e-3, decay), epochs, cut, epochs // 100
    )


def parity() -> Task:
    """The parity of 3 of 20 bits: nothing is learnt for long."""
    bits = torch.randint(0, 2, (3000, 20)).float() * 2 - 1
    labels = (bits[:, :3].prod(dim=1) > 0).long()
    model = perceptron([20, 64, 2])
    return Task(model, (bits[:2400], labels[:2400]), (bits[2400:], labels[2400:]), sgd(0.05, 0.0), 120, 40, 72)


def autoencoder() -> Task:
    (x, _), (held, _) = digits(shape=(64,))
    return Task(
        perceptron([64, 32, 8, 32, 64], nn.Tanh), (x, x), (held, held), adam(2e-3), 40, 50, 14, functional.mse_loss
    )


def diabetes(sizes: list[int], epochs: int) -> Task:
    """Few patients with much noise: it overfits."""
    target = np.loadtxt(DATA / "diabetes_target.csv.gz")
    given = np.loadtxt(DATA / "diabetes_data_raw.csv.gz")
    given = (given - given.mean(axis=0)) / given.std(axis=0)
    order = np.random.default_rng(0).permutation(len(given))
    x = torch.tensor(given[order], dtype=torch.float32)
    y = torch.tensor(target[order][:, None] / 100 - 1.5, dtype=torch.float32)
    return Task(
        perceptron(sizes), (x[:340], y[:340]), (x[340:], y[340:]), adam(1e-3), epochs, 34, 20, functional.mse_loss
    )


def sine() -> Task:
    x = torch.rand(1200, 1) * 8 - 4
    y = torch.sin(3 * x) + 0.1 * torch.randn_like(x)
    return Task(
        perceptron([1, 48, 48, 1], nn.Tanh), (x[:1000], y[:1000]), (x[1000:], y[1000:]), adam(0.01), 48, 50, 10,
        functional.mse_loss, restarts,
    )  # fmt: skip


def exploding() -> Task:
    """A recurrent network whose rate grows without clipping."""
    count, trained, held = letters(24)
    model = nn.Sequential(nn.Embedding(count, 24), Plain(24, 64), nn.Linear(64, count), Swapped())
    return Task(model, trained, held, sgd(0.05), 8, 32, 14, rate=lambda share: 10 ** (40 * max(0.0, share - 0.5)))


class Plain(nn.Module):
    """A recurrent network without a squashing function."""

    def __init__(self, given: int, width: int) -> None:
        super().__init__()
        self.cell = nn.RNN(given, width, nonlinearity="relu", batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.cell(x)[0]
        return found


class Swapped(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2)


def lstm() -> Task:
    count, trained, held = letters(24)
    return Task(Recurrent(count), trained, held, adam(5e-3), 12, 32, 14)


TASKS: dict[str, Callable[[], Task]] = {
    "autoencoder": autoencoder,
    "cnn-adam": lambda: Task(cnn(), *digits(), adam(1e-3), 25, 50, 10),
    "cnn-batch-norm-cosine": lambda: Task(cnn(normalized=True), *digits(), sgd(0.05), 25, 50, 10, rate=cosine),
    "cnn-wrong-labels": lambda: Task(cnn(), *digits(0.4), adam(2e-3), 30, 50, 12),
    "deep-perceptron-slow-start": lambda: Task(
        perceptron([64, *[32] * 12, 10]), *digits(shape=(64,)), sgd(0.02), 60, 50, 20
    ),
    "perceptron-adam-too-fast": lambda: Task(perceptron([64, 64, 10]), *digits(shape=(64,)), adam(0.05), 40, 50, 14),
    "transformer": lambda: transformer(0.0, lambda _: 1.0, 12),
    "transformer-dropout-cosine": lambda: transformer(0.2, cosine, 12),
    "lstm": lstm,
    "recurrent-explodes": exploding,
    "addition-by-heart": lambda: addition(29, 0.3, 0.0, 1200),
    "addition-generalized-late": lambda: addition(23, 0.6, 1.0, 3000),
    "parity-late-drop": parity,
    "diabetes-small": lambda: diabetes([10, 16, 1], 120),
    "diabetes-wide": lambda: diabetes([10, 256, 256, 1], 120),
    "sine-warm-restarts": sine,
}


def on_jax(rate: Callable[[float], float], momentum: float, hidden: int, epochs: int, seed: int) -> Rows:
    """Return the rows of a perceptron on the digits, on JAX."""
    (x, y), (held, truth) = (tuple(part.numpy() for part in pair) for pair in digits(shape=(64,)))
    keys = jax.random.split(jax.random.PRNGKey(seed))
    weights = [
        jax.random.normal(keys[0], (64, hidden)) * 0.1,
        jnp.zeros(hidden),
        jax.random.normal(keys[1], (hidden, 10)) * 0.1,
        jnp.zeros(10),
    ]

    def scores(weights: Any, x: Any) -> Any:
        return jax.nn.log_softmax(jax.nn.gelu(x @ weights[0] + weights[1]) @ weights[2] + weights[3])

    def loss_of(weights: Any, x: Any, y: Any) -> Any:
        return -scores(weights, x)[jnp.arange(len(y)), y].mean()

    @jax.jit
    def stepped(weights: Any, speed: Any, x: Any, y: Any, rate: Any) -> Any:
        loss, slopes = jax.value_and_grad(loss_of)(weights, x, y)
        speed = [momentum * one - rate * slope for one, slope in zip(speed, slopes, strict=True)]
        return [one + change for one, change in zip(weights, speed, strict=True)], speed, loss

    speed, random, step = [jnp.zeros_like(one) for one in weights], np.random.default_rng(seed), 0
    rows: Rows = []
    losses: list[float] = []
    per_epoch = len(x) // 50
    for _ in range(epochs):
        order = random.permutation(len(x))
        for at in range(per_epoch):
            chosen = order[at * 50 : (at + 1) * 50]
            share = step / (per_epoch * epochs)
            weights, speed, loss = stepped(weights, speed, x[chosen], y[chosen], rate(share))
            losses.append(float(loss))
            step += 1
            if step % 14 == 0:
                found = scores(weights, held)
                right = float((found.argmax(axis=1) == truth).mean())
                worth = float(loss_of(weights, held, truth))
                rows.append(row(step, step / per_epoch, epochs, float(np.mean(losses)), worth, right))
                losses = []
    return rows


ON_JAX: dict[str, Callable[[], Rows]] = {
    "jax-exponential-decay": lambda: on_jax(lambda share: 0.05 * 0.01**share, 0.9, 48, 30, 1),
    "jax-warm-up-then-constant": lambda: on_jax(lambda share: 0.01 * min(1.0, share * 4), 0.9, 32, 40, 2),
}


def main(out: Path) -> None:
    """Write all curves."""
    torch.set_num_threads(1)
    for name in (*TASKS, *ON_JAX):
        torch.manual_seed(0)
        rows = train(TASKS[name]()) if name in TASKS else ON_JAX[name]()
        (out / f"{name}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")
        print(f"{name}: {len(rows)} rows", flush=True)  # noqa: T201


if __name__ == "__main__":
    DATA = Path(sys.argv[2])
    main(Path(sys.argv[1]))
