"""Megatron-LM: ``iter_0001200/`` and ``latest_checkpointed_iteration.txt`` beside it.

megatron/training/checkpointing.py, ``save_checkpoint``: legacy ``mp_rank_00/model_optim_rng.pt``, or a distributed checkpoint with ``common.pt``,
``.metadata`` and ``metadata.json``; after a barrier (asynchronous: when all is written) rank 0 writes the pointer.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from trainingrun_operator.agent.volume.layouts import pointers
from trainingrun_operator.agent.volume.layouts.tree import Found

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trainingrun_operator.agent.volume.layouts.tree import Top, Tree

_NAME = re.compile(r"iter_(\d{7,})")
_RANK = re.compile(r"mp_rank_\d+(?:_\d+)*")
_OWN = frozenset({"common.pt", "metadata.json", "model_optim_rng.pt", "distrib_optim.pt"})


class Megatron:
    """Folders of ``save_checkpoint``."""

    name = "Megatron"

    def find(self, tree: Tree) -> Iterator[Found]:
        """Return every ``iter_N`` with files of Megatron or with the pointer beside it."""
        for top in tree.folders:
            match = _NAME.fullmatch(top.name)
            if match is None or not (pointers.MEGATRON in tree.tops or _is_own(top)):
                continue
            step = int(match[1])
            against = pointers.behind(tree, top.name, step)
            if against is None and not _of_first_rank(top):
                against = ""  # another pod has rank 0's files, and the pointer
            elif against is None:
                against = f"no file {pointers.MEGATRON} beside it, which Megatron writes last"
            pointed = pointers.MEGATRON in tree.tops
            marker = "" if against or not pointed else f"{pointers.MEGATRON} names it or a later one"
            yield Found((top.name,), step, marker=marker, missing=against)


def _is_own(top: Top) -> bool:
    return bool(top.basenames & _OWN) or any(_RANK.fullmatch(name) for name in top.firsts)


def _of_first_rank(top: Top) -> bool:
    return "common.pt" in top.firsts or any(name.startswith(("mp_rank_00", "__0_")) for name in top.firsts)
