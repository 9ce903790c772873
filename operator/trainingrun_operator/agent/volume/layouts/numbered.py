"""Writers whose checkpoint is a number in the names of one or several files: a table, one row for each family.

A row says which names are of the family, whether the number is a step or an epoch, which names of the same number are one checkpoint, and which of
them the writer always writes.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trainingrun_operator.agent.volume.layouts import pointers
from trainingrun_operator.agent.volume.layouts.tree import Found

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trainingrun_operator.agent.volume.layouts.tree import Tree


_TOGETHER_NS = 600 * 10**9
"""A file that is replaced with every checkpoint may be written before it: by less than this."""
MODEL = "model"
"""The role of a file whose name says none."""


@dataclass(frozen=True)
class Family:
    """One writer's names."""

    writer: str
    """Where the names come from."""
    pattern: re.Pattern[str]
    """Of a whole name. Groups: ``step``, ``epoch`` or ``count`` (orders, but is neither); ``of`` and
    ``batch`` (names with other values are other checkpoints); ``role`` (what the file is)."""
    needs: frozenset[str] = frozenset()
    """Roles without which a checkpoint cannot be resumed from."""
    shared: tuple[str, ...] = ()
    """Names that the writer replaces with every checkpoint: they belong to the newest one."""
    folders: bool = False
    """Whether the names may be those of folders, too."""
    when: str = ""
    """A name that the family always has beside its checkpoints; without it, the names are not of this family."""


def _names(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.DOTALL)


FAMILIES = (
    Family(
        "stable-baselines3, common/callbacks.py, CheckpointCallback",
        _names(r"(?P<of>.+?)_(?P<role>replay_buffer_|vecnormalize_|)(?P<step>\d+)_steps\.(?:zip|pkl)"),
    ),
    Family(
        "MosaicML Composer, callbacks/checkpoint_saver.py",
        _names(r"(?P<of>.*?)ep(?P<epoch>\d+)-ba(?P<step>\d+)(?P<role>-rank\d+|)(?:\.pt|\.tar|\.symlink)?"),
        folders=True,
    ),
    Family("ESPnet2, train/trainer.py", _names(r"(?P<epoch>\d+)epoch\.pth"), shared=("checkpoint.pth",)),
    Family(
        "CycleGAN and pix2pix, models/base_model.py, save_networks",
        _names(r"(?P<epoch>\d+)_(?P<role>net_[A-Za-z0-9_]+)\.pth"),
    ),
    Family("Flax, training/checkpoints.py, save_checkpoint", _names(r"(?P<of>checkpoint|ckpt)_(?P<step>\d+)")),
    Family(
        "improved-diffusion and guided-diffusion, train_util.py, save",
        _names(r"(?P<role>model|opt|ema_\d+(?:\.\d+)?_)(?P<step>\d{6,})\.pt"),
        needs=frozenset({"model", "opt"}),
    ),
    Family(
        "kohya-ss/sd-scripts, train_util.py, STEP_FILE_NAME and STEP_STATE_NAME",
        _names(r"(?P<of>.+)-step(?P<step>\d{8})(?:\.(?:safetensors|ckpt|pt)|(?P<role>-state))"),
        folders=True,
    ),
    Family(
        "kohya-ss/sd-scripts, train_util.py, EPOCH_FILE_NAME and EPOCH_STATE_NAME",
        _names(r"(?P<of>.+)-(?P<epoch>\d{6})(?:\.(?:safetensors|ckpt)|(?P<role>-state))"),
        folders=True,
    ),
    Family(
        "torchtune, training/checkpointing/_checkpointer.py",
        _names(r"epoch_(?P<epoch>\d+)"),
        shared=("recipe_state",),
        folders=True,
        when="recipe_state",
    ),
    Family(
        "torchtune until 0.4, training/checkpointing/_checkpointer.py",
        _names(r"(?:hf_|meta_|torchtune_)?(?P<role>model|adapter)_(?:\d{4}_)?(?P<epoch>\d+)\.(?:pt|bin|safetensors)"),
        shared=("recipe_state.pt",),
        when="recipe_state.pt",
    ),
    Family(
        "fairseq, checkpoint_utils.py, save_checkpoint",
        _names(r"checkpoint_?(?P<epoch>\d+)(?:_(?P<step>\d+))?(?P<role>(?:-rank-\d+)?(?:-shard\d+)?)\.pt"),
        shared=("checkpoint_last.pt",),
        when="checkpoint_last.pt",
    ),
    Family(
        "fairseq with --no-last-checkpoints",
        _names(r"checkpoint_(?P<epoch>\d+)_(?P<step>\d+)(?P<role>(?:-rank-\d+)?(?:-shard\d+)?)\.pt"),
    ),
    Family(
        "AllenNLP, training/checkpointer.py",
        _names(r"(?P<role>model|training)_state_(?:epoch_|e)(?P<epoch>\d+)(?:_b(?P<batch>\d+)|\.[\d-]+)?\.th"),
        needs=frozenset({"model", "training"}),
    ),
    Family("PaddleDetection, utils/checkpoint.py", _names(r"(?P<epoch>\d+)\.(?P<role>pdparams|pdopt|pdema|pdstates)")),
    Family("timm, utils/checkpoint_saver.py", _names(r"(?P<of>checkpoint)-(?P<epoch>\d+)\.pth\.tar")),
    Family(
        "timm, utils/checkpoint_saver.py, recovery", _names(r"(?P<of>recovery)-(?P<epoch>\d+)-(?P<batch>\d+)\.pth\.tar")
    ),
    Family(
        "fvcore and detectron2, common/checkpoint.py, PeriodicCheckpointer",
        _names(r"(?P<of>model)_(?P<step>\d{7})\.pth"),
    ),
    Family("VITS and RVC, utils.py, save_checkpoint", _names(r"(?P<role>[GD]|dur|D_\d|WD)_(?P<step>\d+)\.pth")),
    Family("rl_games, algos_torch/a2c_continuous.py", _names(r"(?P<of>(?:last_)?.+)_ep_(?P<epoch>\d+)_rew_.+\.pth")),
    Family(
        "Ray Train and RLlib, _checkpoint.py: the number of a report",
        _names(r"(?P<of>checkpoint)_(?P<count>\d{6})"),
        folders=True,
    ),
)


class NumberedFiles:
    """The families of `FAMILIES`."""

    name = "NumberedFiles"

    def find(self, tree: Tree) -> Iterator[Found]:
        """Return the checkpoints of every family, in the order of the table."""
        for family in FAMILIES:
            if family.when and family.when not in tree.tops:
                continue
            found = list(_of_family(family, tree))
            yield from found
            tree = tree.without(name for one in found for name in one.members)


def _of_family(family: Family, tree: Tree) -> Iterator[Found]:
    groups: dict[tuple[str, ...], list[re.Match[str]]] = defaultdict(list)
    for top in tree.tops.values():
        if (match := family.pattern.fullmatch(top.name)) and (family.folders or not top.folder):
            said = match.groupdict()
            groups[tuple(str(said.get(part)) for part in ("of", "batch", "step", "epoch", "count"))].append(match)
    made = {group: _found(matches) for group, matches in groups.items()}
    roles = {group: frozenset(_role(match) for match in matches) for group, matches in groups.items()}
    wanted = _wanted(family, roles)
    last = max(made, key=lambda group: _place(made[group]), default=None)
    for group, found in made.items():
        one = found._replace(
            missing=_missing(wanted[group] - roles[group]), pending=pointers.still_names_another(tree, found.members)
        )
        yield _with_shared(family, tree, one) if group == last else one


def _found(matches: list[re.Match[str]]) -> Found:
    said = matches[0].groupdict()
    step, epoch, count = (int(said[part]) if said.get(part) else None for part in ("step", "epoch", "count"))
    ordered = sorted(matches, key=lambda match: (_role(match) != MODEL, match[0]))
    return Found(tuple(match[0] for match in ordered), step, epoch, count)


def _place(found: Found) -> tuple[int, int, int]:
    step, epoch, count = (-1 if one is None else one for one in (found.step, found.epoch, found.value))
    return step, epoch, count


def _role(match: re.Match[str]) -> str:
    return (match.groupdict().get("role") or MODEL).strip("_-")


def _wanted(family: Family, roles: dict[tuple[str, ...], frozenset[str]]) -> dict[tuple[str, ...], frozenset[str]]:
    """Return for each checkpoint the roles that it needs: those that the writer always writes, and those that all others have."""
    counts: dict[str, int] = defaultdict(int)
    for one in roles.values():
        for role in one:
            counts[role] += 1
    others = len(roles) - 1
    return {
        group: family.needs
        | (
            frozenset(role for role, count in counts.items() if count - (role in own) >= others)
            if others
            else frozenset()
        )
        for group, own in roles.items()
    }


def _missing(gone: frozenset[str]) -> str:
    return f"the {min(gone)} file of this number is missing" if gone else ""


def _with_shared(family: Family, tree: Tree, newest: Found) -> Found:
    """Add what the writer replaces with every checkpoint."""
    times = [entry.mtime_ns for name in newest.members for entry in tree.tops[name].files.values()]
    shared = [tree.tops[name] for name in family.shared if name in tree.tops and name not in newest.members]
    joined = tuple(top.name for top in shared if top.mtime_ns >= min(times) - _TOGETHER_NS)
    old = next((top.name for top in shared if top.mtime_ns < min(times)), "")
    pending = f"{old} is older than it" if old else newest.pending
    return newest._replace(members=(*newest.members, *joined), pending=pending)
