"""Read a step or an epoch from a name: only where a word says which of the two a number is."""

from __future__ import annotations

import re
from typing import NamedTuple

SUFFIXES = (
    ".pth.tar", ".weights.h5", ".pt", ".pth", ".ckpt", ".bin", ".safetensors", ".npz", ".npy", ".zip", ".keras", ".h5", ".hdf5",
    ".pkl", ".pickle", ".msgpack", ".tar", ".th", ".pdparams", ".pdopt", ".pdema", ".params", ".states", ".model", ".nemo", ".joblib",
    ".gguf", ".onnx", ".orbax", ".flax", ".mdl", ".chkpt", ".checkpoint",
)  # fmt: skip
"""Suffixes of files that trainings save."""

_END = r"(?!\d|\.\d|[a-z]\d|[bmkg](?![a-z0-9]))"
"""A number that goes on, that is followed by decimals, or that is a model's size, is another number."""
_DATE = re.compile(
    r"(?<!\d)(?:(?:19|20)\d\d(?P<between>[-_.]?)[01]\d(?P=between)[0-3]\d(?:[-_T.+]?[0-2]\d[-_:.h+]?[0-5]\d(?:[-_:.m+]?[0-5]\d)?)?"
    r"|1[4-9]\d{8}(?:\d{3})?)(?!\d)"
)
"""A day, with or without its time; seconds or milliseconds since 1970."""
_STEP = re.compile(
    rf"(?:^|[^a-z])(?:global[-_]?)?(?:steps?|iters?|iterations?|batch|updates?)[-_=]?(\d+){_END}", re.IGNORECASE
)
_STEP_AFTER = re.compile(r"(?:^|[^\d.a-z])(\d+)[-_]?(?:steps?|iters?|iterations?|updates?)(?![a-z])", re.IGNORECASE)
_EPOCH = re.compile(rf"(?:^|[^a-z])(?:epochs?|(?<![a-z0-9])ep)[-_=]?(\d+){_END}", re.IGNORECASE)
_EPOCH_AFTER = re.compile(r"(?:^|[^\d.a-z])(\d+)[-_]?epochs?(?![a-z])", re.IGNORECASE)
_BEFORE_METRIC = re.compile(r"(?:^|(?<!\d)\.|[^\d.])(\d{1,6})[-_]\d+\.\d+")
"""``{epoch:02d}-{val_loss:.2f}``, Keras' own example; Lightning without the names of the metrics."""
_CHECKPOINT = re.compile(rf"(?:^|[^a-z])(?:checkpoint|ckpt)[-_=]?(\d+){_END}", re.IGNORECASE)
"""By far the most trainings that write this count steps."""


class Reading(NamedTuple):
    """What a name says about the training's progress."""

    step: int | None = None
    epoch: int | None = None

    @property
    def known(self) -> bool:
        """Whether it says anything."""
        return self.step is not None or self.epoch is not None


def stem_of(name: str) -> tuple[str, str]:
    """Split a file's name into stem and suffix; the suffix is empty if it is not one that trainings save."""
    lower = name.lower()
    suffix = next((one for one in SUFFIXES if lower.endswith(one) and len(name) > len(one)), "")
    return (name[: len(name) - len(suffix)], suffix) if suffix else (name, "")


def _first(text: str, *patterns: re.Pattern[str]) -> int | None:
    for pattern in patterns:
        if match := pattern.search(text):
            return int(match[1])
    return None


def without_dates(text: str) -> str:
    """Take days and times out of a name."""
    return _DATE.sub("~", text)


def read(text: str) -> Reading:
    """Read step and epoch from a name without its suffix."""
    step = _first(text, _STEP, _STEP_AFTER)
    text = without_dates(text)
    epoch = _first(text, _EPOCH, _EPOCH_AFTER)
    if epoch is None and step is None:
        epoch = _first(text, _BEFORE_METRIC)
    if epoch is None and step is None:
        step = _first(text, _CHECKPOINT)
    return Reading(step, epoch)
