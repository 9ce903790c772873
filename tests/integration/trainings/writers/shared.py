"""What the writers share: how a writer says that it has saved, and the conversation with the test."""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TextIO

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class Writer(NamedTuple):
    """A training library's way to save, and its own way to load."""

    write: Callable[[Path], None]
    """Saves several times into a folder, and calls `saved` whenever a save has returned."""
    load: Callable[[Path], int]
    """Loads a checkpoint with the library's own loader and returns its progress. Raises what the loader raises, `TornError` if the parts are of two saves."""


class TornError(Exception):
    """The loader returned a checkpoint whose parts are of different saves."""


def saved(folder: Path, progress: int, *paths: str) -> None:
    """Say that the save has returned that makes these paths of the folder a whole checkpoint."""
    os.setxattr(folder, "user.saved", json.dumps({"progress": progress, "paths": paths}).encode())


def same(name: str, progress: int, expected: int) -> None:
    """Compare the progress that two parts of a checkpoint hold.

    Raises:
        TornError: they differ.
    """
    if progress != expected:
        raise TornError(f"{name} is of {progress}, the rest of {expected}")


def serve(writers: Mapping[str, Writer], folder: Path, replies: TextIO) -> None:
    """Let all writers save, one after the other, each into a folder of its own; then load what the test asks for.

    The test writes one line for each: the writer's name and the path of a checkpoint, as JSON. It gets one line back.
    """
    for name, writer in writers.items():
        (folder / name).mkdir()
        writer.write(folder / name)
    print(json.dumps({"written": list(writers)}), file=replies, flush=True)
    for line in sys.stdin:
        name, path = json.loads(line)
        try:
            reply = {"progress": writers[name].load(Path(path))}
        except BaseException as error:  # noqa: BLE001  # CheckpointException of PyTorch is no Exception
            reply = {"error": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()}
        print(json.dumps(reply), file=replies, flush=True)
