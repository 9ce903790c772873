"""How libraries arrange their checkpoints: one module each. Each finds its own in a tree of names."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from trainingrun_operator.agent.volume.layouts.accelerate import Accelerate
from trainingrun_operator.agent.volume.layouts.dcp import TorchDCP
from trainingrun_operator.agent.volume.layouts.deepspeed import DeepSpeed
from trainingrun_operator.agent.volume.layouts.hugging_face import HuggingFace
from trainingrun_operator.agent.volume.layouts.keras import Keras
from trainingrun_operator.agent.volume.layouts.lightning import Lightning
from trainingrun_operator.agent.volume.layouts.megatron import Megatron
from trainingrun_operator.agent.volume.layouts.nemo import NeMo
from trainingrun_operator.agent.volume.layouts.numbered import NumberedFiles
from trainingrun_operator.agent.volume.layouts.orbax import Orbax
from trainingrun_operator.agent.volume.layouts.tensorflow import TensorFlow
from trainingrun_operator.agent.volume.layouts.together import half_of_pair, with_parts
from trainingrun_operator.agent.volume.layouts.unknown import Files
from trainingrun_operator.checkpoints.names import is_set_aside

if TYPE_CHECKING:
    from trainingrun_operator.agent.volume.layouts.tree import Found, Layout, Tree

TREE = "Tree"
"""The layout of a volume without numbered checkpoints: everything under the path is one."""

KNOWN: tuple[Layout, ...] = (
    NeMo(),
    Accelerate(),
    HuggingFace(),
    Megatron(),
    DeepSpeed(),
    Orbax(),
    Lightning(),
    Keras(),
    TensorFlow(),
    NumberedFiles(),
    TorchDCP(),
)
"""In this order: a layout that knows its files by more comes first."""
UNKNOWN: Layout = Files()
LAYOUTS: dict[str, tuple[Layout, ...]] = {
    "": (*KNOWN, UNKNOWN),
    TREE: (),
    **{layout.name: (layout,) for layout in (*KNOWN, UNKNOWN)},
}
"""By ``spec.checkpoint.format``; empty: all of them."""


class Recognized(NamedTuple):
    """A checkpoint, and the layout that found it."""

    layout: str
    found: Found


def recognize(tree: Tree, pinned: str = "") -> list[Recognized]:
    """Return the checkpoints directly under the path. Each name belongs to at most one.

    Beside numbered folders, files of an unknown layout are no checkpoints. What is set aside, such as ``step_100.bak``, is none either.
    """
    tree = tree.without(name for name in tree.tops if is_set_aside(name))
    recognized: list[Recognized] = []
    whole = tree
    for layout in LAYOUTS[pinned]:
        if layout is UNKNOWN and any(whole.tops[one.found.members[0]].folder for one in recognized):
            tree = tree.without(top.name for top in tree.files)
        found = [Recognized(layout.name, one) for one in layout.find(tree)]
        if layout is not UNKNOWN:
            taken = {name for one in found for name in one.found.members}
            others = [top for top in tree.files if top.name not in taken]
            found = [one._replace(found=with_parts(one.found, others, tree)) for one in found]
        recognized += found
        tree = tree.without(name for one in found for name in one.found.members)
    unpaired, why = half_of_pair([one.found for one in recognized], whole)
    return [
        one._replace(found=one.found._replace(missing=one.found.missing or why))
        if one.found.members[0] == unpaired
        else one
        for one in recognized
    ]
