"""The report of an agent and the page that comes with it: what a pod may answer, and what of it is taken."""

from __future__ import annotations

import asyncio
import contextlib
from types import SimpleNamespace
from typing import Any, cast

import aiohttp
import pytest
from aiohttp import web
from builders import POD_UID, make_run, make_status
from cpu import quiet_seconds

from trainingrun_operator.api.exchange import (
    LAGGING_MAX,
    MARKERS_MAX,
    PAGE_HEADER,
    PAGE_MAX_BYTES,
    PATH_MAX,
    REPORT_BYTES_HEADER,
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
from trainingrun_operator.api.status import Effective
from trainingrun_operator.core.facts.rank import RefusedReport
from trainingrun_operator.core.facts.reading import FILES, LOGS, PROMETHEUS, Failure, Reading
from trainingrun_operator.edge import calls
from trainingrun_operator.edge.gather.pages import PodPages
from trainingrun_operator.edge.metrics.prometheus import make_session
from trainingrun_operator.edge.metrics.registry import Sources
from trainingrun_operator.edge.metrics.source import Tools

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


# -- report and metrics page in one answer ----------------------------------------------------------------------

REPORT = AgentReport(pod_uid=POD_UID, files=3)
SAID = REPORT.model_dump_json(by_alias=True).encode()
REPORT_BYTES = len(SAID)
RELAYED, DIRECT = b"training_loss 0.5\ntraining_step 8\n", "training_loss 0.25\ntraining_step 7\n"


def both(body, length=REPORT_BYTES):
    return web.Response(body=body, headers={REPORT_BYTES_HEADER: str(length)})


class APod:
    """A pod whose agent answers with what `answer` returns, and whose training serves `DIRECT`."""

    def __init__(self, answer, direct=DIRECT):
        self.answer, self.direct, self.wanted, self.scraped = answer, direct, [], []

    async def _progress(self, request):
        self.wanted.append(request.headers.get(PAGE_HEADER))
        answer = self.answer(request)
        return await answer if asyncio.iscoroutine(answer) else answer

    async def _page(self, request):
        self.scraped.append(request.path)
        return self.direct() if callable(self.direct) else web.Response(text=self.direct)

    async def poll(self, *, timeout_seconds=60.0, path="/metrics"):
        app = web.Application()
        app.router.add_get("/progress", self._progress)
        app.router.add_get("/{path:.*}", self._page)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        port = runner.addresses[0][1]
        run = make_run(spec={"metrics": {"port": port, "path": path}})
        pod: Any = SimpleNamespace(host="127.0.0.1", name="bert-0", uid=POD_UID, rank=0)
        try:
            async with make_session() as session:
                pages = PodPages(
                    session,
                    Sources.of(Tools(session, cast("Any", None))),
                    agent_port=port,
                    agent_timeout_seconds=timeout_seconds,
                )
                return await pages.poll(run, pod)
        finally:
            await runner.cleanup()


def loss_and_step(reading):
    assert isinstance(reading, Reading), reading
    return reading.loss, reading.step


async def test_report_and_reading_are_of_one_answer():
    pod, before = APod(lambda _: both(SAID + RELAYED)), calls.made()
    report, reading = await pod.poll(path="/a/metrics")
    assert (report, loss_and_step(reading)) == (REPORT, (0.5, 8.0))
    assert reading.source == PROMETHEUS
    assert not pod.scraped
    assert len(pod.wanted) == 1
    assert pod.wanted[0].endswith("/a/metrics")
    assert {api: made - before[api] for api, made in calls.made().items() if made != before[api]} == {"agent": 1}


async def test_the_largest_report_and_the_largest_page_fit_in_one_answer():
    said = longest().model_dump_json(by_alias=True).encode()
    said += b" " * (REPORT_MAX_BYTES - len(said))
    page = RELAYED + b"#" * (PAGE_MAX_BYTES - len(RELAYED))
    pod = APod(lambda _: both(said + page, len(said)))
    report, reading = await pod.poll()
    assert (report, loss_and_step(reading), pod.scraped) == (longest(), (0.5, 8.0), [])


async def cut(request):
    """A page of which half comes before the connection ends."""
    answer = web.StreamResponse(headers={REPORT_BYTES_HEADER: str(len(SAID)), "Content-Length": str(len(SAID) + 1000)})
    await answer.prepare(request)
    await answer.write(SAID + RELAYED)
    request.transport.close()
    return answer


async def endless(request):
    answer = web.StreamResponse(headers={REPORT_BYTES_HEADER: str(len(SAID))})
    await answer.prepare(request)
    with contextlib.suppress(OSError):
        await answer.write(SAID)
        while True:
            await answer.write(RELAYED * 1000)
    return answer


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(lambda _: web.Response(body=SAID), id="an agent of an older release, or one that has no page"),
        pytest.param(lambda _: both(SAID, len(SAID) + 1), id="an answer that is shorter than it says of its report"),
        pytest.param(cut, id="a page that is cut"),
        pytest.param(endless, id="a page without end"),
        pytest.param(lambda _: both(SAID + b"#" * (PAGE_MAX_BYTES + 1)), id="a page that is too large"),
    ],
)
async def test_without_a_whole_page_the_report_counts_and_the_training_is_asked(answer):
    pod = APod(answer)
    report, reading = await pod.poll()
    assert (report, loss_and_step(reading), pod.scraped) == (REPORT, (0.25, 7.0), ["/metrics"])


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        pytest.param(lambda _: both(SAID + RELAYED, len(SAID) - 1), "its JSON", id="a report that is cut"),
        pytest.param(lambda _: both(SAID + RELAYED, len(SAID) + 1), "its JSON", id="a page in the report"),
        pytest.param(lambda _: both(RELAYED, 0), "its JSON", id="no report"),
        pytest.param(lambda _: both(SAID + RELAYED, "1e2"), "its JSON", id="a length that is no number"),
        pytest.param(lambda _: both(SAID + RELAYED, "-1"), "its JSON", id="a negative length"),
        pytest.param(lambda _: both(SAID + RELAYED, "9" * 5000), "its JSON", id="a length of many digits"),
        pytest.param(lambda _: both(SAID + RELAYED, "\u0663"), "its JSON", id="a digit of another script"),
        pytest.param(lambda _: both(SAID + RELAYED, REPORT_MAX_BYTES + 1), "its JSON", id="more than a report has"),
        pytest.param(
            lambda _: both(SAID.replace(POD_UID.encode(), b"other") + RELAYED, len(SAID) - len(POD_UID) + 5),
            "podUid is not",
            id="the report of another pod, with another pod's page",
        ),
        pytest.param(lambda _: web.Response(status=500, body=SAID + RELAYED), None, id="an error"),
    ],
)
async def test_a_page_counts_only_behind_a_report_that_counts(answer, why):
    pod = APod(answer)
    report, reading = await pod.poll()
    if why is None:
        assert not isinstance(report, AgentReport)
    else:
        assert isinstance(report, RefusedReport)
        assert why in report.why
    assert (loss_and_step(reading), pod.scraped) == ((0.25, 7.0), ["/metrics"])


async def test_an_agent_that_hangs_costs_its_time_and_the_training_is_asked():
    pod = APod(lambda _: asyncio.sleep(3600))
    report, reading = await pod.poll(timeout_seconds=0.2)
    assert (report, loss_and_step(reading), pod.scraped) == (None, (0.25, 7.0), ["/metrics"])


async def test_a_failure_is_told_as_if_the_agent_had_not_been_asked():
    pod = APod(lambda _: web.Response(body=SAID), lambda: web.Response(status=503))
    report, reading = await pod.poll()
    assert report == REPORT
    assert isinstance(reading, Failure)
    assert reading.reason == "HTTPStatus"


@pytest.mark.parametrize(
    ("page", "reason"),
    [
        (b"", "NoSuchMetric"),
        (b"\xff\xfe", "NoSuchMetric"),
        (b'loss{rank="0"} 1\nloss{rank="1"} 2\n', "AmbiguousSeries"),
        (b"xloss\n" * 20_000, "TooManySeries"),
    ],
)
async def test_a_page_that_says_nothing_is_told_as_one_that_was_asked_for(page, reason):
    pod = APod(lambda _: both(SAID + page))
    _, reading = await pod.poll()
    assert isinstance(reading, Failure)
    assert (reading.reason, pod.scraped) == (reason, [])


@pytest.mark.parametrize(
    ("metrics", "wanted"),
    [
        pytest.param({}, True, id="no source, and no choice yet"),
        pytest.param({"source": PROMETHEUS}, True, id="the metrics page"),
        pytest.param({"chosen": PROMETHEUS}, True, id="no source, and the page was chosen"),
        pytest.param({"chosen": LOGS}, False, id="no source, and another one was chosen"),
        pytest.param({"source": "Auto"}, True, id="a choice that is not made"),
        pytest.param({"source": "Auto", "chosen": PROMETHEUS}, True, id="the page was chosen"),
        pytest.param({"source": "Auto", "chosen": LOGS}, False, id="another source was chosen"),
        pytest.param({"source": FILES}, False, id="the training's files"),
        pytest.param({"source": "third-party"}, False, id="a source of another package"),
        pytest.param({"path": "/a/../b"}, False, id="a path that a client resolves"),
        pytest.param({"path": "/.hidden"}, False, id="a name with a dot before"),
        pytest.param({"path": "/a.b/metrics.txt"}, True, id="names with dots"),
        pytest.param({"port": 18790}, False, id="the agent's own port"),
    ],
)
def test_the_page_is_asked_for_where_a_reading_takes_it(metrics, wanted):
    chosen = metrics.pop("chosen", "")
    effective = Effective(metrics_source=chosen, metrics_source_note="It is the first.") if chosen else None
    run = make_run(spec={"metrics": metrics}, status=make_status(effective=effective))
    page = Sources.of(Tools(cast("Any", None), cast("Any", None))).page(run)
    assert page == (f"{run.spec.metrics.port}{run.spec.metrics.path}" if wanted else "")
