"""Events that were missed, and watches that are too old: a list takes over."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import kopf
import pytest

from trainingrun_operator.api import names
from trainingrun_operator.controller import front
from trainingrun_operator.controller.front import Watch
from trainingrun_operator.edge.apiserver.transport import error_of
from trainingrun_operator.edge.cache import Cache

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]


class Woken:
    """Stands for scheduler and reconciler: keeps whom it was told of."""

    def __init__(self) -> None:
        self.uids: list[str] = []
        self.forgotten: list[str] = []

    def wake(self, uid: str, after: float = 0) -> None:
        self.uids.append(uid)

    def forget(self, uid: str) -> None:
        self.forgotten.append(uid)


def watching(kube) -> tuple[Watch, Cache, Woken]:
    cache, woken = Cache(), Woken()
    other: Any = woken
    return Watch(cache, other, other, kube), cache, woken


async def until(fits: Callable[[], Any], sentence: str, seconds: float = 100) -> None:
    for _ in range(int(seconds / 0.05)):
        if fits():
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"{sentence}: not so after {seconds:g} s")


def test_a_watch_from_a_version_that_is_no_longer_kept_is_told_410(api, runs):
    text = api.call("GET", runs.collection, watch="true", resourceVersion="1", timeoutSeconds="5")
    event = json.loads(text.splitlines()[0])
    assert (event["type"], event["object"]["code"], event["object"]["reason"]) == ("ERROR", 410, "Expired")
    error = error_of(410, json.dumps(event["object"]))
    assert (error.gone, error.conflict) == (False, False), "Nothing counts as deleted or changed because of it."


async def test_a_list_brings_what_no_event_told_of(kube, runs):
    watch, cache, woken = watching(kube)
    uid = runs.make()["metadata"]["uid"]
    assert uid not in cache.runs
    await watch.relist()
    assert watch.listed, "From now on the operator counts as ready."
    assert uid in cache.runs
    assert uid in woken.uids, "It is looked at."


async def test_a_list_takes_away_what_was_deleted_while_nobody_watched(kube, runs, api):
    watch, cache, woken = watching(kube)
    uid = runs.make()["metadata"]["uid"]
    await watch.relist()
    api.delete(f"{runs.collection}/run")
    await watch.relist()
    assert uid not in cache.runs
    assert uid in woken.forgotten


async def test_a_list_brings_a_change_that_was_missed_and_wakes_only_whom_it_concerns(kube, runs, api):
    watch, cache, woken = watching(kube)
    changed, same = (runs.make(name)["metadata"]["uid"] for name in ("changed", "same"))
    await watch.relist()
    woken.uids.clear()
    api.merge(f"{runs.collection}/changed", {"spec": {"stop": True}})
    await watch.relist()
    assert cache.runs[changed]["spec"]["stop"] is True
    assert changed in woken.uids
    assert same not in woken.uids


async def test_an_older_reading_never_replaces_a_newer_one(kube, runs, api):
    watch, cache, _ = watching(kube)
    old = runs.make()
    api.merge(f"{runs.collection}/run", {"spec": {"stop": True}})
    await watch.relist()
    watch.take_run(old)
    assert cache.runs[old["metadata"]["uid"]]["spec"]["stop"] is True


async def test_kopf_brings_runs_pools_and_children_and_only_what_is_a_runs(
    kube, runs, api, ground, namespace, monkeypatch
):
    monkeypatch.setenv("KUBECONFIG", str(ground.kubeconfig))
    watch, cache, woken = watching(kube)
    registry = kopf.OperatorRegistry()
    info, _ = front.connection()
    watch.register(registry, lambda **_: info)
    before = runs.make("before")["metadata"]["uid"]
    ready, stop = asyncio.Event(), asyncio.Event()
    operator = asyncio.create_task(
        kopf.operator(
            registry=registry,
            settings=front.settings(),
            clusterwide=True,
            standalone=True,
            ready_flag=ready,
            stop_flag=stop,
        )
    )
    try:
        await until(lambda: before in cache.runs and cache.pools, "what was there already is listed")
        after = (await asyncio.to_thread(runs.make, "after"))["metadata"]["uid"]
        await until(lambda: after in cache.runs, "what is made later is told of")
        for name, labels in (("mine", {names.RUN_UID_LABEL: after}), ("anothers", {})):
            pod = {
                "metadata": {"name": name, "labels": labels},
                "spec": {
                    "schedulingGates": [{"name": "e2e.trainingrun.dev/never"}],
                    "containers": [{"name": "c", "image": "c"}],
                },
            }
            await asyncio.to_thread(api.create, f"/api/v1/namespaces/{namespace}/pods", pod)
        await until(lambda: after in cache.pods, "its pod is told of")
        (known,) = cache.pods[after].values()
        assert known["metadata"]["name"] == "mine"
        assert not [
            uid for uid, pods in cache.pods.items() if any(p["metadata"]["name"] == "anothers" for p in pods.values())
        ]
        await asyncio.to_thread(api.delete, f"{runs.collection}/after")
        await until(lambda: after not in cache.runs, "its deletion is told of")
        assert after in woken.uids
        assert after in woken.forgotten
    finally:
        stop.set()
        await asyncio.wait_for(operator, 100)
