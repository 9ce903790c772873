"""kopf is the front end only: it watches, and every handler here is a line or two. No timers, no daemons, no indexes, no changing handlers."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from typing import TYPE_CHECKING, Any

import kopf
from kopf._cogs.clients.errors import APIForbiddenError

from trainingrun_operator.api import names
from trainingrun_operator.api.status import ORDER
from trainingrun_operator.edge.cache import version
from trainingrun_operator.edge.kube import KubeError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from trainingrun_operator.controller.reconciler import Reconciler
    from trainingrun_operator.controller.scheduler import Scheduler
    from trainingrun_operator.edge.cache import Cache
    from trainingrun_operator.edge.kube import Kube

Json = dict[str, Any]

log = logging.getLogger(__name__)


def settings(run_selector: str = "") -> kopf.OperatorSettings:
    """Return kopf's settings: no scanning, no peering, no events and no finalizer of its own. Only runs of the label selector are watched."""
    chosen = kopf.OperatorSettings()
    chosen.scanning.disabled = True
    chosen.peering.standalone = True
    chosen.posting.enabled = False
    chosen.watching.chunk_size = 500
    chosen.watching.label_selectors["pods"] = names.RUN_UID_LABEL
    chosen.watching.label_selectors["jobs"] = names.RUN_UID_LABEL
    if run_selector:
        chosen.watching.label_selectors[names.RUN_PLURAL] = run_selector
    # kopf takes its own finalizer off whatever no handler of its own needs: with our name here, it would take ours off.
    chosen.persistence.finalizer = f"{names.GROUP}/not-used"
    return chosen


def connection() -> tuple[kopf.ConnectionInfo, dict[str, Any]]:
    """Return how kopf reaches the API server, and the same as the fields of `edge.kube.Connection`.

    Raises:
        kopf.LoginError: neither a ServiceAccount nor a kubeconfig is there.
    """
    chosen = settings()
    info = kopf.login_with_service_account(settings=chosen) or kopf.login_with_kubeconfig(settings=chosen)
    if info is None:
        message = "There is no ServiceAccount token and no kubeconfig: run in a pod, or set KUBECONFIG."
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


class WatchRefusedError(Exception):
    """The API server has refused a watch for a minute, and kopf has given up all of them."""

    def __init__(self, said: str) -> None:
        super().__init__(f"A watch is refused, so that nothing is watched any more; the operator starts anew. {said}")


async def readable(kube: Kube, namespaces: Sequence[str]) -> tuple[str, ...]:
    """Return those whose runs may be listed, as far as the API server says anything.

    A namespace that is deleted takes its RoleBinding along, and kopf ends for good at the first refusal: one that is gone must not cost the others
    their operator.
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
    """Watch all namespaces, or the named ones, until `leading` ends, which SIGTERM and SIGINT cancel.

    Left to itself, kopf would return before anybody hears of the signal, and only when looks at runs have ended, or after five seconds of waiting
    for them: so long nobody could take over.

    Raises:
        WatchRefusedError: a right is missing, or was taken away with its namespace.
    """
    ended = asyncio.Event()
    leading.add_done_callback(lambda _: ended.set())

    async def take_signals(**_: Any) -> None:
        # kopf starts this before it sets its own handlers, in the same turn of the loop.
        await asyncio.sleep(0)
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, leading.cancel)

    kopf.on.startup(registry=registry)(take_signals)
    try:
        await kopf.operator(
            registry=registry,
            settings=settings(run_selector),
            clusterwide=not namespaces,
            namespaces=namespaces,
            standalone=True,
            stop_flag=ended,
        )
    except APIForbiddenError as error:
        raise WatchRefusedError(error.message or "") from error


class Watch:
    """Turns events into cached objects and woken runs, and knows when it last had proof that events still come."""

    def __init__(
        self,
        cache: Cache,
        scheduler: Scheduler,
        reconciler: Reconciler,
        kube: Kube,
        run_selector: str = "",
        namespaces: Sequence[str] = (),
    ) -> None:
        self._cache, self._scheduler, self._reconciler, self._kube = cache, scheduler, reconciler, kube
        self._run_selector, self._namespaces = run_selector, namespaces or ("",)
        self._refused: set[str] = set()
        """Namespaces that the newest list could not ask."""
        self._untold: dict[str, int] = {}
        """What a list brought and no event has told yet: uid and resourceVersion."""
        self._told: dict[str, tuple[int, tuple[Any, ...]]] = {}
        """The newest event of each run: its resourceVersion, and what was asked. Our own writes bring news as well, but prove no watch."""
        self.proven = time.monotonic()
        """When an event of a run came, or a list agreed with what the events had told."""
        self.listed = False
        """The first complete list was taken in."""

    def register(
        self,
        registry: kopf.OperatorRegistry,
        login: Callable[..., kopf.ConnectionInfo | None],
        *,
        pools: bool = True,
    ) -> None:
        """Hook up all handlers; that of GPUNodePools only on request, since reading them is a right of its own."""
        kopf.on.login(registry=registry)(login)
        kopf.on.event(names.GROUP, names.VERSION, names.RUN_PLURAL, registry=registry)(self.on_run)
        if pools:
            kopf.on.event(names.GROUP, names.VERSION, names.POOL_PLURAL, registry=registry)(self.on_pool)
        kopf.on.event("", "v1", "pods", registry=registry)(self.on_pod)
        kopf.on.event("batch", "v1", "jobs", registry=registry)(self.on_job)

    async def on_run(self, event: Any, **_: Any) -> None:
        """A TrainingRun was listed, added, changed or removed."""
        self.proven = time.monotonic()
        uid = event["object"]["metadata"]["uid"]
        if version(event["object"]) >= self._untold.get(uid, 0):
            self._untold.pop(uid, None)
        if event["type"] == "DELETED":
            self._told.pop(uid, None)
        else:
            self._told[uid] = version(event["object"]), _asked(event["object"])
        self.take_run(event["object"], deleted=event["type"] == "DELETED")

    async def on_pool(self, event: Any, **_: Any) -> None:
        """A GPUNodePool was listed, added, changed or removed."""
        self._cache.put_pool(event["object"], deleted=event["type"] == "DELETED")

    async def on_pod(self, event: Any, **_: Any) -> None:
        """A pod of a run was listed, added, changed or removed."""
        self._take_child("Pod", event)

    async def on_job(self, event: Any, **_: Any) -> None:
        """A Job of a run was listed, added, changed or removed."""
        self._take_child("Job", event)

    def take_run(self, stored: Json, *, deleted: bool = False) -> None:
        """Keep a run, and wake it if a person changed it, or its stop has gone back; an echo of our own status write wakes nobody."""
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
            # No operator writes that: a backup was restored. What is remembered may not have happened.
            self._reconciler.forget(uid)
            self._scheduler.wake(uid)
        elif known is None or _asked(known) != _asked(stored):
            self._scheduler.wake(uid)

    def _take_child(self, kind: str, event: Any) -> None:
        uid = self._cache.put_child(kind, dict(event["object"]), deleted=event["type"] == "DELETED")
        if uid is not None and uid in self._cache.runs:
            self._scheduler.wake(uid)

    async def relist(self) -> None:
        """Compare a fresh list with what the events told: missed deletions are real, and a watch can fall silent."""
        # Whatever the events add while the list is on its way is not missing from it.
        known = {uid: version(run) for uid, run in self._cache.runs.items()}
        listed = await self._list()
        # What a list brought and no event has told by the next was not merely on its way.
        silent = {uid: at for uid, at in self._untold.items() if uid in listed}
        if not silent:
            self.proven = time.monotonic()
        else:
            log.warning("the watch has missed %d changes; they are taken from a list", len(silent))
        self._untold = silent | {uid: version(run) for uid, run in listed.items() if self._behind(uid, run)}
        gone = [
            run
            for uid, run in self._cache.runs.items()
            if uid in known and uid not in listed and run["metadata"]["namespace"] not in self._refused
        ]
        for uid, run in listed.items():
            if version(run) < known.get(uid, 0):
                # A list is no older than what was known before it was asked for, unless the whole cluster is.
                log.warning("the API server has gone back to an older state: runs are taken from there")
                self._cache.forget_run(uid)
                self._reconciler.forget(uid)
            self.take_run(run)
        for run in gone:
            self.take_run(run, deleted=True)
        self.listed = True

    async def _list(self) -> dict[str, Json]:
        """All runs by uid. One of the named namespaces that may not be read any more says nothing about its own, and costs the others nothing."""
        listed: dict[str, Json] = {}
        self._refused.clear()
        for namespace in self._namespaces:
            try:
                listed |= {run["metadata"]["uid"]: run async for run in self._kube.runs(self._run_selector, namespace)}
            except KubeError as error:
                if not namespace or not error.forbidden:
                    raise
                log.warning("the runs of namespace %s may not be listed any more: %s", namespace, error.message)
                self._refused.add(namespace)
        return listed

    def _behind(self, uid: str, run: Json) -> bool:
        at, asked = self._told.get(uid, (0, ()))
        return at < version(run) and asked != _asked(run)


def _how_far(run: Json) -> int:
    """How far the run's stop is; there is no way back."""
    return ORDER.get(((run.get("status") or {}).get("termination") or {}).get("phase", ""), -1)


def _asked(run: Json) -> tuple[Any, ...]:
    """What a person may change: the spec, and whether it is deleted."""
    return run["metadata"].get("generation"), "deletionTimestamp" in run["metadata"]
