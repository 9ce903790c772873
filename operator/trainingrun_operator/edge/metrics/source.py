"""What every metric source is asked, and what it is built with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    import aiohttp

    from trainingrun_operator.core.facts.pod import Pod
    from trainingrun_operator.core.facts.reading import Failure, Reading
    from trainingrun_operator.core.facts.run import Run


@dataclass(frozen=True)
class Tools:
    """What a source is built with; it is shared by the sources, and the operator closes it."""

    http: aiohttp.ClientSession
    """For what a pod serves: no cookies, no proxies, nothing inflated by itself."""


@dataclass(frozen=True)
class Target:
    """Whose metrics are read: a run, and its pod that trains, which runs somebody's code."""

    run: Run
    pod: Pod


@runtime_checkable
class MetricSource(Protocol):
    """One way of reading a training's numbers. Built once for all runs."""

    async def read(self, target: Target) -> Reading | Failure:
        """Return one reading, or why there is none; within 10 s, or it is given up. It is asked once every `spec.pollIntervalSeconds` of a run.

        What it raises counts as a `Failure`.
        """
        ...
