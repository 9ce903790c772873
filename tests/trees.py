"""Checkpoint folders as libraries leave them: small files that are whole by their format, one 10 s newer than the other."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zipfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

LONG_AGO_NS = 1_600_000_000 * 10**9
ZIPS = (".pt", ".pth", ".ckpt", ".keras", ".zip", ".bin", ".pth.tar", ".th", ".npz")


def zipped(size: int = 100) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr("archive/data.pkl", b"x" * size)
    return out.getvalue()


def safetensors(size: int = 100) -> bytes:
    header = json.dumps({"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    return len(header).to_bytes(8, "little") + header + bytes(size)


def hdf5(size: int = 400, *, version: int = 0, user_block: int = 0) -> bytes:
    """Return a file with a superblock, as h5py closes it."""
    head = b"\x89HDF\r\n\x1a\n"
    if version < 2:
        head += bytes([version, 0, 0, 0, 0, 8, 8, 0]) + struct.pack("<HHI", 4, 16, 0) + bytes(4 * version)
        head += struct.pack("<QQQQ", user_block, 2**64 - 1, user_block + size, 2**64 - 1)
    else:
        head += (
            bytes([version, 8, 8, 0]) + struct.pack("<QQQQ", user_block, 2**64 - 1, user_block + size, 48) + bytes(4)
        )
    return bytes(user_block) + head + b"d" * (size - len(head))


def npy(count: int = 10) -> bytes:
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': ({count},), }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(8 * count)


def metadata(*names: str) -> bytes:
    """Return the metadata of torch.distributed.checkpoint: a pickle with the names of the data files."""
    return pickle.dumps({"storage_data": [{"relative_path": name} for name in names]})


def content(name: str) -> bytes:
    """Return bytes that are whole by the format that a name promises."""
    lower = name.lower()
    if lower.endswith(ZIPS):
        return zipped()
    if lower.endswith((".h5", ".hdf5")):
        return hdf5()
    if lower.endswith(".safetensors"):
        return safetensors()
    if lower.endswith((".pkl", ".pdparams", ".pdopt")):
        return pickle.dumps({})
    if lower.endswith(".npy"):
        return npy()
    return b"{}" if lower.endswith(".json") else b"bytes"


def write(root: Path, *files: str | tuple[str, str | bytes]) -> None:
    """Write files in their order, each with the content of its format or the one given."""
    for number, file in enumerate(files):
        name, text = file if isinstance(file, tuple) else (file, content(file))
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        at = LONG_AGO_NS + number * 10**10
        os.utime(path, ns=(at, at))
