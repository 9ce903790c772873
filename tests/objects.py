"""A bucket in memory, as agents see it: conditional writes, multipart uploads, copies; a writer can be killed at any write."""

from __future__ import annotations

import itertools
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from trainingrun_operator.checkpoints.bucket import Bucket, ConflictError, Part, Stored, combined, crc64, encode
from trainingrun_operator.checkpoints.s3 import PIECE_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class KilledError(BaseException):
    """The process is gone; nothing in it may handle that."""


@dataclass
class Objects:
    """What all writers share."""

    bodies: dict[str, bytes] = field(default_factory=dict)
    uploads: dict[str, tuple[str, dict[int, tuple[Part, bytes]]]] = field(default_factory=dict)
    overwritten: list[str] = field(default_factory=list)
    ids: Iterator[int] = field(default_factory=itertools.count)

    def keys(self, prefix: str = "") -> list[str]:
        return sorted(key for key in self.bodies if key.startswith(prefix))

    def write(self, key: str, body: bytes) -> None:
        """What the store does with a write that it accepts."""
        if self.bodies.get(key, body) != body:
            self.overwritten.append(key)
        self.bodies[key] = body


class Door(Bucket):
    """One writer's way to the bucket."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._lock = threading.RLock()
        self.writes_left: int | None = None
        """The writer is killed at the write after so many."""
        self.forwarded = True
        """Whether the write that kills has reached the store."""
        self.before_document: Callable[[], None] | None = None
        """Called once, before the next claim, manifest or commit is forwarded."""

    def _write(self, key: str, apply: Callable[[], None]) -> None:
        if self.before_document and key.endswith(".json"):
            other, self.before_document = self.before_document, None
            other()
        with self._lock:
            if self.writes_left is None:
                apply()
                return
            self.writes_left -= 1
            if self.writes_left >= 0 or self.forwarded:
                apply()
            if self.writes_left < 0:
                raise KilledError

    def keys(self, prefix: str, *, flat: bool = False) -> Iterator[tuple[str, int]]:
        for key in self._objects.keys(prefix):
            if not (flat and "/" in key.removeprefix(prefix)):
                yield key, len(self._objects.bodies[key])

    def get(self, key: str, limit: int) -> bytes | None:
        body = self._objects.bodies.get(key)
        return None if body is None else body[: limit + 1]

    def read_range(self, key: str, start: int) -> tuple[bytes, int] | None:
        body = self._objects.bodies.get(key)
        return None if body is None else (body[start : start + PIECE_BYTES], len(body))

    def get_range(
        self, key: str, offset: int, length: int, take: Callable[[int, memoryview], None], version_id: str | None = None
    ) -> int:
        body = self._objects.bodies[key][offset : offset + length]
        if len(body) == length:
            take(0, memoryview(body))
        return len(body)

    def head(self, key: str) -> Stored | None:
        body = self._objects.bodies.get(key)
        return None if body is None else Stored(len(body), encode(crc64(body)))

    def put(self, key: str, body: bytes, counted: Callable[[int], None] | None = None) -> Stored:
        refused = False

        def apply() -> None:
            nonlocal refused
            refused = key in self._objects.bodies
            if not refused:
                self._objects.write(key, body)

        self._write(key, apply)
        if counted:
            counted(len(body))
        crc = encode(crc64(body))
        return self.same(key, len(body), crc) if refused else Stored(len(body), crc)

    def copy(
        self, source: str, key: str, size: int, crc: str, counted: Callable[[int], None] = lambda _: None
    ) -> Stored | None:
        if source not in self._objects.bodies:
            return None
        self._write(key, lambda: self._objects.write(key, self._objects.bodies[source]))
        try:
            stored = self.same(key, size, crc)
        except ConflictError:
            return None
        counted(size)
        return stored

    def uploads(self, prefix: str) -> dict[str, str]:
        return {key: upload for key, (upload, _) in self._objects.uploads.items() if key.startswith(prefix)}

    def begin(self, key: str) -> str:
        upload = f"upload-{next(self._objects.ids)}"
        self._write(key, lambda: self._objects.uploads.update({key: (upload, {})}))
        return upload

    def parts(self, key: str, upload: str) -> dict[int, Part]:
        known, parts = self._objects.uploads[key]
        return {number: part for number, (part, _) in parts.items()} if known == upload else {}

    def put_part(
        self, key: str, upload: str, number: int, body: bytes, crc: int, counted: Callable[[int], None] | None = None
    ) -> Part:
        part = Part(number, len(body), crc, f"etag-{number}")
        self._write(key, lambda: self._objects.uploads[key][1].update({number: (part, body)}))
        if counted:
            counted(len(body))
        return part

    def complete(self, key: str, upload: str, parts: list[Part]) -> Stored:
        whole, crc = b"".join(self._objects.uploads[key][1][part.number][1] for part in parts), 0
        for part in parts:
            crc = combined(crc, part.crc, part.size)
        if key not in self._objects.bodies:
            self._write(key, lambda: self._objects.write(key, whole))
        return self.same(key, len(whole), encode(crc), parts[0].size)

    def abort(self, key: str, upload: str) -> None:
        self._objects.uploads.pop(key, None)
