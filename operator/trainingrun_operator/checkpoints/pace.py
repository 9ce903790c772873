"""How many requests a store takes at once: small files, and the proofs that share one set of credentials. Thread-safe."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

IN_FLIGHT_MAX: Final = 128
"""At 40 ms for each answer, 100,000 objects take 40 s."""
SMALL_BYTES: Final = 1 << 20
"""A file up to this size costs a request's time, not a connection's rate: `SMALL_THREADS` of them are under way at once."""
SMALL_THREADS: Final = 64
_SLOWED_SECONDS: Final = 0.5
"""Time after which a store that still asks for fewer requests is given half as many again. All that were in flight are answered alike."""

CONNECTIONS: Final = threading.BoundedSemaphore(512)
"""Connections of all proofs of this process, beside the first of each: they are file descriptors."""


class Pace:
    """Requests in flight, halved when the store asks for fewer, and slowly raised while it answers."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._limit, self._sharing, self._slowed_at = float(IN_FLIGHT_MAX), 0, float("-inf")

    def begin(self) -> None:
        """Count a proof."""
        with self._lock:
            self._sharing += 1

    def end(self) -> None:
        """Count a proof no more."""
        with self._lock:
            self._sharing -= 1

    @property
    def share(self) -> int:
        """Requests that one proof may have in flight now."""
        return max(1, int(self._limit / max(1, self._sharing)))

    def answered(self) -> None:
        """Note an answer: as many as may be in flight allow one more."""
        with self._lock:
            self._limit = min(IN_FLIGHT_MAX, self._limit + 1 / self._limit)

    def slowed(self) -> None:
        """Note that the store asks for fewer requests."""
        with self._lock:
            if self._monotonic() - self._slowed_at >= _SLOWED_SECONDS:
                self._limit, self._slowed_at = max(1.0, self._limit / 2), self._monotonic()
