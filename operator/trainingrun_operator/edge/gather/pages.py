"""Reads of a pod's two pages: its agent's report and its training's metrics. The pod runs user code: its answers are not trusted."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import aiohttp
from pydantic import ValidationError

from trainingrun_operator.api import names
from trainingrun_operator.api.exchange import (
    PAGE_HEADER,
    PAGE_MAX_BYTES,
    REPORT_BYTES_HEADER,
    REPORT_MAX_BYTES,
    AgentReport,
)
from trainingrun_operator.core.facts.rank import RefusedReport
from trainingrun_operator.edge import calls
from trainingrun_operator.edge.calls import Api
from trainingrun_operator.edge.metrics.source import Target

if TYPE_CHECKING:
    from collections.abc import Mapping

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
        report, _ = await self._ask(pod, "")
        return report

    async def poll(self, run: Run, pod: Pod) -> tuple[AgentReport | RefusedReport | None, Reading | Failure]:
        """Return the report, and one reading of the training's metrics: of the same answer, if the agent has read the page too."""
        wanted = self._sources.page(run)
        if not wanted:
            return await asyncio.gather(self.report(pod), self._sources.read(Target(run, pod)))
        report, page = await self._ask(pod, wanted)
        return report, await self._sources.read(Target(run, pod, page))

    async def _ask(self, pod: Pod, wanted: str) -> tuple[AgentReport | RefusedReport | None, bytes | None]:
        """Return the report as `report` does, and the metrics page that is wanted with it; None: the agent has not read it."""
        url = f"http://{pod.host}:{self._agent_port}/progress"
        headers = {PAGE_HEADER: wanted} if wanted else None
        body, length, whole = bytearray(), None, False
        calls.count(Api.AGENT)
        try:
            async with self._session.get(
                url, headers=headers, timeout=self._agent_timeout, allow_redirects=False
            ) as answer:
                if answer.status != HTTPStatus.OK:
                    return None, None
                length = _report_bytes(answer.headers) if wanted else None
                limit = REPORT_MAX_BYTES if length is None else length + PAGE_MAX_BYTES
                async for chunk in answer.content.iter_any():
                    body += chunk
                    if len(body) > limit:
                        break
                whole = (length or 0) <= len(body) <= limit
                if length is None and not whole:
                    return RefusedReport(pod.name, _too_large(answer.content_length)), None
        except (aiohttp.ClientError, TimeoutError, OSError):
            # A page that does not come to its end takes no report with it.
            if length is None or len(body) < length:
                return None, None
        report = _report(pod, body[:length])
        # What answers for another pod has read another pod's page.
        mine = length is not None and whole and isinstance(report, AgentReport)
        return report, bytes(body[length:]) if mine else None


def _report_bytes(headers: Mapping[str, str]) -> int | None:
    """Return how much of an answer is the report; None: all of it, or what no agent says."""
    said = headers.get(REPORT_BYTES_HEADER, "")
    # Digits are looked at before they are a number: a long one takes long.
    if not (said.isascii() and said.isdigit() and len(said) <= len(str(REPORT_MAX_BYTES))):
        return None
    return int(said) if int(said) <= REPORT_MAX_BYTES else None


def _report(pod: Pod, body: bytearray) -> AgentReport | RefusedReport:
    try:
        report = AgentReport.model_validate_json(body)
    except ValidationError as error:
        return RefusedReport(pod.name, _invalid(error))
    if report.pod_uid != pod.uid:
        return RefusedReport(pod.name, f"its podUid is not {pod.uid}, the pod's own")
    return report


def _too_large(announced: int | None) -> str:
    size = f"{announced} bytes, more than" if announced is not None else "more than"
    return f"it has {size} the {REPORT_MAX_BYTES} bytes of a report"


def _invalid(error: ValidationError) -> str:
    """Name the first field that is invalid. The pod's words are not quoted."""
    first = error.errors(include_input=False, include_url=False, include_context=False)[0]
    field = ".".join(str(part) for part in first["loc"])
    return f"{f'its field {field}' if field else 'its JSON'} is invalid ({first['type']})"
