r"""Read the pod's annotations from the downward API's file: one ``key="value"`` per line, the value quoted as in Go."""

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
    """The operator's requests to this pod."""

    stop: StopRequest | None = None
    save: SaveRequest | None = None
    released: bool = False
    unreadable: tuple[str, ...] = ()
    """Annotations that do not parse: agent and operator are of different versions."""


def unquote(quoted: str) -> str:
    """Undo Go's ``strconv.Quote``. Expects a text without its surrounding quotes."""

    def one(match: re.Match[str]) -> str:
        raw, short, long, simple = match.groups()
        if raw:
            return bytes.fromhex(raw.replace("\\x", "")).decode("utf-8", "surrogateescape")
        if short or long:
            return chr(int(short or long, 16))
        return _SIMPLE.get(simple, simple)

    return _ESCAPE.sub(one, quoted)


def parse(text: str) -> dict[str, str]:
    """Return annotation keys and values. A line of another form is ignored."""
    return {match["key"]: unquote(match["value"]) for match in _LINE.finditer(text)}


def asked(text: str) -> Asked:
    """Return the requests in the text of an annotations file."""
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
