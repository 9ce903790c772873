"""Shell completion: kubectl calls `kubectl_complete-trainingrun` with the words so far and reads one candidate a line.

The last line is a cobra directive. Requires kubectl 1.26; https://kubernetes.io/docs/tasks/extend-kubectl/kubectl-plugins/
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

from click.shell_completion import ShellComplete

from trainingrun_operator.cli.main import NAME, cli

if TYPE_CHECKING:
    from collections.abc import Sequence

FILES: Final = ":0"
NO_FILES: Final = ":4"
"""Cobra directives: whether the shell falls back to file names."""


def completions(words: Sequence[str]) -> list[str]:
    """Candidates for the last word of the command line after `kubectl trainingrun`."""
    *before, incomplete = words or [""]
    found = ShellComplete(cli, {}, NAME, "").get_completions(list(before), incomplete)
    if any(one.type in ("file", "dir") for one in found):
        return [FILES]
    lines = [f"{one.value}\t{one.help}" if one.help else str(one.value) for one in found]
    return [*lines, NO_FILES]


def main() -> None:
    """Console script `kubectl_complete-trainingrun`."""
    sys.stdout.write("".join(f"{line}\n" for line in completions(sys.argv[1:])))
