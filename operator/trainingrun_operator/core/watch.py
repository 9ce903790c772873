"""What is counted for one stop rule, folded one reading at a time.

An *observation* of a rule's metric is a value at a later step than the last one that counted. As with losses, a page shows a value also when there is
none: the default of a gauge, the last log once more. The first value of a pod does not count before it changes, and the same value counts again only
after as many steps as there usually are between two values.

Counts belong to the run: a new pod goes on from them, and its steps up to the last one that counted are not counted twice. A new stage starts again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from hashlib import sha256
from math import isfinite, isnan
from typing import TYPE_CHECKING, Final

from trainingrun_operator.api.rules import Goal, RuleWindow
from trainingrun_operator.api.spoiled import Spoiled
from trainingrun_operator.core import moves
from trainingrun_operator.core.bounds import FILES_MAX, WORD_MAX, clipped, counted
from trainingrun_operator.core.epochs import counts
from trainingrun_operator.core.facts.reading import LOSS, Failure, Reading
from trainingrun_operator.core.losses import GRADIENT_NOT_FINITE, NEVER_CHANGED
from trainingrun_operator.core.track import NOT_FINITE, Track
from trainingrun_operator.core.words import shown

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from trainingrun_operator.api.rules import StopRule

NOT_SEEN: Final = "NotSeen"
"""Reason of a metric that no reading of the pod has had."""
WARM_UP: Final = "WarmUp"
"""Reason of a value whose step is before `warmupSteps`."""
_BETWEEN_LOGS: Final = 1.5
"""Intervals after which the same value is a new observation, if the step is shown more often than the value."""
_EVIDENCE: Final = 4


@dataclass(frozen=True)
class Counted:
    """A value that counted."""

    step: int
    value: float


@dataclass(frozen=True)
class Watch:
    """What is counted for one rule."""

    of: str
    """What is counted: another signature starts again."""
    pod_uid: str = ""
    source: str = ""
    """The metric source that was read; another one starts again."""
    fell: tuple[int, int] | None = None
    """The stage of the training: `Track.fell`."""
    first: float | None = None
    first_step: int | None = None
    """The step of the first value, if the pod was read from its first reading on."""
    changed: bool = False
    repeats: bool = False
    observations: int = 0
    newest: Counted | None = None
    interval: int | None = None
    best: Counted | None = None
    start: float | None = None
    """The value from which an improvement is measured: the worse of the first one in the pod and the first one that counted."""
    moves: tuple[float, ...] = ()
    """How far the newest observations are from those before them."""
    improved: bool = False
    """Whether any value was clearly better than that at the start."""
    without_improvement: int = 0
    in_a_row: int = 0
    rose_from: float | None = None
    """Of a rise: the observation before the first one of those in a row."""
    recent: tuple[Counted, ...] = ()
    """The newest few, as evidence."""
    spoiled: Spoiled | None = None
    """Of a nonFinite rule: the first of the newest readings in a row that are not finite; None: the newest is finite."""
    at: float | None = None
    """Time when the metric was last read, finite or not."""
    trouble: Failure | None = None
    """Why the newest reading has no value that counts."""


def signature(rule: StopRule) -> str:
    """Return what is counted for a rule. Patience, action and the like do not belong to it."""
    of = [rule.metric, rule.goal.value, str(rule.warmup_steps), *rule.shapes]
    if rule.threshold is not None:
        of.append(_text(rule.threshold.value))
    of.extend(_text(shape.min_delta) for shape in (rule.plateau, rule.rising) if shape is not None)
    return sha256(" ".join(of).encode()).hexdigest()[:16]


def fold(  # noqa: PLR0913 - what one reading is compared with, each by its name
    watches: Mapping[str, Watch],
    rules: Sequence[StopRule],
    stored: Iterable[RuleWindow],
    track: Track,
    reading: Reading | Failure,
    *,
    losses: Collection[str] = (),
    written_us: int | None = None,
    now: float,
) -> dict[str, Watch]:
    """Add one reading to the watch of every rule.

    Args:
        watches: by name of the rule. A failed reading changes none.
        rules: the rules of the spec; watches of others are dropped.
        stored: ``status.rules``, from which a rule without a watch goes on.
        track: of the pod, with this reading.
        reading: of rank 0.
        losses: names that mean the loss, as in ``spec.metrics.names.loss``.
        written_us: modification time of the newest complete checkpoint at the reading, by the volume's clock; 0: there is none; None: not known.
        now: the time of the reading.
    """
    windows = {one.name: one for one in stored}
    if isinstance(reading, Failure):
        return dict(watches)
    known = {rule.called: _known(rule, watches, windows, track) for rule in rules}
    values = {rule.called: _value(rule, reading, losses) for rule in rules}
    folded = {
        rule.called: _folded(known[rule.called], rule, track, reading, values[rule.called], now) for rule in rules
    }
    return {
        rule.called: _spoiled(folded[rule.called], reading, values[rule.called], written_us)
        if rule.non_finite is not None
        else folded[rule.called]
        for rule in rules
    }


def _spoiled(watch: Watch, reading: Reading, value: float | Failure, written_us: int | None) -> Watch:
    """Remember the first reading that is not finite, until a finite one follows. The first value of a pod does not count: it may be a default."""
    if isinstance(value, Failure):
        return watch
    if isfinite(value):
        return replace(watch, spoiled=None) if watch.changed else watch
    if watch.spoiled is not None:
        return watch
    step = counted(int(reading.step)) if counts(reading.step) else None
    last = counted(watch.best.step) if watch.best is not None else None
    return replace(watch, spoiled=Spoiled(step=step, finite_step=last, written_us=counted(written_us)))


def _value(rule: StopRule, reading: Reading, losses: Collection[str]) -> float | Failure:
    """Return the value that a rule looks at, or why there is none."""
    value = reading.values.get(rule.metric)
    if value is None and rule.metric in losses:
        value = reading.loss
    if value is not None:
        return value
    missing = f"The reading has no {rule.metric}, which the stop rule names as its metric."
    return reading.troubles.get(rule.metric) or Failure(NOT_SEEN, missing)


def _known(rule: StopRule, watches: Mapping[str, Watch], windows: Mapping[str, RuleWindow], track: Track) -> Watch:
    """Return the watch of a rule so far."""
    of, known = signature(rule), watches.get(rule.called)
    if known is None and (window := windows.get(rule.called)) is not None and window.of == of:
        known = resumed(window, track)
    if known is None or known.of != of or known.source != track.source:
        return Watch(of, track.pod_uid, track.source, track.fell)
    if known.pod_uid != track.pod_uid:
        # Its metric may have a default again, and its values do not follow those of the pod before.
        return replace(
            known,
            pod_uid=track.pod_uid,
            fell=track.fell,
            first=None,
            first_step=None,
            changed=False,
            in_a_row=0,
            rose_from=None,
            recent=(),
            at=None,
        )
    if known.fell != track.fell:
        return Watch(of, track.pod_uid, track.source, track.fell)
    return known


def _folded(known: Watch, rule: StopRule, track: Track, reading: Reading, value: float | Failure, now: float) -> Watch:
    if isinstance(value, Failure):
        return replace(known, trouble=value)
    step = int(reading.step) if counts(reading.step) else None
    # From now on it was seen.
    read = replace(known, at=now, trouble=None if known.at is None else known.trouble)
    if known.first is None:
        read = replace(read, first=value, first_step=step if not track.observations else None)
    read = replace(read, changed=known.changed or not _same(value, read.first) or not isfinite(value))
    if step is None or step != track.step or not track.observations:
        # Of another rank, of no step, or before the step has advanced.
        return read
    read = replace(read, trouble=None)
    if (trouble := _doubt(rule, track, value, step, changed=read.changed)) is not None:
        broken = trouble.reason == NOT_FINITE
        read = replace(read, repeats=read.repeats or trouble.reason == NEVER_CHANGED)
        read = replace(read, trouble=trouble)
        return replace(read, in_a_row=0, rose_from=None, recent=()) if broken else read
    return _new(read, rule, value, step)


def _doubt(rule: StopRule, track: Track, value: float, step: int, *, changed: bool) -> Failure | None:
    """Return why a value is no observation; None: it may be one."""
    if step < rule.warmup_steps:
        return Failure(
            WARM_UP, f"{rule.metric} at step {step} does not count before step {rule.warmup_steps} (warmupSteps)."
        )
    if not isfinite(value):
        return (
            None
            if rule.non_finite is not None
            else Failure(NOT_FINITE, f"{rule.metric} is {value} at step {step}: it does not count.")
        )
    doubt = track.losses.doubt
    if rule.metric == LOSS and doubt is not None and (value == 0 or doubt.reason == GRADIENT_NOT_FINITE):
        return doubt
    if not changed:
        return Failure(
            NEVER_CHANGED,
            f"{rule.metric} is still {shown(value)}, the first value seen in this pod: it does not count before it changes, because a metric may have"
            " a default.",
        )
    return None


def _new(known: Watch, rule: StopRule, value: float, step: int) -> Watch:
    """Count a value if it is a new observation."""
    last = known.newest
    if last is not None and step <= last.step:
        return known
    interval = known.interval
    if last is not None and _same(value, last.value):
        enough = None if interval is None else interval * (_BETWEEN_LOGS if known.repeats else 1)
        if enough is None or step - last.step < enough:
            return replace(known, repeats=True)
    elif (since := last.step if last is not None else known.first_step) is not None:
        interval = max(interval or 0, step - since)
    counted = Counted(step, value)
    added = replace(
        known,
        observations=min(known.observations + 1, FILES_MAX),
        newest=counted,
        interval=interval,
        recent=(*known.recent, counted)[-_EVIDENCE:],
    )
    if not isfinite(value):
        return replace(added, in_a_row=_more(known.in_a_row))
    return _compared(added, rule, value, last)


def _compared(known: Watch, rule: StopRule, value: float, last: Counted | None) -> Watch:
    """Compare a new observation with the one before, the best one and the one at the start."""
    delta = rule.plateau.min_delta if rule.plateau else 0
    # Not finite is worse than any value: what a rule about that compares with is the last finite one.
    improves = known.best is None or rule.non_finite is not None or _better(rule, value, known.best.value, delta)
    holds = _holds(rule, value, last)
    compared = replace(
        known,
        best=known.newest if improves else known.best,
        without_improvement=0 if improves else _more(known.without_improvement),
        in_a_row=_more(known.in_a_row) if holds else 0,
    )
    if rule.plateau is None and rule.rising is None:
        return compared
    before = last.value if last is not None else known.first
    start = _start(rule, known, value)
    newest = moves.added(known.moves, value, before) if before is not None and isfinite(before) else known.moves
    clear = max(delta, moves.CLEAR * moves.usual(newest))
    reached = value if compared.best is None else compared.best.value
    return replace(
        compared,
        start=start,
        moves=newest,
        improved=known.improved or _better(rule, reached, start, clear),
        rose_from=(known.rose_from if known.rose_from is not None else before) if holds else None,
    )


def _start(rule: StopRule, known: Watch, value: float) -> float:
    """Return the value from which an improvement is measured. The first one in the pod may be a default that is better than any other."""
    if known.start is not None:
        return known.start
    if known.best is not None:
        # A status of an operator that did not keep the start.
        return known.best.value
    first = known.first
    return first if first is not None and isfinite(first) and _better(rule, value, first, 0) else value


def rise(rule: StopRule, watch: Watch) -> float:
    """Return by how much the observations in a row are worse than the one before them."""
    if watch.newest is None or watch.rose_from is None:
        return 0.0
    grown = watch.newest.value - watch.rose_from
    return grown if rule.goal is Goal.MINIMIZE else -grown


def _holds(rule: StopRule, value: float, last: Counted | None) -> bool:
    """Whether the condition of a threshold or of a rise holds for a new observation."""
    if rule.threshold is not None:
        return _better(rule, value, rule.threshold.value, 0)
    return rule.rising is not None and last is not None and _better(rule, last.value, value, rule.rising.min_delta)


def _better(rule: StopRule, value: float, than: float, delta: float) -> bool:
    return than - value > delta if rule.goal is Goal.MINIMIZE else value - than > delta


def _same(one: float, other: float | None) -> bool:
    return one == other or (isnan(one) and other is not None and isnan(other))


def _more(count: int) -> int:
    return min(count + 1, FILES_MAX)


# -- status.rules -------------------------------------------------------------------------------------------------


def stored(watches: Mapping[str, Watch]) -> tuple[RuleWindow, ...]:
    """Return ``status.rules``."""
    return tuple(_window(name, one) for name, one in watches.items())


def _window(name: str, watch: Watch) -> RuleWindow:
    newest, best = watch.newest, watch.best
    return RuleWindow(
        name=name,
        of=watch.of,
        pod_uid=clipped(watch.pod_uid, WORD_MAX),
        source=clipped(watch.source, WORD_MAX),
        first=_text(watch.first) if watch.first is not None else None,
        first_step=watch.first_step,
        changed=watch.changed,
        repeats=watch.repeats,
        observations=watch.observations,
        value=_text(newest.value) if newest else None,
        step=newest.step if newest else None,
        interval=watch.interval,
        best=_text(best.value) if best else None,
        best_step=best.step if best else None,
        start=_text(watch.start) if watch.start is not None else None,
        moves=tuple(_text(move) for move in watch.moves),
        improved=watch.improved,
        without_improvement=watch.without_improvement,
        in_a_row=watch.in_a_row,
        rose_from=_text(watch.rose_from) if watch.rose_from is not None else None,
        spoiled=watch.spoiled,
    )


def resumed(window: RuleWindow, track: Track) -> Watch:
    """Continue a stored window, in the stage that the track is in."""
    newest = _counted(window.value, window.step)
    return Watch(
        of=window.of,
        pod_uid=window.pod_uid,
        source=window.source,
        fell=track.fell,
        first=_number(window.first),
        first_step=window.first_step,
        changed=window.changed,
        repeats=window.repeats,
        observations=window.observations,
        newest=newest,
        interval=window.interval,
        best=_counted(window.best, window.best_step),
        start=_number(window.start),
        moves=tuple(move for move in map(_number, window.moves) if move is not None and move >= 0),
        improved=window.improved,
        without_improvement=window.without_improvement,
        in_a_row=window.in_a_row,
        rose_from=_number(window.rose_from),
        spoiled=window.spoiled,
        recent=(newest,) if newest is not None else (),
    )


def _counted(text: str | None, step: int | None) -> Counted | None:
    value = _number(text)
    return None if value is None or step is None else Counted(step, value)


def _text(value: float) -> str:
    """Return a number as text that gives the same number again; 0 and 0.0 are one."""
    return repr(float(value))


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None
