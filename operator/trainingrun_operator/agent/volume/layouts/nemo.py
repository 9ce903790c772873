"""NeMo: Lightning's names with ``--`` and ``consumed_samples``, as files or folders, and a marker while they are written.

nemo/utils/callbacks/nemo_model_checkpoint.py (NeMo 1) and nemo/lightning/pytorch/callbacks/model_checkpoint.py (NeMo 2): the empty file
``<name>-unfinished`` exists from before the first byte until all ranks have written.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from trainingrun_operator.agent.volume.layouts.reading import read, stem_of
from trainingrun_operator.agent.volume.layouts.tree import Found

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trainingrun_operator.agent.volume.layouts.tree import Tree

_NAME = re.compile(r".*--.*(?:step|epoch)=\d+.*")
MARKER = "-unfinished"


class NeMo:
    """Checkpoints of NeMo's callback."""

    name = "NeMo"

    def find(self, tree: Tree) -> Iterator[Found]:
        """Return every file and folder with NeMo's name."""
        for top in tree.tops.values():
            stem, suffix = (top.name, "") if top.folder else stem_of(top.name)
            marked = f"{stem}{MARKER}" in tree.unfinished
            if not (suffix in (".ckpt", ".nemo") or top.folder) or not (_NAME.fullmatch(stem) or marked):
                continue
            step, epoch = read(stem)
            if step is not None or epoch is not None:
                missing = f"the marker {stem}{MARKER} is there, which NeMo removes last" if marked else ""
                yield Found((top.name,), step, epoch, missing=missing)
