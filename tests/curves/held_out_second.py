"""Trains the curves of held-out-second/: tasks, networks, optimizers and metrics that neither make.py nor held_out.py has, each to its natural end.

    held_out_second.py OUT DATA [NAME …]      with JAX, optax, numpy and scikit-learn; DATA has the data sets that scikit-learn ships

The rows are those of make.py; `eval_loss` is what the evaluation shows, where smaller is better: also an error rate, a perplexity, an absolute error,
or a return times -1. Fixed seeds: the same machine writes the same numbers again.
"""

from __future__ import annotations

import csv
import json
import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.ensemble import GradientBoostingRegressor
from sklearn.linear_model import SGDClassifier

if TYPE_CHECKING:
    from collections.abc import Callable

DATA = Path()
Rows = list[dict[str, float]]


def row(step: int, epoch: float, epochs: int, loss: float, held: float, accuracy: float = 0.0) -> dict[str, float]:
    return {
        "step": step,
        "epoch": round(epoch, 3),
        "totalEpochs": epochs,
        "loss": float(f"{loss:.5g}"),
        "eval_loss": float(f"{held:.5g}"),
        "accuracy": round(accuracy, 4),
    }


@dataclass
class Task:
    """A training on JAX: mini-batches in a new order every epoch."""

    parameters: Any
    loss: Callable[[Any, Any, Any], Any]
    """Of parameters, a batch and a random key."""
    trained: tuple[Any, ...]
    held: tuple[Any, ...]
    optimizer: Any
    epochs: int
    batch: int
    every: int
    """Steps between two rows."""
    shown: Callable[[Any, Any, Any], Any] | None = None
    """What the evaluation shows; None: the loss."""


def train(task: Task) -> Rows:
    """Return the rows of a training on JAX."""
    shown, random, key = jax.jit(task.shown or task.loss), np.random.default_rng(0), jax.random.PRNGKey(0)
    parameters, state = task.parameters, task.optimizer.init(task.parameters)

    @jax.jit
    def stepped(parameters: Any, state: Any, batch: Any, key: Any) -> Any:
        loss, slopes = jax.value_and_grad(task.loss)(parameters, batch, key)
        changes, state = task.optimizer.update(slopes, state, parameters)
        return optax.apply_updates(parameters, changes), state, loss

    rows: Rows = []
    losses: list[float] = []
    step, per_epoch = 0, len(task.trained[0]) // task.batch
    for _ in range(task.epochs):
        order = random.permutation(len(task.trained[0]))
        for at in range(per_epoch):
            chosen = order[at * task.batch : (at + 1) * task.batch]
            key, now, then = jax.random.split(key, 3)
            batch = tuple(part[chosen] for part in task.trained)
            parameters, state, loss = stepped(parameters, state, batch, now)
            losses.append(float(loss))
            step += 1
            if step % task.every == 0:
                held = float(shown(parameters, task.held, then))
                rows.append(row(step, step / per_epoch, task.epochs, float(np.mean(losses)), held))
                losses = []
    return rows


# -- parts --------------------------------------------------------------------------------------------------------


def layers(sizes: list[int], seed: int = 0, scale: float = 1.0) -> list[Any]:
    """Weights and offsets of a perceptron."""
    random = np.random.default_rng(seed)
    return [
        (jnp.asarray(random.normal(0, scale / given**0.5, (given, wanted)), jnp.float32), jnp.zeros(wanted))
        for given, wanted in pairwise(sizes)
    ]


def through(parameters: Any, x: Any, squash: Callable[[Any], Any] = jax.nn.relu) -> Any:
    for weights, offsets in parameters[:-1]:
        x = squash(x @ weights + offsets)
    return x @ parameters[-1][0] + parameters[-1][1]


def entropy(scores: Any, labels: Any) -> Any:
    return optax.softmax_cross_entropy_with_integer_labels(scores, labels).mean()


def digits() -> tuple[Any, Any, Any, Any]:
    read = np.loadtxt(DATA / "digits.csv.gz", delimiter=",")
    read = read[np.random.default_rng(5).permutation(len(read))]
    x, y = (read[:, :64] / 16).astype(np.float32), read[:, 64].astype(np.int32)
    return x[:1400], y[:1400], x[1400:], y[1400:]


def table(name: str, cut: int) -> tuple[Any, Any, Any, Any]:
    """A table of scikit-learn whose last column is a class."""
    with (DATA / name).open(encoding="utf-8") as file:
        read = np.array([[float(cell) for cell in line] for line in list(csv.reader(file))[1:]])
    read = read[np.random.default_rng(5).permutation(len(read))]
    x, y = read[:, :-1], read[:, -1].astype(np.int32)
    x = ((x - x.mean(axis=0)) / x.std(axis=0)).astype(np.float32)
    return x[:cut], y[:cut], x[cut:], y[cut:]


# -- tasks on JAX -------------------------------------------------------------------------------------------------


def parity_adam() -> Task:
    """The parity of 3 of 24 bits, by Adam on tanh: another late drop."""
    bits = np.random.default_rng(1).integers(0, 2, (3000, 24)) * 2 - 1
    x, y = bits.astype(np.float32), (bits[:, 4:7].prod(axis=1) > 0).astype(np.int32)
    return Task(
        layers([24, 96, 2], 1), lambda p, b, _: entropy(through(p, b[0], jnp.tanh), b[1]),
        (x[:2400], y[:2400]), (x[2400:], y[2400:]), optax.adam(1e-3), 60, 40, 36,
    )  # fmt: skip


def linear_saddles() -> Task:
    """A deep linear network from small weights: one component after another, with plateaus between them."""
    random = np.random.default_rng(2)
    left, _ = np.linalg.qr(random.normal(size=(12, 12)))
    right, _ = np.linalg.qr(random.normal(size=(12, 12)))
    truth = left @ np.diag([6, 3, 1.5, 0.7, *[0.0] * 8]) @ right
    x = random.normal(size=(700, 12)).astype(np.float32)
    y = (x @ truth + 0.3 * random.normal(size=(700, 12))).astype(np.float32)
    weights = [jnp.asarray(random.normal(0, 0.03, (12, 12)), jnp.float32) for _ in range(3)]

    def loss(p: Any, b: Any, _: Any) -> Any:
        return ((b[0] @ p[0] @ p[1] @ p[2] - b[1]) ** 2).mean()

    return Task(weights, loss, (x[:500], y[:500]), (x[500:], y[500:]), optax.sgd(0.04), 900, 100, 45)


def copying_gru() -> Task:
    """A gated recurrent network has to repeat the first of 12 symbols at the end: nothing is learnt for long. It shows its perplexity."""
    random = np.random.default_rng(3)
    x = random.integers(0, 8, (2600, 12)).astype(np.int32)
    width = 32
    parameters = {
        "in": jnp.asarray(random.normal(0, 0.3, (8, 3 * width)), jnp.float32),
        "own": jnp.asarray(random.normal(0, 0.15, (width, 3 * width)), jnp.float32),
        "out": jnp.asarray(random.normal(0, 0.2, (width, 8)), jnp.float32),
    }

    def loss(p: Any, b: Any, _: Any) -> Any:
        def cell(state: Any, given: Any) -> Any:
            new, own = p["in"][given], state @ p["own"]
            gate = jax.nn.sigmoid(new[:, :width] + own[:, :width])
            reset = jax.nn.sigmoid(new[:, width : 2 * width] + own[:, width : 2 * width])
            wanted = jnp.tanh(new[:, 2 * width :] + reset * own[:, 2 * width :])
            return gate * state + (1 - gate) * wanted, None

        state, _ = jax.lax.scan(cell, jnp.zeros((len(b[0]), width)), b[0].T)
        return entropy(state @ p["out"], b[0][:, 0])

    return Task(
        parameters, loss, (x[:2000],), (x[2000:],), optax.rmsprop(2e-3), 50, 40, 25,
        lambda p, b, k: jnp.exp(loss(p, b, k)),
    )  # fmt: skip


def error_rate() -> Task:
    """Label smoothing and Lion; it shows the share of wrong answers, which has few digits."""
    x, y, held, truth = digits()

    def loss(p: Any, b: Any, _: Any) -> Any:
        wanted = optax.smooth_labels(jax.nn.one_hot(b[1], 10), 0.1)
        return optax.softmax_cross_entropy(through(p, b[0], jax.nn.silu), wanted).mean()

    def wrong(p: Any, b: Any, _: Any) -> Any:
        return (through(p, b[0], jax.nn.silu).argmax(axis=1) != b[1]).mean()

    return Task(layers([64, 40, 10], 3), loss, (x, y), (held, truth), optax.lion(3e-4), 50, 50, 14, wrong)


def variational() -> Task:
    """A variational autoencoder; its evaluation draws samples."""
    x, _, held, _ = digits()
    parameters = {"to": layers([64, 48, 16], 4), "from": layers([8, 48, 64], 5)}

    def loss(p: Any, b: Any, key: Any) -> Any:
        found = through(p["to"], b[0])
        mean, log_var = found[:, :8], found[:, 8:]
        drawn = mean + jnp.exp(log_var / 2) * jax.random.normal(key, mean.shape)
        seen = optax.sigmoid_binary_cross_entropy(through(p["from"], drawn), b[0]).sum(axis=1)
        return (seen + 0.5 * (jnp.exp(log_var) + mean**2 - 1 - log_var).sum(axis=1)).mean()

    return Task(parameters, loss, (x,), (held,), optax.adam(2e-3), 60, 50, 20)


def contrastive() -> Task:
    """Two noisy views of a digit have to find each other: the evaluation is noisy as well."""
    x, _, held, _ = digits()

    def loss(p: Any, b: Any, key: Any) -> Any:
        one, two = jax.random.split(key)
        views = [through(p, b[0] * jax.random.bernoulli(k, 0.6, b[0].shape)) for k in (one, two)]
        first, second = (view / jnp.linalg.norm(view, axis=1, keepdims=True) for view in views)
        return entropy(first @ second.T / 0.2, jnp.arange(len(b[0])))

    return Task(
        layers([64, 64, 16], 6), loss, (x,), (held,), optax.adamw(1e-3), 50, 100, 12,
    )  # fmt: skip


def factors() -> Task:
    """Ratings by users of things, factored: it overfits."""
    random = np.random.default_rng(7)
    users, things = random.normal(size=(120, 4)), random.normal(size=(80, 4))
    who, what = random.integers(0, 120, 3600), random.integers(0, 80, 3600)
    rated = ((users[who] * things[what]).sum(axis=1) + random.normal(size=3600)).astype(np.float32)
    parameters = {
        "users": jnp.asarray(random.normal(0, 0.1, (120, 24)), jnp.float32),
        "things": jnp.asarray(random.normal(0, 0.1, (80, 24)), jnp.float32),
    }

    def loss(p: Any, b: Any, _: Any) -> Any:
        return (((p["users"][b[0]] * p["things"][b[1]]).sum(axis=1) - b[2]) ** 2).mean()

    parts = (who, what, rated)
    return Task(
        parameters, loss, tuple(part[:2800] for part in parts), tuple(part[2800:] for part in parts),
        optax.adagrad(0.05), 80, 100, 28, lambda p, b, k: loss(p, b, k) ** 0.5,
    )  # fmt: skip


def tumours() -> Task:
    """A wide perceptron on few rows of a table, by Nesterov's momentum: it overfits."""
    x, y, held, truth = table("breast_cancer.csv", 120)
    return Task(
        layers([30, 200, 200, 2], 8), lambda p, b, _: entropy(through(p, b[0], jax.nn.elu), b[1]),
        (x, y), (held, truth), optax.sgd(0.02, 0.9, nesterov=True), 150, 20, 9,
    )  # fmt: skip


def two_spirals() -> Task:
    """Two spirals by Adam: long almost nothing, then a fall."""
    random = np.random.default_rng(9)
    angle, side = 3 * np.pi * random.random(1400) ** 0.5, random.integers(0, 2, 1400)
    points = np.stack([np.cos(angle + np.pi * side), np.sin(angle + np.pi * side)], axis=1) * angle[:, None] / 6
    x, y = (points + 0.02 * random.normal(size=points.shape)).astype(np.float32), side.astype(np.int32)
    return Task(
        layers([2, 24, 24, 2], 9, 0.7), lambda p, b, _: entropy(through(p, b[0], jnp.tanh), b[1]),
        (x[:1000], y[:1000]), (x[1000:], y[1000:]), optax.adam(4e-3), 120, 50, 30,
    )  # fmt: skip


def graph() -> Task:
    """A graph network that knows the labels of a tenth of the nodes: it overfits. It looks at all of them in each step."""
    random = np.random.default_rng(10)
    labels = random.integers(0, 4, 400).astype(np.int32)
    near = random.random((400, 400)) < np.where(labels[:, None] == labels[None], 0.03, 0.01)
    near = near | near.T | np.eye(400, dtype=bool)
    spread = jnp.asarray(near / near.sum(axis=1, keepdims=True), jnp.float32)
    features = jnp.asarray(random.normal(size=(400, 50)) + 0.3 * np.eye(50)[labels], jnp.float32)
    parameters = layers([50, 32, 4], 10)

    def loss(p: Any, b: Any, _: Any) -> Any:
        hidden = jax.nn.relu(spread @ (features @ p[0][0] + p[0][1]))
        return entropy((spread @ (hidden @ p[1][0] + p[1][1]))[b[0]], b[1])

    places = np.arange(400)
    return Task(parameters, loss, (places[:40], labels[:40]), (places[40:], labels[40:]), optax.adam(5e-3), 400, 40, 4)


def denoising() -> Task:
    """A diffusion model on digits: its evaluation draws noise and times anew."""
    x, _, held, _ = digits()

    def loss(p: Any, b: Any, key: Any) -> Any:
        one, two = jax.random.split(key)
        time = jax.random.uniform(one, (len(b[0]), 1))
        noise = jax.random.normal(two, b[0].shape)
        seen = jnp.cos(time * jnp.pi / 2) * (2 * b[0] - 1) + jnp.sin(time * jnp.pi / 2) * noise
        return ((through(p, jnp.concatenate([seen, time, time**2], axis=1), jax.nn.silu) - noise) ** 2).mean()

    return Task(layers([66, 128, 128, 64], 11), loss, (x,), (held,), optax.adamw(1e-3), 70, 50, 28)


def too_fast() -> Task:
    """A rate that is too large from the middle on: it diverges."""
    x, y, held, truth = digits()
    rate = optax.linear_schedule(0.02, 3.0, 900, 600)
    return Task(
        layers([64, 64, 64, 10], 12), lambda p, b, _: entropy(through(p, b[0]), b[1]),
        (x, y), (held, truth), optax.sgd(rate, 0.9), 60, 50, 14,
    )  # fmt: skip


ON_JAX: dict[str, Callable[[], Task]] = {
    "contrastive-views": contrastive,
    "copying-gru-perplexity": copying_gru,
    "denoising-diffusion": denoising,
    "digits-error-rate-lion": error_rate,
    "digits-rate-grows": too_fast,
    "graph-few-labels": graph,
    "linear-saddles": linear_saddles,
    "parity-adam": parity_adam,
    "ratings-factored": factors,
    "spirals": two_spirals,
    "tumours-few-rows": tumours,
    "variational-autoencoder": variational,
}


# -- other trainings ----------------------------------------------------------------------------------------------


def boosting() -> Rows:
    """Trees that are added one by one, on the absolute error: it overfits."""
    target, given = np.loadtxt(DATA / "diabetes_target.csv.gz"), np.loadtxt(DATA / "diabetes_data_raw.csv.gz")
    order = np.random.default_rng(5).permutation(len(given))
    x, y = given[order], target[order]
    model = GradientBoostingRegressor(n_estimators=300, learning_rate=0.15, max_depth=4, subsample=0.5, random_state=0)
    model.fit(x[:300], y[:300])
    return [
        row(number, number, 300, float(loss), float(np.abs(found - y[300:]).mean()))
        for number, (loss, found) in enumerate(zip(model.train_score_, model.staged_predict(x[300:]), strict=True), 1)
        if number % 3 == 0
    ]


def hinge() -> Rows:
    """A linear classifier on the hinge loss at a constant rate; a row per epoch."""
    x, y, held, truth = digits()
    model = SGDClassifier(loss="hinge", alpha=1e-5, learning_rate="constant", eta0=0.02, random_state=0)
    random, rows = np.random.default_rng(0), []

    def margin(x: Any, y: Any) -> float:
        signs = np.where(y[:, None] == np.arange(10), 1, -1)
        return float(np.maximum(0, 1 - signs * model.decision_function(x)).sum(axis=1).mean())

    for epoch in range(1, 81):
        order = random.permutation(len(x))
        model.partial_fit(x[order], y[order], classes=np.arange(10))
        accuracy = float((model.predict(held) == truth).mean())
        rows.append(row(epoch * len(x), epoch, 80, margin(x, y), margin(held, truth), accuracy))
    return rows


def policy_gradient() -> Rows:
    """A pole on a cart, balanced by REINFORCE; `eval_loss` is the mean return of 20 trials, times -1."""

    def moved(state: Any, push: Any) -> Any:
        place, speed, angle, turn = state.T
        force = jnp.where(push == 1, 10.0, -10.0)
        part = (force + 0.05 * turn**2 * jnp.sin(angle)) / 1.1
        bent = (9.8 * jnp.sin(angle) - jnp.cos(angle) * part) / (0.5 * (4 / 3 - 0.1 * jnp.cos(angle) ** 2 / 1.1))
        pulled = part - 0.05 * bent * jnp.cos(angle) / 1.1
        return jnp.stack([place + 0.02 * speed, speed + 0.02 * pulled, angle + 0.02 * turn, turn + 0.02 * bent], axis=1)

    def trials(p: Any, key: Any) -> Any:
        def step(carried: Any, key: Any) -> Any:
            state, alive = carried
            scores = through(p, state, jnp.tanh)
            push = jax.random.categorical(key, scores)
            log = jnp.take_along_axis(jax.nn.log_softmax(scores), push[:, None], axis=1)[:, 0]
            after = moved(state, push)
            lives = alive * (jnp.abs(after[:, 0]) < 2.4) * (jnp.abs(after[:, 2]) < 0.21)
            return (after, lives), (log * alive, alive)

        start, key = jax.random.split(key)
        state = jax.random.uniform(start, (20, 4), minval=-0.05, maxval=0.05)
        _, (logs, alive) = jax.lax.scan(step, (state, jnp.ones(20)), jax.random.split(key, 200))
        return logs, alive

    def loss(p: Any, key: Any) -> Any:
        logs, alive = trials(p, key)
        left = jnp.cumsum(alive[::-1], axis=0)[::-1]
        worth = (left - left.sum() / alive.sum()) * alive / 50
        return -(logs * jax.lax.stop_gradient(worth)).sum() / 20

    optimizer = optax.adam(3e-3)

    @jax.jit
    def stepped(p: Any, state: Any, key: Any) -> Any:
        value, slopes = jax.value_and_grad(loss)(p, key)
        changes, state = optimizer.update(slopes, state)
        return optax.apply_updates(p, changes), state, value

    returned = jax.jit(lambda p, key: trials(p, key)[1].sum() / 20)
    p, key, rows, losses = layers([4, 32, 2], 13, 0.5), jax.random.PRNGKey(13), [], []
    state = optimizer.init(p)
    for number in range(1, 601):
        key, now, then = jax.random.split(key, 3)
        p, state, value = stepped(p, state, now)
        losses.append(float(value))
        if number % 6 == 0:
            rows.append(row(number, number / 6, 100, float(np.mean(losses)), -float(returned(p, then))))
            losses = []
    return rows


OTHER: dict[str, Callable[[], Rows]] = {
    "boosted-trees-absolute-error": boosting,
    "hinge-constant-rate": hinge,
    "pole-policy-gradient": policy_gradient,
}


def main(out: Path, names: list[str]) -> None:
    """Write the curves of these names; none: all."""
    for name in names or (*ON_JAX, *OTHER):
        rows = train(ON_JAX[name]()) if name in ON_JAX else OTHER[name]()
        (out / f"{name}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")
        print(f"{name}: {len(rows)} rows", flush=True)  # noqa: T201


if __name__ == "__main__":
    DATA = Path(sys.argv[2])
    main(Path(sys.argv[1]), sys.argv[3:])
