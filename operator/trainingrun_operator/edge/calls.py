"""How many requests this process has made, by whom it asked. Counted where they go out, read by the exporter.

One count per process, as the connections to the cloud are: who makes a request need not be handed anything to have it counted.
"""

from __future__ import annotations

import threading
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from botocore.hooks import BaseEventHooks


class Api(StrEnum):
    """Whom the operator asks."""

    KUBERNETES = "kubernetes"
    S3 = "s3"
    CLOUD = "cloud"
    AGENT = "agent"
    METRICS = "metrics"


_lock: Final = threading.Lock()
_made: Final = dict.fromkeys(Api, 0)


def count(api: Api) -> None:
    """A request goes out; one that is tried again goes out again. From any thread."""
    with _lock:
        _made[api] += 1


def made() -> dict[str, int]:
    """All requests so far."""
    with _lock:
        return {api.value: number for api, number in _made.items()}


def count_all(events: BaseEventHooks, api: Api) -> None:
    """Count every request of a botocore client from now on, its own retries included."""

    def sent(**_: Any) -> None:
        count(api)

    # Its answer would take the place of the request; None lets it go on.
    events.register("before-send", sent)
