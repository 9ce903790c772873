"""Check by its format whether one file is whole. Bytes are read, never unpickled."""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Callable
from enum import Enum
from typing import NamedTuple

Read = Callable[[int, int], bytes]
"""Takes ``(offset, length)`` in bytes; returns at most ``length`` bytes of the file."""

ZIP_SUFFIXES = (
    ".ckpt", ".pt", ".pth", ".npz", ".zip", ".keras", ".bin", ".pkl", ".pickle", ".joblib", ".th", ".tar", ".pdparams", ".pdopt", ".pdema", ".chkpt",
)  # fmt: skip
"""Suffixes of zips and of pickles; the first bytes say which."""
HDF5_SUFFIXES = (".h5", ".hdf5", ".he5")
JSON_MAX_BYTES = 16 << 20
SAFETENSORS_HEADER_MAX = 100_000_000
_EOCD = struct.Struct("<4s4H2LH")
_EOCD64_LOCATOR = struct.Struct("<4sLQL")
_EOCD64 = struct.Struct("<4sQ2H2L4Q")
_COMMENT_MAX = 65_535
_HDF5 = b"\x89HDF\r\n\x1a\n"
_USER_BLOCKS = (0, *(512 << power for power in range(8)))
"""Where a superblock may lie: behind a user block of a power of two bytes."""
_OLD_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_NPY_HEADER_MAX = 1 << 16
_NPY_TYPE = re.compile(rb"'descr': '[<>|=]?([biufcSUVmM?])(\d{1,6})")
_NPY_SHAPE = re.compile(rb"'shape': \(([\d, ]*)\)")
_DISTCP = re.compile(rb"__\d{1,6}_\d{1,6}\.distcp")


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
    if length > JSON_MAX_BYTES:
        return PLAIN
    try:
        header = json.loads(read(8, length))
        ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
        expected = 8 + length + max(ends, default=0)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        return _broken("the safetensors header does not parse")
    if expected != size:
        return _broken(f"{size} of {expected} bytes")
    return Probe(State.WHOLE, f"safetensors header and size agree ({size} bytes)")


def hdf5(size: int, read: Read) -> Probe:
    """Check an HDF5 file: its superblock says where it ends. The library writes it when the file is closed.

    HDF5 File Format Specification, II.A, "Disk Format: Level 0A - Format Signature and Superblock".
    """
    at = next((at for at in _USER_BLOCKS if at < max(size, 1) and read(at, len(_HDF5)) == _HDF5), None)
    if at is None:
        return PLAIN if read(0, len(_HDF5)).strip(b"\0") else _broken("the HDF5 superblock is not written yet")
    head = read(at, 96)
    version = head[8] if len(head) > 8 else 255  # noqa: PLR2004
    offsets_at, width_at = {0: (24, 13), 1: (28, 13), 2: (12, 9), 3: (12, 9)}.get(version, (0, 0))
    if not offsets_at:
        return PLAIN
    width = head[width_at] if len(head) > width_at else 0
    field = head[offsets_at + 2 * width : offsets_at + 3 * width]
    if width not in (2, 4, 8) or len(field) < width:
        return _broken("the HDF5 superblock is cut")
    end = int.from_bytes(field, "little")
    if size not in (end, at + end):
        return _broken(f"the HDF5 superblock ends the file at {end} bytes, it has {size}")
    return Probe(State.WHOLE, f"HDF5 superblock and size agree ({size} bytes)")


def numpy(size: int, read: Read) -> Probe:
    """Check a `.npy` file: the header has shape and type. NEP 1."""
    head = read(0, _NPY_HEADER_MAX)
    if not head.startswith(b"\x93NUMPY"):
        return PLAIN if head.strip(b"\0") else _broken("empty")
    width = 2 if head[6:7] == b"\x01" else 4
    length = int.from_bytes(head[8 : 8 + width], "little")
    text = head[8 + width : 8 + width + length]
    kind, shape = _NPY_TYPE.search(text), _NPY_SHAPE.search(text)
    if len(text) < length and size < 8 + width + length:
        return _broken("the numpy header is cut")
    if kind is None or shape is None:
        return PLAIN
    item = int(kind[2]) * (4 if kind[1] == b"U" else 1)
    expected = 8 + width + length + item * math.prod(int(one) for one in re.findall(rb"\d{1,18}", shape[1]))
    if size < expected:
        return _broken(f"{size} of {expected} bytes")
    return Probe(State.WHOLE, f"numpy header and size agree ({size} bytes)")


def distributed(size: int, read: Read) -> Probe:
    """Read from the metadata of torch.distributed.checkpoint which data files it refers to. It is a pickle, whose texts are plain bytes."""
    if not size:
        return _broken("empty")
    if size > JSON_MAX_BYTES:
        return PLAIN
    names = {match[0].decode() for match in _DISTCP.finditer(read(0, size))}
    return Probe(State.PLAIN, needs=frozenset(names))


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
    """Check a zip: writers put its central directory last. Other bytes are a pickle, or plain."""
    first = read(0, 4)
    if first not in {b"PK\x03\x04", b"PK\x05\x06"}:
        return pickled(size, read) if first else _broken("empty")
    found = _central_directory(size, read)
    if found is None:
        return _broken("the zip has no central directory at its end")
    offset, end = found
    if offset != end and read(offset, 4) != b"PK\x01\x02":
        return _broken("the zip's central directory is not at the offset that its end record names")
    return Probe(State.WHOLE, f"zip central directory found ({size} bytes)")


def pickled(size: int, read: Read) -> Probe:
    """Check a pickle: its last byte is the opcode STOP. `torch.save` before PyTorch 1.6 has raw bytes behind it. It is never loaded."""
    head = read(0, len(_OLD_TORCH))
    if not head.strip(b"\0"):
        return _broken("only zeros")
    if (
        head[:1] == b"\x80"
        and head[1:2] in (b"\2", b"\3", b"\4", b"\5")
        and head != _OLD_TORCH
        and read(size - 1, 1) != b"."
    ):
        return _broken("the pickle has no end")
    return PLAIN


def json_text(name: str, size: int, read: Read) -> Probe:
    """Check that a JSON file parses. JSON Lines are plain: writers append to them until the training ends."""
    if size > JSON_MAX_BYTES:
        return PLAIN
    text = read(0, size)
    try:
        value = json.loads(text)
    except RecursionError:
        return PLAIN
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
    except (ValueError, RecursionError):
        return False
    return bool(newline)


def probe(path: str, size: int, read: Read) -> Probe:
    """Check one file by the suffix of its name and by its bytes."""
    name = path.rsplit("/", 1)[-1].lower()
    if name.endswith(".safetensors"):
        return safetensors(size, read)
    if name.endswith(ZIP_SUFFIXES):
        return zipped(size, read)
    if name.endswith(HDF5_SUFFIXES):
        return hdf5(size, read)
    if name.endswith(".json"):
        return json_text(name, size, read)
    if name.endswith(".npy"):
        return numpy(size, read)
    if name == ".metadata":
        return distributed(size, read)
    return PLAIN
