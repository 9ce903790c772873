"""Finds a gradient norm on a metrics page that is NaN or infinite.

Gradient norms have no common name, so a name counts by its words. Finite ones are not looked for: they say nothing.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

LINES_MAX: Final = 10_000
"""Lines with the word that are looked at; later ones are not known."""
_WORD: Final = b"norm"
_LINE_MAX: Final = 4096
# Possessive, and within one line: a hostile line costs one pass. A name in quotes is Prometheus 3's way to write any character.
_SERIES: Final = re.compile(
    rb"""[ \t]*+(?:\{[ \t]*+"(?P<quoted>[^"\\\n]{1,256})"[^}\n]*+\}|(?P<name>[^\s{}"#]{1,256}+)(?:[ \t]*+\{(?P<labels>(?:[^"}\n]++|"(?:[^"\\\n]++|\\.)*+")*+)\})?)[ \t]*+(?P<value>(?i:nan|[+-]?inf(?:inity)?))(?=\s|\Z)"""
)
_LABEL: Final = re.compile(rb"""([a-zA-Z_][a-zA-Z0-9_]*+)[ \t]*+=[ \t]*+"((?:[^"\\\n]++|\\.)*+)\"""")
_HUMP: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_WORDS: Final = re.compile(r"[a-z0-9]+")
_OF_GRADIENTS: Final = frozenset({"grad", "grads", "gradient", "gradients"})
_NORM: Final = frozenset({"norm", "norms", "l2norm"})
_BOTH: Final = frozenset({"gnorm", "gradnorm", "gradnorms", "gradientnorm", "gradientsnorm"})
_OF_NO_TRAINING: Final = frozenset({"eval", "evaluation", "val", "valid", "validation", "test", "dev"})
"""No gradient is computed in these phases: a NaN stands for nothing."""
_SETTINGS: Final = frozenset({"max", "clip", "clipping", "threshold", "limit", "target"})
"""An infinite maximum is a setting: no clipping."""
_AROUND_CLIPPING: Final = frozenset({"before", "after", "pre", "post"})
_DERIVED: Final = frozenset(
    {"sum", "count", "bucket", "created", "std", "stddev", "stdev", "var", "variance", "cv", "ratio"}
)
"""A sum that was NaN once is NaN for ever, and a deviation of one value is NaN."""


def not_finite(page: bytes, beside: Sequence[Mapping[bytes, bytes]]) -> float | None:
    """Return the value of a gradient norm that is NaN or infinite; None: there is none.

    Args:
        page: of the training.
        beside: the labels of the loss's series. Series whose common labels have other values belong to another loss.
    """
    lower = page.lower()
    at, lines = lower.find(_WORD), 0
    while at >= 0 and lines < LINES_MAX:
        lines += 1
        start, end = lower.rfind(b"\n", 0, at) + 1, lower.find(b"\n", at)
        end = len(page) if end < 0 else end
        line = lower[start:end] if end - start <= _LINE_MAX else b""
        if (b"nan" in line or b"inf" in line) and (value := _value(page[start:end], beside)) is not None:
            return value
        at = lower.find(_WORD, end)
    return None


def _value(line: bytes, beside: Sequence[Mapping[bytes, bytes]]) -> float | None:
    series = _SERIES.match(line)
    if series is None or not is_gradient_norm((series["name"] or series["quoted"]).decode(errors="replace")):
        return None
    labels = {one[1]: one[2] for one in _LABEL.finditer(series["labels"] or b"")}
    if b"quantile" in labels or b"le" in labels:
        return None
    if any(value.lower().decode(errors="replace") in _OF_NO_TRAINING for value in labels.values()):
        return None
    fits = any(all(loss.get(key, value) == value for key, value in labels.items()) for loss in beside)
    return float(series["value"]) if fits or not beside else None


@lru_cache(maxsize=1024)
def is_gradient_norm(name: str) -> bool:
    """Whether a metric's name says that it is a norm of the training's gradients, and no setting or statistic of it."""
    words = set(_WORDS.findall(_HUMP.sub("_", name).lower()))
    is_one = bool(words & _BOTH) or bool(words & _OF_GRADIENTS and words & _NORM)
    is_setting = bool(words & _SETTINGS) and not words & _AROUND_CLIPPING
    return is_one and not is_setting and not words & (_OF_NO_TRAINING | _DERIVED)
