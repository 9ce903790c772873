"""Lightning: ``epoch=3-step=1200.ckpt``, a file, or a folder of a sharded strategy.

lightning/pytorch/callbacks/model_checkpoint.py names them; a second one of the same name ends in ``-v1``. strategies/fsdp.py, ``save_checkpoint``:
in a folder, ``meta.pt`` is written after the distributed checkpoint. strategies/deepspeed.py: ``latest`` is written last, in the folder.
Other files of one step are other checkpoints: each is loaded alone.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from trainingrun_operator.agent.volume.layouts.dcp import METADATA
from trainingrun_operator.agent.volume.layouts.reading import read
from trainingrun_operator.agent.volume.layouts.tree import Found

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trainingrun_operator.agent.volume.layouts.tree import Top, Tree

_HPC = re.compile(r"hpc_ckpt_(\d+)")
"""Counts the saves before a cluster's time limit."""


class Lightning:
    """Files and folders of ``ModelCheckpoint``."""

    name = "Lightning"

    def find(self, tree: Tree) -> Iterator[Found]:
        """Return every ``.ckpt`` with a step or an epoch in its name."""
        for top in tree.tops.values():
            if not top.name.endswith(".ckpt"):
                continue
            stem = top.name.removesuffix(".ckpt")
            marker, missing = _written(top) if top.folder else ("", "")
            found = Found((top.name,), marker=marker, missing=missing)
            if match := _HPC.fullmatch(stem):
                yield found._replace(value=int(match[1]))
            elif (said := read(stem)).known:
                yield found._replace(step=said.step, epoch=said.epoch)


def _written(top: Top) -> tuple[str, str]:
    """Return the marker of a folder, or what is missing."""
    if "checkpoint" in top.firsts or "latest" in top.firsts:
        return (
            ("latest, which is written last, is there", "")
            if "latest" in top.firsts
            else ("", "no latest in it, which is written last")
        )
    if "meta.pt" in top.firsts:
        return "meta.pt, which is written last, is there", ""
    if METADATA in top.firsts or any(name.startswith("__0_") for name in top.firsts):
        return "", "no meta.pt in it, which is written last"
    return "", ""  # another pod has rank 0's files
