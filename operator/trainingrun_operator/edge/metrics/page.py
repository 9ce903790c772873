"""Takes the wanted series from a metrics page in bounded time: Prometheus' text format or OpenMetrics.

A name with several series that disagree is ambiguous: one rank, split or phase of several. It is never guessed which one is the training's.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from math import isnan
from typing import TYPE_CHECKING, Final

from trainingrun_operator.core.facts.reading import GRADIENT_NORM, LOSS, Failure, Reading
from trainingrun_operator.edge.metrics import gradient

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from trainingrun_operator.api.run import MetricNames

SERIES_MAX: Final = 64
"""Series of one name that are compared; more are ambiguous."""
HITS_MAX: Final = 10_000
"""Occurrences of the wanted names on a page that are looked at."""
STOP_RULE: Final = "stopRules"
"""The field that asks for a value beside those of `spec.metrics.names`."""
_LABELS_MAX: Final = 4096
"""Bytes of a series' labels that are read."""
_INDENT_MAX: Final = 64
_SHOWN_LABELS: Final = 5
_QUANTILE: Final = b"quantile"
"""The label of a Summary's series: a quantile of losses is no loss of the training."""

# All quantifiers are possessive and do not cross a line end, so that a page of open braces and quotes costs one pass.
# A value longer than any number is skipped: float() takes quadratic time.
_REST: Final = re.compile(
    rb"""(?:[ \t]*+\{((?:[^"}\n]++|"(?:[^"\\\n]++|\\.)*+")*+)\}[ \t]*+|[ \t]++)([^\s]{1,64}+)(?=\s|\Z)"""
)
_LABEL: Final = re.compile(rb"""([a-zA-Z_][a-zA-Z0-9_]*+)[ \t]*+=[ \t]*+"((?:[^"\\\n]++|\\.)*+)\"""")


class _PageError(Exception):
    """The page has no certain values. Has the failure's reason and message."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.failure = Failure(reason, message)


@dataclass(frozen=True)
class _Wanted:
    """One name of `spec.metrics.names`, with the labels that it selects."""

    text: str
    name: bytes
    labels: Mapping[bytes, bytes]


@dataclass(frozen=True)
class _Series:
    """One series of a name."""

    labels: Mapping[bytes, bytes]
    value: float

    def fits(self, labels: Mapping[bytes, bytes]) -> bool:
        """Whether the labels that both have are equal."""
        return all(labels.get(key, value) == value for key, value in self.labels.items())


@dataclass(frozen=True)
class _Found:
    """The series of the first name of a list that is on the page."""

    field: str
    """The list in `spec.metrics.names`."""
    wanted: _Wanted
    series: Sequence[_Series]


class _Page:
    """A page, and how often it may still be looked at."""

    def __init__(self, page: bytes) -> None:
        self._page = page
        self._hits = HITS_MAX

    def find(self, field: str, names: Sequence[str]) -> _Found | None:
        """Return the series of the first name that the page has; None: it has none of the names."""
        for name in names:
            wanted = _wanted(name)
            if found := self._series(field, wanted):
                return _Found(field, wanted, found)
        return None

    def _series(self, field: str, wanted: _Wanted) -> Sequence[_Series]:
        """Return the one series without labels, else those with the selected labels."""
        page, name = self._page, wanted.name
        found: list[_Series] = []
        known: set[bytes] = set()
        at = page.find(name)
        while at >= 0:
            self._hits -= 1
            if self._hits < 0:
                raise _PageError(
                    "TooManySeries",
                    f"The metrics page has more than {HITS_MAX} lines with the names in spec.metrics.names: serve the training's metrics on a separate page.",
                )
            line = _REST.match(page, at + len(name)) if self._begins_line(at) else None
            at = page.find(name, at + len(name))
            if line is None or (value := _number(line[2])) is None:
                continue
            written = (line[1] or b"").strip()
            if not written and not wanted.labels:
                return (_Series({}, value),)
            if written in known or len(found) > SERIES_MAX:
                continue
            labels = {one[1]: one[2] for one in _LABEL.finditer(written[:_LABELS_MAX])} or {b"": written}
            if all(labels.get(key) == value for key, value in wanted.labels.items()):
                known.add(written)
                found.append(_Series(labels, value))
        if len(found) > SERIES_MAX:
            raise _ambiguous(field, wanted, f"there are more than {SERIES_MAX} series of {wanted.text}", found)
        return found

    def _begins_line(self, at: int) -> bool:
        """Whether only blanks are before a place in its line."""
        if at == 0 or self._page[at - 1] == ord("\n"):
            return True
        before = self._page[max(0, at - _INDENT_MAX) : at].rstrip(b" \t")
        return before.endswith(b"\n") or (not before and at <= _INDENT_MAX)


def parse(page: bytes, names: MetricNames, further: Iterable[str] = ()) -> Reading | Failure:
    """Take the wanted values from a page, loss and step from series whose common labels are equal.

    Of several series of one name, the one without labels counts; series with labels must agree.

    Args:
        page: in Prometheus' text format or OpenMetrics.
        names: of each list, the first name on the page counts.
        further: names of other values. One that is ambiguous keeps no other value from being read.
    """
    looked = _Page(page)
    try:
        loss = looked.find("loss", names.loss)
        value = None if loss is None else _agreed(loss, loss.series)
        values = {} if value is None else {LOSS: value}
        labels = () if loss is None else [one.labels for one in loss.series]
        if (norm := gradient.not_finite(page, labels)) is not None:
            values[GRADIENT_NORM] = norm
        others, troubles = _others(looked, [name for name in further if name not in values])
        return Reading(
            values=others | values,
            troubles=troubles,
            step=_beside(loss, looked.find("step", names.step)),
            epoch=_beside(loss, looked.find("epoch", names.epoch)),
            total_epochs=_beside(loss, looked.find("totalEpochs", names.total_epochs)),
        )
    except _PageError as error:
        return error.failure


def _others(looked: _Page, names: Sequence[str]) -> tuple[dict[str, float], dict[str, Failure]]:
    """Return further values by name, and why those that are ambiguous have none."""
    values: dict[str, float] = {}
    troubles: dict[str, Failure] = {}
    for name in names:
        try:
            found = looked.find(STOP_RULE, (name,))
            if found is not None:
                values[name] = _agreed(found, found.series)
        except _PageError as error:
            troubles[name] = error.failure
    return values, troubles


def _beside(loss: _Found | None, found: _Found | None) -> float | None:
    """Return the value of the series that belong to the loss."""
    if found is None:
        return None
    if loss is None:
        return _agreed(found, found.series)
    fitting = [one for one in found.series if any(one.fits(other.labels) for other in loss.series)]
    if not fitting:
        raise _ambiguous(
            found.field,
            found.wanted,
            f"{loss.wanted.text} and {found.wanted.text} have different labels",
            (*loss.series, *found.series),
        )
    return _agreed(found, fitting)


def _agreed(found: _Found, series: Sequence[_Series]) -> float:
    """Return the one value of all series."""
    plain = [one for one in series if _QUANTILE not in one.labels or _QUANTILE in found.wanted.labels]
    if not plain:
        raise _ambiguous(found.field, found.wanted, f"{found.wanted.text} has only quantiles of a Summary", series)
    first = plain[0].value
    if all(one.value == first or (isnan(one.value) and isnan(first)) for one in plain):
        return first
    raise _ambiguous(found.field, found.wanted, f"{len(plain)} series of {found.wanted.text} disagree", plain)


def _ambiguous(field: str, wanted: _Wanted, what: str, series: Sequence[_Series]) -> _PageError:
    """Explain which labels tell the series apart. Their values are the pod's words, and are not quoted."""
    values: dict[bytes, set[bytes]] = {}
    for one in series:
        for key, value in one.labels.items():
            values.setdefault(key, set()).add(value)
    differing = [key for key, of_key in values.items() if len(of_key) > 1 and key] or [key for key in values if key]
    labels = [key[:_INDENT_MAX].decode() for key in differing[:_SHOWN_LABELS]]
    name = wanted.name.decode()
    told = f" (labels: {', '.join(labels)})" if labels else ""
    example = f'{name}{{{labels[0] if labels else "rank"}="…"}}'
    where = "the metric of the stop rule" if field == STOP_RULE else f"spec.metrics.names.{field}"
    return _PageError(
        "AmbiguousSeries",
        f"The metrics page is ambiguous: {what}{told}. None of them is used: select one in {where}, as {example}, or show the value"
        " without labels.",
    )


@lru_cache(maxsize=1024)
def _wanted(text: str) -> _Wanted:
    name, _, selected = text.partition("{")
    return _Wanted(text, name.encode(), {one[1]: one[2] for one in _LABEL.finditer(selected.encode())})


def _number(text: bytes) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
