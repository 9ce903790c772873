"""The curves of a run's values beside its loss: few values, each thinned as it grows.

A value that is read again unchanged adds no point. On a metrics page the first value that a pod shows may be a default, so it adds none before it changes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from math import isfinite
from typing import TYPE_CHECKING, Final

from trainingrun_operator.api.curve import VALUE_POINTS_MAX, VALUES_MAX, ValueCurve, ValuePoint
from trainingrun_operator.core import curve
from trainingrun_operator.core.curve import Sample, Thinned
from trainingrun_operator.core.facts.reading import FILES, LOGS, LOSS, PUSH

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from trainingrun_operator.api.rules import StopRule
    from trainingrun_operator.api.run import TrainingRunSpec
    from trainingrun_operator.core.observed import Observed

_ROOM: Final = VALUE_POINTS_MAX - 4
"""Leaves room for the lowest, the highest and the newest; even."""
_LOGGED: Final = frozenset({FILES, LOGS, PUSH})
"""Sources of numbers that the training has written down: none is a default."""
_NOT_DRAWN: Final = frozenset({LOSS, "step", "global_step", "epoch", "total_epochs"})
"""The loss has a curve of its own, and the others are its axis."""
_WORD: Final = re.compile(r"[A-Z]?[a-z]+|[A-Z]+")
_JUDGES: Final = frozenset(
    [
        "acc",
        "accuracies",
        "accuracy",
        "auc",
        "bleu",
        "cer",
        "dice",
        "error",
        "f",
        "iou",
        "loss",
        "losses",
        "map",
        "norm",
        "perplexity",
        "ppl",
        "precision",
        "psnr",
        "recall",
        "return",
        "reward",
        "rewards",
        "rouge",
        "score",
        "scores",
        "wer",
    ]
)
"""Words in the names of values by which people judge a training. Others, as learning rates and speeds, are drawn if there is room."""


@dataclass(frozen=True)
class Line:
    """The curve of one value."""

    thinned: Thinned = field(default_factory=lambda: Thinned(room=_ROOM))
    highest: Sample | None = None

    @property
    def samples(self) -> list[Sample]:
        """The kept samples, the lowest, the highest and the newest, oldest first."""
        return sorted({*self.thinned.samples, *filter(None, (self.highest,))})


@dataclass(frozen=True)
class ValueLines:
    """The curves of a run, by name."""

    lines: Mapping[str, Line] = field(default_factory=dict)
    pod_uid: str = ""
    firsts: Mapping[str, float | None] = field(default_factory=dict)
    """By name, the first value in this pod; None once it has changed."""

    @property
    def shape(self) -> tuple[tuple[str, int, int], ...]:
        """Changes when a sample is kept or some are dropped, and with the names; not with every newest sample."""
        return tuple((name, *line.thinned.shape) for name, line in sorted(self.lines.items()))

    @property
    def stored(self) -> tuple[ValueCurve, ...]:
        """The curves in their stored form."""
        return tuple(
            ValueCurve(
                name=name,
                every=line.thinned.every,
                points=tuple(
                    ValuePoint(at=curve.stamp(one.at), step=one.step, epoch=one.epoch, value=one.loss)
                    for one in line.samples
                ),
            )
            for name, line in sorted(self.lines.items())
        )


def observed(known: ValueLines, seen: Observed) -> ValueLines:
    """Add the values of the newest reading that are new."""
    track = seen.track
    step = track.step
    if step is None or not track.values:
        return known
    firsts = dict(known.firsts) if known.pod_uid == track.pod_uid else {}
    rules, others = rules_of(seen), _NOT_DRAWN.union(seen.run.spec.metrics.names.loss)
    read = {name: value for name, value in track.values.items() if isfinite(value) and name not in others}
    fresh = {name: value for name, value in read.items() if track.source in _LOGGED or _changed(firsts, name, value)}
    lines, at = dict(known.lines), curve.seconds(seen.wall)
    for name in _chosen({*lines, *fresh}, rules):
        if name in fresh:
            sample = Sample(0, at, step, track.epoch, fresh[name])
            lines[name] = _added(lines.get(name, Line()), sample)
    shown = {name: first for name, first in firsts.items() if name in track.values}
    return ValueLines(_bounded(lines, rules), track.pod_uid, shown)


def threshold_of(spec: TrainingRunSpec, name: str) -> StopRule | None:
    """Return the first stop rule that gives a value a threshold; None: no rule does."""
    return next((rule for rule in spec.stop_rules if rule.metric == name and rule.threshold is not None), None)


def rules_of(seen: Observed) -> frozenset[str]:
    """Return the values that stop rules name."""
    return frozenset(rule.metric for rule in seen.run.spec.stop_rules)


def resumed(stored: Iterable[ValueCurve]) -> ValueLines:
    """Continue stored curves."""
    lines = {}
    for one in stored:
        points = [(point.at, point.step, point.epoch, point.value) for point in one.points]
        lines[one.name] = Line(*curve.refilled(one.every, points, _ROOM))
    return ValueLines(lines)


def joined(earlier: ValueLines, later: ValueLines, rules: Collection[str]) -> ValueLines:
    """Append the samples of `later` to `earlier`. `rules`: the values that stop rules name."""
    lines = dict(earlier.lines)
    for name, line in later.lines.items():
        together = lines.get(name, Line())
        for one in line.samples:
            together = _added(together, one)
        lines[name] = together
    return replace(later, lines=_bounded(lines, rules))


def _changed(firsts: dict[str, float | None], name: str, value: float) -> bool:
    """Whether a value is not the first one of its pod, or no longer; remembers it."""
    first = firsts.setdefault(name, value)
    if first == value:
        return False
    firsts[name] = None
    return True


def _added(line: Line, sample: Sample) -> Line:
    known = line.thinned
    if known.newest is not None and known.newest.loss == sample.loss:
        return line
    thinned = curve.added(known, at=sample.at, step=sample.step, epoch=sample.epoch, loss=sample.loss)
    higher = thinned is not known and (line.highest is None or sample.loss > line.highest.loss)
    return Line(thinned, thinned.newest if higher else line.highest)


def _bounded(lines: Mapping[str, Line], rules: Collection[str]) -> dict[str, Line]:
    return {name: lines[name] for name in _chosen(lines, rules)}


def _chosen(names: Iterable[str], rules: Collection[str]) -> list[str]:
    """Return the names that have room: first those that stop rules name, then those by which people judge a training, then by name."""
    return sorted(names, key=lambda name: (name not in rules, not _judges(name), name))[:VALUES_MAX]


def _judges(name: str) -> bool:
    return any(word.lower() in _JUDGES for word in _WORD.findall(name))
