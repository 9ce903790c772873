"""The objects that a training is to write to the bucket, `completion.outputs`: where they are looked for, when, and what was found.

One list per look, of one pattern. While nothing new is found, the time between two lists grows from 30 s to 5 min.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import re2

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from trainingrun_operator.checkpoints.keys import Layout
    from trainingrun_operator.core.facts.bucket import Unreachable
    from trainingrun_operator.core.facts.pod import Pod

FIRST_SECONDS: Final = 30
LONGEST_SECONDS: Final = 300
_WILD: Final = {"*": "[^/]*", "?": "[^/]"}
_COARSE_SECONDS: Final = 1
"""Stores keep whole seconds."""


class Found(StrEnum):
    """What a list shows of one output."""

    WRITTEN = "Written"
    OLD = "OldOutput"
    """Only objects that are older than a pod."""
    TOO_MANY = "TooManyKeys"
    """None among the keys that were listed, and there are more."""
    MISSING = "NotWritten"


@dataclass(frozen=True)
class Looked:
    """The list of one output."""

    output: str
    pods: tuple[str, ...]
    """UIDs of the pods that the training ran in when the list was begun."""
    found: Found | Unreachable


@dataclass(frozen=True)
class Outputs:
    """What is known of a run's outputs."""

    pods: tuple[str, ...] = ()
    """UIDs of the pods that the training runs in: outputs of earlier ones do not count."""
    looked: Mapping[str, Found | Unreachable] = field(default_factory=dict)
    """By output, the newest list."""
    last: str = ""
    """The output that was listed last."""
    wait: float = FIRST_SECONDS
    next_at: float = 0

    def missing(self, outputs: Iterable[str]) -> tuple[str, ...]:
        """Return the outputs that are not found."""
        return tuple(one for one in outputs if self.looked.get(one) is not Found.WRITTEN)

    def due(self, outputs: Sequence[str], pods: tuple[str, ...], now: float) -> str | None:
        """Return the output to list now, in turn; None: none."""
        known = self if self.pods == pods else Outputs()
        missing = known.missing(outputs)
        if not missing or now < known.next_at:
            return None
        after = outputs.index(known.last) + 1 if known.last in outputs else 0
        return next((one for one in outputs[after:] if one in missing), missing[0])

    def fold(self, outputs: Sequence[str], pods: tuple[str, ...], looked: Looked | None, now: float) -> Outputs:
        """Add a list, or what a change of the spec or of the pods undoes."""
        known = self if self.pods == pods else Outputs(pods)
        if not known.looked.keys() <= set(outputs):
            known = replace(known, looked={one: known.looked[one] for one in outputs if one in known.looked})
        if looked is None or looked.pods != pods or looked.output not in outputs:
            return known
        wait = FIRST_SECONDS if looked.found is Found.WRITTEN else known.wait
        return replace(
            known,
            looked={**known.looked, looked.output: looked.found},
            last=looked.output,
            wait=min(2 * wait, LONGEST_SECONDS),
            next_at=now + wait,
        )


def uids(pods: Iterable[Pod | None]) -> tuple[str, ...]:
    """Return the uids of the pods that a training runs in."""
    return tuple(pod.uid for pod in pods if pod is not None)


def prefix(layout: Layout, output: str) -> str:
    """Return the beginning of all keys that an output can have."""
    literal = output[: min((at for wild in _WILD if (at := output.find(wild)) >= 0), default=len(output))]
    return layout.of_run + literal


def found(
    layout: Layout, output: str, ages: Iterable[tuple[str, float]], running_seconds: float, *, more: bool
) -> Found:
    """Return what a list shows.

    Args:
        layout: keys of the run.
        output: as the spec names it.
        ages: keys and seconds since each was written.
        running_seconds: for which the youngest pod has run.
        more: there are keys that were not listed.
    """
    pattern = _pattern(output)
    # What begins with the run's uid is written by the agent, not by the training.
    of_training = (
        (key.removeprefix(layout.of_run), age)
        for key, age in ages
        if key.startswith(layout.of_run) and not key.startswith(layout.base)
    )
    matching = [age for key, age in of_training if pattern.fullmatch(key) is not None]
    if any(age + _COARSE_SECONDS < running_seconds for age in matching):
        return Found.WRITTEN
    if more:
        return Found.TOO_MANY
    return Found.OLD if matching else Found.MISSING


def complaint(output: str) -> str:
    """Return why no object can have the key; empty: one can."""
    if any(part in ("", ".", "..") for part in output.split("/")):
        return "it has an empty, '.' or '..' segment"
    return ""


@lru_cache(maxsize=1024)
def _pattern(output: str) -> Any:
    """Compile an output. RE2 takes linear time, however many * it has."""
    return re2.compile("".join(_WILD.get(char) or re2.escape(char) for char in output))
