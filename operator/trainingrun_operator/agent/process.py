"""Process setup of agent and restore: logging, and protection of memory and environment."""

from __future__ import annotations

import ctypes
import io
import logging
import sys

PR_SET_DUMPABLE = 4
M_MMAP_THRESHOLD, M_ARENA_MAX = -3, -8
LARGE_BYTES = 1 << 20
"""glibc returns buffers of this size or more to the system at once; by default it raises the threshold and keeps them."""


def set_up() -> None:
    """Log to stdout. Prevent other processes of this user from reading this one's memory and environment."""
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
