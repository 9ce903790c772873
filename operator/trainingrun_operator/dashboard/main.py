"""Puts the dashboard together and serves it until it is told to stop."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import uvicorn

from trainingrun_operator.dashboard import app
from trainingrun_operator.dashboard.cluster import Cluster
from trainingrun_operator.edge.apiserver.connection import NoClusterError, without_credentials

if TYPE_CHECKING:
    from trainingrun_operator.settings import DashboardSettings

__all__ = ["NoClusterError", "run"]

GRACE_SECONDS = 2
"""Open pages would keep it from leaving: they come back by themselves."""

log = logging.getLogger(__name__)


def run(settings: DashboardSettings) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code.

    Raises:
        NoClusterError: it is not known where the API server is.
    """
    logging.basicConfig(level=settings.log_level, format="%(asctime)s %(levelname)-7s %(name)s: %(message)s")
    asyncio.run(_serve(settings))
    return 0


async def _serve(settings: DashboardSettings) -> None:
    where = without_credentials()
    async with Cluster(where) as cluster:
        config = uvicorn.Config(
            app.make(cluster, settings),
            # Without a name asyncio listens on all addresses, IPv4 and IPv6; `::` would be IPv6 alone.
            host="" if settings.host == "*" else settings.host,
            port=settings.port,
            # Addresses may carry what people typed; who did what is in the API server's audit log.
            access_log=False,
            log_config=None,
            server_header=False,
            lifespan="off",
            ws="none",
            # Whom a proxy speaks for is nobody's business here: nothing is decided by it.
            proxy_headers=False,
            timeout_graceful_shutdown=GRACE_SECONDS,
        )
        log.info("dashboard on http://%s:%d, API server %s", settings.host, settings.port, where.server)
        await uvicorn.Server(config).serve()
