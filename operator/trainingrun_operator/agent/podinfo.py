r"""The pod's annotations as the downward API projects them: one ``key="value"`` a line, the value quoted as Go does."""

from __future__ import annotations

import re
from typing import NamedTuple, TypeVar

from pydantic import ValidationError

from trainingrun_operator.api import names
from trainingrun_operator.api.exchange import SaveRequest, StopRequest

T = TypeVar("T", StopRequest, SaveRequest)

_LINE = re.compile(r'^(?P<key>[^=\s]+)="(?P<value>(?:[^"\\]|\\.)*)"$', re.MULTILINE)
_ESCAPE = re.compile(r"((?:\\x[0-9a-fA-F]{2})+)|\\u([0-9a-fA-F]{4})|\\U([0-9a-fA-F]{8})|\\(.)")
_SIMPLE = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}


class Asked(NamedTuple):
    """What the operator asks of this pod now."""

    stop: StopRequest | None = None
    save: SaveRequest | None = None
    released: bool = False
    unreadable: tuple[str, ...] = ()
    """Annotations that do not parse: this agent is older or newer than the operator."""


def unquote(quoted: str) -> str:
    """Undo Go's ``strconv.Quote``; the surrounding quotes are already off."""

    def one(match: re.Match[str]) -> str:
        raw, short, long, simple = match.groups()
        if raw:
            return bytes.fromhex(raw.replace("\\x", "")).decode("utf-8", "surrogateescape")
        if short or long:
            return chr(int(short or long, 16))
        return _SIMPLE.get(simple, simple)

    return _ESCAPE.sub(one, quoted)


def parse(text: str) -> dict[str, str]:
    """Return annotation keys and values; a line of another form is passed over."""
    return {match["key"]: unquote(match["value"]) for match in _LINE.finditer(text)}


def asked(text: str) -> Asked:
    """Return what an annotations file asks for."""
    annotations = parse(text)
    bad: list[str] = []

    def read(key: str, model: type[T]) -> T | None:
        if key not in annotations:
            return None
        try:
            return model.model_validate_json(annotations[key], by_alias=True, by_name=False)
        except ValidationError:
            bad.append(key)
            return None

    stop = read(names.STOP_ANNOTATION, StopRequest)
    save = read(names.SAVE_ANNOTATION, SaveRequest)
    return Asked(stop, save, names.OPEN_GATE_ANNOTATION in annotations, tuple(bad))
