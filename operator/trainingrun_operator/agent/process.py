"""What agent and restore do first: log sentences, and keep their memory to themselves."""

from __future__ import annotations

import ctypes
import io
import logging
import sys

PR_SET_DUMPABLE = 4
M_MMAP_THRESHOLD, M_ARENA_MAX = -3, -8
LARGE_BYTES = 1 << 20
"""Buffers from this size on are given back to the system at once; glibc would learn to keep them, idle or not."""


def set_up() -> None:
    """Log to stdout, a line a fact; keep other processes of this user from reading memory and environment."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # file names need not be UTF-8
    form = "%(asctime)s %(levelname)s %(message)s"
    logging.basicConfig(stream=sys.stdout, level=logging.INFO, format=form, force=True)
    for library in ("boto3", "botocore", "urllib3", "s3transfer"):
        logging.getLogger(library).setLevel(logging.ERROR)
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    if hasattr(libc, "mallopt"):  # glibc
        libc.mallopt(M_MMAP_THRESHOLD, LARGE_BYTES)
        libc.mallopt(M_ARENA_MAX, 2)
