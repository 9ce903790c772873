"""The training's own word: lines of JSON in ``$TRAININGRUN_CONTROL/saved`` declare checkpoints complete. Any content is harmless.

A line is an object with ``path``, relative to the checkpoint path or absolute and below it, and optionally ``step`` and ``epoch``.
"""

from __future__ import annotations

import json
import os
import stat
from typing import TYPE_CHECKING, NamedTuple

from trainingrun_operator.checkpoints.documents import WHOLE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NAME = "saved"
READ_MAX_BYTES = 1 << 20
"""Of the end of the file: older lines are about checkpoints of long ago."""
LINE_MAX_BYTES = 8192
WORDS_MAX = 1000
_NUMBER_MAX = 2**53


class Word(NamedTuple):
    """One checkpoint that the training has declared complete."""

    path: str
    """Relative to the checkpoint path; `WHOLE` for the path itself."""
    step: int | None = None
    epoch: int | None = None
    line: int = 0
    """Bytes from the start of the file to the end of the line: a later line about the same path is another word."""
    stands: bool = True
    """False: its files have changed since the training said so."""


def read(file: Path | None, root: str) -> dict[str, Word]:
    """Return the last word about each path, at most `WORDS_MAX` of them. A file that is missing or unreadable says nothing."""
    found: dict[str, Word] = {}
    for end, line in _lines(file) if file is not None else ():
        if word := _word(line, root, end):
            found.pop(word.path, None)
            found[word.path] = word
    return dict(list(found.items())[-WORDS_MAX:])


def _lines(file: Path) -> Iterator[tuple[int, bytes]]:
    try:
        opened = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return
    try:
        about = os.fstat(opened)
        if not stat.S_ISREG(about.st_mode):
            return
        start = max(0, about.st_size - READ_MAX_BYTES)
        body = os.pread(opened, READ_MAX_BYTES, start)
    except OSError:
        return
    finally:
        os.close(opened)
    *whole, _ = body.split(b"\n")  # a line without its end is being written
    end = start
    for number, line in enumerate(whole):
        end += len(line) + 1
        if len(line) <= LINE_MAX_BYTES and (number or not start):
            yield end, line


def _word(line: bytes, root: str, end: int) -> Word | None:
    try:
        said = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(said, dict) or not isinstance(said.get("path"), str):
        return None
    path = _inside(said["path"], root)
    return None if path is None else Word(path, _number(said.get("step")), _number(said.get("epoch")), end)


def _inside(path: str, root: str) -> str | None:
    """Return a path relative to the checkpoint path; None if it leads elsewhere."""
    if "\0" in path or ".." in path.split("/"):
        return None
    if path.startswith("/"):
        base = f"{os.path.normpath(root)}/"
        normal = os.path.normpath(path)
        if not f"{normal}/".startswith(base):
            return None
        path = normal[len(base) :]
    return os.path.normpath(path) if path else WHOLE


def _number(value: object) -> int | None:
    if isinstance(value, float) and value.is_integer() and abs(value) <= _NUMBER_MAX:
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _NUMBER_MAX else None
