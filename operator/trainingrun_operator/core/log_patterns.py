"""Patterns of `spec` that are searched in a log.

RE2 takes linear time and no more memory than given. Patterns whose program is large are refused, so that a search takes milliseconds.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import re2

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

PROGRAM_MAX: Final = 1000
"""Instructions of one compiled pattern."""
MEMORY_MAX: Final = 1 << 20
"""Bytes that RE2 may use for one search."""
_LINES: Final = "(?m)"
_GROUP: Final = re.compile(r"(?s)\\Q.*?(?:\\E|$)|\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\(\?P?<(?P<name>\w+)>")
"""A group with a name, or what may contain something that looks like one: a literal, an escape, a class."""
_SMALL: Final = 1 << 16
"""Bytes in which a pattern must compile: RE2 gives up a larger one within milliseconds."""


@lru_cache(maxsize=4096)
def complaint(pattern: str) -> str:
    """Return why a pattern cannot be searched for; empty: it can."""
    try:
        compiled = _compiled(pattern, _SMALL)
    except re2.error as error:
        said: bytes = error.args[0]
        return said.decode(errors="replace").replace(_LINES, "", 1)
    except UnicodeEncodeError:
        return "it is no valid Unicode"
    if compiled.programsize > PROGRAM_MAX:
        return f"it is too large: {compiled.programsize} instructions, at most {PROGRAM_MAX}"
    return ""


@lru_cache(maxsize=4096)
def complaint_of_groups(pattern: str) -> str:
    """Return why a pattern takes no numbers from a line; empty: it does."""
    if why := complaint(pattern):
        return why
    if not {"loss", "step"} & _compiled(pattern, _SMALL).groupindex.keys():
        return "it has no group named loss or step, as in loss=(?P<loss>[0-9.]+)"
    # RE2 accepts it, and returns what the first of them has found.
    named = Counter(one["name"] for one in _GROUP.finditer(pattern) if one["name"] is not None)
    twice = next((name for name, times in named.items() if times > 1), "")
    return (
        f"it has more than one group named {twice}, so that only the first is read: write two patterns" if twice else ""
    )


@lru_cache(maxsize=4096)
def complaint_of_line(pattern: str) -> str:
    """Return why a pattern does not tell one line from others; empty: it may."""
    if why := complaint(pattern):
        return why
    found = _compiled(pattern, _SMALL).search("")
    return "it is found in an empty line, so that any line has it" if found is not None else ""


def last_line(patterns: Iterable[str], lines: Sequence[str]) -> tuple[str, str] | None:
    """Return the last line that has a pattern, after the first pattern that it has; None: no line has one. Patterns that are refused are not found."""
    compiled = [(one, _compiled(one, MEMORY_MAX)) for one in patterns if not complaint_of_line(one)]
    having = ((one, line) for line in reversed(lines) for one, search in compiled if search.search(line) is not None)
    return next(having, None)


def groups(pattern: str, line: str) -> Mapping[str, str] | None:
    """Return by name what the groups of a pattern have found in a line; None: the pattern is not found, or not valid."""
    if complaint(pattern):
        return None
    found = _compiled(pattern, MEMORY_MAX).search(line)
    if found is None:
        return None
    return {name: text for name, text in found.groupdict().items() if text is not None}


def first_found(patterns: Iterable[str], text: str) -> str:
    r"""Return the first pattern that is found in a text; empty: none is. Patterns that are refused are not found.

    ``^`` and ``$`` match at every line. A carriage return ends a line, as in the output of progress bars.
    """
    lines = text.replace("\r\n", "\n").replace("\r", "\n")
    return next(
        (
            one
            for one in patterns
            if not complaint_of_line(one) and _compiled(one, MEMORY_MAX).search(lines) is not None
        ),
        "",
    )


def _compiled(pattern: str, memory: int) -> Any:
    """Compile a pattern; the library keeps the last ones.

    Raises:
        re2.error: it is not valid.
        UnicodeEncodeError: it has a lone surrogate.
    """
    options = re2.Options()
    options.max_mem = memory
    options.log_errors = False
    return re2.compile(_LINES + pattern, options)
