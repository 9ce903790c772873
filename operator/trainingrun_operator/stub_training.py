"""A simulated training for the sample, included in the operator's image: it learns nothing, the loss follows a formula.

It behaves like a real training: metrics on a port, checkpoints renamed when complete, the stop file, resuming.
`tools/training/digits.py` is a small real training.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import shutil
import signal
import struct
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Gauge, start_http_server

from trainingrun_operator.api import names

if TYPE_CHECKING:
    from collections.abc import Sequence

STEPS_PER_EPOCH = 100
STOP_FILE = "STOP_TRAINING"


def simulated_loss(step: int) -> float:
    """Loss by step: 2.3 at the start, towards 0.1; below 0.5 at step 73, below 0.3 at step 102."""
    return 0.1 + 2.2 * math.exp(-step / 42.5)


def save(folder: Path, step: int) -> None:
    """Write `checkpoint-<step>`: a small JSON state and one kilobyte in place of the weights."""
    target, unfinished = folder / f"checkpoint-{step}", folder / f".tmp-checkpoint-{step}"
    if not step or target.exists():
        return
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    (unfinished / "weights.bin").write_bytes(
        struct.pack("<128d", *(simulated_loss(step + index) for index in range(128)))
    )
    (unfinished / "state.json").write_text(
        json.dumps({"step": step, "loss": simulated_loss(step), "simulated": True}) + "\n"
    )
    unfinished.rename(target)
    say(f"saved {target.name}")


def newest_step(folder: Path) -> int:
    """The step of the newest checkpoint, 0 if there is none."""
    found = (re.fullmatch(r"checkpoint-(\d+)", path.name) for path in folder.glob("checkpoint-*"))
    return max((int(match[1]) for match in found if match), default=0)


def say(line: str) -> None:
    """Write a line of the training's log."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main(argv: Sequence[str] | None = None) -> int:
    """Simulate a training until the last step or the stop file; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="stub-training", description="A simulated training: metrics, checkpoints and the stop file are real"
    )
    parser.add_argument("--epochs", type=int, default=3, help=f"epochs of {STEPS_PER_EPOCH} steps (3)")
    parser.add_argument("--step-seconds", type=float, default=0.5, help="seconds per step (0.5)")
    parser.add_argument("--save-every", type=int, default=20, metavar="STEPS", help="steps between checkpoints (20)")
    parser.add_argument("--port", type=int, default=8000, help="port of /metrics (8000)")
    options = parser.parse_args(argv)

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    folder = Path(os.environ.get(names.CHECKPOINT_DIR_ENV) or "/checkpoints")
    control = os.environ.get(names.CONTROL_ENV)
    stop_files = [Path(place) / STOP_FILE for place in (folder, control) if place]
    registry = CollectorRegistry()
    loss = Gauge("training_loss", "Simulated loss", registry=registry)
    gauge_step = Gauge("training_step", "Steps taken", registry=registry)
    epoch = Gauge("training_epoch", "The current epoch, from 1", registry=registry)
    Gauge("training_total_epochs", "Epochs to train", registry=registry).set(options.epochs)
    start_http_server(options.port, registry=registry)

    last, first = options.epochs * STEPS_PER_EPOCH, newest_step(folder)
    say("simulated training: nothing is learned, the loss falls by a formula")
    if first:
        say(f"resumed from checkpoint-{first} at step {first}")
    for step in range(first + 1, last + 1):
        if any(path.exists() for path in stop_files):
            save(folder, step - 1)
            say(f"stopped at step {step - 1}/{last}: {STOP_FILE} found")
            return 0
        time.sleep(options.step_seconds)
        current_epoch = (step - 1) // STEPS_PER_EPOCH + 1
        loss.set(simulated_loss(step))
        gauge_step.set(step)
        epoch.set(current_epoch)
        if step % 10 == 0:
            say(f"step {step}/{last} epoch {current_epoch}/{options.epochs} loss {simulated_loss(step):.4f}")
        if step % options.save_every == 0:
            save(folder, step)
    save(folder, last)
    say(f"Training complete: step {last}/{last} loss {simulated_loss(last):.4f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
