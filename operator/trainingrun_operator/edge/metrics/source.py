"""The Protocol of metric sources, and the tools to build them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    import aiohttp

    from trainingrun_operator.core.facts.pod import Pod
    from trainingrun_operator.core.facts.reading import Failure, Reading
    from trainingrun_operator.core.facts.run import Run
    from trainingrun_operator.edge.ports import PodLogs


@dataclass(frozen=True)
class Tools:
    """Tools to build a source. All sources share them; the operator closes them."""

    http: aiohttp.ClientSession
    """For requests to pods: no cookies, proxies or automatic decompression."""
    logs: PodLogs
    """Reads what a container prints."""


@dataclass(frozen=True)
class Target:
    """The target of a read: a run and its training pod, which runs user code."""

    run: Run
    pod: Pod
    page: bytes | None = None
    """The page that `Sources.page` names, as the pod's agent has read it for this poll; None: it has not, and the source asks the pod."""


@runtime_checkable
class MetricSource(Protocol):
    """A source of metrics. Built once for all runs."""

    async def read(self, target: Target) -> Reading | Failure:
        """Return one reading, or why there is none. Called every `spec.pollIntervalSeconds` of a run, with a timeout of 10 s.

        An exception counts as a `Failure`.
        """
        ...
