"""TensorFlow: ``ckpt-12.index`` and ``ckpt-12.data-00000-of-00001``.

tensorflow/core/util/tensor_bundle: the data is written under ``<prefix>_temp/`` or ``….tempstate…`` and renamed, the index last.
``tf.train.CheckpointManager`` numbers by a counter of saves, ``tf.train.Saver`` (``model.ckpt-1200``) by the global step.
"""

from __future__ import annotations

import re
from collections import defaultdict
from typing import TYPE_CHECKING

from trainingrun_operator.agent.volume.layouts.reading import Reading, read
from trainingrun_operator.agent.volume.layouts.tree import Found

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trainingrun_operator.agent.volume.layouts.tree import Tree

_FILE = re.compile(r"(?P<prefix>.*\d.*)\.(?:index|meta|data-(?P<at>\d+)-of-(?P<of>\d+))", re.DOTALL)
_COUNTER = re.compile(r"(?:ckpt|checkpoint)-(\d+)")
_SAVER = re.compile(r"[^\d]*-(\d+)")
_EPOCH = re.compile(r"[^\d]*(\d{1,6})\.ckpt")
"""``cp-{epoch:04d}.ckpt``, of Keras' callback with TensorFlow's format."""


class TensorFlow:
    """Bundles of tensors."""

    name = "TensorFlow"

    def find(self, tree: Tree) -> Iterator[Found]:
        """Return every bundle with a number in its name."""
        bundles: dict[str, list[re.Match[str]]] = defaultdict(list)
        for top in tree.files:
            if match := _FILE.fullmatch(top.name):
                bundles[match["prefix"]].append(match)
        for prefix, files in bundles.items():
            names = sorted((match[0] for match in files), key=lambda name: (not name.endswith(".index"), name))
            if not any(match["of"] for match in files) and f"{prefix}.index" not in names:
                continue
            counter = _COUNTER.fullmatch(prefix)
            said = Reading() if counter else _read(prefix)
            missing = _missing(prefix, files)
            marker = "" if missing else "the index, which is written last, is there with all of its data"
            yield Found(tuple(names), *said, int(counter[1]) if counter else None, marker, missing)


def _read(prefix: str) -> Reading:
    if (said := read(prefix)).known:
        return said
    if match := _SAVER.fullmatch(prefix):
        return Reading(int(match[1]))
    match = _EPOCH.fullmatch(prefix)
    return Reading(None, int(match[1])) if match else Reading()


def _missing(prefix: str, files: list[re.Match[str]]) -> str:
    there = {match[0] for match in files}
    if f"{prefix}.index" not in there:
        return f"no {prefix}.index, which is written last"
    counts = [match["of"] for match in files if match["of"]]
    if not counts:
        return f"no data of {prefix}"
    width = len(counts[0])
    wanted = (f"{prefix}.data-{at:0{width}}-of-{counts[0]}" for at in range(min(int(counts[0]), 100_000)))
    gone = next((name for name in wanted if name not in there), "")
    return f"{gone} is missing" if gone else ""
