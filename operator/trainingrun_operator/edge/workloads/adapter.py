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
        """Return which rank a pod of the workload is, from 0."""
        ...

    async def read(self, run: Run) -> Json | None:
        """Return the run's workload as the API server has it; None: there is none of its name."""
        ...

    async def create(self, manifest: Json, *, dry_run: bool = False) -> Json:
        """Create the workload. Returns it as stored."""
        ...

    async def suspend(self, run: Run, uid: str, generation: int) -> None:
        """End its pods with their grace and keep it. Refused unless its uid and the generation of its spec are these."""
        ...

    async def resume(self, run: Run, uid: str, generation: int) -> None:
        """Let it start its pods again. Refused unless its uid and the generation of its spec are these."""
        ...

    async def end_replacements(self, run: Run, uid: str) -> None:
        """Let it start no pod for one that has failed. Refused for another uid."""
        ...

    async def adopt(self, run: Run, uid: str) -> None:
        """Let the garbage collector delete it with the run. Refused for another uid."""
        ...

    async def delete(self, run: Run, name: str, uid: str) -> None:
        """Delete it. Refused for another uid; already gone is success."""
        ...
