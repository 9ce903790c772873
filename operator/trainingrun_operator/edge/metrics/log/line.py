"""Takes the numbers of one log line: JSON, a Python dict with quoted or bare values, ``k=v``, ``k: v``, ``k v``.

One expression finds each number with what stands before it; the words between two numbers are the name of the second one, and say whether it is
of the training or of an evaluation. A line that does not say clearly that its loss is the training's has none.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple

from trainingrun_operator.api.names import TRAINER_SUMMARY
from trainingrun_operator.edge.metrics import gradient
from trainingrun_operator.edge.metrics.log.words import Phase, name_of, phase

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trainingrun_operator.edge.metrics.log.words import Names

LINE_MAX: Final = 8192
"""Characters of a line; a longer one is skipped."""
PAIRS_MAX: Final = 128
"""Numbers of one line that are looked at."""
_KEY_MAX: Final = 96
"""Characters before a number that may be its name."""

NUMBER: Final = r"[+-]?(?:(?:\d{1,3}(?:,\d{3}){1,6}|\d{1,40})(?:\.\d{0,40})?|\.\d{1,40})(?:[eE][+-]?\d{1,4})?|[+-]?(?i:nan|inf(?:inity)?)"
# What stands between a name and its number: `": "`, ` = tensor(`, ` [`. A number that goes on, as in 2.7GiB, 0,5 or 0:12, is none.
_VALUE: Final = re.compile(
    rf"""(?<![ \t])(?P<between>["']?[ \t]{{0,16}}+[:=][ \t]{{0,16}}+(?:[A-Za-z_.]{{1,24}}+\()?["'\[(]?|[ \t]{{1,16}}+["'\[(]?)"""
    rf"""(?P<number>{NUMBER})(?![\w%]|[.,:]\d)(?:[ \t]{{0,8}}+/[ \t]{{0,8}}+(?P<of>\d{{1,16}}+)(?![\w.]))?"""
)
_DELIMITERS: Final = re.compile(r"[|,;:={}\[\]()<>\t]|[ ]-+[ ]|[ ]{2}")
_FIRST_OF_A_NAME: Final = re.compile(r"[A-Za-z_]")
_FRAGMENT: Final = re.compile(r"""\s*["'][^"']{1,64}["']\s*:""")
"""A line of an object that goes over several lines."""
_RANK: Final = re.compile(r"""(?i)(?:(?<!\w)(?:local_|global_)?rank["']?[ :=]{0,3}|\[default)(\d{1,5})(?!\d)""")


class Pair(NamedTuple):
    """A number with its name."""

    name: str
    value: float
    of: float | None
    """The number after a slash, as in ``10/100``."""
    phase: Phase | None


class _Gap(NamedTuple):
    """The words between two numbers."""

    name: str
    """The name of the second one; empty: it has none."""
    own: Phase | None
    """The phase in the name."""
    before: Phase | None
    """The phase before the name."""


@dataclass(frozen=True)
class Line:
    """What one line says. Values are of the newest moment of the training."""

    losses: dict[str, float] = field(default_factory=dict)
    """Losses of the training, by name."""
    step: float | None = None
    of_steps: float | None = None
    """The number of steps, of the training or of each epoch."""
    epoch: float | None = None
    total_epochs: float | None = None
    gradient_norm: float | None = None
    values: dict[str, float] = field(default_factory=dict)
    """All other numbers, by name."""
    rank: int | None = None
    """The rank that a line names."""
    evaluation_losses: int = 0
    """Losses that are not, or not clearly, the training's."""


def is_fragment(text: str) -> bool:
    """Whether a line is part of an object that goes over several lines."""
    return _FRAGMENT.match(text) is not None


def parse(text: str, names: Names) -> Line:
    """Return what one line says, without line end and without terminal sequences."""
    rank = _RANK.search(text)
    return of_pairs(pairs(text), names, int(rank[1]) if rank is not None else None)


def of_pairs(found: Sequence[Pair], names: Names, rank: int | None = None) -> Line:
    """Sort the numbers of one line by their meaning."""
    losses: dict[str, float] = {}
    values: dict[str, float] = {}
    counts: dict[str, Pair] = {}
    norm: float | None = None
    others = 0
    summary = any(one.name == TRAINER_SUMMARY for one in found)
    for one in found:
        if one.name in names.loss and not summary:
            if one.phase is Phase.EVALUATION:
                others += 1
                values.setdefault(_in_evaluation(one.name), one.value)
            else:
                losses.setdefault(one.name, one.value)
        elif one.name in names.step:
            counts.setdefault("step", one)
        elif one.name in names.epoch:
            counts.setdefault("epoch", one)
        elif one.name in names.total_epochs:
            counts.setdefault("total", one)
        elif norm is None and gradient.is_gradient_norm(one.name):
            norm = one.value
        else:
            if one.of is not None:
                continue  # "accuracy: 9845/10000"
            evaluates = one.phase is Phase.EVALUATION
            others += "loss" in one.name and evaluates
            values.setdefault(_in_evaluation(one.name) if evaluates else one.name, one.value)
    step, epoch, total = counts.get("step"), counts.get("epoch"), counts.get("total")
    return Line(
        losses=losses,
        step=step.value if step is not None else None,
        of_steps=step.of if step is not None else None,
        epoch=epoch.value if epoch is not None else None,
        total_epochs=total.value if total is not None else epoch.of if epoch is not None else None,
        gradient_norm=norm,
        values=values,
        rank=rank,
        evaluation_losses=others,
    )


def pairs(text: str) -> list[Pair]:
    """Return the numbers of a line with their names and phases."""
    raw: list[tuple[_Gap, float, float | None, Phase | None]] = []
    near: Phase | None = None
    said: set[Phase] = set()
    end = 0
    for match in _VALUE.finditer(text):
        number, of = match["number"], match["of"]
        gap = _gap(text[end : match.start()])
        if number[-1].isalpha() and match["between"].isspace() and not _may_be_nan(gap.name):
            continue  # "number of nan iterations"
        end = match.end()
        if gap.before is not None:
            near = gap.before
            said.add(near)
        if gap.name:
            raw.append((gap, float(number.replace(",", "")), float(of) if of else None, near))
            if len(raw) >= PAIRS_MAX:
                break
    # A line that names an evaluation behind its numbers, and nowhere the training, is the evaluation's.
    after = phase(text[end:])
    said.update([after] if after is not None else [])
    whole = Phase.EVALUATION if said == {Phase.EVALUATION} else None
    return [Pair(gap.name, value, of, gap.own or near or whole) for gap, value, of, near in raw]


def _gap(text: str) -> _Gap:
    return _known_gap(text) if len(text) <= _KEY_MAX else _read_gap(text)


def _read_gap(text: str) -> _Gap:
    key = _key(text)
    return _Gap(name_of(key) if key else "", phase(key), phase(text[: len(text) - len(key)]))


_known_gap: Final = lru_cache(maxsize=8192)(_read_gap)


def _key(gap: str) -> str:
    """Return the end of a text that is the name of the number after it; empty: the number has no name."""
    tail = gap[-_KEY_MAX:]
    begins = 0
    for match in _DELIMITERS.finditer(tail.rstrip()):
        begins = match.end()
    key = tail[begins:].lstrip(" \"'")
    return key if _FIRST_OF_A_NAME.match(key) else _last_word(key)


def _last_word(key: str) -> str:
    """Return the last word if it is a name: ``step`` of ``12 step``."""
    word = key.rsplit(" ", 1)[-1]
    return word if _FIRST_OF_A_NAME.match(word) else ""


def _may_be_nan(name: str) -> bool:
    return name.endswith("loss") or gradient.is_gradient_norm(name)


def _in_evaluation(name: str) -> str:
    """Return the name of a value that the line, not the name, says to be an evaluation's."""
    return name if phase(name) is Phase.EVALUATION else f"eval_{name}"
