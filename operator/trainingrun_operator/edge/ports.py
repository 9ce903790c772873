"""Protocols of the constructor arguments of `Observer`, `Executor` and `Reconciler`.

`edge.kube.Kube`, `edge.gather.store.Store` and `edge.gather.pages.PodPages` implement them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from trainingrun_operator.api.exchange import AgentReport
    from trainingrun_operator.checkpoints.documents import Commit
    from trainingrun_operator.checkpoints.keys import Layout
    from trainingrun_operator.checkpoints.s3 import Access, Listed
    from trainingrun_operator.core.facts.bucket import Mismatch, Unreachable, Verified
    from trainingrun_operator.core.facts.gpus import Gpus
    from trainingrun_operator.core.facts.nodes import Pool
    from trainingrun_operator.core.facts.pod import Pod
    from trainingrun_operator.core.facts.rank import RefusedReport
    from trainingrun_operator.core.facts.reading import Failure, Reading
    from trainingrun_operator.core.facts.run import Run
    from trainingrun_operator.core.observed import Observed
    from trainingrun_operator.edge.nodes.provider import Provider

    Json = dict[str, Any]
    Providers = Callable[[Pool], Provider]
    """Returns a pool's provider; raises `ProviderError` if there is none."""


class Jobs(Protocol):
    """Calls about Jobs. Every call raises `KubeError` if it fails."""

    async def job(self, namespace: str, name: str) -> Json | None: ...
    async def create_job(self, manifest: Json, *, dry_run: bool = False) -> Json: ...
    async def patch_job(self, namespace: str, name: str, uid: str, patch: Json) -> Json: ...
    async def suspend_job(self, namespace: str, name: str, uid: str, generation: int, *, suspend: bool) -> Json: ...
    async def delete_job(self, namespace: str, name: str, uid: str) -> None: ...


class Runs(Protocol):
    """List of the runs. Raises `KubeError` if it fails."""

    def runs(self, selector: str = "", namespace: str = "") -> AsyncIterator[Json]: ...


class LogPiece(NamedTuple):
    """The newest part of a log."""

    text: bytes
    cut: bool
    """Whether there was more before it: the first line may not be whole."""
    behind: bool
    """Whether there was more after it, which was not read."""


class PodLogs(Protocol):
    """Reads of what a container prints. Raises `KubeError` if it fails."""

    async def log_new(
        self,
        namespace: str,
        name: str,
        container: str,
        *,
        since_seconds: int | None,
        lines: int,
        most_bytes: int,
        stamped: bool = False,
    ) -> LogPiece: ...


class Reads(Jobs, Runs, PodLogs, Protocol):
    """Reads from the API server. Every call raises `KubeError` if it fails; None: there is no such object."""

    async def pods_of(self, namespace: str, run_uid: str) -> list[Json]: ...
    async def claim(self, namespace: str, name: str) -> Json | None: ...
    async def volume(self, name: str) -> Json | None: ...
    async def disruption_budget(self, namespace: str, name: str) -> Json | None: ...
    async def secret(self, namespace: str, name: str) -> dict[str, bytes] | None: ...
    async def log_tail(
        self, namespace: str, name: str, container: str, *, lines: int, most_bytes: int
    ) -> str | None: ...
    async def namespace_labels(self, name: str) -> dict[str, str]: ...
    async def namespace_ends(self, name: str) -> bool: ...
    async def node(self, name: str) -> Json | None: ...
    async def pods_on(self, node: str) -> list[Json]: ...
    async def pending_pods(self) -> list[Json]: ...
    async def pools(self) -> list[Json]: ...


class Writes(Jobs, Protocol):
    """Writes of the effects. Every call raises `KubeError` if it fails."""

    async def run(self, namespace: str, name: str) -> Json | None: ...
    async def patch_run(self, namespace: str, name: str, operations: Sequence[Json]) -> Json: ...
    async def patch_run_status(self, namespace: str, name: str, operations: Sequence[Json]) -> Json: ...
    async def delete_run(self, namespace: str, name: str, uid: str, resource_version: str) -> None: ...
    async def annotate_pod(self, namespace: str, name: str, uid: str, key: str, value: str) -> None: ...
    async def delete_pod(self, namespace: str, name: str, uid: str, grace_seconds: int | None = None) -> None: ...
    async def create_disruption_budget(self, manifest: Json) -> Json: ...
    async def delete_disruption_budget(self, namespace: str, name: str, uid: str) -> None: ...
    async def node(self, name: str) -> Json | None: ...
    async def set_taints(self, name: str, uid: str, resource_version: str, taints: Sequence[Json]) -> None: ...
    async def delete_node(self, name: str, uid: str) -> None: ...
    async def record_event(self, involved: Json, reason: str, message: str, *, warning: bool, wall: str) -> None: ...


class Statuses(Protocol):
    """Write of a run's derived status, and read of the run after a conflict."""

    async def run(self, namespace: str, name: str) -> Json | None: ...
    async def apply_run_status(
        self, namespace: str, name: str, uid: str, resource_version: str, status: Json
    ) -> Json: ...


class BucketStore(Protocol):
    """The runs' buckets; see `edge.gather.store.Store`."""

    async def probe(self, access: Access, layout: Layout) -> Unreachable | None: ...
    async def ages(self, access: Access, layout: Layout, prefix: str) -> Listed | Unreachable: ...
    async def verify(self, access: Access, layout: Layout, commit_key: str) -> Verified | Mismatch | Unreachable: ...
    async def find(
        self,
        access: Access,
        layout: Layout,
        wanted: Callable[[Commit], bool],
        *,
        depth: int = 8,
        max_age_seconds: float = 300,
        fall_back: bool = False,
    ) -> Verified | Mismatch | Unreachable | None: ...


class Pages(Protocol):
    """Pages that a pod serves. The pod runs user code, so neither call raises."""

    async def report(self, pod: Pod) -> AgentReport | RefusedReport | None:
        """Return the report of the pod's agent, or why what it answers is none; None: no answer."""
        ...

    async def poll(self, run: Run, pod: Pod) -> tuple[AgentReport | RefusedReport | None, Reading | Failure]:
        """Return the report, and one reading of the training's metrics."""
        ...


class GpuReader(Protocol):
    """What the DCGM exporters show."""

    async def of(self, namespace: str, pod: str) -> Gpus | Failure:
        """Return the GPUs of a pod, or why they are not known; never raises."""
        ...


class Beside(Protocol):
    """Work in the background that takes what each look has seen, without delaying it."""

    def note(self, seen: Observed) -> None: ...
    def forget(self, uid: str) -> None: ...
    def forget_all(self) -> None: ...
