"""Hugging Face's Trainer: ``checkpoint-1200/``, with DeepSpeed, FSDP or PEFT inside.

transformers/trainer.py, ``_save_checkpoint``: weights and ``training_args.bin`` first, then optimizer, scheduler and random states, and
``trainer_state.json`` last. Before 4.37 the folder was ``tmp-checkpoint-1200`` meanwhile.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

from trainingrun_operator.agent.volume.layouts.tree import Found

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trainingrun_operator.agent.volume.layouts.tree import Top, Tree

STATE = "trainer_state.json"
_NAME = re.compile(r"checkpoint-(\d+)")
_WEIGHTS = re.compile(
    r"(?:model|pytorch_model|adapter_model|tf_model|flax_model)(?:[-.].*)?\.(?:safetensors|bin|h5|msgpack)(?:\.index\.json)?"
)
OF_THE_TRAINER = frozenset({STATE, "training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth"})
_TAG = re.compile(r"global_step\d+")
_DIGITS = re.compile(r"\d+")


class HuggingFace:
    """Checkpoints of the Trainer."""

    name = "HFTrainer"

    def find(self, tree: Tree) -> Iterator[Found]:
        """Return every ``checkpoint-N`` with a file of the Trainer, or with a model's weights or configuration."""
        own = [(top, int(match[1])) for top in tree.folders if (match := _NAME.fullmatch(top.name)) and _is_own(top)]
        alike = Counter(_shape(top) for top, _ in own if STATE not in top.firsts)
        for top, step in own:
            if STATE in top.firsts:
                yield Found(
                    (top.name,),
                    step,
                    marker=f"{STATE}, which the Trainer writes last, is there",
                    missing=_tag_missing(top, tree),
                )
            else:
                yield Found((top.name,), step, missing="" if _never_has_state(top, alike) else _no_state(top))


def _is_own(top: Top) -> bool:
    if top.firsts & OF_THE_TRAINER:
        return True
    return "config.json" in top.firsts or any(_WEIGHTS.fullmatch(name) for name in top.firsts)


def _no_state(top: Top) -> str:
    if not (top.firsts & OF_THE_TRAINER or any(_WEIGHTS.fullmatch(name) for name in top.firsts)):
        others = [name for name in top.firsts if name.endswith((".bin", ".pt", ".safetensors"))]
        if others:
            return (
                ""  # a trainer of one's own, such as LLaVA's first stage: the adapter's weights and the configuration
            )
        return f"no weights, and no {STATE}, which the Trainer writes last"
    return f"no {STATE}, which the Trainer writes last"


def _never_has_state(top: Top, alike: Counter[frozenset[str]]) -> bool:
    """Whether another checkpoint without the file looks the same: a script that calls `save_pretrained` writes none.

    Two saves that were killed look the same only if they were killed at the same file.
    """
    return not top.firsts & OF_THE_TRAINER and alike[_shape(top)] > 1


def _shape(top: Top) -> frozenset[str]:
    return frozenset(_DIGITS.sub("#", path) for path in top.inside)


def _tag_missing(top: Top, tree: Tree) -> str:
    """Return the folder that DeepSpeed's pointer names inside of the checkpoint, if it is missing."""
    if "latest" not in top.firsts:
        return ""
    tag = tree.text(f"{top.name}/latest").strip()
    return f"{tag}, which the file latest names, is missing" if _TAG.fullmatch(tag) and tag not in top.firsts else ""
