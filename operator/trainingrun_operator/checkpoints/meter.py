"""Count the bytes of request bodies while they are sent.

botocore reads a body several times: for its length, for its signature (over plain HTTP), and again if it repeats a request. So the body is exchanged
for one that counts right before it is sent.
"""

from __future__ import annotations

import io
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PIECE_BYTES: Final = 128 << 10
"""Bytes that are handed to the connection at once, whatever it asks for: fewer calls, and still an exact count."""


class CountedBody:
    """Counts what is read of a body. A piece counts once the connection has taken it and asks for the next."""

    def __init__(self, body: io.BytesIO, counted: Callable[[int], None]) -> None:
        self._body = body
        self._start = body.tell()
        self._counted = self._start
        self._count = counted

    def read(self, _: int = -1) -> bytes:
        """Return the next piece. The one before was sent."""
        self._now(self._body.tell())
        # Not `getbuffer`: it copies a body that shares its bytes with the caller.
        return self._body.read(PIECE_BYTES)

    def tell(self) -> int:
        """Return the position of the next read."""
        return self._body.tell()

    def seek(self, at: int) -> int:
        """Send again from a position, after a redirect or a failed try."""
        self._now(at)
        return self._body.seek(at)

    def rewind(self) -> None:
        """Count nothing: the body has to be sent again."""
        self._now(self._start)

    def _now(self, at: int) -> None:
        if at != self._counted:
            self._count(at - self._counted)
            self._counted = at


class Meter:
    """Counts the bodies that the calling thread sends within `counting`. Thread-safe."""

    def __init__(self, events: Any) -> None:
        self._thread = threading.local()
        events.register("before-send.s3", self._before_send)

    @contextmanager
    def counting(self, counted: Callable[[int], None] | None) -> Iterator[None]:
        """Call ``counted`` with the bytes as they are sent; negative if they have to be sent again, or if the call fails."""
        self._thread.counted, self._thread.body = counted, None
        try:
            yield
        except BaseException:
            self._again()
            raise
        finally:
            self._thread.counted = self._thread.body = None

    def _before_send(self, request: Any, **_: Any) -> None:
        counted = getattr(self._thread, "counted", None)
        if counted is not None and isinstance(request.body, io.BytesIO):
            self._again()
            self._thread.body = request.body = CountedBody(request.body, counted)

    def _again(self) -> None:
        body = self._thread.body
        if body is not None:
            body.rewind()
