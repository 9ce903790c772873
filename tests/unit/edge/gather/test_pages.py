"""The report of an agent: what a pod may answer, and what of it is taken."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace
from typing import Any, cast

import aiohttp
import pytest
from aiohttp import web
from builders import POD_UID
from cpu import quiet_seconds

from trainingrun_operator.api.exchange import (
    LAGGING_MAX,
    MARKERS_MAX,
    PATH_MAX,
    REPORT_MAX_BYTES,
    TROUBLE_MAX,
    UPLOADS_MAX,
    AgentError,
    AgentReport,
    CheckpointSeen,
    CommitSeen,
    ManifestSeen,
    MarkerSeen,
    Upload,
)
from trainingrun_operator.core.facts.rank import RefusedReport
from trainingrun_operator.edge.gather.pages import PodPages

BIG = 10**30


async def report_of(body, status=200):
    async def progress(_):
        return web.Response(body=body, status=status)

    app = web.Application()
    app.router.add_get("/progress", progress)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    pod: Any = SimpleNamespace(host="127.0.0.1", name="bert-0", uid=POD_UID)
    try:
        async with aiohttp.ClientSession() as session:
            return await PodPages(session, cast("Any", None), agent_port=runner.addresses[0][1]).report(pod)
    finally:
        await runner.cleanup()


def longest():
    """The longest report that an agent writes: each text as long as it may be, of characters that take the most bytes."""
    path, key = "\\udcff" * (PATH_MAX // 6), "k" * 1024
    seen = CheckpointSeen(dir=path, step=10**255, complete=True, age_seconds=1e300, bytes=BIG)
    answer: dict[str, Any] = {"id": "stop-" + "0" * 36, "attempt": BIG}
    place: dict[str, Any] = {"key": key, "incarnation": BIG, "generation": BIG, "step": 10**255}
    return AgentReport(
        pod_uid=POD_UID,
        newest=seen,
        unfinished=seen,
        manifest=ManifestSeen(**place, **answer, dir=path, epoch=10**255),
        commit=CommitSeen(**place, **answer),
        lagging=tuple(range(LAGGING_MAX)),
        uploads=(Upload(incarnation=BIG, generation=BIG, bytes=BIG, seconds=1e300),) * UPLOADS_MAX,
        markers=(MarkerSeen(name="\U0001f600" * 255, age_seconds=1e300),) * MARKERS_MAX,
        working_on="stop-" + "0" * 36,
        signal_trouble="\n" * TROUBLE_MAX,
        error=AgentError(code="C" * 64, message="\U0001f600" * TROUBLE_MAX, since_seconds=1e300),
    )


async def test_the_longest_report_of_an_agent_is_taken():
    body = longest().model_dump_json(by_alias=True).encode()
    assert len(body) <= REPORT_MAX_BYTES
    assert await report_of(body) == longest()


def page(fields):
    return f'{{"podUid":"{POD_UID}",{fields}}}'.encode()


@pytest.mark.parametrize(
    ("body", "why"),
    [
        pytest.param(
            page('"markers":[' + ",".join(['{"name":"m","ageSeconds":1}'] * 17) + "]"), "field markers", id="17 markers"
        ),
        pytest.param(
            page('"uploads":[' + ",".join(['{"incarnation":1,"generation":1}'] * 9) + "]"),
            "field uploads",
            id="9 uploads",
        ),
        pytest.param(page('"lagging":[' + ",".join(["1"] * 65) + "]"), "field lagging", id="65 ranks"),
        pytest.param(page('"uploadFailures":' + "9" * 4300), "field uploadFailures", id="a number of 4,300 digits"),
        pytest.param(page('"uploadFailures":' + "9" * 32), "field uploadFailures", id="a number of 32 digits"),
        pytest.param(page('"bytes":1e400'), "field bytes", id="a number beyond a float"),
        pytest.param(
            page('"newest":{"dir":"a","complete":true,"ageSeconds":1,"step":' + "9" * 300 + "}"),
            "field newest.step",
            id="a step",
        ),
        pytest.param(page('"markers":[{"name":"m"}]'), "field markers.0.ageSeconds", id="a marker without an age"),
        pytest.param(
            page('"x":[' + "{}," * 40_000 + "{}]"),
            "has 120034 bytes, more than the 65536",
            id="more bytes than a report has",
        ),
        pytest.param(page('"x":' + "[" * 60_000 + "]" * 60_000), "has 120030 bytes, more than the 65536", id="nested"),
        pytest.param(page('"x":' + "[" * 30_000 + "]" * 30_000), "its JSON", id="nested, and short"),
        pytest.param(b"\xff\xfe", "its JSON", id="no text"),
        pytest.param(b"", "its JSON", id="nothing"),
        pytest.param(b"<html>AWS_SECRET=abc</html>", "its JSON", id="a page of something else"),
        pytest.param(b"[]", "its JSON", id="a list"),
        pytest.param(b"{}", "field podUid", id="no field"),
        pytest.param(b'{"podUid":7}', "field podUid", id="a pod that is a number"),
        pytest.param(b'{"podUid":"AWS_SECRET=abc"}', f"podUid is not {POD_UID}", id="the report of another pod"),
    ],
)
async def test_a_report_that_no_agent_writes_is_refused_and_told_by_size_or_field(body, why):
    refused = await report_of(body)
    assert isinstance(refused, RefusedReport)
    assert refused.pod == "bert-0"
    assert why in refused.why
    assert "AWS_SECRET" not in refused.sentence, "What the pod writes is not quoted."


async def test_a_report_without_an_announced_length_is_read_to_the_limit():
    async def endless():
        while True:
            yield b" " * 1000

    refused = await report_of(endless())
    assert isinstance(refused, RefusedReport)
    assert refused.why == "it has more than the 65536 bytes of a report"


@pytest.mark.parametrize("status", [404, 500, 503])
async def test_an_error_of_the_agents_server_is_no_answer(status):
    assert await report_of(b"see the agent's log", status) is None


@pytest.mark.parametrize("unit", ["{}", "[]", '{"name":"","ageSeconds":1}', '""', "1", '{"a":{"b":{}}}'])
@pytest.mark.parametrize("field", ["markers", "uploads", "lagging", "unknown"])
def test_a_report_of_the_longest_length_costs_some_milliseconds(field, unit):
    body = page(f'"{field}":[' + ",".join([unit] * (60_000 // (len(unit) + 1))) + "]")
    assert len(body) <= REPORT_MAX_BYTES

    def parsed():
        with contextlib.suppress(ValueError):
            AgentReport.model_validate_json(body)

    assert quiet_seconds(parsed) < 0.02
