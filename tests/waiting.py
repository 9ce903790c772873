"""Looking until something is so; for what sends no events."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")
SECONDS = 120
"""For what should be so soon; generous, because many tests share two cores."""


def eventually(look: Callable[[], T | None], sentence: str, timeout: float = SECONDS, *, every: float = 0.25) -> T:
    """Look until the answer is true. Returns the answer; times in seconds.

    Raises:
        AssertionError: it never was; with the sentence and the last answer.
    """
    deadline = time.monotonic() + timeout
    while not (answer := look()):
        assert time.monotonic() < deadline, f"{sentence}: not so after {timeout:g} s. Last answer: {answer!r}"
        time.sleep(every)
    return answer
