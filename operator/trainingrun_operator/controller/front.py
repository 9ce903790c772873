"""The kopf front end: it only watches. Every handler is a few lines; no timers, daemons, indexes or changing handlers."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from typing import TYPE_CHECKING, Any

import aiohttp
import kopf
from kopf._cogs.clients.errors import APIForbiddenError

from trainingrun_operator.api import names
from trainingrun_operator.api.status import ORDER
from trainingrun_operator.controller.stateless import NoDiffBase, NoMemories, NoProgress
from trainingrun_operator.controller.turns import in_turns
from trainingrun_operator.edge.apiserver.watched import taken_by
from trainingrun_operator.edge.cache import version
from trainingrun_operator.edge.kube import KubeError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from trainingrun_operator.controller.reconciler import Reconciler
    from trainingrun_operator.controller.scheduler import Scheduler
    from trainingrun_operator.edge.apiserver.watched import Take
    from trainingrun_operator.edge.cache import Cache
    from trainingrun_operator.edge.kube import Kube

Json = dict[str, Any]

log = logging.getLogger(__name__)


def settings(run_selector: str = "") -> kopf.OperatorSettings:
    """Return kopf's settings: no scanning, peering, events or finalizer; only runs that match the label selector are watched."""
    chosen = kopf.OperatorSettings()
    chosen.scanning.disabled = True
    chosen.peering.standalone = True
    chosen.posting.enabled = False
    # A chunk is in memory as a whole, and an object may have 1.5 MB.
    chosen.watching.chunk_size = 20
    chosen.watching.label_selectors["pods"] = names.RUN_UID_LABEL
    chosen.watching.label_selectors["jobs"] = names.RUN_UID_LABEL
    if run_selector:
        chosen.watching.label_selectors[names.RUN_PLURAL] = run_selector
    # kopf removes its own finalizer from objects that need no handler; under our finalizer's name it would remove ours.
    chosen.persistence.finalizer = f"{names.GROUP}/not-used"
    chosen.persistence.diffbase_storage = NoDiffBase()
    chosen.persistence.progress_storage = NoProgress()
    # kopf keeps a task for each object for so long after its last event.
    chosen.queueing.idle_timeout = 0.1
    return chosen


def connection() -> tuple[kopf.ConnectionInfo, dict[str, Any]]:
    """Return kopf's connection, and the same as fields of `edge.kube.Connection`.

    Raises:
        kopf.LoginError: there is neither a ServiceAccount nor a kubeconfig.
    """
    chosen = settings()
    info = kopf.login_with_service_account(settings=chosen) or kopf.login_with_kubeconfig(settings=chosen)
    if info is None:
        message = "No ServiceAccount token and no kubeconfig found. Run in a pod, or set KUBECONFIG."
        raise kopf.LoginError(message)
    fields = (
        "server",
        "ca_path",
        "ca_data",
        "token",
        "certificate_path",
        "certificate_data",
        "private_key_path",
        "private_key_data",
    )
    return info, {name: getattr(info, name) for name in fields} | {"insecure": bool(info.insecure)}


class SlimSession(kopf.AiohttpSession):
    """Makes kopf's HTTP sessions, whose answers are slim, and whose lists `take` gets. kopf closes them, and asks for another one afterwards."""

    def __init__(self, info: kopf.ConnectionInfo, take: Take) -> None:
        # The dataclass would store one session.
        for field in ("server", "default_namespace", "priority", "expiration"):
            object.__setattr__(self, field, getattr(info, field))
        object.__setattr__(self, "_info", info)
        object.__setattr__(self, "_responses", taken_by(take))

    __eq__ = object.__eq__
    __hash__ = object.__hash__

    @property
    def aiohttp_session(self) -> aiohttp.ClientSession:
        """A new session."""
        info: kopf.ConnectionInfo = self._info  # type: ignore[attr-defined]
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=info.as_ssl_context()),
            headers=info.as_http_headers(),
            proxy=info.proxy_url,
            trust_env=info.trust_env,
            response_class=self._responses,  # type: ignore[attr-defined]
        )


class WatchRefusedError(Exception):
    """The API server refused a watch for a minute; kopf has ended all watches."""

    def __init__(self, said: str) -> None:
        super().__init__(f"The API server refuses a watch, which ends all watches. The operator restarts. {said}")


async def readable(kube: Kube, namespaces: Sequence[str]) -> tuple[str, ...]:
    """Return the namespaces whose runs may be listed; a namespace is left out only if the API server forbids it.

    A deleted namespace takes its RoleBinding with it, and kopf exits at the first refusal: one deleted namespace must not stop the operator
    for the others.
    """
    found = []
    for namespace in namespaces:
        try:
            await anext(kube.runs(namespace=namespace), None)
        except KubeError as error:
            if error.forbidden:
                continue
        found.append(namespace)
    return tuple(found)


async def watch_while(
    leading: asyncio.Task[Any],
    registry: kopf.OperatorRegistry,
    run_selector: str = "",
    namespaces: Sequence[str] = (),
) -> None:
    """Watch all namespaces, or the given ones, until `leading` ends; SIGTERM and SIGINT cancel it.

    With its own signal handlers, kopf would return only after running observations end, or after five seconds, and the rest of the
    operator would learn of the signal only then; no other replica could take over before.

    Raises:
        WatchRefusedError: a right is missing, or was removed with its namespace.
    """
    ended = asyncio.Event()
    leading.add_done_callback(lambda _: ended.set())

    async def take_signals(**_: Any) -> None:
        # kopf starts this before it sets its own signal handlers, in the same turn of the loop.
        await asyncio.sleep(0)
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, leading.cancel)

    kopf.on.startup(registry=registry)(take_signals)
    try:
        await kopf.operator(
            registry=registry,
            settings=settings(run_selector),
            memories=NoMemories(),
            clusterwide=not namespaces,
            namespaces=namespaces,
            standalone=True,
            stop_flag=ended,
        )
    except APIForbiddenError as error:
        raise WatchRefusedError(error.message or "") from error


class Watch:
    """Turns events into cached objects and woken runs, and records the last proof that events arrive."""

    def __init__(
        self,
        cache: Cache,
        scheduler: Scheduler,
        reconciler: Reconciler,
        kube: Kube,
        run_selector: str = "",
        namespaces: Sequence[str] = (),
        *,
        installation: str = "",
    ) -> None:
        self._cache, self._scheduler, self._reconciler, self._kube = cache, scheduler, reconciler, kube
        self._run_selector, self._namespaces = run_selector, namespaces or ("",)
        self._installation = installation
        """As in ``status.operator``."""
        self._refused: set[str] = set()
        """Namespaces whose runs the latest list could not read."""
        self._untold: dict[str, int] = {}
        """Changes that a list found and no event has reported yet: UID and resourceVersion."""
        self._unselected: set[str] = set()
        """Runs in progress whose labels no longer match the selector."""
        self._told: dict[str, tuple[int, tuple[Any, ...]]] = {}
        """By run, resourceVersion and request of the latest event. Responses to our own writes also update the cache, but prove no watch."""
        self.proven = time.monotonic()
        """When an event of a run last arrived, or a list last agreed with the events."""
        self.listed = False
        """Whether the first complete list was processed."""

    def register(
        self,
        registry: kopf.OperatorRegistry,
        login: Callable[..., kopf.ConnectionInfo],
        *,
        pools: bool = True,
    ) -> None:
        """Register all handlers; the one for GPUNodePools only if `pools`, because reading them needs an extra right."""
        kopf.on.login(registry=registry)(lambda **known: SlimSession(login(**known), self.on_list))
        kopf.on.event(names.GROUP, names.VERSION, names.RUN_PLURAL, registry=registry)(self.on_run)
        if pools:
            kopf.on.event(names.GROUP, names.VERSION, names.POOL_PLURAL, registry=registry)(self.on_pool)
        kopf.on.event("", "v1", "pods", registry=registry)(self.on_pod)
        kopf.on.event("batch", "v1", "jobs", registry=registry)(self.on_job)
        self._cache.listed.expects((namespace, plural) for plural in ("pods", "jobs") for namespace in self._namespaces)

    async def on_list(self, path: str, listed: list[Json], more: bool) -> bool:  # noqa: FBT001 - as `watched.Take` calls it
        """Handle a page of a list in the place of kopf. Returns whether it is one of the watches'."""
        namespace, plural = _listed_of(path)
        handle = {
            names.RUN_PLURAL: self.on_run,
            names.POOL_PLURAL: self.on_pool,
            "pods": self.on_pod,
            "jobs": self.on_job,
        }.get(plural)
        if handle is None:
            return False
        for stored in listed:
            try:
                await handle({"type": None, "object": stored})
            except Exception:
                # A bug, which must affect this object alone.
                log.exception("a listed object cannot be handled: %s", path)
            # Users write the objects, and a page of large ones would hold the event loop.
            await asyncio.sleep(0)
        self._cache.listed.page((namespace, plural), more=more)
        return True

    async def on_run(self, event: Any, **_: Any) -> None:
        """Handle a listed, added, changed or deleted TrainingRun."""
        self.proven = time.monotonic()
        uid = event["object"]["metadata"]["uid"]
        if version(event["object"]) >= self._untold.get(uid, 0):
            self._untold.pop(uid, None)
        if event["type"] == "DELETED":
            self._told.pop(uid, None)
            await self._drop(event["object"])
            return
        self._told[uid] = version(event["object"]), _asked(event["object"])
        self.take_run(event["object"])

    async def on_pool(self, event: Any, **_: Any) -> None:
        """Handle a listed, added, changed or deleted GPUNodePool."""
        self._cache.put_pool(event["object"], deleted=event["type"] == "DELETED")

    async def on_pod(self, event: Any, **_: Any) -> None:
        """Handle a listed, added, changed or deleted pod of a run."""
        self._take_child("Pod", event)

    async def on_job(self, event: Any, **_: Any) -> None:
        """Handle a listed, added, changed or deleted Job of a run."""
        self._take_child("Job", event)

    def take_run(self, stored: Json, *, deleted: bool = False) -> None:
        """Cache a run; wake it if a person changed it or its stop went back. The event of our own status write wakes nothing."""
        stored = dict(stored)
        uid = stored["metadata"]["uid"]
        if deleted:
            self._cache.forget_run(uid)
            self._scheduler.forget(uid)
            self._reconciler.forget(uid)
            return
        known = self._cache.runs.get(uid)
        if not self._cache.put_run(stored):
            return
        if known is not None and _how_far(stored) < _how_far(known):
            # The operator never moves a stop back: a backup was restored, and what memory holds may not have happened.
            self._reconciler.forget(uid)
            self._scheduler.wake(uid)
        elif known is None or _asked(known) != _asked(stored):
            self._scheduler.wake(uid)

    async def _drop(self, run: Json) -> None:
        """Forget a run that the watch or a list no longer has, unless it is in progress and only its labels have left the selector.

        With our finalizer it has a Job, a node and a checkpoint that no other operator may settle. The API server is asked, because the event of a
        deletion also shows the finalizer.
        """
        uid, meta = run["metadata"]["uid"], run["metadata"]
        if self._run_selector and names.FINALIZER in (meta.get("finalizers") or ()):
            try:
                fresh = await self._kube.run(meta["namespace"], meta["name"])
            except KubeError as error:
                log.warning("cannot check whether run %s/%s is gone: %s", meta["namespace"], meta["name"], error)
                return
            if fresh is not None and _in_progress(fresh, uid):
                self._keep(fresh)
                return
        self._unselected.discard(uid)
        self.take_run(run, deleted=True)

    def _keep(self, run: Json) -> None:
        meta = run["metadata"]
        if meta["uid"] not in self._unselected:
            log.warning(
                "run %s/%s is in progress and no longer matches the selector %s: this operator keeps it until it has ended;"
                " give it its labels back",
                meta["namespace"],
                meta["name"],
                self._run_selector,
            )
        self._unselected.add(meta["uid"])
        self.take_run(run)

    def _take_child(self, kind: str, event: Any) -> None:
        # At a start, a look reads its pods before the watch has listed them; a watch that begins again lists them all.
        if event["type"] is None and self._cache.has_child(kind, event["object"]):
            return
        uid = self._cache.put_child(kind, dict(event["object"]), deleted=event["type"] == "DELETED")
        if uid is not None and uid in self._cache.runs:
            self._scheduler.wake(uid)

    async def relist(self) -> None:
        """Compare a fresh list with the events: deletions may be missed, and a watch can fall silent."""
        # Objects that events add during the list are not missing from it.
        known = {uid: version(run) for uid, run in self._cache.runs.items()}
        listed = await self._list()
        # A change that no event reports until the next list was missed, not delayed.
        silent = {uid: at for uid, at in self._untold.items() if uid in listed}
        if not silent:
            self.proven = time.monotonic()
        else:
            log.warning("the watch missed %d changes; using the list", len(silent))
        self._untold = silent | {uid: version(run) for uid, run in listed.items() if self._behind(uid, run)}
        gone = [
            run
            for uid, run in self._cache.runs.items()
            if uid in known and uid not in listed and run["metadata"]["namespace"] not in self._refused
        ]
        async for uid, run in in_turns(listed.items()):
            if uid in known and uid not in self._cache.runs:
                # An event has told of its deletion since.
                continue
            if version(run) < known.get(uid, 0):
                # A list is at least as new as what was known before the request, unless the whole cluster was restored.
                log.warning("the API server returned an older state, as after a restore; using the list")
                self._cache.forget_run(uid)
                self._reconciler.forget(uid)
            self._unselected.discard(uid)
            self.take_run(run)
        for run in gone:
            await self._drop(run)
        if self._run_selector and not self.listed:
            await self._take_back()
        self.listed = True

    async def _take_back(self) -> None:
        """Keep the runs in progress that this operator looked after before it was restarted, and whose labels have left the selector."""
        for namespace in self._namespaces:
            if namespace in self._refused:
                continue
            async for run in self._kube.runs("", namespace):
                uid, said = run["metadata"]["uid"], (run.get("status") or {}).get("operator")
                if uid not in self._cache.runs and said == self._installation and _in_progress(run, uid):
                    self._keep(run)

    async def _list(self) -> dict[str, Json]:
        """All runs by UID. A namespace that may no longer be listed is recorded as refused and does not affect the others."""
        listed: dict[str, Json] = {}
        self._refused.clear()
        for namespace in self._namespaces:
            try:
                listed |= {run["metadata"]["uid"]: run async for run in self._kube.runs(self._run_selector, namespace)}
            except KubeError as error:
                if not namespace or not error.forbidden:
                    raise
                log.warning("listing the runs of namespace %s is now forbidden: %s", namespace, error.message)
                self._refused.add(namespace)
        return listed

    def _behind(self, uid: str, run: Json) -> bool:
        at, asked = self._told.get(uid, (0, ()))
        return at < version(run) and asked != _asked(run)


def _listed_of(path: str) -> tuple[str, str]:
    """Return the namespace and the plural of a list; without a namespace, it is of all."""
    *_, before, namespace, plural = path.rsplit("/", 3)
    return (namespace if before == "namespaces" else "", plural)


def _in_progress(run: Json, uid: str) -> bool:
    """Whether it is the run with this uid, and has our finalizer."""
    meta = run["metadata"]
    return bool(meta["uid"] == uid and names.FINALIZER in (meta.get("finalizers") or ()))


def _how_far(run: Json) -> int:
    """Progress of the run's stop; it never decreases."""
    return ORDER.get(((run.get("status") or {}).get("termination") or {}).get("phase", ""), -1)


def _asked(run: Json) -> tuple[Any, ...]:
    """What a person may change: the spec and the deletion."""
    return run["metadata"].get("generation"), "deletionTimestamp" in run["metadata"]
