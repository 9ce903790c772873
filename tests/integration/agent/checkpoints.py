"""Checkpoints as trainings write them, with random bytes in them."""

from __future__ import annotations

import io
import json
import os
import zipfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1 << 20


def zipped(size: int = 1000) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr("archive/data.pkl", os.urandom(size))
    return out.getvalue()


def safetensors(size: int = 1000) -> bytes:
    header = json.dumps({"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    return len(header).to_bytes(8, "little") + header + os.urandom(size)


def hf_checkpoint(volume: Path, step: int, size: int = 1000) -> dict[str, bytes]:
    """Write a checkpoint as Hugging Face's Trainer does, and return its files."""
    folder = volume / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    files = {
        "model.safetensors": safetensors(size),
        "optimizer.pt": zipped(),
        "training_args.bin": zipped(),
        "trainer_state.json": json.dumps({"global_step": step}).encode(),
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return {f"checkpoint-{step}/{name}": content for name, content in files.items()}
