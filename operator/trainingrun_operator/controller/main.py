"""Builds the operator and runs it until it is stopped."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import kopf
from aiohttp import web

from trainingrun_operator import exporter
from trainingrun_operator.api.notification import EventType
from trainingrun_operator.controller import front
from trainingrun_operator.controller.front import Watch
from trainingrun_operator.controller.garbage import Garbage
from trainingrun_operator.controller.lease import Lease
from trainingrun_operator.controller.reconciler import Reconciler
from trainingrun_operator.controller.scheduler import Scheduler
from trainingrun_operator.controller.turns import in_turns
from trainingrun_operator.core.signature import keys_of
from trainingrun_operator.edge import calls
from trainingrun_operator.edge.background.curve import CurveWriter
from trainingrun_operator.edge.background.retention import Retention
from trainingrun_operator.edge.background.story import Story
from trainingrun_operator.edge.background.taints import Taints
from trainingrun_operator.edge.background.webhook import Notifier, Webhook
from trainingrun_operator.edge.cache import Cache
from trainingrun_operator.edge.clock import SystemClock
from trainingrun_operator.edge.execute import Executor
from trainingrun_operator.edge.gather.bucket import BucketReader
from trainingrun_operator.edge.gather.gpus import GpuPages
from trainingrun_operator.edge.gather.observer import Observer
from trainingrun_operator.edge.gather.owners import Owners
from trainingrun_operator.edge.gather.pages import PodPages
from trainingrun_operator.edge.gather.store import Store
from trainingrun_operator.edge.kube import Connection, Kube, KubeError
from trainingrun_operator.edge.metrics import prometheus
from trainingrun_operator.edge.metrics import source as metrics
from trainingrun_operator.edge.metrics.registry import Sources
from trainingrun_operator.edge.nodes import provider
from trainingrun_operator.edge.nodes import registry as nodes
from trainingrun_operator.settings import SettingsError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trainingrun_operator.settings import Settings

BEAT_MAX_SECONDS: Final = 30
"""Scheduler or Lease candidate count as stuck after this time without a beat."""
NAMESPACE_FILE: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")

log = logging.getLogger(__name__)


class NothingToWatchError(Exception):
    """No configured namespace may be read."""

    def __init__(self, named: str) -> None:
        super().__init__(
            f"TRAININGRUN_WATCH_NAMESPACES is {named!r}, and the operator may list TrainingRuns in none of them: each needs the chart's Role and RoleBinding."
        )


def run(settings: Settings) -> int:
    """Run the operator and return its exit code."""
    logging.basicConfig(level=settings.log_level, format="%(asctime)s %(levelname)-7s %(name)s: %(message)s")
    # These libraries log a line per request or event.
    for noisy in ("kopf", "botocore", "urllib3", "aiohttp.access"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        asyncio.run(_run(settings))
    except (kopf.LoginError, NothingToWatchError, front.WatchRefusedError) as error:
        log.error("%s", error)  # noqa: TRY400 - no traceback
        return 1
    return 0


async def _run(settings: Settings) -> None:
    hook = webhook(settings)
    info, fields = front.connection()
    cache, telemetry, store = Cache(), exporter.Telemetry(), Store()
    store.warm_up()
    Garbage().install()
    connection = Connection(**fields)
    # The Lease has its own connections, so that looks do not delay its renewal; curves and events too, so that they delay no look.
    async with (
        Kube(connection) as kube,
        Kube(connection) as aside,
        Kube(connection) as beside,
        prometheus.make_session() as session,
        nodes.make_session() as http,
        nodes.Registry.of(provider.Tools(kube, http), release_nodes=settings.release_nodes) as providers,
    ):
        sources = Sources.of(metrics.Tools(session, kube))
        lease = candidate(aside, settings)
        telemetry.leads(lease.held)
        telemetry.calls(calls.made)
        gpus = GpuPages(session, settings.gpu_exporter) if settings.gpu_exporter else None
        observer = Observer(
            kube,
            store,
            PodPages(session, sources),
            cache,
            settings.model_copy(update={"metric_sources": sources.names, "installation": lease.installation}),
            providers=providers,
            recheck_seconds=settings.recheck_seconds,
            relist_seconds=settings.list_seconds,
            wake=lambda uid: scheduler.wake(uid),  # noqa: PLW0108  # it is made below
            gpus=gpus,
        )
        executor = Executor(kube, cache, lease.held, providers)
        curves = CurveWriter(beside, lease.held, settings.curve_seconds)
        notifier = Notifier(hook, beside, cache, lease.held, telemetry.notification) if hook else None
        reader = BucketReader(beside, store, settings.allowed_destinations)
        retention = Retention(beside, store, reader, lease.held)
        story = Story(beside, store, reader, lease.held)
        reconciler = Reconciler(
            kube, cache, observer, executor, telemetry, curves, settings.status_seconds, notifier, (retention,), story
        )
        scheduler = Scheduler(reconciler.look, lambda uid: _namespace(cache, uid), telemetry.lateness)
        namespaces = await front.readable(kube, settings.namespaces)
        left_out = tuple(name for name in settings.namespaces if name not in namespaces)
        if left_out and not namespaces:
            raise NothingToWatchError(settings.watch_namespaces)
        watch = Watch(
            cache, scheduler, reconciler, kube, settings.run_selector, namespaces, installation=lease.installation
        )
        health = Health(watch, scheduler, lease, settings.list_seconds)
        server = await exporter.serve(
            telemetry, settings.port, web.get("/livez", health.live), web.get("/readyz", health.ready)
        )
        registry = kopf.OperatorRegistry()
        watch.register(
            registry,
            lambda **_: info if info.token is None else front.connection()[0],
            pools=settings.release_nodes,
        )
        term = Term(cache, scheduler, reconciler, providers)
        taints = Taints(beside, Owners(beside, cache), lease.held, SystemClock())
        leading = asyncio.create_task(lease.run(term.begin, term.end))
        loops = [
            leading,
            asyncio.create_task(scheduler.run()),
            asyncio.create_task(curves.run()),
            asyncio.create_task(retention.run()),
            asyncio.create_task(story.run()),
            *([asyncio.create_task(notifier.run())] if notifier else []),
            asyncio.create_task(_relist(watch, settings.list_seconds)),
            *([asyncio.create_task(_swept(taints, settings.list_seconds))] if settings.release_nodes else []),
            asyncio.create_task(_readable_by_now(aside, left_out, settings.list_seconds, leading)),
        ]
        where = ", ".join(namespaces) or "all namespaces"
        log.info("watching TrainingRuns of %s; agent image %s", where, settings.agent_image)
        try:
            await front.watch_while(leading, registry, settings.run_selector, namespaces)
        finally:
            for loop in loops:
                loop.cancel()
            await asyncio.gather(*loops, return_exceptions=True)
            await server.cleanup()
            await observer.close()
            if gpus is not None:
                await gpus.close()
            store.close()
        if not leading.cancelled():
            # Only a bug ends this task; raise its exception.
            leading.result()


def webhook(settings: Settings) -> Webhook | None:
    """Return the webhook; None: none is configured.

    Raises:
        SettingsError: there is no signing secret.
    """
    if not settings.webhook_url:
        return None
    if not (keys := keys_of(settings.webhook_secret)):
        raise SettingsError("TRAININGRUN_WEBHOOK_URL needs TRAININGRUN_WEBHOOK_SECRET: events are signed")
    return Webhook(settings.webhook_url, keys, frozenset(map(EventType, settings.webhook_events.split(","))))


def candidate(kube: Kube, settings: Settings) -> Lease:
    """Return this process as a candidate for the configured Lease."""
    in_pod = NAMESPACE_FILE.read_text().strip() if NAMESPACE_FILE.exists() else ""
    return Lease(
        kube,
        settings.lease_namespace or in_pod or "default",
        settings.lease_name,
        settings.lease_seconds,
        pod=settings.pod_name,
        machine=socket.gethostname(),
    )


@dataclass(frozen=True)
class Term:
    """The part of the operator that runs while it leads: looks at runs, their memory and metrics. Watches and cache always run."""

    cache: Cache
    scheduler: Scheduler
    reconciler: Reconciler
    providers: nodes.Registry

    def begin(self) -> None:
        """Start looking at every run."""
        self.providers.begin()
        self.scheduler.start(tuple(self.cache.runs))

    async def end(self) -> None:
        """Stop; returns when no look is running."""
        await self.scheduler.stop()
        # To free the memory of thousands of runs takes longer than the loop may be held.
        async for uid in in_turns(self.reconciler.known):
            self.reconciler.forget(uid)
        self.reconciler.forget_all()


def _namespace(cache: Cache, uid: str) -> str:
    run = cache.runs.get(uid)
    return run["metadata"]["namespace"] if run else ""


async def _relist(watch: Watch, every_seconds: float) -> None:
    """List the runs now and at intervals; retry if the API server does not answer."""
    while True:
        wait = every_seconds
        try:
            await watch.relist()
        except KubeError as error:
            log.warning("cannot list TrainingRuns: %s", error)
            wait = min(5.0, every_seconds)
        await asyncio.sleep(wait)


async def _swept(taints: Taints, every_seconds: float) -> None:
    """Remove orphaned taints at intervals."""
    while True:
        await asyncio.sleep(every_seconds)
        try:
            await taints.sweep()
        except KubeError as error:
            log.warning("cannot look for taints of runs that are gone: %s", error)


async def _readable_by_now(
    kube: Kube, left_out: Sequence[str], every_seconds: float, leading: asyncio.Task[Any]
) -> None:
    """Exit, to be restarted, once a skipped namespace may be read: kopf cannot add namespaces later."""
    if left_out:
        log.warning("cannot list TrainingRuns in %s: skipped until permitted", ", ".join(left_out))
    while left_out:
        await asyncio.sleep(every_seconds)
        if found := await front.readable(kube, left_out):
            log.info("may list TrainingRuns in %s now: restarting", ", ".join(found))
            leading.cancel()
            return


class Health:
    """Answers the kubelet's probes from the beats of scheduler and Lease candidate, and the last proof of the watch."""

    def __init__(self, watch: Watch, scheduler: Scheduler, lease: Lease, list_seconds: float) -> None:
        self._watch, self._scheduler, self._lease, self._list_seconds = watch, scheduler, lease, list_seconds

    async def live(self, _: web.Request) -> web.Response:
        """Liveness: fails if scheduler or Lease candidate are stuck, or the watch is unproven for three list intervals."""
        now = time.monotonic()
        beat, proof = now - self._scheduler.beat, now - self._watch.proven
        if beat > BEAT_MAX_SECONDS:
            return web.Response(status=503, text=f"the scheduler has been stuck for {beat:.0f} s\n")
        if (asked := now - self._lease.beat) > BEAT_MAX_SECONDS + self._lease.seconds:
            return web.Response(status=503, text=f"the Lease has not been requested for {asked:.0f} s\n")
        if proof > 3 * self._list_seconds + BEAT_MAX_SECONDS:
            return web.Response(status=503, text=f"no event and no list that matches the events for {proof:.0f} s\n")
        return web.Response(text=f"ok: scheduler {beat:.1f} s ago, watch proven {proof:.0f} s ago\n")

    async def ready(self, _: web.Request) -> web.Response:
        """Readiness: the first list is complete and the Lease is known. A standby is ready too."""
        if not self._watch.listed:
            return web.Response(status=503, text="the TrainingRuns have not been listed yet\n")
        if not self._lease.known:
            return web.Response(status=503, text="the Lease has not been read yet\n")
        return web.Response(text=f"ok: {self._lease.described()}\n")
