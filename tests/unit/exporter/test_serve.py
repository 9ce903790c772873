"""How the page is handed out."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest
from aiohttp import ClientSession, TCPConnector, web

from trainingrun_operator.exporter import RunSeries, metrics_handler, serve
from trainingrun_operator.exporter.serve import PIECE_BYTES


@pytest.fixture
async def served(telemetry):
    """Return a maker of addresses at which a handler's page is served."""
    runners = []

    async def start(handler):
        app = web.Application()
        app.add_routes([web.get("/metrics", handler)])
        runner = web.AppRunner(app)
        runners.append(runner)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return f"http://127.0.0.1:{runner.addresses[0][1]}/metrics"

    yield start
    for runner in runners:
        await runner.cleanup()


async def read(url):
    async with ClientSession() as session, session.get(url) as answer:
        return await answer.text()


async def test_the_page_is_served_beside_other_routes(telemetry):
    async def healthy(_):
        return web.Response(text="ok")

    telemetry.runs.put("uid", RunSeries("ml", "llama", {"trainingrun_step": 1200}))
    runner = await serve(telemetry, 0, web.get("/healthz", healthy), host="127.0.0.1")
    try:
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        async with ClientSession() as session, session.get(f"{url}/metrics") as page:
            assert page.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
            assert 'trainingrun_step{namespace="ml",name="llama"} 1200\n' in await page.text()
        assert await read(f"{url}/healthz") == "ok"
    finally:
        await runner.cleanup()


async def test_two_readers_at_once_cost_one_assembly(telemetry, served, monkeypatch):
    assembled, whole = [], telemetry.page

    def page():
        assembled.append(1)
        return whole()

    monkeypatch.setattr(telemetry, "page", page)
    url = await served(metrics_handler(telemetry, page_seconds=60))
    first, second = await asyncio.gather(read(url), read(url))
    assert first == second
    assert assembled == [1]


async def test_an_old_page_is_not_handed_out_again(telemetry, served):
    url = await served(metrics_handler(telemetry, page_seconds=0))
    assert "llama" not in await read(url)
    telemetry.runs.put("uid", RunSeries("ml", "llama", {"trainingrun_step": 1200}))
    assert "llama" in await read(url)


async def test_a_page_of_many_pieces_arrives_whole(telemetry, served):
    for number in range(10_000):
        telemetry.runs.put(str(number), RunSeries("ml", f"run-{number}", {"trainingrun_step": number}))
    url = await served(metrics_handler(telemetry))
    page = await read(url)
    assert len(page) > 2 * PIECE_BYTES
    assert page.encode() == b"".join(telemetry.page())


async def test_the_size_of_the_page_can_be_asked_for_without_the_page(telemetry, served):
    url = await served(metrics_handler(telemetry))
    connector = TCPConnector(limit=1)
    async with ClientSession(connector=connector) as session:
        async with session.head(url) as answer:
            size = int(answer.headers["Content-Length"])
        async with session.get(url) as answer:
            assert len(await answer.read()) == size


async def test_a_reader_that_leaves_in_the_middle_harms_nobody(telemetry, served, caplog):
    for number in range(50_000):
        telemetry.runs.put(str(number), RunSeries("ml", f"run-{number}", {"trainingrun_step": number}))
    url = await served(metrics_handler(telemetry))
    async with ClientSession() as session:
        answer = await session.get(url)
        await answer.content.read(1000)
        answer.close()
    assert "run-49999" in await read(url)
    assert not [record for record in caplog.records if record.levelname in {"WARNING", "ERROR"}]


async def test_others_get_their_turn_between_the_pieces(telemetry, served):
    """Each piece is followed by a turn of the event loop, however fast the reader takes it."""
    for number in range(10_000):
        telemetry.runs.put(str(number), RunSeries("ml", f"run-{number}", {"trainingrun_step": number}))
    turns, writing = [], []

    async def handler(request):
        writing.append(1)
        try:
            return await metrics_handler(telemetry)(request)
        finally:
            writing.clear()

    url = await served(handler)
    # A reader of its own process: one on this loop would make turns by itself.
    reader = await asyncio.create_subprocess_exec(
        sys.executable, "-c", f"import urllib.request as u; u.urlopen({url!r}).read()", stdout=subprocess.DEVNULL
    )
    while reader.returncode is None:
        turns += writing
        await asyncio.sleep(0)
    assert len(turns) >= sum(map(len, telemetry.page())) // PIECE_BYTES
