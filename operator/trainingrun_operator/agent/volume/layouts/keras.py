"""Keras: ``{epoch:02d}-{val_loss:.2f}.keras`` and the like.

keras/src/callbacks/model_checkpoint.py: the template may name epoch and metrics; a number without a word is the epoch, because it is the only
whole number that the callback has (``batch`` aside). Files of one number are one checkpoint: ``.weights.h5`` beside ``.keras``.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from trainingrun_operator.agent.volume.layouts.reading import Reading, read, without_dates
from trainingrun_operator.agent.volume.layouts.tree import Found

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trainingrun_operator.agent.volume.layouts.tree import Tree

_NAME = re.compile(r"(?P<stem>.+?)(?:\.weights)?\.(?:keras|h5|hdf5)", re.IGNORECASE | re.DOTALL)
_NUMBER = re.compile(r"(?<![\d.a-zA-Z])(\d{1,6})(?![\d]|\.\d|[a-zA-Z])")
_WORDS = re.compile(r"step|iter|batch", re.IGNORECASE)


class Keras:
    """Files of ``ModelCheckpoint``."""

    name = "Keras"

    def find(self, tree: Tree) -> Iterator[Found]:
        """Return every file of Keras with a whole number in its name."""
        for top in tree.files:
            if (match := _NAME.fullmatch(top.name)) and (said := _read(match["stem"])).known:
                yield Found((top.name,), said.step, said.epoch)


def _read(stem: str) -> Reading:
    said = read(stem)
    if said.epoch is None and (said.step is None or not _WORDS.search(stem)):
        match = _NUMBER.search(without_dates(stem))
        return Reading(None, int(match[1])) if match else Reading(None, said.step)
    return said
