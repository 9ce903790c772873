"""Reads scalars out of TensorBoard event files, as far as they are whole.

The file is a TFRecord file: length, masked CRC-32C of the length, data, masked CRC-32C of the data (tensorflow/core/lib/io/record_writer.cc). The data
is a protobuf `Event` (tensorflow/core/util/event.proto) with a `Summary` (tensorflow/core/framework/summary.proto). Only the fields of scalars are
read, so that neither TensorFlow nor protobuf is needed in a pod.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from awscrt import checksums

if TYPE_CHECKING:
    from collections.abc import Iterator

RECORD_MAX: Final = 1 << 16
"""Bytes of a record that is decoded. Larger ones are images, graphs and texts; they are skipped."""
TAG_MAX: Final = 128
_HEAD: Final = struct.Struct("<QI")
_CRC: Final = struct.Struct("<I")
_MASK_DELTA: Final = 0xA282EAD8
_VARINT, _I64, _LEN, _I32 = 0, 1, 2, 5
_EVENT_STEP, _EVENT_SUMMARY, _SUMMARY_VALUE = 2, 5, 1
_VALUE_TAG, _VALUE_SIMPLE, _VALUE_TENSOR = 1, 2, 8
_TENSOR_TYPE, _TENSOR_DATA = 1, (4, 5, 6)
_CONTINUES: Final = 0x80
"""Of a byte of a varint: another one follows."""
_NUMBERS: Final = {1: struct.Struct("<f"), 2: struct.Struct("<d")}
"""By `DataType`."""


class Scalar(NamedTuple):
    """One value of a summary."""

    tag: str
    value: float
    step: int


class _BrokenError(ValueError):
    """The bytes are no such message."""


def records(data: bytes) -> Iterator[tuple[int, bytes | None]]:
    """Yield for each whole record its end in the data, and its bytes; None: it is too large, or damaged."""
    at = 0
    while len(data) - at >= _HEAD.size:
        length, crc = _HEAD.unpack_from(data, at)
        if crc != _masked(data[at : at + 8]):
            return  # it is being written; what follows cannot be found
        end = at + _HEAD.size + length + _CRC.size
        if end > len(data):
            if length <= RECORD_MAX:
                return
            yield end, None
            return
        body = data[at + _HEAD.size : end - _CRC.size]
        sound = length <= RECORD_MAX and _CRC.unpack_from(data, end - _CRC.size)[0] == _masked(body)
        yield end, body if sound else None
        at = end


def is_damaged(data: bytes) -> bool:
    """Whether there is no record at the beginning, as where a file was replaced by another one."""
    return len(data) >= _HEAD.size and _HEAD.unpack_from(data)[1] != _masked(data[:8])


def scalars(record: bytes) -> list[Scalar]:
    """Return the scalars of one record; none if it is no event."""
    step, found = 0, list[tuple[str, float]]()
    try:
        for number, value in _fields(record):
            if number == _EVENT_STEP and isinstance(value, int):
                step = value
            elif number == _EVENT_SUMMARY and isinstance(value, bytes):
                found += [
                    one for key, inner in _fields(value) if key == _SUMMARY_VALUE and (one := _value(inner)) is not None
                ]
    except _BrokenError:
        return []
    return [Scalar(tag, value, step) for tag, value in found]


def _value(message: int | bytes) -> tuple[str, float] | None:
    """Return tag and number of a `Summary.Value`; None: it has no single number."""
    if not isinstance(message, bytes):
        return None
    tag, number = "", None
    for field, value in _fields(message):
        if not isinstance(value, bytes):
            continue
        if field == _VALUE_TAG:
            tag = value.decode(errors="replace")
        elif field == _VALUE_SIMPLE and len(value) == _NUMBERS[1].size:
            number = float(_NUMBERS[1].unpack(value)[0])
        elif field == _VALUE_TENSOR:
            number = _tensor(value)
    return (tag, number) if number is not None and 0 < len(tag) <= TAG_MAX else None


def _tensor(message: bytes) -> float | None:
    """Return the number of a `TensorProto` that has one."""
    kind, data = 0, b""
    for field, value in _fields(message):
        if field == _TENSOR_TYPE and isinstance(value, int):
            kind = value
        elif field in _TENSOR_DATA and isinstance(value, bytes):
            data = value
    number = _NUMBERS.get(kind)
    return float(number.unpack(data)[0]) if number is not None and len(data) == number.size else None


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield number and value of each field of a protobuf message.

    Raises:
        _BrokenError: it is none.
    """
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        kind = key & 7
        if kind == _VARINT:
            value, at = _varint(message, at)
            yield key >> 3, value
            continue
        if kind == _LEN:
            size, at = _varint(message, at)
        elif kind in (_I64, _I32):
            size = 8 if kind == _I64 else 4
        else:
            raise _BrokenError
        if at + size > len(message):
            raise _BrokenError
        yield key >> 3, message[at : at + size]
        at += size


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            raise _BrokenError
        byte = message[at]
        at += 1
        value |= (byte & ~_CONTINUES) << shift
        if not byte & _CONTINUES:
            return value & (1 << 64) - 1, at
    raise _BrokenError


def _masked(data: bytes) -> int:
    crc: int = checksums.crc32c(data)
    return (((crc >> 15) | (crc << 17)) + _MASK_DELTA) & 0xFFFFFFFF
