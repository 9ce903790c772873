"""The pages of the DCGM exporters: read once per interval for all runs, at every address of the name, and busy where they say nothing."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from trainingrun_operator.core.facts.gpus import Gpu, Gpus
from trainingrun_operator.core.facts.reading import Failure
from trainingrun_operator.edge.gather import gpus as module
from trainingrun_operator.edge.gather.gpus import CAP_BYTES, INTERVAL_SECONDS, STALE_SECONDS, GpuPages
from trainingrun_operator.edge.metrics import prometheus

HOST = "dcgm-exporters.gpu-operator.svc"


def page(*pods, util=0, power=61.5):
    """The page of one node, as in NVIDIA/dcgm-exporter, ``internal/pkg/rendermetrics/render_metrics.go``."""
    return "".join(
        f"# TYPE {name} gauge\n"
        + "".join(
            f'{name}{{gpu="{n}",UUID="GPU-{pod}-{n}",device="nvidia{n}",modelName="NVIDIA H100 80GB HBM3",Hostname="gpu-1",container="train",namespace="ml",pod="{pod}"}} {value}\n'
            for n, pod in enumerate(pods)
        )
        for name, value in (("DCGM_FI_DEV_GPU_UTIL", util), ("DCGM_FI_DEV_POWER_USAGE", power))
    )


class Clock:
    now = 1000.0

    def monotonic(self):
        return self.now

    def wall(self):
        raise AssertionError("Nothing here is dated.")


class Nodes:
    """Exporters on 127.0.0.1, 127.0.0.2 and so on, one for each page, on one port."""

    def __init__(self, session, port, pages):
        self.port, self.pages, self.asked, self.clock, self.resolves = port, pages, [], Clock(), None
        self.gpus = GpuPages(
            session, f"http://{HOST}:{port}/metrics", clock=self.clock, resolve=self.resolve, epoch=lambda: 1.79e9
        )

    async def resolve(self, host, port):
        assert (host, port) == (HOST, self.port)
        if self.resolves is not None:
            raise self.resolves
        return list(self.pages)

    async def answer(self, request):
        address = request.transport.get_extra_info("sockname")[0]
        self.asked.append((address, request.headers["Host"]))
        made = self.pages[address]
        return (
            made
            if isinstance(made, web.Response)
            else web.Response(text=made)
            if isinstance(made, str)
            else await made()
        )


@asynccontextmanager
async def exporters(**pages):
    """Exporters at 127.0.0.<number of the keyword>."""
    at = {f"127.0.0.{name.removeprefix('node')}": page for name, page in pages.items()}
    async with prometheus.make_session() as session:
        app = web.Application()
        made: list[Nodes] = []

        async def answer(request):
            return await made[0].answer(request)

        app.router.add_get("/metrics", answer)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "0.0.0.0", 0).start()  # noqa: S104 - several addresses of loopback
        made.append(nodes := Nodes(session, runner.addresses[0][1], at))
        try:
            yield nodes
        finally:
            await nodes.gpus.close()
            await runner.cleanup()


async def test_every_address_of_the_name_is_read_once_for_all_runs():
    async with exporters(node1=page("bert-0", "bert-0"), node2=page("bert-1", util=97, power=640)) as nodes:
        read = await asyncio.gather(*(nodes.gpus.of("ml", name) for name in ("bert-0", "bert-1", "bert-0", "other")))
        assert read[0] == Gpus(1000, (Gpu(0.0, 61.5), Gpu(0.0, 61.5)))
        assert read[1] == Gpus(1000, (Gpu(97.0, 640.0),))
        assert isinstance(read[3], Failure)
        assert read[3].reason == "NotShown"
        assert (await nodes.gpus.of("vision", "bert-0")).reason == "NotShown", "The namespace counts too."
        host = f"{HOST}:{nodes.port}"
        assert sorted(nodes.asked) == [("127.0.0.1", host), ("127.0.0.2", host)]


async def test_pages_are_read_again_after_the_interval():
    async with exporters(node1=page("bert-0")) as nodes:
        await nodes.gpus.of("ml", "bert-0")
        nodes.pages["127.0.0.1"] = page("bert-0", util=80)
        nodes.clock.now += INTERVAL_SECONDS - 1
        assert (await nodes.gpus.of("ml", "bert-0")).at == 1000
        nodes.clock.now += 1
        assert await nodes.gpus.of("ml", "bert-0") == Gpus(1000 + INTERVAL_SECONDS, (Gpu(80.0, 61.5),))
        assert len(nodes.asked) == 2


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        pytest.param(web.Response(status=503), "HTTPStatus", id="an error"),
        pytest.param(web.Response(status=302, headers={"Location": "http://elsewhere.example"}), "Redirect", id="a redirect"),
        pytest.param("x" * (CAP_BYTES + 1), "TooLarge", id="a page that is too large"),
        pytest.param("", "NotShown", id="an empty page"),
        pytest.param("<html>no metrics</html>", "NotShown", id="another page"),
    ],
)  # fmt: skip
async def test_a_page_that_cannot_be_used_hides_only_its_own_pods(answer, reason, caplog):
    async with exporters(node1=answer, node2=page("bert-1")) as nodes:
        assert (await nodes.gpus.of("ml", "bert-0")).reason == reason
        assert isinstance(await nodes.gpus.of("ml", "bert-1"), Gpus)
        nodes.clock.now += INTERVAL_SECONDS
        nodes.pages["127.0.0.1"] = page("bert-0")
        assert isinstance(await nodes.gpus.of("ml", "bert-0"), Gpus)
    assert caplog.text.count("1 of 2 pages cannot be read") == (reason != "NotShown")


async def test_a_lasting_failure_is_logged_once(caplog):
    async with exporters(node1=page("bert-0")) as nodes:
        nodes.resolves = OSError("no such name")
        for _ in range(3):
            assert (await nodes.gpus.of("ml", "bert-0")).reason == "HostUnreachable"
            nodes.clock.now += INTERVAL_SECONDS
        assert caplog.text.count("cannot be read (HostUnreachable)") == 1
        assert nodes.asked == []


async def test_a_page_that_does_not_come_delays_no_look_for_long(monkeypatch):
    monkeypatch.setattr(module, "WAIT_SECONDS", 0.01)
    arrives = asyncio.Event()

    async def later():
        await arrives.wait()
        return web.Response(text=page("bert-0"))

    async with exporters(node1=page("bert-0")) as nodes:
        known = await nodes.gpus.of("ml", "bert-0")
        nodes.pages["127.0.0.1"] = later
        nodes.clock.now += INTERVAL_SECONDS
        assert await nodes.gpus.of("ml", "bert-0") == known, "What is known is not yet too old."
        nodes.clock.now += STALE_SECONDS - INTERVAL_SECONDS + 1
        assert (await nodes.gpus.of("ml", "bert-0")).reason == "Stale"
        assert len(nodes.asked) == 2, "The read in progress goes on."
        arrives.set()


async def test_before_the_first_page_nothing_is_known(monkeypatch):
    monkeypatch.setattr(module, "WAIT_SECONDS", 0.01)
    async with exporters(node1=lambda: asyncio.Event().wait()) as nodes:
        assert (await nodes.gpus.of("ml", "bert-0")).reason == "NotRead"


async def test_a_large_page_is_read_beside_the_looks():
    pods = [f"bert-{number}" for number in range(200)]
    async with exporters(node1=page(*pods)) as nodes:
        assert len(nodes.pages["127.0.0.1"]) > 1 << 16
        assert await nodes.gpus.of("ml", "bert-199") == Gpus(1000, (Gpu(0.0, 61.5),))


async def test_labels_that_a_prometheus_has_renamed_count_under_its_own_path_only():
    renamed = page("bert-0").replace(
        'namespace="ml",pod=', 'namespace="gpu-operator",pod="x",exported_namespace="ml",exported_pod='
    )
    async with exporters(node1=renamed) as nodes:
        assert (await nodes.gpus.of("ml", "bert-0")).reason == "NotShown"
    async with prometheus.make_session() as session:
        app = web.Application()
        asked = []

        async def federate(request):
            asked.append(request.query_string)
            return web.Response(text=renamed)

        app.router.add_get("/federate", federate)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        gpus = GpuPages(session, f"http://localhost:{runner.addresses[0][1]}/federate?match[]=up")
        try:
            read = await gpus.of("ml", "bert-0")
        finally:
            await gpus.close()
            await runner.cleanup()
        assert isinstance(read, Gpus)
        assert asked == ["match[]=up"]


async def test_an_address_that_is_not_used_costs_nothing():
    async with exporters(node1=page("bert-0")) as nodes:
        await nodes.gpus.close()
        assert nodes.asked == []
