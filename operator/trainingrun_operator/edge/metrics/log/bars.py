"""Progress bars in a log: tqdm's, which Lightning and Hugging Face use, and Keras'.

A bar counts the steps of a whole training or of one epoch, the batches of an evaluation, or bytes. Only what its words say is used.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

from trainingrun_operator.edge.metrics.log.words import Phase, phase

if TYPE_CHECKING:
    from collections.abc import Mapping

_TQDM: Final = re.compile(
    r"(?P<title>[^|]{0,200})(?<!\d)\d{1,3}%\|[^|]{0,300}\|[ ]{0,8}(?P<n>\d{1,15})/(?P<total>\d{1,15})[ ]\[[\d:]{1,16}<[\d:?]{1,16},?[ ]{0,8}"
    r"(?P<rate>[^\],]{0,24})"
)
_KERAS: Final = re.compile(r"[ ]{0,16}(?P<n>\d{1,15})/(?P<total>\d{1,15})[ ](?:\[[=>.]|━|-[ ]\d{1,8}(?:s|ms)[ ]-)")
_HEADER: Final = re.compile(r"[ ]{0,8}Epoch:?[ ]{1,8}(?P<epoch>\d{1,9})[ ]{0,4}/[ ]{0,4}(?P<total>\d{1,9})[ ]{0,8}")
_EPOCH: Final = re.compile(r"(?i)epoch[ :]{0,4}(?P<epoch>\d{1,9})(?:[ ]{0,4}/[ ]{0,4}(?P<total>\d{1,9}))?")
_DRAWN: Final = re.compile(r"[\u2500-\u259f]|\d%\||[=#*>]{4}")
"""Boxes and blocks of Unicode, tqdm's beginning, and what draws other bars."""
_RATES: Final = re.compile(r"(?:it|step|steps|batch|batches)/s|s/(?:it|step|steps|batch|batches)")
_WORDS: Final = re.compile(r"[^\W\d_]{1,64}")
_OF_A_TRAINING: Final = frozenset(
    ["epoch", "epochs", "train", "training", "step", "steps", "iteration", "iterations", "finetuning"]
)


class Kind(Enum):
    """What a bar counts, as far as its words say."""

    TRAINING = "steps of a training"
    PLAIN = "it has no words: steps of a training, or batches of an evaluation"
    KERAS = "steps of an epoch, or batches of an evaluation"
    EVALUATION = "batches of an evaluation"
    OTHER = "bytes, examples, epochs, …"


@dataclass(frozen=True)
class Bar:
    """A progress bar at one moment."""

    kind: Kind
    n: int
    total: int
    epoch: int | None = None
    """The epoch whose steps it counts."""
    total_epochs: int | None = None


def header(text: str) -> tuple[int, int] | None:
    """Return epoch and total of a line that has only these: ``Epoch 1/10``."""
    match = _HEADER.fullmatch(text)
    return (int(match["epoch"]), int(match["total"])) if match is not None else None


def is_drawn(text: str) -> bool:
    """Whether a line may be a progress bar of any program, also of one that `find` does not know."""
    return _DRAWN.search(text) is not None


def find(text: str) -> Bar | None:
    """Return the bar of a line; None: it has none."""
    if (match := _TQDM.match(text)) is not None:
        return _of_tqdm(match.groupdict())
    if (match := _KERAS.match(text)) is not None:
        return Bar(Kind.KERAS, int(match["n"]), int(match["total"]))
    return None


def _of_tqdm(bar: Mapping[str, str]) -> Bar:
    n, total, title = int(bar["n"]), int(bar["total"]), bar["title"]
    epoch = _EPOCH.search(title)
    kind = _kind(title, bar["rate"].strip(), counts_epochs=epoch is None)
    if epoch is None or kind is not Kind.TRAINING:
        return Bar(kind, n, total)
    return Bar(kind, n, total, int(epoch["epoch"]), int(epoch["total"]) if epoch["total"] else None)


def _kind(title: str, rate: str, *, counts_epochs: bool) -> Kind:
    if phase(title) is Phase.EVALUATION:
        return Kind.EVALUATION
    words = {word.lower() for word in _WORDS.findall(title)}
    others = words - _OF_A_TRAINING or (rate and not _RATES.search(rate))
    if others or (counts_epochs and words & {"epoch", "epochs"}):
        return Kind.OTHER
    return Kind.TRAINING if words else Kind.PLAIN
