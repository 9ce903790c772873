"""Runs beside an operator, in its pod: a DCGM exporter. The test says which GPUs it shows."""

from __future__ import annotations

import asyncio
from typing import Any

from aiohttp import web

PORT = 9400
LINE = (
    '{name}{{gpu="0",UUID="GPU-604ac76c-d9cf-fef3-62e9-d92044ab6e52",pci_bus_id="00000000:1B:00.0",device="nvidia0",modelName="NVIDIA H100 80GB HBM3",'
    'Hostname="gpu-1",container="train",namespace="{namespace}",pod="{pod}"}} {value}\n'
)
"""As `gpuMetricsFormat` of NVIDIA/dcgm-exporter, internal/pkg/rendermetrics/render_metrics.go."""


class Exporter:
    """Shows one GPU of each pod that it was given."""

    def __init__(self) -> None:
        self.shown: list[dict[str, Any]] = []

    async def show(self, request: web.Request) -> web.Response:
        """From the test: what is shown from now on."""
        self.shown = await request.json()
        return web.json_response(None)

    async def metrics(self, _: web.Request) -> web.Response:
        """For the operator."""
        lines = [
            LINE.format(name=name, value=one[key], **one)
            for name, key in (("DCGM_FI_DEV_GPU_UTIL", "utilization"), ("DCGM_FI_DEV_POWER_USAGE", "power"))
            for one in self.shown
        ]
        return web.Response(text="".join(lines))


async def main() -> None:
    """Until the pod is deleted."""
    exporter = Exporter()
    app = web.Application()
    app.add_routes([web.post("/show", exporter.show), web.get("/metrics", exporter.metrics)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "0.0.0.0", PORT).start()  # noqa: S104 - the pod's own network
    await asyncio.Event().wait()


asyncio.run(main())
