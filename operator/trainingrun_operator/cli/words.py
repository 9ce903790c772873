"""Formatting for terminals: durations, lists, generations and foreign text."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from trainingrun_operator.core.commands import UnprintableError, command
from trainingrun_operator.core.words import moment

if TYPE_CHECKING:
    from datetime import datetime

    from trainingrun_operator.api.status import Shadow, TrainingRunStatus

_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_MINUTE, _HOUR, _DAY = 60, 3600, 86_400
_WEEK = 7 * _DAY


def clean(text: str) -> str:
    """Replace control characters: foreign text, such as a log line in a status, may contain terminal commands."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def explain(name: str) -> str:
    """Return the command that explains a run."""
    return command("kubectl", "trainingrun", "explain", name)


def address(text: str) -> str:
    """Return an address or a path as a word for a shell; the name of a checkpoint's folder is the training's."""
    try:
        return command(text)
    except UnprintableError:
        return f"{text!a} (characters that a terminal does not show are written as escapes)"


def duration(seconds: float) -> str:
    """At most two units, in kubectl's format: `45s`, `3m20s`, `2h5m`, `3d4h`."""
    whole = max(0, int(seconds))
    if whole < _MINUTE:
        return f"{whole}s"
    for unit, size, smaller, part in (("m", _MINUTE, "s", 1), ("h", _HOUR, "m", _MINUTE), ("d", _DAY, "h", _HOUR)):
        if whole < size * {"m": 60, "h": 24}.get(unit, whole):
            # After a week only days count.
            rest = 0 if whole > _WEEK else whole % size // part
            return f"{whole // size}{unit}{rest}{smaller}" if rest else f"{whole // size}{unit}"
    raise AssertionError  # unreachable: the last unit has no limit


def age(stamp: str | None, now: datetime) -> str:
    """Age of an RFC 3339 time; empty if it is missing or invalid."""
    at = moment(stamp)
    return "" if at is None else duration((now - at).total_seconds())


def ago(stamp: str | None, now: datetime) -> str:
    """` (3m20s ago)` with a leading space, or empty."""
    past = age(stamp, now)
    return f" ({past} ago)" if past else ""


def saved_by(shadow: Shadow) -> str:
    """What a rule that only reports would have saved, as a sentence with a leading space; empty: unknown, or nothing yet."""
    hours = shadow.saved_gpu_hours
    money = f" ({shadow.saved_cost})" if shadow.saved_cost else ""
    return f" That would have saved {hours:g} GPU hours{money} so far." if hours else ""


def cost(status: TrainingRunStatus) -> tuple[str, ...]:
    """What the training has cost, as a sentence; empty: no price is known."""
    known = status.trained.cost if status.trained is not None else None
    if known is None:
        return ()
    end = f", and will have cost {known.projected} at the end of its last epoch" if known.projected else ""
    return (f"The training has cost {known.shown}{end}.",)


def generation(key: str) -> str:
    """How a person names one, by the key of its commit: `i1-g0003`."""
    return key.rpartition("/")[2].removesuffix(".json")


def listed(words: tuple[str, ...] | list[str], last: str = "and") -> str:
    """Join as `a, b and c`."""
    return f" {last} ".join(filter(None, (", ".join(words[:-1]), words[-1]))) if words else "none"
