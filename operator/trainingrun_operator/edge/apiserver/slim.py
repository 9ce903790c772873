"""Parses JSON of the API server without what the operator does not read, so that it is never built in memory.

Users write these objects. Where the schema leaves their content open or long, 1.4 MB of JSON become 30 MiB of objects, and its parser keeps the
event loop waiting for a tenth of a second.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final

from trainingrun_operator.api.template import LEFT_OUT, TEMPLATE_MAX_BYTES, brackets

if TYPE_CHECKING:
    from collections.abc import Iterator

LONG_BYTES: Final = 64 * 1024

_TEMPLATE: Final = b"template"
_UNREAD: Final = frozenset({b"f:template", b"env", b"envFrom", b"args", b"command"})
"""Replaced by null."""
_LONG: Final = frozenset(
    {
        b"labels",
        b"finalizers",
        b"ownerReferences",
        b"managedFields",
        b"volumeMounts",
        b"volumes",
        b"tolerations",
        b"affinity",
        b"hostAliases",
        b"imagePullSecrets",
        b"ports",
        b"topologySpreadConstraints",
    }
)
"""Replaced by null if they are longer than `LONG_BYTES`."""

CHUNK_BYTES: Final = 32 * 1024
"""Of JSON that is skipped at once. A step takes a few milliseconds at most."""
_PASSES: Final = 32
_SHORT_BYTES: Final = 16 * 1024
"""Of JSON that is parsed to find an end, which is faster. Its objects take less than a mebibyte."""
_END: Final = json.JSONDecoder().raw_decode
_STEP: Final = {b"{": 1, b"[": 1, b"}": -1, b"]": -1}

_STRING: Final = rb'"(?:[^"\\]++|\\.)*+"'
_OUTSIDE: Final = re.compile(rb'(?:[^"]++|' + _STRING + rb")*", re.DOTALL)
"""Not possessive: before Python 3.11.5 such a repeat may end within an iteration that fails (gh-106052)."""
_TEXT: Final = re.compile(_STRING, re.DOTALL)
_TOKEN: Final = re.compile(_STRING + rb"|[{}\[\]]", re.DOTALL)


def _named(*found: bytes) -> re.Pattern[bytes]:
    return re.compile(rb'"(' + b"|".join(map(re.escape, found)) + rb')"\s*+:\s*+(?=[\[{])')


_NAMED: Final = _named(_TEMPLATE, *_UNREAD, *_LONG)
_NAMED_IN_SHORT: Final = _named(_TEMPLATE, *_UNREAD)


def loads(text: bytes) -> Any:
    """Parse an object, a list of objects or an event.

    Raises:
        ValueError: it is no JSON.
    """
    return json.loads(slimmed(text))


def slimmed(text: bytes) -> bytes:
    """Return the JSON with templates as texts, and without what is not read."""
    return b"".join(_parts(text))


def _parts(text: bytes) -> Iterator[bytes]:
    copied, named = 0, _NAMED if len(text) > LONG_BYTES else _NAMED_IN_SHORT
    while (found := named.search(text, copied)) is not None:
        end = _end_of(text, found.end())
        yield text[copied : found.end()]
        yield _instead(found[1], text[found.end() : end])
        copied = end
    yield text[copied:]


def _instead(name: bytes, value: bytes) -> bytes:
    if name == _TEMPLATE:
        if len(value) > TEMPLATE_MAX_BYTES:
            return json.dumps({LEFT_OUT: len(value)}).encode()
        return json.dumps(value.decode(), ensure_ascii=False).encode()
    return b"null" if name in _UNREAD or len(value) > LONG_BYTES else value


def _end_of(text: bytes, start: int) -> int:
    """Return the end of the object or list that begins at `start`; of one that does not end, the end of the text."""
    piece = text[start : start + _SHORT_BYTES]
    if piece.isascii():
        try:
            return start + _END(piece.decode())[1]
        except (ValueError, RecursionError):
            # It is longer, deeper, or no JSON.
            pass
    depth, at = 0, start
    while at < len(text):
        # A step ends outside of texts. Of a text longer than a step, it ends behind it.
        end = _whole(text, at, at + CHUNK_BYTES)
        closed, opened = _unmatched(brackets(text[at:end]))
        if closed is None or depth <= closed:
            for token in _TOKEN.finditer(text, at, end):
                depth += _STEP.get(token[0], 0)
                if depth == 0:
                    return token.end()
        else:
            depth += opened - closed
        at = end
    return at


def _whole(text: bytes, start: int, end: int) -> int:
    found = _OUTSIDE.match(text, start, end)
    if found is not None and found.end() > start:
        return found.end()
    string = _TEXT.match(text, start)
    return string.end() if string is not None else len(text)


def _unmatched(left: bytes) -> tuple[int | None, int]:
    """Return the numbers of closing and of opening brackets without a partner; None: too deep to say."""
    for _ in range(_PASSES):
        if b"{}" not in left:
            return left.count(b"}"), left.count(b"{")
        left = left.replace(b"{}", b"")
    return None, 0
