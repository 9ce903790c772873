"""Accelerate, and the scripts of diffusers: a folder of ``Accelerator.save_state``.

accelerate/checkpointing.py, ``save_accelerator_state``: weights, ``optimizer.bin``, ``scheduler.bin``, ``sampler.bin``, ``scaler.pt``, and the
random states of each process last. accelerate/accelerator.py, ``save_state``: registered objects (``custom_checkpoint_0.pkl``) come after those;
automatic names ``checkpoints/checkpoint_0``, ``checkpoint_1`` count saves. ``total_limit`` removes earlier ones before a save begins.

Nothing is written before the weights, and other writers have folders of weights alone. Of a first save, only the automatic name tells whose it is: one
folder ``checkpoints/checkpoint_N`` with nothing but weights, named as ``save_accelerator_state`` names them, is unfinished. Two such folders are of a writer
without random states.
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
_DIGITS = re.compile(r"\d+")
_CUSTOM = re.compile(r"custom_checkpoint_\d+\.pkl")
_STATES = frozenset({"optimizer.bin", "scheduler.bin", "sampler.bin", "optimizer_0"})
_WEIGHTS = re.compile(r"(?:model|pytorch_model|pytorch_model_fsdp)(?:_\d+)?(?:\.safetensors|\.bin)?")
_AUTOMATIC = "checkpoints/"
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
        tops = [top for top in tree.folders if not (top.firsts & OF_THE_TRAINER or top.name.endswith(_OF_KOHYA))]
        registered = {name for top in tops for name in top.firsts if _CUSTOM.fullmatch(name)}
        # The weights come first: of a folder that has nothing else, the others of its name say what it is.
        shapes = {_shape(top) for top in tops if _has_random_states(top)}
        first = _first_save(tree)
        for top in tops:
            random = _has_random_states(top)
            if not (random or top.firsts & _STATES or _is_begun(top) or _shape(top) in shapes or top.name == first):
                continue
            last = random and registered <= top.firsts
            marker = "random_states_0.pkl, which Accelerate writes last, is there" if last else ""
            missing = "" if random else "no random_states_0.pkl, which Accelerate writes last"
            found = Found((top.name,), marker=marker, missing=missing)
            if match := _SAVE.fullmatch(top.name):
                yield found._replace(value=int(match[1]))
            elif (read_ := read(top.name)).known:
                yield found._replace(step=read_.step, epoch=read_.epoch)


def _has_random_states(top: Top) -> bool:
    return any(_RANDOM.fullmatch(name) for name in top.firsts)


def _first_save(tree: Tree) -> str:
    """Return the folder with an automatic name that has weights alone, if it is the only one with such a name; empty: there is none."""
    named = [top for top in tree.folders if _SAVE.fullmatch(top.name)]
    if not tree.within.endswith(_AUTOMATIC) or len(named) != 1:
        return ""
    return named[0].name if all(_WEIGHTS.fullmatch(name) for name in named[0].firsts) else ""


def _shape(top: Top) -> str:
    return _DIGITS.sub("#", top.name)


def _is_begun(top: Top) -> bool:
    """Whether a script of diffusers has begun to write it: the weights come first."""
    return bool(_STEP.fullmatch(top.name)) and any(_OF_DIFFUSERS.fullmatch(name) for name in top.basenames)
