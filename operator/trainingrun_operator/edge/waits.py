"""How long a look waits for what tenants control: their pods and buckets. The scheduler tells slow runs from others by it.

What a look takes otherwise, such as requests to the API server, says nothing about its run.
"""

from __future__ import annotations

import contextlib
import time
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass
class Waits:
    """The waits of one look, those of its tasks included."""

    number: int = 0
    longest: float = 0.0
    """In seconds."""


_current: Final[ContextVar[Waits | None]] = ContextVar("waits", default=None)


@contextlib.contextmanager
def measured() -> Iterator[Waits]:
    """Measure the waits of a block."""
    waits = Waits()
    token = _current.set(waits)
    try:
        yield waits
    finally:
        _current.reset(token)


@contextlib.contextmanager
def for_tenant() -> Iterator[None]:
    """Count a block as one wait."""
    waits, began = _current.get(), time.monotonic()
    try:
        yield
    finally:
        if waits is not None:
            waits.number += 1
            waits.longest = max(waits.longest, time.monotonic() - began)
