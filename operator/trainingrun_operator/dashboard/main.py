"""Start the dashboard and serve it until a signal stops it."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import uvicorn

from trainingrun_operator.dashboard import app
from trainingrun_operator.dashboard.cluster import Cluster
from trainingrun_operator.dashboard.connections import BoundedProtocol
from trainingrun_operator.edge.apiserver.connection import NoClusterError, without_credentials

if TYPE_CHECKING:
    from trainingrun_operator.settings import DashboardSettings

__all__ = ["NoClusterError", "run"]

GRACE_SECONDS = 2
"""Open event streams would delay shutdown; browsers reconnect."""

log = logging.getLogger(__name__)


def run(settings: DashboardSettings) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code.

    Raises:
        NoClusterError: the API server's address is unknown.
    """
    logging.basicConfig(level=settings.log_level, format="%(asctime)s %(levelname)-7s %(name)s: %(message)s")
    asyncio.run(_serve(settings))
    return 0


async def _serve(settings: DashboardSettings) -> None:
    where = without_credentials()
    async with Cluster(where) as cluster:
        config = uvicorn.Config(
            app.make(cluster, settings),
            # Without a host, asyncio listens on all IPv4 and IPv6 addresses; `::` means IPv6 alone.
            host="" if settings.host == "*" else settings.host,
            port=settings.port,
            http=BoundedProtocol,
            # URLs may contain text that people typed; the API server's audit log records their actions.
            access_log=False,
            log_config=None,
            server_header=False,
            lifespan="off",
            ws="none",
            # No decision uses the client's address, so proxy headers are ignored.
            proxy_headers=False,
            timeout_graceful_shutdown=GRACE_SECONDS,
        )
        log.info("dashboard on http://%s:%d, API server %s", settings.host, settings.port, where.server)
        await uvicorn.Server(config).serve()
