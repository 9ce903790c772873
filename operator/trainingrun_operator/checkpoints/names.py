r"""File names on their way through JSON and S3 keys.

A name is bytes; Python carries those that are not UTF-8 as lone surrogates, which JSON and pydantic refuse. In a manifest
such a byte is written ``\udcXX``, and a backslash that could be taken for one is written ``\udc5c``.
"""

from __future__ import annotations

import hashlib
import os
import re

from trainingrun_operator.checkpoints.keys import KEY_MAX_BYTES

ODD = ".names"
"""Folder for files whose names cannot be keys; the manifest knows what they are called."""

_SURROGATE = re.compile("[\udc80-\udcff]")
_LOOKALIKE = re.compile(r"\\(?=udc[0-9a-f]{2})")
_WRITTEN = re.compile(r"\\udc([0-9a-f]{2})")
_PLAIN_KEY = re.compile(r"[^\x00-\x1f\x7f\\]+")


def to_text(path: str) -> str:
    """A path as the manifest carries it."""
    marked = _LOOKALIKE.sub(lambda _: r"\udc5c", path)
    return _SURROGATE.sub(lambda match: f"\\u{ord(match[0]):04x}", marked)


def from_text(text: str) -> str:
    """A path as the file system takes it."""
    if "\\" not in text:
        return text
    parts = _WRITTEN.split(text)
    raw = b"".join(bytes.fromhex(part) if odd % 2 else part.encode() for odd, part in enumerate(parts))
    return os.fsdecode(raw)


def to_key(folder: str, path: str) -> str:
    """The key of a file: as it lies on disk wherever a key can say that."""
    key = folder + path
    if to_text(path) == path and _PLAIN_KEY.fullmatch(path) and len(key.encode()) <= KEY_MAX_BYTES:
        return key
    return f"{folder}{ODD}/{hashlib.sha256(os.fsencode(path)).hexdigest()}"
