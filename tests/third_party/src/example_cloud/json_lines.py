"""Metrics of a training that serves one JSON object a line: `{"step": 7, "train/loss": 0.25}`. The last line counts."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import aiohttp

from trainingrun_operator.core.facts.reading import Failure, Reading

if TYPE_CHECKING:
    from trainingrun_operator.edge.metrics.source import Target, Tools

CAP_BYTES = 1 << 16


class JSONLines:
    """Implements `MetricSource`. It reads the address that `spec.metrics.port` and `spec.metrics.path` name."""

    def __init__(self, tools: Tools) -> None:
        self._http = tools.http

    async def read(self, target: Target) -> Reading | Failure:
        """Read the last line."""
        metrics = target.run.spec.metrics
        url = f"http://{target.pod.host}:{metrics.port}{metrics.path}"
        try:
            async with self._http.get(url, timeout=aiohttp.ClientTimeout(total=3), allow_redirects=False) as answer:
                page = await answer.content.read(CAP_BYTES)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return Failure(
                "Unreachable", f"{url} does not answer ({type(error).__name__}): is spec.metrics.port right?"
            )
        try:
            line = json.loads(page.decode().splitlines()[-1])
            return Reading(step=line["step"], values={"loss": line["train/loss"]})
        except (IndexError, KeyError, TypeError, ValueError):
            return Failure("NoSuchMetric", f"The last line of {url} has no step and train/loss.")
