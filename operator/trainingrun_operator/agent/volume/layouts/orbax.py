"""Orbax: ``100/``, ``step_100/``, ``checkpoint_100/``.

orbax/checkpoint/_src/path/atomicity.py: all is written under ``100.orbax-checkpoint-tmp-*`` and renamed at the end. Where a rename is not atomic,
``commit_success.txt`` is written last instead. ``manifest.ocdbt`` is written when the processes' ``ocdbt.process_*`` are merged.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from trainingrun_operator.agent.volume.layouts.tree import Found

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trainingrun_operator.agent.volume.layouts.tree import Top, Tree

_NAME = re.compile(r"(?:[A-Za-z][A-Za-z_-]*[-_])?(\d+)")
_OWN = frozenset({"_CHECKPOINT_METADATA", "_METADATA", "_sharding", "manifest.ocdbt", "commit_success.txt"})
_METADATA = "_CHECKPOINT_METADATA"
COMMITTED = "commit_success.txt"


class Orbax:
    """Step folders of Orbax."""

    name = "Orbax"

    def find(self, tree: Tree) -> Iterator[Found]:
        """Return every numbered folder with a file of Orbax."""
        own = [(top, match) for top in tree.folders if top.basenames & _OWN and (match := _NAME.fullmatch(top.name))]
        waits = any(COMMITTED in top.firsts for top, _ in own)
        for top, match in own:
            missing = _manifest_missing(top)
            if waits and COMMITTED not in top.firsts:
                missing = f"no {COMMITTED}, which Orbax writes last here"
            marker = "renamed by Orbax, which it does last" if _METADATA in top.firsts else ""
            yield Found((top.name,), int(match[1]), marker=marker, missing=missing)


def _manifest_missing(top: Top) -> str:
    for path in top.inside:
        folder, slash, _ = path.rpartition("ocdbt.process_")
        if slash and f"{folder}manifest.ocdbt" not in top.inside:
            return f"{folder}manifest.ocdbt is missing"
    return ""
