"""What kopf keeps of an object between two events: nothing. The operator has only event handlers and a cache of its own.

By default kopf copies each object of each event several times to compare it with its last-handled state, which takes 4 ms of CPU for a pod, and
keeps a record of each object for its daemons, timers, memos and indexes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import kopf
from kopf._core.reactor.inventory import ResourceMemories, ResourceMemory

if TYPE_CHECKING:
    from collections.abc import Iterable


class NoDiffBase(kopf.DiffBaseStorage):
    """The last-handled state of each object: none."""

    def build(self, *, body: kopf.Body, extra_fields: Iterable[Any] | None = None) -> kopf.BodyEssence:  # noqa: ARG002 - kopf's own signature
        """Return what is compared: nothing."""
        return kopf.BodyEssence()

    def fetch(self, *, body: kopf.Body) -> kopf.BodyEssence | None:  # noqa: ARG002
        """Return the stored state: there is none."""
        return None

    def store(self, *, body: kopf.Body, patch: kopf.Patch, essence: kopf.BodyEssence) -> None:
        """Write nothing into the object."""


class NoProgress(kopf.ProgressStorage):
    """The progress of handlers that change an object: there are none."""

    def fetch(self, *, key: Any, body: kopf.Body) -> None:
        """Return the progress of a handler: none."""

    def store(self, *, key: Any, record: Any, body: kopf.Body, patch: kopf.Patch) -> None:
        """Write nothing into the object."""

    def purge(self, *, key: Any, body: kopf.Body, patch: kopf.Patch) -> None:
        """Remove nothing from the object."""

    def touch(self, *, body: kopf.Body, patch: kopf.Patch, value: str | None) -> None:
        """Write nothing into the object."""

    def clear(self, *, essence: kopf.BodyEssence) -> kopf.BodyEssence:
        """Return the state as it is: it has no progress in it."""
        return essence


class NoMemories(ResourceMemories):
    """Records of objects, each for one event."""

    async def recall(self, *_: Any, noticed_by_listing: bool = False, **__: Any) -> ResourceMemory:
        """Return a new record."""
        return ResourceMemory(noticed_by_listing=noticed_by_listing)
