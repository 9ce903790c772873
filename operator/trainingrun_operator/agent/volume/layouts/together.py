"""Which names of one number are parts of one checkpoint: ``step_100.pt`` and ``step_100_optim/``, ``epoch_2.pt`` and ``epoch_2.opt``."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from trainingrun_operator.agent.volume.layouts.reading import stem_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from trainingrun_operator.agent.volume.layouts.tree import Found, Top, Tree

_PART = re.compile(
    r"(?<![a-z])(?:models?|weights?|params?|network|net|optim(?:izers?)?|opts?|states?|(?:lr[-_]?)?sched(?:ulers?)?|scaler|ema|rng|"
    r"(?:training|trainer|train)[-_]?states?|actor|critic|policy|value|generator|discriminator|gen|disc|encoder|decoder|[gd]|unet|vae|"
    r"text[-_]?encoder|lora|adapter|head|backbone|buffer|replay[-_]?buffer|dataloader|sampler|extra|meta)(?![a-z])",
    re.IGNORECASE,
)
"""Words for a part of what a training saves."""
ARCHIVES = frozenset({".zip", ".tar"})
_DIGITS = re.compile(r"\d+")
_BETWEEN = re.compile(r"[-_.=]+")
_SETTINGS = frozenset({"json", "yaml", "yml"})
_OF_A_SAVE = re.compile(
    r"(?<![a-z])(?:meta(?:data)?|states?|config|args|h?params|(?:lr[-_]?)?sched(?:ulers?)?|rng|sampler|dataloader)(?![a-z])",
    re.IGNORECASE,
)
"""Words for what a training needs besides the weights. nanochat: `meta_000100.json` beside `model_000100.pt`, which its `load_checkpoint` reads."""
_NO_PART = frozenset(
    {
        "png", "jpg", "jpeg", "gif", "bmp", "webp", "svg", "pdf", "mp4", "avi", "mov", "webm", "wav", "mp3", "flac", "txt", "md", "html", "rst",
        "log", "out", "err", "csv", "tsv", "jsonl", "toml", "ini", "cfg", "py", "sh", "lock", "done", "sha256", "md5",
    }
)  # fmt: skip
"""Suffixes of pictures and texts that a training writes about a checkpoint: none of them is a part of it."""


def series_of(text: str) -> str:
    """Return a name, without its numbers, and without the words for a part: equal for the parts of one checkpoint."""
    return _BETWEEN.sub("_", _PART.sub("", text)).strip("_").lower()


def part_stem(name: str) -> str | None:
    """Return the stem of a file with a suffix that is in no list; None: no part of a checkpoint has such a name."""
    if stem_of(name)[1] or name.startswith("events.out."):
        return None
    stem, dot, suffix = name.rpartition(".")
    if not dot or not stem or suffix.isdecimal():
        return name
    if suffix.lower() in _SETTINGS:
        return stem if _OF_A_SAVE.search(stem) else None
    return None if suffix.lower() in _NO_PART else stem


def with_parts(found: Found, others: Iterable[Top], tree: Tree) -> Found:
    """Return a known layout's checkpoint with the files beside that have its name.

    Those are files of its stem with a suffix that is in no list. Beside a folder, those are the files of its name, where the one or the other has the
    word for a part behind it: ``step_100_state/`` and ``step_100.pt``, ``step_100/`` and ``step_100_optim.pt``. A marker in the folder says nothing of them.
    """
    stems = {stem_of(name)[0] for name in found.members if not tree.tops[name].folder}
    folders = [name for name in found.members if tree.tops[name].folder]
    first, last = [], []
    for top in others:
        stem, suffix = stem_of(top.name)
        if not suffix and part_stem(top.name) in stems:
            last.append(top.name)
        elif suffix and any(_is_part(name, stem) for name in folders):
            first.append(top.name)
        elif suffix and any(_is_part(stem, name) for name in folders):
            last.append(top.name)
    if not (first or last):
        return found
    return found._replace(members=(*sorted(first), *found.members, *sorted(last)), marker="")


def _is_part(name: str, stem: str) -> bool:
    behind = name.removeprefix(stem)
    return behind != name and behind[:1] in {"-", "_", "."} and bool(_PART.fullmatch(behind[1:]))


def half_of_pair(found: Sequence[Found], tree: Tree) -> tuple[str, str]:
    """Return which checkpoint is only the file or only the folder of what an earlier one has both of, and what it lacks; empty: none.

    The layouts may differ: a folder with Accelerate's state has its layout, and a file that still is alone has none. If two later ones are alone, the
    writer no longer writes the other part.
    """

    def kinds(one: Found) -> frozenset[str]:
        return frozenset(_DIGITS.sub("#", name) for name in one.members)

    def written_ns(one: Found) -> int:
        return max(tree.tops[name].mtime_ns for name in one.members)

    pairs = [one for one in found if len({tree.tops[name].folder for name in one.members}) > 1]
    if not pairs:
        return "", ""
    last = max(pairs, key=written_ns)
    halves = [one for one in found if kinds(one) < kinds(last) and written_ns(one) > written_ns(last)]
    if len(halves) != 1:
        return "", ""
    return halves[0].members[0], f"{min(kinds(last) - kinds(halves[0]))} is missing, which the one before it has"
