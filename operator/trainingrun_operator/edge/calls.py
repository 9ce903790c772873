"""Number of requests of this process by API, for the exporter.

The counts are global to the process, so that callers need no counter object.
"""

from __future__ import annotations

import threading
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from botocore.hooks import BaseEventHooks


class Api(StrEnum):
    """The APIs that the operator calls."""

    KUBERNETES = "kubernetes"
    S3 = "s3"
    CLOUD = "cloud"
    AGENT = "agent"
    METRICS = "metrics"


_lock: Final = threading.Lock()
_made: Final = dict.fromkeys(Api, 0)


def count(api: Api) -> None:
    """Count one request, retries included. Thread-safe."""
    with _lock:
        _made[api] += 1


def made() -> dict[str, int]:
    """Return the number of requests so far, by API."""
    with _lock:
        return {api.value: number for api, number in _made.items()}


def count_all(events: BaseEventHooks, api: Api) -> None:
    """Count every request of a botocore client, retries included."""

    def sent(**_: Any) -> None:
        count(api)

    # None: a returned response would replace the request.
    events.register("before-send", sent)
