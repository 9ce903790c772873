"""DeepSpeed: one folder for each tag, and the file ``latest`` beside them, which names the last tag.

deepspeed/runtime/engine.py, ``save_checkpoint``: all ranks write ``mp_rank_*_model_states.pt`` and ``*_optim_states.pt`` into the tag's folder;
after a barrier, rank 0 writes ``latest``. The default tag is ``global_step1200``. verl's ``global_step_1200`` has Megatron's pointer beside it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from trainingrun_operator.agent.volume.layouts import pointers
from trainingrun_operator.agent.volume.layouts.reading import read
from trainingrun_operator.agent.volume.layouts.tree import Found

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trainingrun_operator.agent.volume.layouts.tree import Top, Tree

_TAG = re.compile(r"global_?step_?(\d+)")
_STATES = ("_model_states.pt", "_optim_states.pt")


class DeepSpeed:
    """Folders of ``engine.save_checkpoint``."""

    name = "DeepSpeed"

    def find(self, tree: Tree) -> Iterator[Found]:
        """Return every folder with states of DeepSpeed, and ``global_stepN`` beside a pointer."""
        pointed = pointers.DEEPSPEED in tree.tops or pointers.MEGATRON in tree.tops
        tags = [top for top in tree.folders if _has_states(top) or (pointed and _TAG.fullmatch(top.name))]
        for top in tags:
            match = _TAG.fullmatch(top.name)
            step, epoch = (int(match[1]), None) if match else read(top.name)
            against = pointers.behind(tree, top.name, step if step is not None else epoch)
            if against is None and len(tags) > 1:
                yield Found((top.name,), step, epoch)  # `save_latest=False`
            elif against is None and not _of_first_rank(top):
                yield Found((top.name,), step, epoch)  # another pod has rank 0's files, and the pointer
            elif against is None:
                yield Found((top.name,), step, epoch, missing="no file latest beside it, which DeepSpeed writes last")
            else:
                marker = "" if against else "the pointer file beside it names it or a later one"
                yield Found((top.name,), step, epoch, marker=marker, missing=against)


def _has_states(top: Top) -> bool:
    return any(name.endswith(_STATES) for name in top.firsts)


def _of_first_rank(top: Top) -> bool:
    return any(name.startswith(("mp_rank_00_", "zero_pp_rank_0_", "layer_")) for name in top.firsts)
