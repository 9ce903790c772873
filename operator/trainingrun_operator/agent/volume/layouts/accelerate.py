"""Accelerate, and the scripts of diffusers: a folder of ``Accelerator.save_state``.

accelerate/checkpointing.py, ``save_accelerator_state``: weights, ``optimizer.bin``, ``scheduler.bin``, ``sampler.bin``, ``scaler.pt``, and the
random states of each process last. accelerate/accelerator.py, ``save_state``: automatic names ``checkpoint_0``, ``checkpoint_1`` count saves.
diffusers/examples: ``checkpoint-500`` counts steps; ``step_500`` and ``epoch_3`` are those of accelerate/examples.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from trainingrun_operator.agent.volume.layouts.hugging_face import OF_THE_TRAINER
from trainingrun_operator.agent.volume.layouts.reading import read
from trainingrun_operator.agent.volume.layouts.tree import Found

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trainingrun_operator.agent.volume.layouts.tree import Top, Tree

_RANDOM = re.compile(r"random_states_\d+\.pkl")
_STATES = frozenset({"optimizer.bin", "scheduler.bin", "sampler.bin", "optimizer_0"})
_OF_KOHYA = "-state"
"""The state beside a file of sd-scripts: `numbered` puts the two together."""
_SAVE = re.compile(r"checkpoint_(\d+)")
_STEP = re.compile(r"checkpoint-(\d+)")
_OF_DIFFUSERS = re.compile(r"diffusion_pytorch_model.*|pytorch_lora_weights\.(?:safetensors|bin)")


class Accelerate:
    """Folders of ``save_state``."""

    name = "Accelerate"

    def find(self, tree: Tree) -> Iterator[Found]:
        """Return every numbered folder with a state of Accelerate, or ``checkpoint-N`` with weights of diffusers."""
        for top in tree.folders:
            if top.firsts & OF_THE_TRAINER or top.name.endswith(_OF_KOHYA):
                continue
            random = any(_RANDOM.fullmatch(name) for name in top.firsts)
            if not (random or top.firsts & _STATES or _is_begun(top)):
                continue
            marker = "random_states_0.pkl, which Accelerate writes last, is there" if random else ""
            missing = "" if random else "no random_states_0.pkl, which Accelerate writes last"
            found = Found((top.name,), marker=marker, missing=missing)
            if match := _SAVE.fullmatch(top.name):
                yield found._replace(value=int(match[1]))
            elif (read_ := read(top.name)).known:
                yield found._replace(step=read_.step, epoch=read_.epoch)


def _is_begun(top: Top) -> bool:
    """Whether a script of diffusers has begun to write it: the weights come first."""
    return bool(_STEP.fullmatch(top.name)) and any(_OF_DIFFUSERS.fullmatch(name) for name in top.basenames)
