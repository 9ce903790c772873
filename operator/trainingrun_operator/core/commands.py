"""Shell commands that pages, the plugin and messages hand out for copying.

Their words come from runs, and a training chooses the name of its folders: a word that the shell would interpret must not act, and one that a
terminal does not show as it is must not be there.
"""

from __future__ import annotations

import json
import shlex
from typing import Any


class UnprintableError(ValueError):
    """A word has characters that are not shown as they are: control characters, line breaks, or marks that turn the direction of text."""

    def __init__(self, word: str) -> None:
        super().__init__(f"{word[:200]!a} has characters that cannot be shown in a command")


def command(*words: str) -> str:
    """Return a command whose words a POSIX shell reads exactly as they are.

    Raises:
        UnprintableError: a word has characters that are not shown as they are.
    """
    if (odd := next((word for word in words if not word.isprintable()), None)) is not None:
        raise UnprintableError(odd)
    return shlex.join(words)


def patch_word(patch: Any) -> str:
    """Return a JSON merge patch as a word of a command: what is not shown as it is becomes an escape of JSON."""
    said = json.dumps(patch, separators=(",", ":"), ensure_ascii=False)
    return "".join(one if one.isprintable() else json.dumps(one)[1:-1] for one in said)
