"""The Protocol of a workload kind. A new kind is a new adapter.

Modelled on Kueue's `GenericJob`: is it suspended, suspend it, resume it, is it finished, and its pods with rank and world size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trainingrun_operator.core.facts.run import Run
    from trainingrun_operator.core.facts.workload import Workload

Json = dict[str, Any]


class WorkloadAdapter(Protocol):
    """One kind of workload. Every coroutine raises `KubeError` if the API server refuses or does not answer."""

    def of(self, stored: Mapping[str, Any]) -> Workload:
        """Read a stored object of this kind."""
        ...

    def rank_of(self, pod: Mapping[str, Any]) -> int:
        """Return the rank of one of the workload's pods, from 0."""
        ...

    async def read(self, run: Run) -> Json | None:
        """Return the run's stored workload; None: there is none of its name."""
        ...

    async def create(self, manifest: Json, *, dry_run: bool = False) -> Json:
        """Create the workload. Returns it as stored."""
        ...

    async def suspend(self, run: Run, uid: str, generation: int) -> None:
        """Suspend it: its pods end within their grace period. Refused unless uid and generation match."""
        ...

    async def resume(self, run: Run, uid: str, generation: int) -> None:
        """Resume it. Refused unless uid and generation match."""
        ...

    async def end_replacements(self, run: Run, uid: str) -> None:
        """Stop it from replacing failed pods. Refused for another uid."""
        ...

    async def adopt(self, run: Run, uid: str) -> None:
        """Make the run its owner, so that it is garbage-collected with the run. Refused for another uid."""
        ...

    async def delete(self, run: Run, name: str, uid: str) -> None:
        """Delete it. Refused for another uid; already gone is success."""
        ...
