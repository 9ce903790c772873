"""What the watches bring becomes cached objects and woken runs; what they fail to bring is found by a list."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from types import SimpleNamespace
from typing import Any, cast

import kopf
import pytest
from builders import NAMESPACE, POD_UID, RUN_UID
from fakes import ALL_RUNS, RUN, ApiError, Plain, api_server, stored_job, stored_pod, stored_pool, stored_run

from trainingrun_operator.api import names
from trainingrun_operator.controller import front
from trainingrun_operator.controller.front import Watch
from trainingrun_operator.controller.stateless import NoMemories
from trainingrun_operator.controller.turns import AT_ONCE
from trainingrun_operator.edge.cache import Cache
from trainingrun_operator.edge.kube import Connection, Kube, KubeError


class Noted:
    """Scheduler and reconciler in one: who was woken, who was forgotten."""

    def __init__(self):
        self.woken, self.forgotten = [], []

    def wake(self, uid, after=0):
        self.woken.append(uid)

    def forget(self, uid):
        self.forgotten.append(uid)


class Lists:
    """Answers the only call that the watch makes: each list in turn, the last one for ever."""

    def __init__(self, *lists):
        self.lists = list(lists)
        self.meanwhile = lambda: None

    async def runs(self, selector, namespace):
        listed = self.lists.pop(0) if len(self.lists) > 1 else self.lists[0]
        for run in listed:
            yield run
        self.meanwhile()


class Clock:
    now = 1000.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(front, "time", clock)
    return clock


@pytest.fixture
def place(clock):
    """A watch with everyone it talks to."""
    cache = Cache()
    noted: Any = Noted()
    lists: Any = Lists([])
    return SimpleNamespace(watch=Watch(cache, noted, noted, lists), cache=cache, noted=noted, lists=lists, clock=clock)


def event(stored, kind="MODIFIED"):
    return {"type": kind, "object": stored}


def run_at(version, *, generation=1, uid=RUN_UID, **more):
    return stored_run(uid=uid, resourceVersion=str(version), generation=generation, **more)


# -- events -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [pytest.param(None, id="listed"), pytest.param("ADDED", id="added")])
async def test_a_run_that_was_not_known_is_looked_at(place, kind):
    await place.watch.on_run(event(run_at(7), kind))
    assert place.noted.woken == [RUN_UID]
    assert RUN_UID in place.cache.runs


@pytest.mark.parametrize(
    ("change", "woken"),
    [
        pytest.param({"status": {"phase": "Running"}}, [], id="the echo of our own status write wakes nobody"),
        pytest.param({"labels": {"team": "a"}}, [], id="a label wakes nobody"),
        pytest.param({"generation": 2}, [RUN_UID], id="a changed spec wakes"),
        pytest.param({"deletionTimestamp": "2026-01-01T00:00:00Z"}, [RUN_UID], id="a deletion wakes"),
    ],
)
async def test_only_what_a_person_asked_for_wakes_a_known_run(place, change, woken):
    await place.watch.on_run(event(run_at(7)))
    place.noted.woken.clear()
    await place.watch.on_run(event(run_at(8, **change)))
    assert place.noted.woken == woken
    assert place.cache.runs[RUN_UID]["metadata"]["resourceVersion"] == "8"


async def test_a_run_that_is_gone_is_forgotten_by_everybody(place):
    await place.watch.on_run(event(run_at(7)))
    await place.watch.on_pod(event(stored_pod()))
    await place.watch.on_run(event(run_at(9), "DELETED"))
    assert place.noted.forgotten == [RUN_UID, RUN_UID], "by the scheduler and by the reconciler"
    assert not place.cache.runs
    assert not place.cache.pods


async def test_an_older_version_never_replaces_a_newer_and_wakes_nobody(place):
    await place.watch.on_run(event(run_at(10)))
    place.noted.woken.clear()
    await place.watch.on_run(event(run_at(9, generation=2)))
    assert place.cache.runs[RUN_UID]["metadata"]["resourceVersion"] == "10"
    assert place.noted.woken == []


async def test_a_version_is_a_number_and_not_a_text(place):
    await place.watch.on_run(event(run_at(9)))
    await place.watch.on_run(event(run_at(10)))
    assert place.cache.runs[RUN_UID]["metadata"]["resourceVersion"] == "10"


@pytest.mark.parametrize("kind", ["ADDED", "MODIFIED", "DELETED"])
async def test_whatever_happens_to_a_pod_or_job_wakes_its_run(place, kind):
    await place.watch.on_run(event(run_at(7)))
    place.noted.woken.clear()
    await place.watch.on_pod(event(stored_pod(), kind))
    await place.watch.on_job(event(stored_job(), kind))
    assert place.noted.woken == [RUN_UID, RUN_UID]
    assert (POD_UID in place.cache.pods[RUN_UID]) == (kind != "DELETED")
    assert (RUN_UID in place.cache.jobs) == (kind != "DELETED")


@pytest.mark.parametrize("kind", [None, "ADDED", "MODIFIED"])
async def test_what_a_look_has_read_itself_wakes_its_run_only_if_it_is_news(place, kind):
    """At a start the looks come first. A list repeats what they have read; an event says that something has changed."""
    await place.watch.on_run(event(run_at(7)))
    place.cache.put_children(RUN_UID, [stored_pod()], stored_job())
    place.noted.woken.clear()
    await place.watch.on_pod(event(stored_pod(), kind))
    await place.watch.on_job(event(stored_job(), kind))
    assert place.noted.woken == ([] if kind is None else [RUN_UID, RUN_UID])


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"resourceVersion": "8"}, id="a newer version"),
        pytest.param({"resourceVersion": "6"}, id="an older version, as after a restore"),
        pytest.param({"status": {"phase": "Failed"}}, id="another status of this version, as after a restore"),
        pytest.param({"deletionTimestamp": "2026-01-01T00:00:00Z"}, id="other metadata of this version"),
        pytest.param({"uid": "another"}, id="another object"),
    ],
)
async def test_what_a_list_shows_otherwise_than_a_look_has_read_it_wakes_its_run(place, change):
    await place.watch.on_run(event(run_at(7)))
    place.cache.put_children(RUN_UID, [stored_pod()], stored_job(resourceVersion="7"))
    place.noted.woken.clear()
    await place.watch.on_pod(event(pod := stored_pod(**change), None))
    assert place.noted.woken == [RUN_UID]
    assert place.cache.pods[RUN_UID][pod["metadata"]["uid"]]["status"] == pod["status"]
    await place.watch.on_job(event(stored_job(**{"resourceVersion": "7"} | change), None))
    assert place.noted.woken == [RUN_UID, RUN_UID]


async def test_listed_pods_and_jobs_that_no_look_has_read_wake_their_run(place):
    await place.watch.on_run(event(run_at(7)))
    place.noted.woken.clear()
    await place.watch.on_pod(event(stored_pod(), None))
    await place.watch.on_job(event(stored_job(), None))
    assert place.noted.woken == [RUN_UID, RUN_UID]


async def test_a_pod_of_a_run_that_is_not_known_yet_is_kept_and_wakes_nobody(place):
    await place.watch.on_pod(event(stored_pod()))
    assert place.noted.woken == []
    assert POD_UID in place.cache.pods[RUN_UID]


async def test_a_pod_of_nobody_is_not_kept(place):
    await place.watch.on_pod(event(stored_pod(labels=None)))
    assert not place.cache.pods


async def test_a_pool_is_kept_until_it_is_deleted(place):
    await place.watch.on_pool(event(stored_pool()))
    assert place.cache.pools["a100"].spec.node_selector == {"pool": "a100"}
    await place.watch.on_pool(event(stored_pool(), "DELETED"))
    assert not place.cache.pools


# -- a run whose labels no longer match the selector ----------------------------------------------------------------


class Server(Lists):
    """Also answers for one run by name; None: it is gone."""

    def __init__(self, run=None):
        super().__init__([])
        self.run_now, self.asked = run, 0

    async def run(self, namespace, name):
        self.asked += 1
        if isinstance(self.run_now, KubeError):
            raise self.run_now
        return self.run_now


def selecting(run=None, selector="team=vision"):
    """A watch with a selector that knows a run in progress, and the API server that has it like this."""
    cache = Cache()
    noted: Any = Noted()
    server: Any = Server(run)
    watch = Watch(cache, noted, noted, server, selector)
    watch.take_run(run_at(7, labels={"team": "vision"}))
    noted.woken.clear()
    return SimpleNamespace(watch=watch, cache=cache, noted=noted, server=server)


async def told(place, run):
    await place.watch.on_run(event(run, "DELETED"))


async def listed(place, run):
    await place.watch.relist()


MOVED = {"labels": {"team": "nlp"}}
BY_WATCH_OR_LIST = pytest.mark.parametrize("notices", [pytest.param(told, id="watch"), pytest.param(listed, id="list")])


@BY_WATCH_OR_LIST
@pytest.mark.parametrize(
    "labels",
    [
        pytest.param({}, id="taken off"),
        pytest.param({"team": "nlp"}, id="changed"),
        pytest.param({"team": "vision"}, id="an old event"),
    ],
)
async def test_a_run_in_progress_that_leaves_the_selector_is_kept(clock, caplog, notices, labels):
    now = run_at(8, labels=labels)
    place = selecting(now)
    await notices(place, now)
    assert place.noted.forgotten == []
    assert place.cache.runs[RUN_UID]["metadata"]["resourceVersion"] == "8"
    assert "is in progress and no longer matches the selector team=vision" in caplog.text


async def test_a_run_that_left_the_selector_is_followed_until_it_has_ended(clock, caplog):
    place = selecting(run_at(8, **MOVED))
    await told(place, run_at(8, **MOVED))
    place.server.run_now = run_at(9, generation=2, **MOVED)
    await place.watch.relist()
    assert place.noted.woken == [RUN_UID], "A stop that a person asks for is seen by the list."
    assert caplog.text.count("no longer matches") == 1
    place.server.run_now = run_at(10, finalizers=[], **MOVED)
    await place.watch.relist()
    assert place.noted.forgotten == [RUN_UID, RUN_UID]


OPERATOR = "operators/vision"


@pytest.mark.parametrize(
    ("status", "finalizers", "kept"),
    [
        pytest.param({"operator": OPERATOR}, [names.FINALIZER], True, id="its own, in progress"),
        pytest.param({"operator": "operators/nlp"}, [names.FINALIZER], False, id="another operator's"),
        pytest.param({}, [names.FINALIZER], False, id="of an operator that did not say so"),
        pytest.param({"operator": OPERATOR}, [], False, id="its own, and ended"),
    ],
)
async def test_a_run_that_left_the_selector_while_the_operator_was_away_is_kept(
    clock, caplog, status, finalizers, kept
):
    noted: Any = Noted()
    cache = Cache()
    async with (
        api_server(run_at(8, finalizers=finalizers, **MOVED) | {"status": status}) as api,
        Kube(Plain(api.url)) as kube,
    ):
        watch = Watch(cache, noted, noted, kube, "team=vision", installation=OPERATOR)
        await watch.relist()
        assert (RUN_UID in cache.runs) == kept
        assert ("no longer matches the selector" in caplog.text) == kept
        asked = len(api.lines())
        await watch.relist()
        assert len(api.lines()) - asked == 1 + kept, "All runs are listed once; the kept one is read again."


async def test_without_a_selector_all_runs_are_listed_only_once(clock):
    noted: Any = Noted()
    async with api_server() as api, Kube(Plain(api.url)) as kube:
        await Watch(Cache(), noted, noted, kube, installation=OPERATOR).relist()
        assert len(api.lines()) == 1


async def test_a_run_that_gets_its_labels_back_is_watched_as_before(clock, caplog):
    place = selecting(run_at(8, **MOVED))
    await told(place, run_at(8, **MOVED))
    place.server.lists = [[run_at(9, labels={"team": "vision"})]]
    await place.watch.relist()
    assert place.server.asked == 1
    await told(place, run_at(10, **MOVED))
    assert caplog.text.count("no longer matches") == 2


@BY_WATCH_OR_LIST
@pytest.mark.parametrize(
    "now",
    [
        pytest.param(None, id="it is gone"),
        pytest.param(run_at(9, uid="another"), id="another has its name"),
        pytest.param(run_at(9, finalizers=[]), id="it has ended"),
    ],
)
async def test_a_run_that_is_gone_or_over_is_forgotten(clock, notices, now):
    place = selecting(now)
    await notices(place, run_at(8, deletionTimestamp="2026-01-01T00:00:00Z"))
    assert place.noted.forgotten == [RUN_UID, RUN_UID]
    assert not place.cache.runs


@pytest.mark.parametrize(
    ("run", "selector"),
    [
        pytest.param(run_at(8, finalizers=[]), "team=vision", id="without our finalizer"),
        pytest.param(run_at(8), "", id="without a selector it can only be gone"),
    ],
)
async def test_what_can_only_be_gone_is_not_asked_for(clock, run, selector):
    place = selecting(run_at(8), selector)
    await told(place, run)
    assert (place.server.asked, place.noted.forgotten) == (0, [RUN_UID, RUN_UID])


@BY_WATCH_OR_LIST
async def test_an_api_server_that_does_not_say_whether_it_is_gone_is_asked_again(clock, notices):
    place = selecting(KubeError(503, "ServiceUnavailable", "away"))
    await notices(place, run_at(8))
    assert RUN_UID in place.cache.runs
    place.server.run_now = None
    await place.watch.relist()
    assert not place.cache.runs


# -- lists ------------------------------------------------------------------------------------------------------


async def test_the_first_list_makes_the_operator_ready(place):
    assert not place.watch.listed
    await place.watch.relist()
    assert place.watch.listed


async def test_a_list_that_fails_makes_nobody_ready_and_forgets_nobody(place):
    await place.watch.on_run(event(run_at(7)))

    def away():
        raise KubeError(503, "ServiceUnavailable", "away")

    place.lists.meanwhile = away
    with pytest.raises(KubeError):
        await place.watch.relist()
    assert not place.watch.listed
    assert RUN_UID in place.cache.runs


async def test_a_run_whose_deletion_is_told_during_the_list_is_not_taken_from_it(place):
    await place.watch.on_run(event(run_at(7)))
    place.lists.lists = [[run_at(7)]]
    place.lists.meanwhile = lambda: place.watch.take_run(run_at(8), deleted=True)
    await place.watch.relist()
    assert not place.cache.runs


async def test_others_have_their_turn_while_many_runs_are_compared(place):
    place.lists.lists = [[run_at(7, uid=f"uid-{number}") for number in range(200)]]
    listing, most = asyncio.create_task(place.watch.relist()), 0
    while not listing.done():
        before = len(place.cache.runs)
        await asyncio.sleep(0)
        most = max(most, len(place.cache.runs) - before)
    assert len(place.cache.runs) == 200
    assert most <= AT_ONCE


async def test_a_list_finds_a_missed_addition(place):
    place.lists.lists = [[run_at(7)]]
    await place.watch.relist()
    assert place.noted.woken == [RUN_UID]


async def test_a_list_finds_a_missed_change(place):
    await place.watch.on_run(event(run_at(7)))
    place.noted.woken.clear()
    place.lists.lists = [[run_at(8, generation=2)]]
    await place.watch.relist()
    assert place.noted.woken == [RUN_UID]


async def test_a_list_finds_a_missed_deletion(place):
    await place.watch.on_run(event(run_at(7)))
    await place.watch.relist()
    assert place.noted.forgotten == [RUN_UID, RUN_UID]
    assert not place.cache.runs


async def test_a_run_that_is_added_while_the_list_is_on_its_way_is_not_a_missed_deletion(place):
    place.lists.meanwhile = lambda: place.watch.take_run(run_at(7))
    await place.watch.relist()
    assert place.noted.forgotten == []
    assert RUN_UID in place.cache.runs


async def test_a_list_that_is_older_than_the_events_meanwhile_changes_nothing(place):
    await place.watch.on_run(event(run_at(7)))
    place.lists.lists = [[run_at(7)]]
    place.lists.meanwhile = lambda: place.watch.take_run(run_at(9, generation=2))
    await place.watch.relist()
    assert place.noted.woken == [RUN_UID, RUN_UID]
    assert place.noted.forgotten == []
    assert place.cache.runs[RUN_UID]["metadata"]["generation"] == 2


async def test_a_cluster_that_went_back_in_time_is_followed(place):
    await place.watch.on_run(event(run_at(9, generation=2)))
    place.noted.woken.clear()
    place.lists.lists = [[run_at(7)]]
    await place.watch.relist()
    assert (place.noted.forgotten, place.noted.woken) == ([RUN_UID], [RUN_UID])
    assert place.cache.runs[RUN_UID]["metadata"]["resourceVersion"] == "7"


SAVING = {"termination": {"phase": "Saving", "attempt": 1}}


@pytest.mark.parametrize(
    ("known", "restored"),
    [
        pytest.param({"termination": {"phase": "Done", "attempt": 1}}, SAVING, id="an earlier phase"),
        pytest.param(SAVING, {"phase": "Running"}, id="no stop at all"),
        pytest.param(SAVING, None, id="no status at all"),
    ],
)
async def test_a_stop_that_is_not_where_it_was_left_is_looked_at_without_what_is_remembered(place, known, restored):
    await place.watch.on_run(event(run_at(7, status=known)))
    place.noted.woken.clear()
    await place.watch.on_run(event(run_at(8, status=restored)))
    assert (place.noted.forgotten, place.noted.woken) == ([RUN_UID], [RUN_UID])


@pytest.mark.parametrize(
    ("known", "written"),
    [
        pytest.param(None, "Requested", id="the intent"),
        pytest.param("Draining", "Saving", id="the next phase"),
        pytest.param("Held", "Saving", id="out of a hold"),
        pytest.param("Releasing", "Done", id="the end"),
    ],
)
async def test_the_echo_of_what_we_wrote_to_a_stop_wakes_nobody_even_if_it_comes_before_the_answer(
    place, known, written
):
    await place.watch.on_run(event(run_at(7, status={"termination": {"phase": known}} if known else None)))
    place.noted.woken.clear()
    await place.watch.on_run(event(run_at(8, status={"termination": {"phase": written}})))
    assert (place.noted.forgotten, place.noted.woken) == ([], [])


# -- the proof of the watch -------------------------------------------------------------------------------------


async def proofs(place, *lists):
    """How many seconds after the start the watch was last proven, after each of these lists, one a minute."""
    place.lists.lists = [*lists]
    proven = []
    for _ in lists:
        place.clock.now += 60
        await place.watch.relist()
        proven.append(place.watch.proven - 1000)
    return proven


async def test_an_event_of_a_run_proves_the_watch(place):
    place.clock.now += 50
    await place.watch.on_run(event(run_at(7)))
    assert place.watch.proven == 1050


async def test_an_event_of_a_pod_does_not_prove_that_those_of_runs_come(place):
    place.clock.now += 50
    await place.watch.on_pod(event(stored_pod()))
    assert place.watch.proven == 1000


async def test_lists_that_agree_with_the_events_prove_the_watch(place):
    await place.watch.on_run(event(run_at(7)))
    assert await proofs(place, [run_at(7)], [run_at(7)]) == [60, 120]


async def test_what_one_list_finds_may_merely_be_on_its_way(place):
    assert await proofs(place, [run_at(7)]) == [60]


async def test_what_no_event_has_told_by_the_next_list_stops_the_proof(place):
    assert await proofs(place, [run_at(7)], [run_at(7)], [run_at(7)]) == [60, 60, 60]


async def test_a_silent_watch_stays_silent_though_the_run_goes_on_changing(place):
    await place.watch.on_run(event(run_at(7)))
    lists = [[run_at(7 + i, generation=i)] for i in (2, 3, 4)]
    assert await proofs(place, *lists) == [60, 60, 60]


async def test_the_event_of_what_a_list_brought_proves_the_watch_again(place):
    assert await proofs(place, [run_at(7)], [run_at(7)]) == [60, 60]
    await place.watch.on_run(event(run_at(7)))
    assert await proofs(place, [run_at(7)]) == [180]


async def test_an_event_older_than_what_the_list_brought_does_not_tell_it(place):
    await proofs(place, [run_at(7)])
    await place.watch.on_run(event(run_at(6)))
    place.clock.now += 5
    assert await proofs(place, [run_at(7)]) == [60]


async def test_a_run_that_was_found_by_a_list_and_is_gone_by_the_next_is_no_disagreement(place):
    assert await proofs(place, [run_at(7)], []) == [60, 120]


async def test_news_that_our_own_writes_have_brought_do_not_prove_the_watch(place):
    await place.watch.on_run(event(run_at(7)))
    place.cache.put_run(run_at(9, generation=2))
    assert await proofs(place, [run_at(9, generation=2)], [run_at(9, generation=2)]) == [60, 60]


async def test_our_own_status_writes_are_no_disagreement(place):
    await place.watch.on_run(event(run_at(7)))
    assert await proofs(place, [run_at(8)], [run_at(9)]) == [60, 120]


# -- kopf -------------------------------------------------------------------------------------------------------


def test_kopf_takes_no_finalizer_for_its_own_that_is_ours():
    assert front.settings().persistence.finalizer != names.FINALIZER


def test_kopf_posts_no_events_and_scans_and_pauses_nothing():
    settings = front.settings()
    assert settings.posting.enabled is False
    assert settings.scanning.disabled is True
    assert settings.peering.standalone is True


def test_kopf_asks_in_chunks():
    assert front.settings().watching.chunk_size == 20


def test_no_cluster_to_log_in_to_is_a_sentence(monkeypatch):
    monkeypatch.setattr(kopf, "login_with_service_account", lambda **_: None)
    monkeypatch.setattr(kopf, "login_with_kubeconfig", lambda **_: None)
    with pytest.raises(kopf.LoginError, match="No ServiceAccount token and no kubeconfig found"):
        front.connection()


def test_kube_is_reached_as_kopf_is(monkeypatch):
    info = kopf.ConnectionInfo(server="https://10.0.0.1", ca_data="Q0E=", token="t", insecure=None)
    monkeypatch.setattr(kopf, "login_with_service_account", lambda **_: info)
    found, fields = front.connection()
    assert found is info
    assert Connection(**fields) == Connection(server="https://10.0.0.1", ca_data="Q0E=", token="t")


@contextlib.asynccontextmanager
async def kopf_watching(api, noted, selector="", namespaces=(), *, pools=True, memories=None):
    """Real kopf, with our settings and handlers, on the API server in memory."""
    cache, memories = Cache(), memories or NoMemories()
    async with Kube(Plain(api.url)) as kube:
        registry = kopf.OperatorRegistry()
        watch = Watch(cache, noted, noted, kube, selector, namespaces)
        watch.register(registry, lambda **_: kopf.ConnectionInfo(server=api.url), pools=pools)
        ready = asyncio.Event()
        operator = asyncio.create_task(
            kopf.operator(
                registry=registry,
                settings=front.settings(selector),
                memories=memories,
                clusterwide=not namespaces,
                namespaces=namespaces,
                standalone=True,
                ready_flag=ready,
            )
        )
        try:
            await watch.relist()
            yield cache
        finally:
            operator.cancel()
            await asyncio.gather(operator, return_exceptions=True)


async def until(condition):
    for _ in range(500):
        if condition():
            return
        await asyncio.sleep(0.02)
    pytest.fail("it has not happened within 10 seconds")


LARGE: dict[str, Any] = {"x": [{}] * 100_000}
DEEP: dict[str, Any] = {}
for _ in range(400):
    DEEP = {"x": DEEP}


@pytest.mark.parametrize(("template", "problem"), [(LARGE, "more than 262144"), (DEEP, "more than 64 levels deep")])
async def test_kopf_brings_a_run_whose_template_nobody_could_keep(template, problem):
    stored = stored_run(spec={"template": template})
    async with api_server(stored) as api, kopf_watching(api, Noted()) as cache:
        await until(lambda: cache.runs)
        assert problem in cache.runs[RUN_UID]["spec"]["template"].problem
        meta = {**stored["metadata"], "resourceVersion": "900", "generation": 2}
        await api.tell("MODIFIED", {**stored, "metadata": meta, "status": {"phase": "Pending"}})
        await until(lambda: cache.runs[RUN_UID].get("status"))
        assert problem in cache.runs[RUN_UID]["spec"]["template"].problem
        assert cache.runs[RUN_UID]["spec"]["checkpoint"] == stored["spec"]["checkpoint"]


async def test_kopf_brings_every_kind_and_writes_nothing_not_even_to_take_a_finalizer_off():
    stored = (
        stored_run(),
        stored_job(),
        stored_pod(),
        stored_pod(name="foreign", uid="foreign", labels={}),
        stored_pool(),
    )
    async with api_server(*stored) as api, kopf_watching(api, noted := Noted()) as cache:
        await until(lambda: cache.runs and cache.jobs and cache.pods and cache.pools)
        assert list(cache.pods[RUN_UID]) == [POD_UID]
        # As many versions as there are: the first event of an object is handled apart from the later ones.
        for phase in ("Running", "Stopping"):
            await api.tell("MODIFIED", {**api.objects[RUN], "status": {"phase": phase}})
            await until(lambda: cache.runs[RUN_UID].get("status") == {"phase": phase})  # noqa: B023 - awaited at once
        await api.tell("DELETED", stored_run())
        await until(lambda: not cache.runs)
        assert noted.forgotten == [RUN_UID, RUN_UID]
        assert api.lines("PATCH", "POST", "PUT", "DELETE") == []
        selectors = {sent.path: sent.query.get("labelSelector") for sent in api.sent if "resourceVersion" in sent.query}
        assert selectors["/api/v1/pods"] == names.RUN_UID_LABEL
        assert selectors["/apis/batch/v1/jobs"] == names.RUN_UID_LABEL
        assert selectors[ALL_RUNS] is None


class CountedMemories(NoMemories):
    """Counts the objects that kopf handles."""

    recalled = 0

    async def recall(self, *args, **kwargs):
        self.recalled += 1
        return await super().recall(*args, **kwargs)


async def test_kopf_handles_no_listed_object_and_each_event(caplog):
    """It would make a task for each of thousands of objects at a start."""
    stored = stored_run(), stored_job(), stored_pod(), stored_pool()
    memories, noted = CountedMemories(), Noted()
    async with api_server(*stored) as api, kopf_watching(api, noted, memories=memories) as cache:
        await until(lambda: cache.listed.is_fresh() and cache.runs and cache.pools)
        assert list(cache.pods[RUN_UID]) == [POD_UID]
        assert RUN_UID in cache.jobs
        assert RUN_UID in noted.woken
        assert memories.recalled == 0
        await until(lambda: {sent.path for sent in api.sent if "watch" in sent.query} >= {ALL_RUNS, "/api/v1/pods"})
        await api.tell("MODIFIED", {**api.objects[RUN], "status": {"phase": "Running"}})
        await until(lambda: cache.runs[RUN_UID].get("status"))
        assert memories.recalled == 1
    assert caplog.messages == []


async def test_lists_of_named_namespaces_are_complete_once_each_has_come():
    async with api_server(stored_run(), stored_job()) as api:
        async with kopf_watching(api, Noted(), namespaces=(NAMESPACE, "elsewhere")) as cache:
            await until(cache.listed.is_fresh)
        listed = {sent.path for sent in api.sent if "limit" in sent.query}
        assert f"/api/v1/namespaces/{NAMESPACE}/pods" in listed
        assert "/apis/batch/v1/namespaces/elsewhere/jobs" in listed


@pytest.mark.parametrize(
    ("path", "of"),
    [
        pytest.param("/api/v1/pods", ("", "pods"), id="of all namespaces"),
        pytest.param("/api/v1/namespaces/ml/pods", ("ml", "pods"), id="of one namespace"),
        pytest.param("/apis/batch/v1/namespaces/ml/jobs", ("ml", "jobs"), id="of a named group"),
        pytest.param("/k8s/clusters/c-1/api/v1/pods", ("", "pods"), id="behind a proxy with a path"),
        pytest.param(
            "/apis/batch/v1/namespaces/pods/jobs", ("pods", "jobs"), id="of a namespace with a misleading name"
        ),
    ],
)
async def test_a_page_of_a_list_counts_for_its_kind_and_namespace(place, path, of):
    place.cache.listed.expects([of])
    assert await place.watch.on_list(path, [stored_pod()] if of[1] == "pods" else [stored_job()], True)
    assert not place.cache.listed.is_fresh()
    assert await place.watch.on_list(path, [], False)
    assert place.cache.listed.is_fresh()


async def test_the_list_of_another_kind_is_left_to_kopf(place):
    assert not await place.watch.on_list("/api/v1/namespaces", [{"metadata": {"name": "ml"}}], False)


async def test_a_listed_object_that_cannot_be_handled_keeps_out_no_other(place, caplog):
    await place.watch.on_run(event(run_at(7)))
    assert await place.watch.on_list(
        "/api/v1/pods", [{"metadata": {}}, {"metadata": {"labels": 7}}, stored_pod()], False
    )
    assert list(place.cache.pods[RUN_UID]) == [POD_UID]
    assert "a listed object cannot be handled: /api/v1/pods" in caplog.text


async def test_of_an_object_kopf_keeps_and_compares_nothing():
    """Neither a copy of each object of each event, nor a record of each object."""
    memories, compared = NoMemories(), front.settings().persistence
    async with (
        api_server(stored_run(), stored_job(), stored_pod()) as api,
        kopf_watching(api, Noted(), memories=memories) as cache,
    ):
        await until(lambda: cache.runs and cache.jobs and cache.pods)
        await api.tell("MODIFIED", {**api.objects[RUN], "status": {"phase": "Running"}})
        await until(lambda: cache.runs[RUN_UID].get("status"))
        assert list(memories.iter_all_memories()) == []
    body = kopf.Body(cast("Any", api.objects[RUN]))
    assert compared.diffbase_storage.build(body=body) == {}
    assert compared.diffbase_storage.fetch(body=body) is None
    essence = kopf.BodyEssence()
    assert compared.progress_storage.clear(essence=essence) is essence


async def test_only_the_runs_of_the_selector_are_watched_and_listed():
    async with api_server(stored_run()) as api, kopf_watching(api, Noted(), "team=vision"):
        await until(lambda: any("watch" in sent.query for sent in api.sent if sent.path == ALL_RUNS))
        asked = [sent.query.get("labelSelector") for sent in api.sent if sent.path == ALL_RUNS]
        selected = [one for one in asked if one == "team=vision"]
        assert len(selected) >= 3, "kopf's list and watch, and the list that they are compared with"
        assert [one for one in asked if one != "team=vision"] in ([], [None]), "Once, for runs that have left it."


# -- some namespaces only -----------------------------------------------------------------------------------------

ELSEWHERE = stored_run(namespace="elsewhere", uid="elsewhere")
MINE, YOURS = f"namespaces/{NAMESPACE}/", "namespaces/yours/"


async def test_of_the_named_namespaces_and_of_no_other_is_anything_asked():
    stored = (stored_run(), ELSEWHERE, stored_job(), stored_pod(), stored_pool())
    named = (NAMESPACE, "yours")
    async with api_server(*stored) as api, kopf_watching(api, Noted(), namespaces=named, pools=False) as cache:
        await until(lambda: cache.runs and cache.jobs and cache.pods)
        assert list(cache.runs) == [RUN_UID]
        asked = {sent.path for sent in api.sent if "limit" in sent.query or "watch" in sent.query}
        assert {path for path in asked if MINE not in path and YOURS not in path} == set()
        assert {path.rpartition("/")[2] for path in asked} == {names.RUN_PLURAL, "pods", "jobs"}


def forbid(api, namespace):
    api.refuse(f"GET /apis/{names.API_VERSION}/namespaces/{namespace}/{names.RUN_PLURAL}", ApiError(403, "Forbidden"))


async def test_a_namespace_that_may_not_be_read_is_left_out_and_one_that_does_not_answer_is_not():
    async with api_server() as api, Kube(Plain(api.url)) as kube:
        forbid(api, "gone")
        api.refuse(".*/slow/.*", ApiError(500, "InternalError"))
        assert await front.readable(kube, ("mine", "gone", "slow")) == ("mine", "slow")


async def test_a_namespace_that_may_not_be_read_any_more_costs_neither_its_runs_nor_those_of_others(clock, caplog):
    noted: Any = Noted()
    async with api_server(stored_run(), ELSEWHERE) as api, Kube(Plain(api.url)) as kube:
        watch = Watch(cache := Cache(), noted, noted, kube, "", (NAMESPACE, "elsewhere"))
        await watch.relist()
        assert set(cache.runs) == {RUN_UID, "elsewhere"}
        forbid(api, "elsewhere")
        del api.objects[RUN]
        await watch.relist()
        assert set(cache.runs) == {"elsewhere"}, "of the other one it is known that it is gone"
        assert "listing the runs of namespace elsewhere is now forbidden" in caplog.text
        api.objects.clear()
        await watch.relist()
        assert not cache.runs


async def test_all_runs_that_may_not_be_listed_are_an_error(clock):
    noted: Any = Noted()
    async with api_server() as api, Kube(Plain(api.url)) as kube:
        api.refuse(f"GET {ALL_RUNS}", ApiError(403, "Forbidden"))
        with pytest.raises(KubeError):
            await Watch(Cache(), noted, noted, kube).relist()


async def test_a_watch_that_is_refused_for_long_ends_the_operator_with_a_sentence(monkeypatch):
    usual = front.settings

    def impatient(selector=""):
        chosen = usual(selector)
        chosen.networking.error_backoffs = [0]
        return chosen

    monkeypatch.setattr(front, "settings", impatient)
    async with api_server(stored_run()) as api:
        for _ in range(2):
            forbid(api, "gone")
        leading = asyncio.create_task(asyncio.Event().wait())
        async with asyncio.timeout(10):
            with pytest.raises(front.WatchRefusedError, match=r"refuses a watch.* restarts\. refused"):
                await front.watch_while(leading, watching_registry(api), "", (NAMESPACE, "gone"))
        leading.cancel()


# -- the end ------------------------------------------------------------------------------------------------------


def watching_registry(api):
    registry = kopf.OperatorRegistry()
    cache, noted = Cache(), Noted()
    other: Any = noted
    Watch(cache, other, other, other).register(registry, lambda **_: kopf.ConnectionInfo(server=api.url))
    return registry


async def test_a_signal_ends_what_leads_at_once_and_not_when_kopf_has_waited_for_looks_on_their_way():
    async with api_server(stored_run()) as api:
        leading = asyncio.create_task(asyncio.Event().wait())
        watching = asyncio.create_task(front.watch_while(leading, watching_registry(api)))
        await until(lambda: any(sent.query.get("watch") == "true" for sent in api.sent))
        look = asyncio.create_task(asyncio.Event().wait())
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait({leading}, timeout=2)
        assert (leading.cancelled(), look.done(), watching.done()) == (True, False, False)
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


async def test_without_anybody_who_could_lead_nobody_watches(monkeypatch):
    async def operator(*, stop_flag, **_):
        await stop_flag.wait()

    async def fail():
        raise RuntimeError

    monkeypatch.setattr(kopf, "operator", operator)
    leading = asyncio.create_task(fail())
    async with asyncio.timeout(2):
        await front.watch_while(leading, kopf.OperatorRegistry())
    assert isinstance(leading.exception(), RuntimeError)
