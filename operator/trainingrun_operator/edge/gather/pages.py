"""Reads of a pod's two pages: its agent's report and its training's metrics. The pod runs user code: its answers are not trusted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import aiohttp
from pydantic import ValidationError

from trainingrun_operator.api import names
from trainingrun_operator.api.exchange import REPORT_MAX_BYTES, AgentReport
from trainingrun_operator.edge import calls
from trainingrun_operator.edge.calls import Api
from trainingrun_operator.edge.metrics.source import Target

if TYPE_CHECKING:
    from trainingrun_operator.core.facts.pod import Pod
    from trainingrun_operator.core.facts.reading import Failure, Reading
    from trainingrun_operator.core.facts.run import Run
    from trainingrun_operator.edge.metrics.registry import Sources

AGENT_TIMEOUT_SECONDS: Final = 3.0


class PodPages:
    """Reads reports over HTTP from the pod, and metrics from the run's source."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        sources: Sources,
        *,
        agent_port: int = names.AGENT_PORT,
        agent_timeout_seconds: float = AGENT_TIMEOUT_SECONDS,
    ) -> None:
        self._session, self._sources, self._agent_port = session, sources, agent_port
        self._agent_timeout = aiohttp.ClientTimeout(total=agent_timeout_seconds)

    async def report(self, pod: Pod) -> AgentReport | None:
        """Return the report of the pod's agent; None: no answer, or one for another pod."""
        url = f"http://{pod.host}:{self._agent_port}/progress"
        calls.count(Api.AGENT)
        try:
            async with self._session.get(url, timeout=self._agent_timeout, allow_redirects=False) as answer:
                body = bytearray()
                async for chunk in answer.content.iter_any():
                    body += chunk
                    if len(body) > REPORT_MAX_BYTES:
                        return None
                report = AgentReport.model_validate_json(body) if answer.status == 200 else None  # noqa: PLR2004 - HTTP's OK
        except (aiohttp.ClientError, TimeoutError, OSError, ValidationError):
            return None
        return report if report is not None and report.pod_uid == pod.uid else None

    async def metrics(self, run: Run, pod: Pod) -> Reading | Failure:
        """Return one reading of the training's metrics."""
        return await self._sources.read(Target(run, pod))
