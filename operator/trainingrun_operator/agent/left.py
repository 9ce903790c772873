"""What was in the volume before the training started: the restore notes it in the control folder, the agent reads it.

It is a modification time, and so by the clock of the volume's server: what the training writes is newer by the same clock, whatever the clocks of
the nodes are. Without the note, such as in a pod that no restore has prepared, nothing counts as left.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_NAME = "left.json"
_MAX_BYTES = 4096
_FUTURE_NS = 86_400 * 10**9
"""A time that is further in the future than this is no time of a write."""


def note(control: Path, pod_uid: str, mtimes_ns: Iterable[int]) -> None:
    """Write the newest of some modification times, in nanoseconds. A folder that is not writable keeps no note."""
    limit = time.time_ns() + _FUTURE_NS
    newest = max((mtime for mtime in mtimes_ns if mtime <= limit), default=0)
    try:
        (control / _NAME).write_text(json.dumps({"podUid": pod_uid, "leftNs": newest}))
    except OSError:
        return


def read(control: Path, pod_uid: str) -> int | None:
    """Return the note of a pod; None: there is none. The training can write the file: any content is harmless."""
    try:
        with (control / _NAME).open("rb") as file:
            noted = json.loads(file.read(_MAX_BYTES))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(noted, dict) or noted.get("podUid") != pod_uid:
        return None
    found = noted.get("leftNs")
    return found if isinstance(found, int) and not isinstance(found, bool) and 0 <= found < 2**63 else None
