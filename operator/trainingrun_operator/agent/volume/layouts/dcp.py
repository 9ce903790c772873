"""torch.distributed.checkpoint, and torchtitan's ``step-100/``.

torch/distributed/checkpoint/filesystem.py, ``finish``: the coordinator writes ``.metadata.tmp`` and renames it to ``.metadata`` once every rank
has written its ``__<rank>_<n>.distcp``. torchtitan/components/checkpoint.py names the folders. A folder may have several of them inside.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainingrun_operator.agent.volume.layouts.reading import read
from trainingrun_operator.agent.volume.layouts.tree import Found

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trainingrun_operator.agent.volume.layouts.tree import Tree

METADATA = ".metadata"
DATA = ".distcp"


class TorchDCP:
    """Numbered folders of distributed checkpoints."""

    name = "TorchDCP"

    def find(self, tree: Tree) -> Iterator[Found]:
        """Return every folder with a step or an epoch in its name and a distributed checkpoint in it."""
        for top in tree.folders:
            if METADATA not in top.basenames and not any(name.endswith(DATA) for name in top.basenames):
                continue
            step, epoch = read(top.name)
            value = int(top.name) if top.name.isdecimal() else None
            if (step, epoch, value) == (None, None, None):
                continue
            marker = f"{METADATA}, which is written last, is there" if METADATA in top.firsts else ""
            yield Found((top.name,), step, epoch, value, marker=marker)
