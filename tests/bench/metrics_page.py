"""The metrics page of many runs: its size, how long it takes, and for how long a scrape keeps the event loop from anything else.

The peer is plain prometheus_client: a Gauge for each metric, rendered by generate_latest, in a thread as ours is.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sys
import time
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Final

from aiohttp import web
from bench import crowd
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from trainingrun_operator.exporter import Telemetry, metrics_handler
from trainingrun_operator.exporter.metrics import RUN_METRICS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from trainingrun_operator.exporter import RunSeries

SCRAPES: Final = 7
BEAT_SECONDS: Final = 0.001
# In a process of its own, as Prometheus is; it waits to be told, so that its start is not measured.
_READER: Final = """
import sys, urllib.request
for _ in sys.stdin:
    print(len(urllib.request.urlopen(sys.argv[1]).read()), flush=True)
"""


@dataclass(frozen=True)
class Scraped:
    """Of several scrapes."""

    size: int
    seconds: float
    """Median, from the request to the last byte."""
    blocked: float
    """The longest time in any of them in which the event loop did nothing else."""


async def bench(count: int) -> None:
    """Measure both and print."""
    print(f"metrics page of {count:,} runs, {SCRAPES} scrapes each, over HTTP on this machine")
    updated, ours = await _ours(count)
    gc.collect()
    set_again, peer = await _peer(count)
    rows = [
        ("page", f"{ours.size / 1e6:.1f} MB", f"{peer.size / 1e6:.1f} MB", peer.size / ours.size),
        ("one scrape", f"{ours.seconds:.3f} s", f"{peer.seconds:.3f} s", peer.seconds / ours.seconds),
        (
            "event loop blocked",
            f"{ours.blocked * 1e3:.0f} ms",
            f"{peer.blocked * 1e3:.0f} ms",
            peer.blocked / ours.blocked,
        ),
        ("one run's update", f"{updated * 1e6:.0f} µs", f"{set_again * 1e6:.0f} µs", set_again / updated),
    ]
    print(f"  {'':20}{'ours':>12}{'prometheus_client':>20}{'ratio':>8}")
    for name, mine, theirs, ratio in rows:
        print(f"  {name:20}{mine:>12}{theirs:>20}{ratio:>7.1f}x")


async def _ours(count: int) -> tuple[float, Scraped]:
    telemetry = Telemetry()
    for uid, series in crowd.mixed(count):
        telemetry.runs.put(uid, series)
    scraped = await _scrapes(metrics_handler(telemetry, page_seconds=0))
    again = list(crowd.mixed(count))
    return _each(again, telemetry.runs.put), scraped


async def _peer(count: int) -> tuple[float, Scraped]:
    registry = CollectorRegistry()
    gauges = {metric.name: Gauge(metric.name, metric.help, metric.labels, registry=registry) for metric in RUN_METRICS}

    def put(_: str, series: RunSeries) -> None:
        for name, value in series.gauges.items():
            gauges[name].labels(series.namespace, series.name).set(value)
        for name, by_label in series.labelled.items():
            for label, value in by_label.items():
                gauges[name].labels(series.namespace, series.name, label).set(value)

    async def handle(_: web.Request) -> web.Response:
        page = await asyncio.to_thread(generate_latest, registry)
        return web.Response(body=page, headers={"Content-Type": CONTENT_TYPE_LATEST})

    for uid, series in crowd.mixed(count):
        put(uid, series)
    scraped = await _scrapes(handle)
    again = list(crowd.mixed(count))
    return _each(again, put), scraped


def _each(runs: list[tuple[str, RunSeries]], put: Callable[[str, RunSeries], None]) -> float:
    began = time.perf_counter()
    for uid, series in runs:
        put(uid, series)
    return (time.perf_counter() - began) / len(runs)


async def _scrapes(handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> Scraped:
    sizes, seconds, blocked = [], [], []
    async with _served(handler) as url, _reader(url) as read:
        await read()
        for _ in range(SCRAPES):
            beat = asyncio.create_task(_longest_gap())
            await asyncio.sleep(10 * BEAT_SECONDS)
            began = time.perf_counter()
            sizes.append(await read())
            seconds.append(time.perf_counter() - began)
            beat.cancel()
            blocked.append(await beat)
    return Scraped(max(sizes), median(seconds), max(blocked))


async def _longest_gap() -> float:
    """Return, once cancelled, by how much a turn of the event loop was late at most."""
    longest, turned = 0.0, time.perf_counter()
    with contextlib.suppress(asyncio.CancelledError):
        while True:
            await asyncio.sleep(BEAT_SECONDS)
            now = time.perf_counter()
            longest, turned = max(longest, now - turned - BEAT_SECONDS), now
    return longest


@contextlib.asynccontextmanager
async def _served(handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> AsyncIterator[str]:
    app = web.Application()
    app.add_routes([web.get("/metrics", handler)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/metrics"
    finally:
        await runner.cleanup()


@contextlib.asynccontextmanager
async def _reader(url: str) -> AsyncIterator[Callable[[], Awaitable[int]]]:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", _READER, url, stdin=pipe, stdout=pipe)
    given, told = process.stdin, process.stdout
    assert given is not None
    assert told is not None

    async def read() -> int:
        given.write(b"go\n")
        return int(await told.readline())

    try:
        yield read
    finally:
        given.close()
        await process.wait()
