"""Trains the curves of held-out-second/ that PyTorch makes, with the parts of held_out.py.

held_out_second_torch.py OUT DATA      with what held_out.py needs
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import held_out
import torch
from held_out import Task, Tensor, cosine, digits, letters, perceptron, train
from torch import nn
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Callable


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.inner = nn.LayerNorm(width), nn.Sequential(nn.Linear(width, width), nn.GELU())

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = x + self.inner(self.norm(x))
        return found


class Convolved(nn.Module):
    """Dilated causal convolutions over a text."""

    def __init__(self, letters: int) -> None:
        super().__init__()
        self.embedding, self.out = nn.Embedding(letters, 32), nn.Conv1d(32, letters, 1)
        self.layers = nn.ModuleList(nn.Conv1d(32, 32, 2, dilation=2**depth) for depth in range(4))

    def forward(self, x: Tensor) -> Tensor:
        found = self.embedding(x).transpose(1, 2)
        for depth, layer in enumerate(self.layers):
            found = found + functional.relu(layer(functional.pad(found, (2**depth, 0))))
        return self.out(found)


def residual_adagrad() -> Task:
    model = nn.Sequential(nn.Linear(64, 48), *(Residual(48) for _ in range(6)), nn.Linear(48, 10))
    return Task(
        model, *digits(shape=(64,)), lambda p: torch.optim.Adagrad(p, 0.01), 40, 50, 14,
        functional.multi_margin_loss,
    )  # fmt: skip


def convolved_text() -> Task:
    count, trained, held = letters(24)
    return Task(Convolved(count), trained, held, lambda p: torch.optim.RMSprop(p, 2e-3), 12, 32, 14, rate=cosine)


def multiplied_bits() -> Task:
    """The remainder by 3 of the product of two numbers of 5 bits."""
    one, two = (torch.randint(0, 32, (3000,)) for _ in range(2))
    places = 2 ** torch.arange(5)
    x = torch.cat([(number[:, None] // places) % 2 for number in (one, two)], dim=1).float() * 2 - 1
    y = (one * two) % 3
    return Task(
        perceptron([10, 96, 96, 3]), (x[:2400], y[:2400]), (x[2400:], y[2400:]), lambda p: torch.optim.NAdam(p, 1e-3), 80, 60, 32,
    )  # fmt: skip


def stretched() -> Task:
    """A regression with heavy tails, by Rprop on all rows."""
    x = torch.randn(600, 6)
    noise = torch.distributions.StudentT(2.0).sample((600, 1))
    y = torch.sin(x[:, :1]) * x[:, 1:2] + 0.5 * noise
    return Task(
        perceptron([6, 64, 1], nn.Tanh), (x[:300], y[:300]), (x[300:], y[300:]),
        lambda p: torch.optim.Rprop(p, 0.001), 400, 300, 4, functional.l1_loss,
    )  # fmt: skip


TASKS: dict[str, Callable[[], Task]] = {
    "residual-adagrad-margin": residual_adagrad,
    "convolved-text-rmsprop": convolved_text,
    "remainders-nadam": multiplied_bits,
    "heavy-tails-rprop": stretched,
}


def main(out: Path) -> None:
    """Write all curves."""
    torch.set_num_threads(1)
    for name, task in TASKS.items():
        torch.manual_seed(0)
        rows = train(task())
        (out / f"{name}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")
        print(f"{name}: {len(rows)} rows", flush=True)  # noqa: T201


if __name__ == "__main__":
    held_out.DATA = Path(sys.argv[2])
    main(Path(sys.argv[1]))
