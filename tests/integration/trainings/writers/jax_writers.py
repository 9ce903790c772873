"""Writers on JAX: Orbax, Keras."""

from __future__ import annotations

import os
import re
import sys
import warnings
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import keras
import numpy as np
import orbax.checkpoint as ocp
from shared import Writer, same, saved, serve

STEPS = (100, 200, 300)


def state_of(step: int) -> dict[str, Any]:
    return {
        "hidden": jnp.full((64, 64), float(step)),
        "output": jnp.full((64, 64), float(step)),
        "step": jnp.array(step),
    }


def save_orbax(folder: Path) -> None:
    """As docs/training/jax.md does: in the background, the newest two are kept."""
    with ocp.CheckpointManager(folder, options=ocp.CheckpointManagerOptions(max_to_keep=2)) as manager:
        for step in STEPS:
            manager.save(step, args=ocp.args.StandardSave(state_of(step)))
            manager.wait_until_finished()
            saved(folder, step, str(step))


def load_orbax(path: Path) -> int:
    with ocp.CheckpointManager(path.parent) as manager:
        state = manager.restore(int(path.name), args=ocp.args.StandardRestore(state_of(0)))
    for name in ("hidden", "output"):
        same(name, int(state[name].min()), int(state["step"]))
        same(name, int(state[name].max()), int(state["step"]))
    return int(state["step"])


# -- Keras --------------------------------------------------------------------------------------------------------------

EPOCHS, STEPS_PER_EPOCH = 3, 2


class Saved(keras.callbacks.Callback):
    """Comes after the ModelCheckpoint: says which file the epoch has left."""

    def __init__(self, folder: Path, pattern: str) -> None:
        super().__init__()
        self.folder, self.pattern = folder, pattern

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        saved(self.folder, epoch + 1, self.pattern.format(epoch=epoch + 1, **(logs or {})))


def new_model() -> Any:
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(64, "tanh"), keras.layers.Dense(1)])
    model.compile(optimizer=keras.optimizers.Adam(0.01), loss="mse")
    return model


def fit(folder: Path, pattern: str, **options: Any) -> None:
    x = np.linspace(-3, 3, 8).reshape(-1, 1).astype("float32")
    keep = keras.callbacks.ModelCheckpoint(folder / pattern, **options)
    new_model().fit(
        x,
        np.sin(x),
        validation_data=(x, np.sin(x)),
        epochs=EPOCHS,
        batch_size=4,
        callbacks=[keep, Saved(folder, pattern)],
        verbose=0,
    )


def save_keras(folder: Path) -> None:
    fit(folder, "{epoch:02d}-{val_loss:.2f}.keras")


def save_keras_weights(folder: Path) -> None:
    fit(folder, "weights.{epoch:02d}-{val_loss:.2f}.weights.h5", save_weights_only=True)


def load_keras(path: Path) -> int:
    path = last_of(path)
    return epochs_of(keras.models.load_model(path), path)


def last_of(path: Path) -> Path:
    """Return the file of the last epoch, where the whole folder is the checkpoint."""
    return max(path.glob("*-*"), key=lambda one: one.name) if path.is_dir() else path


def load_keras_weights(path: Path) -> int:
    path = last_of(path)
    model = new_model()
    model.optimizer.build(model.trainable_variables)
    model.load_weights(path)
    return epochs_of(model, path)


def epochs_of(model: Any, path: Path) -> int:
    epoch = int(model.optimizer.iterations) // STEPS_PER_EPOCH
    match = re.search(r"(\d+)-\d+\.\d+", path.name)
    assert match
    same("the name", int(match[1]), epoch)
    return epoch


WRITERS = {
    "orbax": Writer(save_orbax, load_orbax),
    "keras": Writer(save_keras, load_keras),
    "keras-weights-h5": Writer(save_keras_weights, load_keras_weights),
}

if __name__ == "__main__":
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    warnings.simplefilter("ignore")
    chosen = set(sys.argv[2:])
    serve({name: one for name, one in WRITERS.items() if not chosen or name in chosen}, Path(sys.argv[1]), replies)
