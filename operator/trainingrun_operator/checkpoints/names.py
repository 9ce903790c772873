r"""Convert file names to and from JSON text and S3 keys.

A file name is bytes. Python represents bytes that are not UTF-8 as lone surrogates, which JSON and pydantic refuse. A manifest
writes such a byte as ``\udcXX``, and a backslash that would look like one as ``\udc5c``.
"""

from __future__ import annotations

import hashlib
import os
import re

from trainingrun_operator.checkpoints.keys import KEY_MAX_BYTES

ODD = ".names"
"""Folder for files whose names cannot be keys; the manifest has their names."""

_WORD = r"(?:tmp|temp|temporary|partial|incomplete|unfinished|in[-_]?progress|not[-_]?complete)"
_DOING = r"(?:saving|writing|staging|pending|uploading)"
"""Words that mark what is not finished only in a name with a number: a training may have a folder ``data_staging``."""
_TEMPORARY = re.compile(
    rf"""
      [._~]*{_WORD}[-_.\d].*           # tmp-checkpoint-100, tmp_step_100, temp.pt
    | \.tmp.*                         # .tmpx7f
    | tmp[a-z0-9_]{{8}}                # the names of Python's tempfile
    | .*[^a-z0-9]{_WORD}\d*[-_.~]*     # step1000-tmp, ckpt-12_temp, model.partial, step_2.__tmp__
    | .*\d.*[^a-z0-9]{_DOING}[-_.~]*  # step_2.saving, step_2_staging
    | [._~]*{_DOING}[-_.].*\d.*       # saving-step_2
    | .*\.tmp(?:[-_~].*|\.?\d.*|\.?(?=[a-z]*\d)[a-z0-9]{{6,}})  # checkpoint_1000.tmp-1699999999, model.pt.tmp.17
    | .*\.tempstate\d*                  # TensorFlow's data while it is written
    | .*\.orbax-checkpoint-tmp.*
    | .*(?:\.part|\.crdownload|\.download|\.writing)
    """,
    re.DOTALL | re.IGNORECASE | re.VERBOSE,
)
"""Names that writers give to unfinished files and folders. `docs/training/index.md` lists them.

OLMo: ``step1000-tmp``. NeMo RL: ``tmp_step_100``. t5x: ``checkpoint_1000.tmp-<time>``. TensorFlow: ``ckpt-12_temp/``. SimpleTuner:
``checkpoint-300-tmp``. Flax: ``checkpoint_tmp``. NeMo: ``<name>-unfinished``. huggingface_hub: ``*.incomplete``.
"""
_ASIDE = re.compile(
    r"(?:.*[^a-z0-9])?(?:bak|old|backup|orig(?:inal)?|prev(?:ious)?|deleted?|trash|corrupt(?:ed)?|broken|invalid|tmp|temp|partial|incomplete)"
    r"[-_.]*\d*[-_.]*|.*~\d*|[._]*(?:old|backup|bak)[-_.].*",
    re.DOTALL | re.IGNORECASE,
)
"""Names of what is kept of an earlier save: a writer renames the one before, writes the new one, and removes the other."""
_SURROGATE = re.compile("[\udc80-\udcff]")
_LOOKALIKE = re.compile(r"\\(?=udc[0-9a-f]{2})")
_WRITTEN = re.compile(r"\\udc([0-9a-f]{2})")
_PLAIN_KEY = re.compile(r"[^\x00-\x1f\x7f\\]+")


def is_temporary(path: str) -> bool:
    """Whether a path has a name in it that marks what is not finished yet."""
    return any(_TEMPORARY.fullmatch(name) for name in path.split("/"))


def is_set_aside(name: str) -> bool:
    """Whether a file's or folder's name, with or without its suffix, marks what is no longer, or not yet, a checkpoint."""
    stem, dot, _ = name.rpartition(".")
    return _ASIDE.fullmatch(name) is not None or bool(dot and _ASIDE.fullmatch(stem))


def to_text(path: str) -> str:
    """Convert a path to the manifest's form."""
    marked = _LOOKALIKE.sub(lambda _: r"\udc5c", path)
    return _SURROGATE.sub(lambda match: f"\\u{ord(match[0]):04x}", marked)


def from_text(text: str) -> str:
    """Convert a path from the manifest's form."""
    if "\\" not in text:
        return text
    parts = _WRITTEN.split(text)
    raw = b"".join(bytes.fromhex(part) if odd % 2 else part.encode() for odd, part in enumerate(parts))
    return os.fsdecode(raw)


def to_key(folder: str, path: str) -> str:
    """Return the key of a file: its path on disk, if a key can contain it."""
    key = folder + path
    if to_text(path) == path and _PLAIN_KEY.fullmatch(path) and len(key.encode()) <= KEY_MAX_BYTES:
        return key
    return f"{folder}{ODD}/{hashlib.sha256(os.fsencode(path)).hexdigest()}"
