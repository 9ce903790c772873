"""Check by its format whether one file is whole. Bytes are read, never unpickled."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from enum import Enum
from typing import NamedTuple

Read = Callable[[int, int], bytes]
"""Takes ``(offset, length)`` in bytes; returns at most ``length`` bytes of the file."""

ZIP_SUFFIXES = (".ckpt", ".pt", ".pth", ".npz", ".zip", ".keras", ".bin")
JSON_MAX_BYTES = 16 << 20
SAFETENSORS_HEADER_MAX = 100_000_000
_EOCD = struct.Struct("<4s4H2LH")
_EOCD64_LOCATOR = struct.Struct("<4sLQL")
_EOCD64 = struct.Struct("<4sQ2H2L4Q")
_COMMENT_MAX = 65_535


class State(Enum):
    """What a file's format says about the file."""

    WHOLE = "whole"
    BROKEN = "broken"
    PLAIN = "plain"
    """The format cannot tell; only the time without a change can."""


class Probe(NamedTuple):
    """The verdict on one file."""

    state: State
    why: str = ""
    needs: frozenset[str] = frozenset()
    """Names of the files in the same folder that this file refers to: the shards of an index."""


PLAIN = Probe(State.PLAIN)


def _broken(why: str) -> Probe:
    return Probe(State.BROKEN, why)


def safetensors(size: int, read: Read) -> Probe:
    """Check a safetensors file: 8 bytes of length, a JSON header, and data that ends with the last tensor."""
    prefix = read(0, 8)
    if len(prefix) < 8:  # noqa: PLR2004
        return _broken("no safetensors header")
    length = int.from_bytes(prefix, "little")
    if length > SAFETENSORS_HEADER_MAX or 8 + length > size:
        return _broken(f"the header of {length} bytes does not fit in {size} bytes")
    try:
        header = json.loads(read(8, length))
        ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
        expected = 8 + length + max(ends, default=0)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError):
        return _broken("the safetensors header does not parse")
    if expected != size:
        return _broken(f"{size} of {expected} bytes")
    return Probe(State.WHOLE, f"safetensors header and size agree ({size} bytes)")


def _central_directory(size: int, read: Read) -> tuple[int, int] | None:
    """Return offset and end of a zip's central directory from its last record; None without a valid one."""
    start = max(0, size - _EOCD.size - _COMMENT_MAX)
    tail = read(start, size - start)
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or len(tail) - at < _EOCD.size:
        return None
    *_, length, offset, comment = _EOCD.unpack_from(tail, at)
    end = start + at
    if end + _EOCD.size + comment != size:
        return None
    locator = read(end - _EOCD64_LOCATOR.size, _EOCD64_LOCATOR.size) if end >= _EOCD64_LOCATOR.size else b""
    if locator[:4] == b"PK\x06\x07":
        _, _, end, _ = _EOCD64_LOCATOR.unpack(locator)
        record = read(end, _EOCD64.size)
        if len(record) < _EOCD64.size or record[:4] != b"PK\x06\x06":
            return None
        *_, length, offset = _EOCD64.unpack(record)
    return (offset, end) if offset + length == end else None


def zipped(size: int, read: Read) -> Probe:
    """Check a zip: writers put its central directory last. A file without a zip's first bytes is plain."""
    first = read(0, 4)
    if first not in {b"PK\x03\x04", b"PK\x05\x06"}:
        return PLAIN if first else _broken("empty")
    found = _central_directory(size, read)
    if found is None:
        return _broken("the zip has no central directory at its end")
    offset, end = found
    if offset != end and read(offset, 4) != b"PK\x01\x02":
        return _broken("the zip's central directory is not at the offset that its end record names")
    return Probe(State.WHOLE, f"zip central directory found ({size} bytes)")


def json_text(name: str, size: int, read: Read) -> Probe:
    """Check that a JSON file parses. JSON Lines are plain: writers append to them until the training ends."""
    if size > JSON_MAX_BYTES:
        return PLAIN
    text = read(0, size)
    try:
        value = json.loads(text)
    except ValueError:
        return PLAIN if _is_json_lines(text) else _broken("does not parse as JSON")
    needs: frozenset[str] = frozenset()
    if name.endswith(".index.json") and isinstance(value, dict) and isinstance(value.get("weight_map"), dict):
        needs = frozenset(str(shard) for shard in value["weight_map"].values())
    return Probe(State.WHOLE, "parses as JSON", needs)


def _is_json_lines(text: bytes) -> bool:
    first, newline, _ = text.partition(b"\n")
    try:
        json.loads(first)
    except ValueError:
        return False
    return bool(newline)


def probe(path: str, size: int, read: Read) -> Probe:
    """Check one file by the suffix of its name and by its bytes."""
    name = path.rsplit("/", 1)[-1].lower()
    if name.endswith(".safetensors"):
        return safetensors(size, read)
    if name.endswith(ZIP_SUFFIXES):
        return zipped(size, read)
    if name.endswith(".json"):
        return json_text(name, size, read)
    return PLAIN
