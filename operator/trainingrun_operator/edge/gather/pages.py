"""Reads of a pod's two pages: its agent's report and its training's metrics. The pod runs user code: its answers are not trusted."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import aiohttp
from pydantic import ValidationError

from trainingrun_operator.api import names
from trainingrun_operator.api.exchange import REPORT_MAX_BYTES, AgentReport
from trainingrun_operator.core.facts.rank import RefusedReport
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

    async def report(self, pod: Pod) -> AgentReport | RefusedReport | None:
        """Return the report of the pod's agent, or why what it answers is none; None: no answer."""
        url = f"http://{pod.host}:{self._agent_port}/progress"
        calls.count(Api.AGENT)
        try:
            async with self._session.get(url, timeout=self._agent_timeout, allow_redirects=False) as answer:
                if answer.status != HTTPStatus.OK:
                    return None
                body = bytearray()
                async for chunk in answer.content.iter_any():
                    body += chunk
                    if len(body) > REPORT_MAX_BYTES:
                        return RefusedReport(pod.name, _too_large(answer.content_length))
                report = AgentReport.model_validate_json(body)
        except ValidationError as error:
            return RefusedReport(pod.name, _invalid(error))
        except (aiohttp.ClientError, TimeoutError, OSError):
            return None
        if report.pod_uid != pod.uid:
            return RefusedReport(pod.name, f"its podUid is not {pod.uid}, the pod's own")
        return report

    async def metrics(self, run: Run, pod: Pod) -> Reading | Failure:
        """Return one reading of the training's metrics."""
        return await self._sources.read(Target(run, pod))


def _too_large(announced: int | None) -> str:
    size = f"{announced} bytes, more than" if announced is not None else "more than"
    return f"it has {size} the {REPORT_MAX_BYTES} bytes of a report"


def _invalid(error: ValidationError) -> str:
    """Name the first field that is invalid. The pod's words are not quoted."""
    first = error.errors(include_input=False, include_url=False, include_context=False)[0]
    field = ".".join(str(part) for part in first["loc"])
    return f"{f'its field {field}' if field else 'its JSON'} is invalid ({first['type']})"
